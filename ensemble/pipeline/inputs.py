"""What the steps of the pipeline share: where runs, data and decoded photos are, and how progress is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from folds.run import Run, load_run

Folder = Path | str
Folders = Folder | Sequence[Folder]
OnProgress = Callable[[str, int, int], None]
"""(what is done, done so far, in all)."""

DEFAULT_RUN = Path("runs/default")
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


def part_of(on_progress: OnProgress | None, what: str) -> Callable[[int, int], None] | None:
    """The callback of one part of the work."""
    return (lambda done, total: on_progress(what, done, total)) if on_progress else None
