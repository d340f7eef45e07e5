"""`--fold 0..4`, `--seed 0..2`: sets of folds or seeds as typed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from folds.errors import MaskensError

FULL = -1  # in place of a fold: the model that is trained on everybody
NO_FOLD = -2  # of people who are on extra photos alone: trained on in every fold
WORDS = ("all", "full")
LARGEST_SEED = 2**32 - 1
MOST_SEEDS = 100


def parse_folds(text: str, k: int) -> list[int]:
    """Folds of 0..k-1 named by `3`, `0..4` (both ends count), `0,2,4`, `0..1,4` or `all`; sorted, each once, and FULL
    last for `full`. Raises MaskensError: unreadable, backwards, or a fold that the run has not."""
    words = _items(text)
    folds = set(range(k)) if "all" in words else set()
    for first, last in written_folds(text):
        if last >= k:
            raise MaskensError(f"--fold {text}: there is no fold {last}; this run has the folds 0..{k - 1}.")
        folds.update(range(first, last + 1))
    return [*sorted(folds), *([FULL] if "full" in words else [])]


def written_folds(text: str) -> list[tuple[int, int]]:
    """(first, last) of each item but `all` and `full`, whatever the run. Raises MaskensError: unreadable or
    backwards."""
    return _written(text, "--fold", "a fold. Write 3, 0..4, 0,2,4, all or full.", WORDS)


def fold_name(fold: int) -> str:
    """`fold 3` or `full`."""
    return "full" if fold == FULL else f"fold {fold}"


def fold_folder(fold: int) -> str:
    """`fold3` or `full`: in the names of folders and files."""
    return fold_name(fold).replace(" ", "")


def in_short(numbers: Iterable[int]) -> str:
    """The inverse of `parse_folds`: `0..4`, `0..1,4` or `0..4,full`."""
    folds, items = set(numbers), list[list[int]]()
    for number in sorted(folds - {FULL}):
        if items and items[-1][1] == number - 1:
            items[-1][1] = number
        else:
            items.append([number, number])
    written = [str(first) if first == last else f"{first}..{last}" for first, last in items]
    return ",".join(written + ["full"] * (FULL in folds))


def parse_seeds(text: str) -> list[int]:
    """Seeds named by `3`, `0..2` (both ends count) or `0,2,4`; sorted, each once. Raises MaskensError: unreadable,
    backwards, too large, or more than 100."""
    written = _written(text, "--seed", "a seed. Write 3, 0..2 or 0,2,4.")
    if max(last for _, last in written) > LARGEST_SEED:
        raise MaskensError(f"--seed {text}: a seed is at most {LARGEST_SEED}.")
    if (count := sum(last - first + 1 for first, last in written)) > MOST_SEEDS:
        raise MaskensError(f"--seed {text}: these are {count} seeds, at most {MOST_SEEDS} are possible.")
    return sorted({seed for first, last in written for seed in range(first, last + 1)})


def _items(text: str) -> list[str]:
    return [item.strip().lower() for item in text.split(",")]


def _written(text: str, option: str, wanted: str, words: Sequence[str] = ()) -> list[tuple[int, int]]:
    """(first, last) of each item that is none of the words."""
    written = []
    for item in _items(text):
        if item in words:
            continue
        match = re.fullmatch(r"(\d{1,18})(?:\.\.(\d{1,18}))?", item)
        if match is None:
            raise MaskensError(f"{option} {text}: '{item}' is not {wanted}")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise MaskensError(f"{option} {text}: {first}..{last} runs backwards. Write {last}..{first}.")
        written.append((first, last))
    return written
