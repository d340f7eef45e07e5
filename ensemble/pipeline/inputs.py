"""What the steps of the pipeline share: where runs, data and decoded photos are, and how progress is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from folds.corrections import kept_merges, read_fixes, read_merges
from folds.errors import MaskensError
from folds.layout import read_train
from folds.people import TrainData
from folds.run import Run, kept_fixes, load_run, remembered

Folder = Path | str
Folders = Folder | Sequence[Folder]
OnProgress = Callable[[str, int, int], None]
"""(what is done, done so far, in all)."""

DEFAULT_RUN = Path("runs/default")
DEFAULT_SEED = 42
AUTO_CACHE = ""


def folders(named: Folders) -> list[Path]:
    """One folder or several as paths."""
    return [Path(named)] if isinstance(named, (str, Path)) else [Path(n) for n in named]


def load_runs(named: Folders) -> list[Run]:
    """The runs in these folders. Raises MaskensError as `folds.run.load_run`."""
    return [load_run(folder) for folder in folders(named)]


def cache_folder(cache: Folder | None, run: Path) -> Path | None:
    """Where decoded photos are kept: `.cache` beside the run for AUTO_CACHE; None decodes each time."""
    if cache is None or cache == "none":
        return None
    return run.parent / ".cache" if cache == AUTO_CACHE else Path(cache)


def read_labelled(
    run: Folder, data: Folder | None, fixes: Sequence[str], seed: int | None, merge: Sequence[str] = ()
) -> tuple[Run | None, TrainData, int]:
    """The labelled photos before there are folds, or as a run remembers them.

    Args:
        fixes: lists of label fixes; empty takes the run's own.
        merge: lists of ids that are one person; empty takes the run's own.

    Returns:
        (the run if there is one yet, its data with fixed labels and merged ids, the seed).
    """
    before = remembered(Path(run))
    chosen = read_fixes(fixes) if fixes else kept_fixes(before) if before else ()
    kept = kept_merges(before.merged_file, before.merged_hash) if before and not merge else ()
    merges = read_merges(merge) if merge else kept
    found = read_train(before.data_folder(data) if before else Path(data or "data"), chosen, merges)
    return before, found, seed if seed is not None else before.seed if before else DEFAULT_SEED


def part_of(on_progress: OnProgress | None, what: str) -> Callable[[int, int], None] | None:
    """The callback of one part of the work."""
    return (lambda done, total: on_progress(what, done, total)) if on_progress else None


def size(text: str) -> tuple[int, int]:
    """(width, height) of `384x512`.

    Raises:
        MaskensError: it reads otherwise.
    """
    width, separator, height = text.lower().partition("x")
    if not (separator and width.isdecimal() and height.isdecimal()):
        raise MaskensError(f"--size {text}: write width and height in pixels, like 384x512.")
    return int(width), int(height)
