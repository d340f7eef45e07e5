"""Pages of one HTML file that need nothing else: templates, pictures inside the text, and the folder they lie in."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from folds.errors import MaskensError
from folds.files import write_text
from folds.photos import Pixels

INDEX = "index.html"
SYSTEM_FILES = (".DS_Store", "Thumbs.db")  # which file managers leave behind
HEAD = 4096  # characters in which the generator's name must stand
WEBP_QUALITY = 60  # a third of the bytes of a JPEG that looks as good at this size


def render(template: str, **values: Any) -> str:
    """A template of folds/pages/templates as HTML; every value is escaped.

    Filters of the templates: `webp` turns uint8 (h, w, 3) RGB into a data URI, `png` does so with the bytes of a
    PNG, `breakable` lets a path break after _ and /, a name before a capital.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"webp": webp_uri, "png": png_uri, "breakable": _breakable}
    return environment.get_template(template).render(**values)


def _breakable(text: str) -> str:
    from markupsafe import Markup

    return Markup("<wbr>").join(re.split(r"(?<=[_/])|(?<=[a-z])(?=[A-Z])", text))


def webp_uri(picture: Pixels) -> str:
    """data:image/webp of uint8 (h, w, 3), RGB."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "WEBP", quality=WEBP_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def png_uri(png: bytes) -> str:
    """data:image/png of a PNG's bytes."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def refuse_foreign_page(folder: Path, generator: str, ours: re.Pattern[str]) -> None:
    """Refuse a folder that writing would do harm to.

    Args:
        generator: what our page names as its generator, "maskens explore".
        ours: names of the files that such a folder may hold.

    Raises:
        MaskensError: it is a file, or a folder with anything in it that is not ours.
    """
    refuse_file(folder)
    names = sorted(p.name for p in folder.iterdir()) if folder.exists() else []
    if not names:
        return
    if not made_by(folder / INDEX, generator):
        raise MaskensError(
            f"{folder} has files and is not a folder of `{generator}`. Name another or a new one with --out DIR."
        )
    refuse_strange_files(folder, [n for n in names if not ours.fullmatch(n) and n not in SYSTEM_FILES], generator)


def refuse_strange_files(folder: Path, strange: Sequence[str], maker: str) -> None:
    """Refuse to replace a folder in which there is anything strange.

    Args:
        strange: names of the files that `maker` did not write.

    Raises:
        MaskensError: there are such files.
    """
    if strange:
        raise MaskensError(
            f"{folder} would be replaced, but it holds files that `{maker}` did not write: "
            f"{', '.join(strange[:5])}{' ...' if len(strange) > 5 else ''}. Move them, or name another with --out DIR."
        )


def refuse_file(folder: Path) -> None:
    """Refuse a path that is to be a folder and is a file."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise MaskensError(f"{folder} is a file, not a folder. Name another with --out DIR.")


def refuse_foreign_file(page: Path, generator: str) -> None:
    """Refuse to replace a file that we did not write.

    Raises:
        MaskensError: it is there and does not name `generator` as its own.
    """
    if os.path.lexists(page) and not made_by(page, generator):
        raise MaskensError(f"{page} is there and was not written by `{generator}`. Name another with --out FILE.")


def made_by(page: Path, generator: str) -> bool:
    """Whether a page names this generator, "maskens explore"; False where there is none."""
    try:
        with page.open(encoding="utf-8", errors="replace") as file:
            return f'<meta name="generator" content="{generator}">' in file.read(HEAD)
    except OSError:
        return False


def write_page(folder: Path, html: str) -> None:
    """Write index.html. Raises MaskensError as `folds.files.write_text` does."""
    write_text(folder / INDEX, html)
