"""maskens recommend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ensemble.backends.choose import choose_hardware
from ensemble.commands.options import RecommendOptions
from ensemble.commands.step import step
from ensemble.commands.terminal import Observer, Terminal
from ensemble.jobs.hardware import unused_gpu
from ensemble.recipes.recipe_file import parse_recipe
from ensemble.recipes.schema import Recipe
from folds.errors import MaskensError, typed
from folds.files import must_be_writable, replace_keeping
from folds.labels import CLASS_NAMES
from folds.people import TrainData, class_counts
from folds.run_folder import Run, read_labelled
from folds.splits import largest_k

if TYPE_CHECKING:
    from ensemble.training.cost import Cost
    from ensemble.training.recommend import Candidate, Choice, PhotoCounts

FOLDS = 5
HEADER = "# Written by `maskens recommend`; docs/recipes.md says what each key means.\n"


@dataclass(frozen=True)
class Recommendation:
    """What to train, and why."""

    choice: Choice
    timed: Mapping[Candidate, Cost]  # those whose network was timed, the preferred first
    recipe: Recipe
    path: Path  # its TOML file
    earlier: Path | None  # where an earlier recommendation is kept
    why: list[str]  # lines
    next: list[str]  # the commands that train it


def _print(found: Recommendation, options: RecommendOptions, terminal: Terminal) -> None:
    terminal.lines(found.why)
    terminal.say("measured on a few batches, with nothing else running", "dim")
    terminal.saved(found.path, found.earlier)
    for command in found.next:
        terminal.next(command)


@step(RecommendOptions, show=_print, first="data")
def recommend(options: RecommendOptions, observer: Observer) -> Recommendation:
    """The run is left as it is; its data and number of folds are taken if it is there.

    Raises:
        MaskensError: data that don't fit together or are too few for two folds, no time, a file that is there already
            and is not a recommendation.
    """
    out, budget = options.out, 3600 * options.hours
    if out.suffix != ".toml":
        raise MaskensError(f"--out {out}: a recipe is a .toml file.")
    must_be_writable(out)
    if out.exists() and not out.read_bytes().startswith(HEADER.encode()):
        raise MaskensError(f"{out} exists and is not a recommendation. Name another file with --out.")
    before, data, _ = read_labelled(options.run[0], options.data, (), None)
    possible, rarest = largest_k(data.own)
    if possible < 2 and not before:
        raise MaskensError(f"too few people are '{rarest}' for two folds ({possible}); no recipe can be scored.")

    import torch

    from ensemble.training import recommend as choosing

    hardware = choose_hardware(options.device, options.workers)
    own, k = int(data.scored.sum()), before.k if before else min(FOLDS, possible)
    photos = choosing.PhotoCounts(own, extra=len(data.files) - own)
    candidates = choosing.CANDIDATES[hardware.device]
    count = len({candidate.network for candidate in candidates})
    costs: dict[str, Cost | None] = {}
    with observer.progress() as on_progress:

        def cost_of(candidate: Candidate) -> Cost | None:
            if candidate.network not in costs:
                on_progress("timing models", len(costs), count)
                costs[candidate.network] = choosing.measure(candidate, data, hardware, options.run[0])
            return costs[candidate.network]

        choice = choosing.choose(candidates, cost_of, photos, k, budget)
        on_progress("timing models", count, count)
    timed = {candidate: cost for candidate in candidates if (cost := costs.get(candidate.network))}
    place = f"{hardware.cores} CPU cores" if hardware.device == "cpu" else f"the GPU {torch.cuda.get_device_name(0)}"
    size = f"{len(data.files)} photos and {options.hours:g} h on {place}, in {choice.k} folds"
    description = f"{choice.candidate.recipe} for {size}"
    text = HEADER + choosing.recipe_text(choice.candidate, choice, description)
    recipe = parse_recipe(text, out.stem)
    earlier = replace_keeping(out, text)
    notes = [_data_line(data, photos), place, unused_gpu(options.device, hardware)]
    why = [*filter(None, notes), *_reasons(choice, timed, photos, k, budget)]
    return Recommendation(choice, timed, recipe, out, earlier, why, _next(choice, before, options))


def _data_line(data: TrainData, photos: PhotoCounts) -> str:
    counts = class_counts(data)
    rarest = int(np.argmin(counts))
    people = len({p.group for p in data.own})
    of_rarest = (data.classes == rarest) & data.scored
    having = len({data.people[i].group for i in data.photo_person[of_rarest].tolist()})
    extra = f" and {photos.extra} extra" if photos.extra else ""
    return (
        f"{people} people, {photos.own} photos{extra}; the rarest class is '{CLASS_NAMES[rarest]}': "
        f"{counts[rarest]} photos of {having} people"
    )


def _reasons(
    choice: Choice, timed: Mapping[Candidate, Cost], photos: PhotoCounts, k: int, budget: float
) -> Iterator[str]:
    """What each candidate takes and scored, and why the choice came to this, with `k` folds and `budget` seconds at
    most."""
    from ensemble.reporting.tables import time_text
    from ensemble.training import recommend as choosing

    for candidate, cost in timed.items():
        seconds = choosing.training_seconds(cost, photos, k, candidate.epochs)
        scored = f", macro F1 {candidate.f1:.3f}" if candidate.f1 else ""
        yield f"{candidate}: {1 / cost.train:.0f} photos/s, {k} folds in {time_text(seconds)}{scored}"
    chosen = choice.candidate
    yield f"chosen: {chosen.network}, epochs {choice.epochs}, folds {choice.k}"
    if choice.epochs < chosen.epochs:
        yield f"why: the quickest, and even that has no time for {chosen.epochs} epochs; this is not measured"
    elif chosen.f1 is None:
        yield "why: the largest that fits the time and the memory; no score is measured"
    else:
        yield f"why: of what fits, the highest macro F1 of new people, measured with {choosing.MEASURED_ON}"
        yield "where the 95 % intervals overlap, the order of two may be chance"
    if choice.fraction < 1:
        yield f"an epoch shows {choice.fraction:.0%} of the photos, to save time"
    if choice.k < k:
        yield f"{choice.k} folds instead of {k}, to save time"
    within = f"of {time_text(budget)}" if choice.fits else f"and not {time_text(budget)}: nothing here is quicker"
    yield f"training takes about {time_text(choice.seconds)} {within}"


def _next(choice: Choice, before: Run | None, options: RecommendOptions) -> list[str]:
    """The commands that train it."""
    data, run, lists = options.data, options.run[0], ""
    if before and before.jobs_on_disk():  # it belongs to another recipe
        data, run, lists, before = before.data_folder(data), Path("NEW_RUN"), before.lists.as_options, None
    split = before is None or before.k != choice.k
    where = f"--run {typed(run)}" + (f" --data {typed(data)}" if data else "") + lists
    device = "" if options.device == "auto" else f" --device {options.device}"
    train = (
        f"maskens train {f'--run {typed(run)}' if split else where} --recipe {typed(options.out)} "
        f"--fold 0..{choice.k - 1}{device}"
    )
    return [f"maskens folds {where} --k {choice.k}", train] if split else [train]
