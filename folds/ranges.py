"""`--fold 0..4`, `--seed 0..2`: sets of folds or seeds as typed."""

from __future__ import annotations

import re
from collections.abc import Iterable

from folds.errors import MaskensError

LARGEST_SEED = 2**32 - 1
MOST_SEEDS = 100


def parse_folds(text: str, k: int) -> list[int]:
    """Folds of 0..k-1 named by `3`, `0..4` (both ends count), `0,2,4`, `0..1,4` or `all`; sorted, each once. Raises
    MaskensError: unreadable, backwards, or a fold that the run has not."""
    folds: set[int] = set()
    for first, last in written_folds(text) or [(0, k - 1)]:
        if last >= k:
            raise MaskensError(f"--fold {text}: there is no fold {last}; this run has the folds 0..{k - 1}.")
        folds.update(range(first, last + 1))
    return sorted(folds)


def written_folds(text: str) -> list[tuple[int, int]]:
    """(first, last) of each item, whatever the run; empty for `all`. Raises MaskensError: unreadable or backwards."""
    every = text.strip().lower() == "all"
    return [] if every else _written(text, "--fold", "a fold. Write 3, 0..4, 0,2,4 or all.")


def in_short(numbers: Iterable[int]) -> str:
    """The inverse of `parse_folds`: `0..4` or `0..1,4`."""
    items: list[list[int]] = []
    for number in sorted(set(numbers)):
        if items and items[-1][1] == number - 1:
            items[-1][1] = number
        else:
            items.append([number, number])
    return ",".join(str(first) if first == last else f"{first}..{last}" for first, last in items)


def parse_seeds(text: str) -> list[int]:
    """Seeds named by `3`, `0..2` (both ends count) or `0,2,4`; sorted, each once. Raises MaskensError: unreadable,
    backwards, too large, or more than 100."""
    written = _written(text, "--seed", "a seed. Write 3, 0..2 or 0,2,4.")
    if max(last for _, last in written) > LARGEST_SEED:
        raise MaskensError(f"--seed {text}: a seed is at most {LARGEST_SEED}.")
    if (count := sum(last - first + 1 for first, last in written)) > MOST_SEEDS:
        raise MaskensError(f"--seed {text}: these are {count} seeds, at most {MOST_SEEDS} are possible.")
    return sorted({seed for first, last in written for seed in range(first, last + 1)})


def _written(text: str, option: str, wanted: str) -> list[tuple[int, int]]:
    """(first, last) of each item."""
    written = []
    for item in text.split(","):
        match = re.fullmatch(r"(\d{1,18})(?:\.\.(\d{1,18}))?", item.strip())
        if match is None:
            raise MaskensError(f"{option} {text}: '{item.strip()}' is not {wanted}")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise MaskensError(f"{option} {text}: {first}..{last} runs backwards. Write {last}..{first}.")
        written.append((first, last))
    return written
