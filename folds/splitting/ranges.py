"""`--fold 0..4`: what a user types for a set of folds."""

from __future__ import annotations

import re

from folds.errors import MaskensError

_ITEM = re.compile(r"(\d{1,18})(?:\.\.(\d{1,18}))?")


def parse_folds(text: str, k: int) -> list[int]:
    """Folds named by `3`, `0..4` (both ends count), `0,2,4`, `0..1,4` or `all`; sorted, each once.

    Args:
        k: number of folds of the run; they are 0..k-1.

    Raises:
        MaskensError: unreadable, backwards, or a fold that the run has not.
    """
    folds: set[int] = set()
    for first, last in written_folds(text) or [(0, k - 1)]:
        if last >= k:
            raise MaskensError(f"--fold {text}: there is no fold {last}; this run has the folds 0..{k - 1}.")
        folds.update(range(first, last + 1))
    return sorted(folds)


def written_folds(text: str) -> list[tuple[int, int]]:
    """(first, last) of each item, whatever the run; empty for `all`.

    Raises:
        MaskensError: unreadable or backwards.
    """
    if text.strip().lower() == "all":
        return []
    written = []
    for item in text.split(","):
        match = _ITEM.fullmatch(item.strip())
        if match is None:
            raise MaskensError(f"--fold {text}: '{item.strip()}' is not a fold. Write 3, 0..4, 0,2,4 or all.")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise MaskensError(f"--fold {text}: {first}..{last} runs backwards. Write {last}..{first}.")
        written.append((first, last))
    return written
