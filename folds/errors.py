"""Errors for the user: what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
import shlex
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

TYPES = {  # by pydantic's names
    **{"integer": "a whole number", "number": "a number", "string": "text", "boolean": "true or false"},
    **{"list": "a list", "tuple": "a list", "dictionary": "a table"},
}
SHOWN = 20  # a wrong data folder can hold thousands of problems; the first ones and the count are enough


class MaskensError(Exception):
    """An error that the user can correct. `cli` prints the message and exits with 2, without a traceback."""


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, with a message: what is saved, and how to resume."""


def refuse(problems: Sequence[str], headline: str, advice: str = "") -> None:
    """Raise one error that lists all problems together; do nothing if there are none. Raises MaskensError: if
    `problems` is not empty."""
    if not problems:
        return
    more = [f"  ... and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    lines = [f"{headline}:", *(f"  - {p}" for p in problems[:SHOWN]), *more, advice]
    raise MaskensError("\n".join(filter(None, lines)))


def refuse_without(packages: Iterable[str], extra: str, what: str) -> None:
    """Raise MaskensError if a package of an extra is not installed."""
    specs = {name: importlib.util.find_spec(name) for name in packages}
    # without an origin it is a mere folder of that name, such as an earlier export's
    missing = [name.replace("_", "-") for name, spec in specs.items() if spec is None or spec.origin is None]
    if missing:
        raise MaskensError(f"{what} needs {', '.join(missing)}. Install: pip install 'maskens[{extra}]'")


def typed(path: object) -> str:
    """A path as typed in a shell: quoted where it needs quotes."""
    return shlex.quote(str(path))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A suggestion to append to a message: `" (did you mean 'mask'?)"`, or `""` if nothing is near."""
    near = difflib.get_close_matches(word, list(known), cutoff=0.65)  # 'ImageID' is not near 'age'
    return f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""


def did_you_mean_folder(named: Path, holds: str) -> str:
    """`did_you_mean` for the path of a folder that holds a certain file, like `run.json`: looks above, below and
    beside it."""
    path = Path(os.path.abspath(named))
    beside = {unicodedata.normalize("NFC", p.name): p for p in path.parent.glob("*") if not path.exists()}
    alike = difflib.get_close_matches(unicodedata.normalize("NFC", path.name), beside)
    near = [*path.parents[:3], *sorted(path.glob("*")), *(beside[n] for n in alike)]
    right = [str(p if named.is_absolute() else os.path.relpath(p)) for p in near if (p / holds).is_file()][:3]
    return f" (did you mean {' or '.join(map(repr, right))}?)" if right else ""


def expected(message: str) -> str:
    """A message of pydantic or typer on a wrong value, reworded like other messages: `expected a whole number`."""
    message = re.sub(r"[Ii]nput should be a valid (\w+)(, .*)?", lambda m: f"expected {TYPES.get(m[1], m[1])}", message)
    message = re.sub(r"[Ii]nput should be greater than or equal to (\S+)", r"expected \1 or more", message)
    message = re.sub(r"[Ii]nput should be less than or equal to (\S+)", r"expected \1 or less", message)
    message = re.sub(r"[Ii]nput should be greater than", "expected more than", message)
    return re.sub(r"[Ii]nput should be", "expected", message.replace("Value error, ", ""))


def first_line(error: BaseException) -> str:
    """The first line of an error's message, of a list also its first item; its type if there is no message."""
    first, *more = str(error).strip().splitlines() or [type(error).__name__]
    return f"{first} {more[0].lstrip(' -')}" if more and first.endswith(":") else first
