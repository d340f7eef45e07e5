"""Reading a CSV as rows of strings."""

from __future__ import annotations

import contextlib
import csv
import io
import re
import unicodedata
from collections.abc import Collection, Sequence
from pathlib import Path

from folds.errors import MaskensError, did_you_mean, refuse
from folds.files import lfs_fault, unescape_cell

LINE = ""  # the key under which `read_table` gives the line of a row
SEPARATORS = (",", ";", "\t")


def read_table(path: Path, needed: Sequence[str], exact: bool = False) -> list[dict[str, str]]:
    """Rows of a CSV as stripped strings, in UTF-8, UTF-16 with a byte-order mark or Korean cp949, separated by commas,
    semicolons or tabs, with or without a first line `sep=,`; columns are found by name.

    `exact` is for a submission: UTF-8, commas, these columns in this order, no others, no spaces around names or cells.
    Raises MaskensError: no such file, another encoding, empty, unbalanced quotes, a needed column missing or there
    twice, rows with more cells than there are columns (all listed), or what `exact` refuses.
    """
    text = _text(path, exact)
    first = None if exact else re.match(r"\"?sep=(.)\"?[\r\n]+", text, re.IGNORECASE)
    text = text[first.end() :] if first else text
    separator = next((s for s in SEPARATORS if s in text.lstrip().partition("\n")[0]), ",")
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=not exact, strict=True)
    rows, wrong = list[dict[str, str]](), list[str]()
    try:
        written = list(reader.fieldnames or [])
        reader.fieldnames = columns = [c.strip() for c in written]
        for row in reader:
            number = reader.line_num + bool(first)
            cells = {c: row[c] or "" for c in columns}
            rows.append({c: cell.strip() for c, cell in cells.items()} | {LINE: str(number)})
            if any(cell.strip() for cell in row.get(None, ())):
                wrong.append(f"row {number} has more cells than the header has columns")
            spaced = [(c, cell) for c, cell in cells.items() if exact and cell != cell.strip()]
            wrong += [f"row {number}: {c} '{cell}' has spaces around it" for c, cell in spaced]
    except csv.Error as error:
        raise MaskensError(f"{path} is not a CSV in UTF-8: {error}") from error
    if not columns:
        these = f" with the columns {', '.join(needed)}" if needed else ""
        raise MaskensError(f"{path} is empty: it needs a header{these}.")
    if exact and (written != list(needed) or separator != ","):
        index = " Write it without the index: to_csv(..., index=False)." if columns[0] == "" else ""
        found = separator.join(f"'{c}'" if c != c.strip() or not c else c for c in written)
        raise MaskensError(
            f"{path} has the columns {found}, expected {','.join(needed)} in this order and no others.{index}"
        )
    if missing := [f"'{c}'{did_you_mean(c, columns)}" for c in needed if c not in columns]:
        raise MaskensError(f"{path} lacks the column {', '.join(missing)}; it has {', '.join(columns)}.")
    if twice := [f"'{c}'" for c in needed if columns.count(c) > 1]:
        raise MaskensError(f"{path} has the column {', '.join(twice)} more than once: remove one of them.")
    refuse(wrong, f"{path} can't be used", "" if exact else "A cell that holds a comma needs quotes around it.")
    if not rows:
        raise MaskensError(f"{path} has a header but no rows.")
    return rows


def whole_number(cell: str) -> int:
    """The number from 0 up in a cell, also as pandas writes it beside missing values, `20.0`; -1 for none."""
    found = re.fullmatch(r"(\d{1,18})(\.0+)?", cell)
    return int(found[1]) if found else -1


def composed(name: str) -> str:
    """A name in Unicode's composed form (NFC): macOS unpacks or copies names decomposed, and they look the same."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def find_name(cell: str, known: Collection[str]) -> str:
    """The known name in a cell of a list: also if `safe_csv` escaped it, in Unicode's other form, or if a spreadsheet
    dropped its leading zeros: `16` is `000016` if no other known name is 16. Else the name in the cell."""
    name = composed(unescape_cell(cell))
    if name in known or not name.isdecimal():
        return name
    near = [k for k in known if k.isdecimal() and k.lstrip("0") == name.lstrip("0")]
    return near[0] if len(near) == 1 else name


def _text(path: Path, exact: bool) -> str:
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise MaskensError(f"{path} does not exist.") from None
    except OSError as error:
        raise MaskensError(f"can't read {path}: {error.strerror}") from error
    if fault := lfs_fault(content):
        raise MaskensError(f"{path}: {fault}")
    others = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "cp949"
    for encoding in ("utf-8-sig",) if exact else ("utf-8-sig", others):
        with contextlib.suppress(UnicodeDecodeError):
            text = content.decode(encoding)
            korean = encoding != "cp949" or all(c.isascii() or "가" <= c <= "힣" for c in text)  # others look like it
            if korean and "\0" not in text:  # left by a crash, or UTF-16 without a mark
                return text
    raise MaskensError(f"{path} is not a CSV in UTF-8: save it as 'CSV UTF-8' with commas.")
