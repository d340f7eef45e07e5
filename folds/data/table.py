"""Reading a CSV as rows of strings."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from folds.errors import MaskensError, did_you_mean

if TYPE_CHECKING:
    pass


LINE = ""  # the key under which `read_table` gives the line of a row


def read_table(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV as strings, stripped; extra columns and a byte-order mark do no harm.

    Raises:
        MaskensError: no such file, not UTF-8, empty, or a needed column missing.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle, skipinitialspace=True)
            columns = [c.strip() for c in reader.fieldnames or []]
            reader.fieldnames = columns
            rows = [{c: (row[c] or "").strip() for c in columns} | {LINE: str(reader.line_num)} for row in reader]
    except (FileNotFoundError, NotADirectoryError):
        raise MaskensError(f"{path} does not exist.") from None
    except OSError as error:
        raise MaskensError(f"can't read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise MaskensError(f"{path} is not a CSV in UTF-8: {error}") from error
    if not columns:
        raise MaskensError(f"{path} is empty: it needs a header with the columns {', '.join(needed)}.")
    missing = [f"'{c}'{did_you_mean(c, columns)}" for c in needed if c not in columns]
    if missing:
        raise MaskensError(f"{path} lacks the column {', '.join(missing)}; it has {', '.join(columns)}.")
    if not rows:
        raise MaskensError(f"{path} has a header but no rows.")
    return rows
