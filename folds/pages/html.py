"""Pages of one HTML file that need nothing else, and guards of the files that they would replace."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from folds.errors import MaskensError
from folds.photos import Pixels

INDEX = "index.html"
SYSTEM_FILES = (".DS_Store", "Thumbs.db")  # which file managers leave behind
HEAD = 4096  # characters in which the generator's name must stand
BREAKS = re.compile(r"(?<=[_/])|(?<=[a-z])(?=[A-Z])")
WEBP_QUALITY = 60  # a third of the bytes of a JPEG that looks as good at this size


def render(template: str, **values: Any) -> str:
    """A template of folds/pages/templates as HTML; every value is escaped. The filter `webp` turns uint8 (h, w, 3) RGB
    into a data URI, `breakable` lets a path break after _ and /, a name before a capital."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["webp"] = _webp_uri
    environment.filters["breakable"] = lambda text: Markup("<wbr>").join(BREAKS.split(text))
    return environment.get_template(template).render(**values)


def _webp_uri(picture: Pixels) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "WEBP", quality=WEBP_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def refuse_foreign_page(folder: Path, generator: str, ours: re.Pattern[str]) -> None:
    """Refuse a folder that holds files but no page of `generator` ("maskens explore"), or files not named as `ours`."""
    made = has_meta(folder / INDEX, "generator", generator)
    refuse_strange_files(folder, generator, lambda name: made and ours.fullmatch(name))


def refuse_strange_files(folder: Path, maker: str, ours: Callable[[str], object]) -> None:
    """Raise MaskensError if a folder to replace is a file, or holds files that `maker` did not write: `ours` is whether
    it wrote a file of this path below the folder."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise MaskensError(f"{folder} is a file, not a folder. Name another with --out DIR.")
    files = (p for p in folder.rglob("*") if not p.is_dir() and p.name not in SYSTEM_FILES)
    if strange := sorted(n for n in (p.relative_to(folder).as_posix() for p in files) if not ours(n)):
        raise MaskensError(
            f"{folder} would be replaced, but it holds files that `{maker}` did not write: "
            f"{', '.join(strange[:5])}{' ...' if len(strange) > 5 else ''}. Move them, or name another with --out DIR."
        )


def refuse_foreign_file(page: Path, generator: str) -> None:
    """Raise MaskensError if a page is there that does not name `generator` as its own."""
    if os.path.lexists(page) and not has_meta(page, "generator", generator):
        raise MaskensError(f"{page} exists and was not written by `{generator}`. Name another with --out FILE.")


def has_meta(page: Path, name: str, content: str) -> bool:
    """Whether a page says this in its head, as `<meta name="generator" content="maskens report">`."""
    try:
        with page.open(encoding="utf-8", errors="replace") as file:
            return f'<meta name="{name}" content="{content}">' in file.read(HEAD)
    except OSError:
        return False
