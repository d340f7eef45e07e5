"""Several runs as one ensemble: where their files lie, and whether they belong together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from folds.data.table import read_table
from folds.errors import MaskensError, refuse, typed
from folds.run import Run

Shared = Literal["data", "folds", "seed", "label fixes", "merged ids", "skipped photos"]

SHARED: dict[Shared, Callable[[Run], object]] = {
    "data": lambda run: run.fingerprint,
    "folds": lambda run: run.folds_hash,
    "seed": lambda run: run.seed,
    "label fixes": lambda run: run.fixes.hash,
    "merged ids": lambda run: run.merged_hash,
    "skipped photos": lambda run: run.skipped_hash,
}


def file_of(runs: Sequence[Run], name: str) -> Path:
    """Where a file of a run, or of several as one ensemble, lies: in the first."""
    return runs[0].folder / (name if len(runs) == 1 else f"blend-{name}")


def refuse_other_folds(runs: Sequence[Run]) -> None:
    """Refuse runs that can't be one ensemble: named twice, of other photos, or split into other folds.

    Label fixes may differ.

    Raises:
        MaskensError: which, and how to make a run that can.
    """
    first = runs[0]
    if len({r.folder.resolve() for r in runs}) < len(runs):
        raise MaskensError("a run is named twice; name each once.")
    ours = _assignment(first) if len(runs) > 1 else {}
    problems = []
    for other in runs[1:]:
        theirs = _assignment(other)
        if {p: (b, n) for p, (_, b, n) in theirs.items()} != {p: (b, n) for p, (_, b, n) in ours.items()}:
            problems.append(f"{other.folder} was made from other photos than {first.folder}")
        elif theirs != ours:
            problems.append(f"{other.folder} has other folds than {first.folder}: its models saw people who are judged")
    refuse(
        problems,
        "only runs on the same folds can be put together",
        f"Make one with: maskens folds --run NEW_DIR --folds-file {typed(first.folds_file)}",
    )


def differing(run: Run, other: Run, *names: Shared) -> str:
    """Which of these two runs don't share, in words: "data and folds"; "" if they share all."""
    return " and ".join(name for name in names if SHARED[name](run) != SHARED[name](other))


def _assignment(run: Run) -> dict[str, tuple[str, str, str]]:
    """Of each row of folds.csv (fold, bytes, photos)."""
    rows = read_table(run.folds_file, ("path", "fold", "bytes", "photos"))
    return {row["path"]: (row["fold"], row["bytes"], row["photos"]) for row in rows}
