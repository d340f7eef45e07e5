"""maskens recommend."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensemble.commands.options import (
    DEFAULT_RUNS,
    DataOption,
    DeviceOption,
    QuietOption,
    RunOption,
    WorkersOption,
)
from ensemble.commands.step import step
from ensemble.commands.terminal import Observer, Terminal
from folds.errors import MaskensError, typed

if TYPE_CHECKING:
    from ensemble.jobs.hardware import Hardware
    from ensemble.recipes.schema import Recipe
    from ensemble.training.recommend import Choice, Measured
    from folds.people import TrainData
    from folds.run_folder import Run

FOLDS = 5
HEADER = "# Written by `maskens recommend`; docs/recipes.md says what each key means.\n"


@dataclass(frozen=True)
class Options:
    """How much time there is, and for which data."""

    hours: Annotated[float, typer.Option("--hours", help="Hours that training all folds may take.")] = 1.0
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The recipe, a TOML file.")] = Path(
        "recommended.toml"
    )
    run: RunOption = DEFAULT_RUNS
    data: DataOption = None
    device: DeviceOption = "auto"
    workers: WorkersOption = None
    quiet: QuietOption = False


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


def _print(found: Recommendation, options: Options, terminal: Terminal) -> None:
    for line in found.why:
        terminal.say(line)
    terminal.say("measured on a few batches, with nothing else running", "dim")
    if found.earlier:
        terminal.say(f"the earlier file is kept as {found.earlier}")
    terminal.say(f"saved: {found.path}")
    for command in found.next:
        terminal.say(f"next: {command}", "dim")


@step(Options, show=_print, first="data")
def recommend(options: Options, observer: Observer) -> Recommendation:
    """Time a few models on this machine and write a recipe that fits the data and the time there is.

    Example:  maskens recommend --hours 2 --out evening.toml
    \f
    The run is left as it is; its data and number of folds are taken if it is there.

    Raises:
        MaskensError: data that don't fit together or are too few for two folds, no time, a file that is there already
            and is not a recommendation.
    """
    if not (math.isfinite(options.hours) and options.hours > 0):
        raise MaskensError(f"--hours {options.hours:g}: give the hours that training may take, like 1 or 0.5.")
    _refuse_unusable(options.out)

    from ensemble.jobs.hardware import Hardware, choose_device
    from ensemble.recipes.recipe_file import parse_recipe
    from ensemble.training.recommend import BASE, choose, measure, recipe_text
    from folds.files import replace_keeping
    from folds.run_folder import read_labelled

    before, data, _ = read_labelled(options.run[0], options.data, (), None)
    hardware = Hardware(choose_device(options.device), options.workers)
    photos, k, budget = len(data.files), _folds(data, before), 3600 * options.hours
    with observer.progress() as on_progress:
        measured = measure(data, hardware, k, budget, options.run[0], partial(on_progress, "timing models"))
    choice = choose(measured, photos, k, budget)
    place = f"{hardware.cores} CPU cores" if hardware.device == "cpu" else "a GPU"
    description = f"{BASE[hardware.device]} for {photos} photos and {options.hours:g} h on {place}, in {choice.k} folds"
    text = HEADER + recipe_text(hardware.device, choice.candidate, choice, description)
    recipe = parse_recipe(text, options.out.stem)
    earlier = replace_keeping(options.out, text)
    why = (*_data_and_machine(data, hardware, options.device), *_reasons(choice, measured, hardware, photos, k, budget))
    return Recommendation(choice, measured, recipe, options.out, earlier, why, _next(choice, before, options))


def _refuse_unusable(path: Path) -> None:
    """Refuse, before anything is timed, a file that can't become the recipe."""
    from folds.files import must_be_writable

    if path.suffix != ".toml":
        raise MaskensError(f"--out {path}: a recipe is a .toml file.")
    must_be_writable(path)
    if path.exists() and not path.read_bytes().startswith(HEADER.encode()):
        raise MaskensError(f"{path} is there already, and not by `maskens recommend`; name another file with --out.")


def _folds(data: TrainData, before: Run | None) -> int:
    """The run's number of folds, else as many as the rarest people allow, up to FOLDS."""
    from folds.splits import largest_k

    if before:
        return before.k
    possible, rarest = largest_k(data.people)
    if possible < 2:
        raise MaskensError(
            f"there are too few '{rarest}' for two folds ({possible}); no recipe can be scored on these."
        )
    return min(FOLDS, possible)


def _data_and_machine(data: TrainData, hardware: Hardware, device: str) -> Iterator[str]:
    """People, photos, the class of which there is least; cores, or the GPU's name."""
    import numpy as np

    from ensemble.jobs.hardware import unused_gpu
    from folds.labels import CLASS_NAMES
    from folds.people import class_counts

    counts = class_counts(data)
    rarest = int(np.argmin(counts))
    people = len({p.group for p in data.people})
    having = len({data.people[i].group for i in data.photo_person[data.classes == rarest].tolist()})
    yield (
        f"{people} people, {len(data.files)} photos; the rarest class is '{CLASS_NAMES[rarest]}': "
        f"{counts[rarest]} photos of {having} people"
    )
    if hardware.device == "cpu":
        yield f"{hardware.cores} CPU cores, no GPU used"
    else:
        import torch

        yield f"a GPU: {torch.cuda.get_device_name(0)}"
    if unused := unused_gpu(device, hardware):
        yield unused


def _reasons(
    choice: Choice, measured: Sequence[Measured], hardware: Hardware, photos: int, k: int, budget: float
) -> Iterator[str]:
    """Each candidate's speed, and why the choice came to this.

    Args:
        k: folds, had there been time.
        budget: seconds.
    """
    from ensemble.reporting.plan_tables import time_words
    from ensemble.training.recommend import CANDIDATES, ENOUGH, MOST, training_seconds
    from folds.labels import SHOTS

    for m in measured:
        epoch = training_seconds(m.cost, photos, k, 2) - training_seconds(m.cost, photos, k, 1)
        yield f"{m.candidate.words}: {1 / m.cost.train:.0f} photos/s, an epoch of {k} folds {time_words(epoch)}"
    yield f"chosen: {choice.candidate.words}, epochs {choice.epochs}, folds {choice.k}"
    if choice.epochs < ENOUGH:
        yield f"why: the smallest model, and even for that there is no time for {ENOUGH} epochs"
    elif choice.candidate == measured[0].candidate and len(measured) < len(CANDIDATES[hardware.device]):
        yield "why: the largest that fits into the memory here"
    elif choice.candidate == measured[0].candidate:
        yield "why: the largest of all candidates, and there is time for it"
    else:
        yield f"why: the largest with time for {ENOUGH} epochs; spare time goes into a larger model first"
    if choice.epochs == MOST:
        yield f"no more than {MOST} epochs: a person's photos resemble each other, and models overfit"
    if choice.photos_per_person < len(SHOTS):
        yield f"an epoch shows {choice.photos_per_person} of a person's {len(SHOTS)} photos, for want of time"
    if choice.k < k:
        yield f"{choice.k} folds and not {k}, for want of time"
    within = f"of {time_words(budget)}" if choice.fits else f"and not {time_words(budget)}: nothing here is quicker"
    yield f"training takes about {time_words(choice.seconds)} {within}"


def _next(choice: Choice, before: Run | None, options: Options) -> tuple[str, ...]:
    """The commands that train it."""
    data, run = options.data, options.run[0]
    if before and before.jobs_on_disk():  # it belongs to another recipe
        data, run, before = before.data_folder(data), Path("NEW_RUN"), None
    split = before is None or before.k != choice.k
    where = f"--run {typed(run)}" + (f" --data {typed(data)}" if data else "")
    device = "" if options.device == "auto" else f" --device {options.device}"
    train = (
        f"maskens train {f'--run {typed(run)}' if split else where} --recipe {typed(options.out)} "
        f"--fold 0..{choice.k - 1}{device}"
    )
    return (*([f"maskens folds {where} --k {choice.k}"] if split else []), train)
