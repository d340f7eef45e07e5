"""Reading a CSV as rows of strings, also as spreadsheets save it."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Collection, Sequence
from pathlib import Path

from folds.errors import MaskensError, nearest, refuse
from folds.files import lfs_fault

LINE = ""  # the key under which `read_table` gives the line of a row
SEPARATORS = (",", ";", "\t")
SAVE_AS = "Save it as 'CSV UTF-8' with commas."


def read_table(
    path: Path, needed: Sequence[str], exact: bool = False, as_written: bool = False
) -> list[dict[str, str]]:
    """Rows of a CSV as strings, stripped and in Unicode's composed form (NFC).

    UTF-8, UTF-16 with a byte-order mark and Korean cp949 are read, separated by commas, semicolons or tabs, with or
    without a first line `sep=,`. Columns are found by name, so that their order and further ones do no harm.

    Args:
        exact: of a file that is to be handed in: UTF-8, commas, these columns in this order and no others, and no
            spaces around names or cells.
        as_written: cells keep their Unicode form, because they are written back.

    Raises:
        MaskensError: no such file, another encoding, empty, quotes that don't match, a needed column missing or there
            twice, rows with more cells than there are columns (all listed), or what `exact` refuses.
    """
    raw = as_written or exact
    text, encoding = _decoded(path)
    first = re.match(r"\"?sep=(.)\"?[\r\n]+", text, re.IGNORECASE)
    body = text[first.end() :] if first else text
    header = body.lstrip().partition("\n")[0]
    separator = first[1] if first else next((s for s in SEPARATORS if s in header), ",")
    try:
        lines = io.StringIO(body, newline="")
        reader = csv.DictReader(lines, delimiter=separator, skipinitialspace=not exact, strict=True)
        written = list(reader.fieldnames or [])
        columns = [c.strip() for c in written]
        reader.fieldnames = columns
        rows, wrong = list[dict[str, str]](), list[str]()
        for row in reader:
            number = reader.line_num + bool(first)
            cells = {c: row[c] or "" for c in columns}
            rows.append(
                {c: cell.strip() if raw else composed(cell.strip()) for c, cell in cells.items()} | {LINE: str(number)}
            )
            if any(cell.strip() for cell in row.get(None, ())):
                wrong.append(f"row {number} has more cells than the header has columns")
            if exact:
                wrong += [
                    f"row {number}: {c} '{cell}' has spaces around it"
                    for c, cell in cells.items()
                    if cell != cell.strip()
                ]
    except csv.Error as error:
        raise MaskensError(f"{path} is not a CSV in UTF-8: {error}") from error
    if not columns:
        raise MaskensError(f"{path} is empty: it needs a header with the columns {', '.join(needed)}.")
    if exact:
        _refuse_inexact(path, needed, written, encoding, first[0].strip() if first else "", separator)
    if missing := [c for c in needed if c not in columns]:
        raise MaskensError(_lacks(path, missing, columns))
    twice = [f"'{c}'" for c in needed if columns.count(c) > 1]
    if twice:
        raise MaskensError(f"{path} has the column {', '.join(twice)} more than once: leave one of them.")
    refuse(wrong, f"{path} can't be used", "" if exact else "A cell that holds a comma needs quotes around it.")
    if not rows:
        raise MaskensError(f"{path} has a header but no rows.")
    return rows


def composed(name: str) -> str:
    """A name in Unicode's composed form (NFC): what macOS unpacks or copies may be decomposed, and looks the same."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def whole_number(cell: str) -> int:
    """The number from 0 up that a cell names, also as pandas writes it beside missing values, `20.0`; -1 for none."""
    found = re.fullmatch(r"(\d{1,18})(\.0+)?", cell)
    return int(found[1]) if found else -1


def with_zeros(name: str, known: Collection[str]) -> str:
    """The known name that this one is, also if a spreadsheet dropped its leading zeros: `16` is `000016` if no other
    known name is 16. Unchanged if there is none."""
    if name in known or not name.isdecimal():
        return name
    near = [k for k in known if k.isdecimal() and k.lstrip("0") == name]
    return near[0] if len(near) == 1 else name


def _decoded(path: Path) -> tuple[str, str]:
    """(text, encoding) of a file."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise MaskensError(f"{path} does not exist.") from None
    except OSError as error:
        raise MaskensError(f"can't read {path}: {error.strerror}") from error
    if fault := lfs_fault(content):
        raise MaskensError(f"{path}: {fault}")
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        encoding, text = "cp949", _korean(content)
        if not text:
            row = content[: error.start].count(b"\n") + 1
            bad = f"row {row} holds the byte 0x{content[error.start]:02x}"
            raise MaskensError(f"{path} is not a CSV in UTF-8: {bad}. {SAVE_AS}") from None
    if "\0" in text:  # what a crash or UTF-16 without a mark leaves; no file can be named with them
        raise MaskensError(f"{path} is not a CSV in UTF-8: it holds zero bytes. {SAVE_AS}")
    return text, encoding


def _korean(content: bytes) -> str:
    """The text of bytes in cp949; "" unless all of it beyond ASCII is Hangul, as other encodings can look like it."""
    try:
        text = content.decode("cp949")
    except UnicodeDecodeError:
        return ""
    return text if all(c.isascii() or "가" <= c <= "힣" for c in text) else ""


def _refuse_inexact(
    path: Path, needed: Sequence[str], columns: Sequence[str], encoding: str, first: str, separator: str
) -> None:
    if encoding != "utf-8-sig":
        raise MaskensError(f"{path} is in {encoding}, expected UTF-8. {SAVE_AS}")
    if first:
        raise MaskensError(f"{path} row 1 is '{first}', expected the columns {','.join(needed)}. Remove that row.")
    if list(columns) != list(needed) or separator != ",":
        index = " Write it without the index: to_csv(..., index=False)." * ("" in columns)
        found = separator.join(f"'{c}'" if c != c.strip() or not c else c for c in columns)
        raise MaskensError(
            f"{path} has the columns {found}, expected {','.join(needed)} in this order and no others.{index}"
        )


def _lacks(path: Path, missing: Sequence[str], columns: Sequence[str]) -> str:
    words = "column" if len(missing) == 1 else "columns"
    near = [(c, found) for c in missing if (found := nearest(c, columns))]
    mend = "".join(f" Nearest to '{wanted}' is '{found}'." for wanted, found in near)
    return f"{path} lacks the {words} {', '.join(map(repr, missing))}; it has {', '.join(columns)}.{mend}"
