"""Reading a CSV as rows of strings."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from folds.errors import MaskensError, nearest, refuse

LINE = ""  # the key under which `read_table` gives the line of a row


def _without_nul(lines: Iterable[str]) -> Iterator[str]:
    """Zero bytes are what a crash or another encoding leaves, and no file can be named with them."""
    for line in lines:
        if "\0" in line:
            raise csv.Error("it holds zero bytes")
        yield line


def read_table(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV as strings, stripped; extra columns and a byte-order mark do no harm.

    Raises:
        MaskensError: no such file, not UTF-8, empty, quotes that don't match, a needed column missing or there twice,
            rows with more cells than there are columns (all listed).
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(_without_nul(handle), skipinitialspace=True, strict=True)
            columns = [c.strip() for c in reader.fieldnames or []]
            reader.fieldnames = columns
            rows, longer = list[dict[str, str]](), list[str]()
            for row in reader:
                rows.append({c: (row[c] or "").strip() for c in columns} | {LINE: str(reader.line_num)})
                if any(cell.strip() for cell in row.get(None, ())):
                    longer.append(f"row {reader.line_num} has more cells than the header has columns")
    except (FileNotFoundError, NotADirectoryError):
        raise MaskensError(f"{path} does not exist.") from None
    except OSError as error:
        raise MaskensError(f"can't read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise MaskensError(f"{path} is not a CSV in UTF-8: {error}") from error
    if not columns:
        raise MaskensError(f"{path} is empty: it needs a header with the columns {', '.join(needed)}.")
    if missing := [c for c in needed if c not in columns]:
        raise MaskensError(_lacks(path, missing, columns))
    twice = [f"'{c}'" for c in needed if columns.count(c) > 1]
    if twice:
        raise MaskensError(f"{path} has the column {', '.join(twice)} more than once: leave one of them.")
    refuse(longer, f"{path} can't be used", "A cell that holds a comma needs quotes around it.")
    if not rows:
        raise MaskensError(f"{path} has a header but no rows.")
    return rows


def _lacks(path: Path, missing: Sequence[str], columns: Sequence[str]) -> str:
    for name, sign in (("semicolons", ";"), ("tabs", "\t")):
        if len(columns) == 1 and sign in columns[0]:
            return f"{path}: its columns are separated by {name}. Save it with commas between them."
    words = "column" if len(missing) == 1 else "columns"
    near = [(c, found) for c in missing if (found := nearest(c, columns))]
    mend = "".join(f" Nearest to '{wanted}' is '{found}'." for wanted, found in near)
    return f"{path} lacks the {words} {', '.join(map(repr, missing))}; it has {', '.join(columns)}.{mend}"
