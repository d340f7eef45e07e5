"""Errors for the user: what is wrong, where, and how to mend it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

SHOWN = 20  # a wrong data folder can hold thousands of problems; the first ones and the count are enough


class MaskensError(Exception):
    """Something the user can mend. `cli` prints the message and exits with 2, without a traceback."""


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, where there is more to say than that: what is saved, and how to go on."""


def refuse(problems: Sequence[str], headline: str, advice: str = "") -> None:
    """Raise one error that lists all problems together; do nothing if there are none.

    Raises:
        MaskensError: if `problems` is not empty.
    """
    if not problems:
        return
    lines = [f"{headline}:", *(f"  - {p}" for p in problems[:SHOWN])]
    if len(problems) > SHOWN:
        lines.append(f"  ... and {len(problems) - SHOWN} more")
    if advice:
        lines.append(advice)
    raise MaskensError("\n".join(lines))


def typed(path: object) -> str:
    """A path as it is typed in a shell: quoted, if it holds spaces or other signs."""
    return shlex.quote(str(path))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A suggestion to append to a message: `" (did you mean 'mask'?)"`, or `""` if nothing is near."""
    import difflib  # here, because most commands end without a slip

    near = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    return f" (did you mean {' or '.join(repr(n) for n in near)}?)" if near else ""


def did_you_mean_folder(named: Path, holds: str) -> str:
    """As `did_you_mean`, for a path that does not lead to the folder that holds a file: it is above or in the path, or
    has nearly its name.

    Args:
        holds: the file, as `run.json`.
    """
    import os  # with difflib, where something went wrong already
    import unicodedata

    path = Path(os.path.abspath(named))
    try:
        below = sorted(path.iterdir()) if path.is_dir() else []
        beside = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
    except OSError:
        return ""
    right = [p for p in (*path.parents[:3], *below) if (p / holds).is_file()]
    if not right and not path.exists():
        alike = {unicodedata.normalize("NFC", p.name): p for p in beside if p != path and (p / holds).is_file()}
        near = nearest(unicodedata.normalize("NFC", path.name), alike)
        right = [alike[near]] if near else []
    shown = [p if named.is_absolute() else os.path.relpath(p) for p in right[:3]]
    return f" (did you mean {' or '.join(repr(str(p)) for p in shown)}?)" if shown else ""


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that is nearest, "" if none is near."""
    import difflib

    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)), "")


def counted(problems: Sequence[str]) -> str:
    """`1 problem`, `9 problems`."""
    return f"{len(problems)} problem{'s' * (len(problems) != 1)}"


def first_fault(error: Any) -> str:
    """`fixes.labels: Field required`: the first of the errors of pydantic's `ValidationError`."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
