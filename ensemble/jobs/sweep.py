"""What a sweep remembers: its recipes, seeds and folds, and where the run of each recipe and seed lies."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError

from folds.errors import MaskensError, first_fault
from folds.files import read_json, sealed, unsealed, write_json
from folds.run import has_run

FORMAT = 1


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
    record = {"format": FORMAT} | {k: v for k, v in asdict(sweep).items() if k != "folder"}
    write_json(sweep_file(sweep.folder), sealed(record))


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
    if not path.exists():
        return None
    try:
        record = unsealed(read_json(path))
        if record.pop("format", None) != FORMAT:
            raise ValueError("made by another version of maskens")
        sweep = _adapter().validate_python({"folder": folder} | record)
        if any(Path(name).name != name for name in sweep.recipes):
            raise ValueError("a recipe's name that leads elsewhere")
        return sweep
    except ValidationError as error:
        raise MaskensError(f"{path} can't be used: {first_fault(error)}") from error
    except (OSError, ValueError) as error:
        raise MaskensError(f"{path} can't be used: {error}") from error


@functools.cache
def _adapter() -> TypeAdapter[Sweep]:
    return TypeAdapter(Sweep)
