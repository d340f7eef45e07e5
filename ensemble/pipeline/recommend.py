"""A recipe for this data, this machine and a time budget."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from ensemble.jobs.hardware import Hardware, choose_device, unused_gpu
from ensemble.pipeline.inputs import DEFAULT_RUN, Folder, OnProgress, part_of, read_labelled
from ensemble.recipes.reading import parse_recipe
from ensemble.recipes.schema import Recipe
from ensemble.reporting.recommend_lines import choice_lines, data_line, machine_line, measured_line
from ensemble.training.recommend import BASE, CANDIDATES, Choice, Measured, choose, measure, recipe_text
from folds.errors import MaskensError, typed
from folds.files import must_be_writable, replace_keeping
from folds.people import TrainData
from folds.run import Run
from folds.splits import largest_k

FOLDS = 5
HEADER = "# Written by `maskens recommend`; docs/recipes.md says what each key means.\n"


@dataclass(frozen=True)
class Recommendation:
    """What to train, and why."""

    choice: Choice
    measured: tuple[Measured, ...]  # the largest first
    recipe: Recipe
    path: Path  # its TOML file
    earlier: Path | None  # where an earlier recommendation is kept
    why: tuple[str, ...]  # lines
    next: tuple[str, ...]  # the commands that train it


def recommend(
    data: Folder | None = None,
    run: Folder = DEFAULT_RUN,
    *,
    hours: float = 1.0,
    out: Folder = "recommended.toml",
    device: str = "auto",
    workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> Recommendation:
    """Time a few models here, choose what fits into the budget, and write it as a recipe that extends a shipped one.

    Args:
        data: the data folder; None takes the run's, at first `data`.
        run: whose data and number of folds are taken, if it is there; it stays as it is.
        hours: for training all folds.
        out: the TOML file.
        device: auto, cpu or cuda.
        workers: threads and processes that load photos; None lets maskens choose.
        on_progress: told of the candidates that are timed.

    Raises:
        MaskensError: data that don't fit together or are too few for two folds, no time, a file that is there already
            and is not a recommendation.
    """
    if not (math.isfinite(hours) and hours > 0):
        raise MaskensError(f"--hours {hours:g}: give the hours that training may take, like 1 or 0.5.")
    path = Path(out)
    _refuse_unusable(path)
    before, found, _ = read_labelled(run, data, (), None)
    hardware = Hardware(choose_device(device), workers)
    k, budget = _folds(found, before), 3600 * hours
    measured = measure(found, hardware, k, budget, Path(run), part_of(on_progress, "timing models"))
    choice = choose(measured, len(found.files), k, budget)
    place = f"{hardware.cores} CPU cores" if hardware.device == "cpu" else "a GPU"
    description = (
        f"{BASE[hardware.device]} for {len(found.files)} photos and {hours:g} h on {place}, in {choice.k} folds"
    )
    text = HEADER + recipe_text(hardware.device, choice.candidate, choice, description)
    why = [
        data_line(found),
        machine_line(hardware),
        *filter(None, [unused_gpu(device, hardware)]),
        *(measured_line(m, len(found.files), k) for m in measured),
        *choice_lines(choice, measured, len(CANDIDATES[hardware.device]), k, budget),
    ]
    recipe = parse_recipe(text, path.stem)
    earlier = replace_keeping(path, text)
    commands = _next(choice, before, path, data, Path(run), device)
    return Recommendation(choice, measured, recipe, path, earlier, tuple(why), commands)


def _folds(data: TrainData, before: Run | None) -> int:
    """The run's number of folds, else as many as the rarest people allow, up to FOLDS."""
    if before:
        return before.k
    possible, rarest = largest_k(data.people)
    if possible < 2:
        raise MaskensError(
            f"there are too few '{rarest}' for two folds ({possible}); no recipe can be scored on these."
        )
    return min(FOLDS, possible)


def _refuse_unusable(path: Path) -> None:
    """Refuse, before anything is timed, a file that can't become the recipe."""
    if path.suffix != ".toml":
        raise MaskensError(f"--out {path}: a recipe is a .toml file.")
    must_be_writable(path)
    if path.exists() and not path.read_bytes().startswith(HEADER.encode()):
        raise MaskensError(f"{path} is there already, and not by `maskens recommend`; name another file with --out.")


def _next(
    choice: Choice, before: Run | None, path: Path, data: Folder | None, run: Path, device: str
) -> tuple[str, ...]:
    if before and before.jobs_on_disk():  # it belongs to another recipe
        data, run, before = before.data_folder(data), Path("NEW_RUN"), None
    split = before is None or before.k != choice.k
    where = f"--run {typed(run)}" + (f" --data {typed(data)}" if data else "")
    train = f"maskens train {f'--run {typed(run)}' if split else where} --recipe {typed(path)} --fold 0..{choice.k - 1}"
    train += "" if device == "auto" else f" --device {device}"
    return (*([f"maskens folds {where} --k {choice.k}"] if split else []), train)
