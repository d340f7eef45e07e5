"""Reading a CSV as rows of strings."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from folds.errors import MaskensError, did_you_mean, refuse
from folds.files import lfs_fault

LINE = ""  # the key under which `read_table` gives the line of a row
SEPARATORS = (",", ";", "\t")


def read_table(path: Path, needed: Sequence[str], exact: bool = False) -> list[dict[str, str]]:
    """Rows of a CSV in UTF-8 as stripped strings, separated by commas, semicolons or tabs.

    Columns are found by name: their order and further ones do not matter.

    Args:
        exact: of a submission: commas, these columns in this order and no others, no spaces around names or cells.

    Raises:
        MaskensError: no such file, another encoding, empty, unbalanced quotes, a needed column missing or there twice,
            rows with more cells than there are columns (all listed), or what `exact` refuses.
    """
    text = _text(path)
    separator = next((s for s in SEPARATORS if s in text.lstrip().partition("\n")[0]), ",")
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=not exact, strict=True)
    rows, wrong = list[dict[str, str]](), list[str]()
    try:
        written = list(reader.fieldnames or [])
        reader.fieldnames = columns = [c.strip() for c in written]
        for row in reader:
            cells = {c: row[c] or "" for c in columns}
            rows.append({c: cell.strip() for c, cell in cells.items()} | {LINE: str(reader.line_num)})
            if any(cell.strip() for cell in row.get(None, ())):
                wrong.append(f"row {reader.line_num} has more cells than the header has columns")
            spaced = [(c, cell) for c, cell in cells.items() if exact and cell != cell.strip()]
            wrong += [f"row {reader.line_num}: {c} '{cell}' has spaces around it" for c, cell in spaced]
    except csv.Error as error:
        raise MaskensError(f"{path} is not a CSV in UTF-8: {error}") from error
    if not columns:
        raise MaskensError(f"{path} is empty: it needs a header with the columns {', '.join(needed)}.")
    if exact and (written != list(needed) or separator != ","):
        index = " Write it without the index: to_csv(..., index=False)." * (columns[0] == "")
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


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise MaskensError(f"{path} does not exist.") from None
    except OSError as error:
        raise MaskensError(f"can't read {path}: {error.strerror}") from error
    if fault := lfs_fault(content):
        raise MaskensError(f"{path}: {fault}")
    try:
        text = content.decode("utf-8-sig")
        fault = "it holds zero bytes" * ("\0" in text)  # left by a crash, or UTF-16 without a mark
    except UnicodeDecodeError as error:
        row = content[: error.start].count(b"\n") + 1
        fault = f"row {row} holds the byte 0x{content[error.start]:02x}"
    if fault:
        raise MaskensError(f"{path} is not a CSV in UTF-8: {fault}. Save it as 'CSV UTF-8'.")
    return text
