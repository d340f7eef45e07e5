"""Photos that can't be read and are left out: the lists that a run and a cache keep of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from folds.data.table import read_table
from folds.errors import MaskensError
from folds.files import as_typed, listing_text, sha256_of_lines

COLUMNS = ("photo", "reason")
NAMED = 3  # photos in a line of the terminal

ADVICE = "Replace them, take their rows out of the CSV, or leave them out with --skip-bad-photos; then run again."


def skipped_csv(skipped: Mapping[str, str]) -> str:
    """A row a photo, sorted: file -> why it can't be read. `read_skipped` reads it."""
    return listing_text(COLUMNS, sorted(skipped.items()))


def read_skipped(path: Path) -> dict[str, str]:
    """file -> why it can't be read.

    Raises:
        MaskensError: no such file, or an unusable one.
    """
    return {as_typed(row["photo"]): row["reason"] for row in read_table(path, COLUMNS, as_written=True)}


def skipped_hash(files: Iterable[str]) -> str:
    """sha256 of which photos are left out, whatever the reasons; "" if none is."""
    names = sorted(files)
    return sha256_of_lines(names) if names else ""


def kept_skipped(file: Path, expected: str) -> dict[str, str]:
    """The photos that a run leaves out, as it keeps them in `file`; empty if there are none.

    Args:
        expected: their `skipped_hash`.

    Raises:
        MaskensError: the file is missing or not as it was made.
    """
    found = read_skipped(file) if file.exists() else {}
    if skipped_hash(found) == expected:
        return found
    wrong = "is missing" if not found else "was edited after it was made, or not made by this run"
    raise MaskensError(
        f"{file} {wrong}: it says which photos the run's models did not learn from. Put it back as it was, or start a "
        "new run: maskens folds --run NEW_DIR"
    )


def named(skipped: Mapping[str, str]) -> str:
    """The first few photos, each with why it can't be read, and how many more there are."""
    first = [f"{file} ({why})" for file, why in sorted(skipped.items())[:NAMED]]
    more = [f"and {len(skipped) - NAMED} more"] if len(skipped) > NAMED else []
    return ", ".join([*first, *more])


def left_out_words(skipped: Mapping[str, str], photos: int) -> str:
    """How many of a run's photos are left out, in words."""
    return f"{len(skipped):,} of {photos:,} labelled photos can't be read and are left out"
