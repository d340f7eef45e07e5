"""What a sweep remembers: its recipes, seeds and folds, and where the run of each recipe and seed lies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ConfigDict

from folds.errors import MaskensError
from folds.files import read_record, write_record
from folds.run_folder import has_run


@dataclass(frozen=True)
class Sweep:
    """A recipe, a seed: a run, all on the same folds. `folder` is not written: a sweep may be moved."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    folder: Path
    fingerprint: str  # of the data
    folds_hash: str
    recipes: dict[str, str]  # name -> TOML with every value; the first is what the others are compared with
    seeds: tuple[int, ...]
    folds: tuple[int, ...]  # that are trained

    @property
    def pairs(self) -> Iterator[tuple[str, int]]:
        """(recipe, seed) of each run."""
        return ((recipe, seed) for recipe in self.recipes for seed in self.seeds)

    def run_folder(self, recipe: str, seed: int) -> Path:
        """Where the run of a recipe and a seed lies."""
        return self.folder / f"{recipe}-seed{seed}"


def sweep_file(folder: Path) -> Path:
    """Where a sweep keeps what was asked of it."""
    return folder / "sweep.json"


def save_sweep(sweep: Sweep) -> None:
    """Write sweep.json, atomically."""
    write_record(sweep_file(sweep.folder), sweep, without=("folder",))


def load_sweep(folder: Path) -> Sweep | None:
    """The sweep in a folder, None if there is none yet.

    Raises:
        MaskensError: a sweep.json that is damaged or was edited, or the folder is a run or no folder.
    """
    path = sweep_file(folder)
    if folder.exists() and not folder.is_dir():
        raise MaskensError(f"{folder} is a file. Name another folder for the sweep with --out DIR.")
    if has_run(folder):
        raise MaskensError(f"{folder} is a run folder. Name another folder for the sweep with --out DIR.")
    return read_record(path, Sweep, check=_refuse_leading_elsewhere, folder=folder) if path.exists() else None


def _refuse_leading_elsewhere(sweep: Sweep) -> None:
    if any(Path(name).name != name for name in sweep.recipes):
        raise ValueError("a recipe's name that leads elsewhere")
