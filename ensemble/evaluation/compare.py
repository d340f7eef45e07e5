"""Runs, or recipes trained with several seeds, compared on the same people."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.decision.blend import OofEnsemble, load_oof_ensemble
from ensemble.jobs.oof import Checkpoint, whole_folds
from ensemble.jobs.soft_targets import describe_pseudo_labels, describe_soft_targets
from ensemble.metrics.scores import (
    DRAWS,
    SCORED_PARTS,
    SEED,
    Draws,
    Interval,
    interval,
)
from ensemble.recipes.recipe_file import flat, run_recipe
from ensemble.recipes.schema import Recipe
from ensemble.recipes.views import Tta
from folds.errors import MaskensError, typed
from folds.files import sha256
from folds.labels import CLASSES, FloatArray, IntArray
from folds.people import TrainData
from folds.run_folder import Run, load_run
from folds.splits import strata


@dataclass(frozen=True)
class ComparedRun:
    """One run, as far as it is compared."""

    blend: OofEnsemble  # of this run alone
    classes: IntArray  # (photos,), decided

    @property
    def run(self) -> Run:
        return self.blend.runs[0].run

    @property
    def recipe(self) -> Recipe:
        return self.blend.runs[0].recipe

    @property
    def data(self) -> TrainData:
        return self.blend.data

    @property
    def name(self) -> str:
        return self.blend.runs[0].name


@dataclass(frozen=True)
class RunScores:
    """Macro F1 of one run, and its difference to the first run's on the same draws of people."""

    name: str
    f1: dict[str, Interval]  # of each of SCORED_PARTS
    gain: dict[str, Interval]
    per_class: list[Interval]  # F1 of the 18 classes
    class_gain: list[Interval]


@dataclass(frozen=True)
class Section:
    """All runs scored on one set of labels. There is a second one only if the runs' label fixes differ."""

    labels: str
    scores: list[RunScores]


@dataclass(frozen=True)
class Comparison:
    """What `maskens compare` shows."""

    differences: list[tuple[str, list[str]]]  # what differs, and its value in each run
    sections: list[Section]
    photos: int
    people: int
    notes: list[str]


def compare(
    runs: Sequence[Path], data_folder: Path | None, tta: Tta, checkpoint: Checkpoint, draws: int = DRAWS
) -> Comparison:
    """Score runs on the photos that all of them predicted out-of-fold.

    Raises:
        MaskensError: fewer than two runs, one named twice, runs of other photos, or runs that share no
            predicted photo.
    """
    if len(runs) < 2 or len({r.resolve() for r in runs}) < len(runs):
        raise MaskensError("name two runs or more to compare, each once.")
    compared = [_compared_run(load_run(folder), data_folder, tta, checkpoint) for folder in runs]
    first = compared[0]
    for other in compared[1:]:
        if other.data.photos.fingerprint != first.data.photos.fingerprint:
            raise MaskensError(f"{other.name} was made from other photos than {first.name}; they can't be compared.")
    shared = first.blend.rows
    for other in compared[1:]:
        shared = np.intersect1d(shared, other.blend.rows)
    if not len(shared):
        raise MaskensError("the runs have no photo in common that each predicted out-of-fold; train the same folds.")
    ids = np.unique([p.group for p in first.data.people], return_inverse=True)[1]
    person = np.unique(ids[first.data.photo_person[shared]], return_inverse=True)[1]
    decisions = [c.classes[np.searchsorted(c.blend.rows, shared)] for c in compared]
    short = [c.run.folder.resolve().name for c in compared]
    names = short if len(set(short)) == len(short) else [c.name for c in compared]
    sections = []
    for labels, contestant in _label_sets(compared):
        stratum = np.zeros(int(person.max()) + 1, dtype=np.int64)
        stratum[person] = strata(contestant.data.people)[contestant.data.photo_person[shared]]
        drawn = Draws(contestant.data.classes[shared], person, stratum, draws)
        f1 = [drawn.parts(decided) for decided in decisions]
        sections.append(Section(labels, [_scores(name, own, f1[0]) for name, own in zip(names, f1, strict=True)]))
    notes = [line for c in compared for line in c.blend.notes]
    if any(not np.array_equal(c.blend.folds, first.blend.folds) for c in compared):
        notes.append(
            "the people were split into other folds, which alone moves scores; for the same split use "
            f"maskens folds --folds-file {typed(first.run.folds_file)}"
        )
    lengths = {frozenset(t.epochs for t in c.recipe.tasks.values()) for c in compared}
    if checkpoint == "best" and len(lengths) > 1:
        notes.append("epochs differ, and more epochs are more chances for a best one; see --checkpoint last too")
    return Comparison(_differences(compared), sections, len(shared), int(person.max()) + 1, notes)


def _compared_run(run: Run, data_folder: Path | None, tta: Tta, checkpoint: Checkpoint) -> ComparedRun:
    blend = load_oof_ensemble([run], data_folder, checkpoint)
    return ComparedRun(blend, blend.decide(blend.plain(tta)).classes)


def _label_sets(compared: Sequence[ComparedRun]) -> list[tuple[str, ComparedRun]]:
    """Each distinct set of labels, in words, with a run that has it."""
    distinct: list[ComparedRun] = []
    for c in compared:
        if not any(np.array_equal(c.data.classes, d.data.classes) for d in distinct):
            distinct.append(c)
    if len(distinct) == 1:
        return [("", distinct[0])]
    return [(f"labels of {d.name}, {_fixes(d)}", d) for d in distinct]


def _fixes(contestant: ComparedRun) -> str:
    run = contestant.run
    return f"{run.fixes} ({run.fixes_hash[:6]})" if run.fixes_hash else "as given"


def _scores(name: str, own: dict[str, FloatArray], first: dict[str, FloatArray]) -> RunScores:
    return RunScores(
        name,
        {part: interval(own[part].mean(axis=1)) for part in SCORED_PARTS},
        {part: interval(own[part].mean(axis=1) - first[part].mean(axis=1)) for part in SCORED_PARTS},
        [interval(own[SCORED_PARTS[0]][:, c]) for c in range(CLASSES)],
        [interval(own[SCORED_PARTS[0]][:, c] - first[SCORED_PARTS[0]][:, c]) for c in range(CLASSES)],
    )


def _differences(compared: Sequence[ComparedRun]) -> list[tuple[str, list[str]]]:
    """Key paths of the recipes whose values differ, and what else differs. A task that a run has not is one row."""
    rows = [
        ("seed", [str(c.run.seed) for c in compared]),
        ("folds", [f"{c.run.k}, split {sha256(c.blend.folds.tobytes())[:6]}" for c in compared]),
        ("labels", [_fixes(c) for c in compared]),
        ("pseudo-labels", [describe_pseudo_labels(c.run) for c in compared]),
        ("soft targets", [describe_soft_targets(c.run) for c in compared]),
        ("photos left out", [f"{len(c.data.skipped):,}" for c in compared]),
    ]
    tasks = list(dict.fromkeys(t for c in compared for t in c.recipe.tasks))
    for task in tasks:
        having = [c.recipe.tasks[task] for c in compared if task in c.recipe.tasks]
        if len(having) < len(compared):
            models = [c.recipe.tasks[task].model if task in c.recipe.tasks else "-" for c in compared]
            rows.append((f"tasks.{task}", models))
        values = [flat(recipe.model_dump(mode="json", exclude={"weights"})) for recipe in having]
        for key in dict.fromkeys(k for v in values for k in v):
            if len({repr(v.get(key)) for v in values}) > 1:
                shown = iter([str(v.get(key)) for v in values])
                rows.append((f"tasks.{task}.{key}", [next(shown) if task in c.recipe.tasks else "-" for c in compared]))
    return [row for row in rows if len(set(row[1])) > 1]


Runs = Mapping[tuple[str, int], Run]
"""(recipe, seed) -> run, all on the same folds."""


@dataclass(frozen=True)
class OverSeeds:
    """A figure of each seed's run, and the mean with its interval."""

    mean: Interval
    seeds: tuple[float, ...]

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds; None of a single one."""
        return float(np.std(self.seeds, ddof=1)) if len(self.seeds) > 1 else None


@dataclass(frozen=True)
class RecipeScores:
    """Out-of-fold macro F1 of one recipe, by SCORED_PARTS, and its difference to the first recipe's."""

    recipe: str
    f1: dict[str, OverSeeds]
    gain: dict[str, OverSeeds]


@dataclass(frozen=True)
class SweepComparison:
    """Recipes on the folds and seeds that all of them have finished."""

    scores: tuple[RecipeScores, ...]
    seeds: tuple[int, ...]
    folds: tuple[int, ...]
    photos: int
    people: int
    notes: tuple[str, ...]


def compare_recipes(
    runs: Runs,
    data_folder: Path | None = None,
    tta: Tta = "flip",
    checkpoint: Checkpoint = "cross-fitted",
    draws: int = DRAWS,
) -> SweepComparison | None:
    """Compare recipes with the first one.

    Intervals are over people and, with more than one seed, over seeds: each draw takes people with replacement and, the
    same for all recipes, one seed fewer than there are, also with replacement, which makes the variance of so few right
    (McCarthy & Snowden 1985, "The Bootstrap and Finite Population Sampling").

    Returns:
        None if there is no fold yet that all recipes have finished with the same seed.

    Raises:
        MaskensError: files that don't belong together.
    """
    finished = {pair: whole_folds(run, run_recipe(run))[0] if run.recipe_hash else [] for pair, run in runs.items()}
    recipes = [r for r in dict.fromkeys(r for r, _ in runs) if any(finished[pair] for pair in runs if pair[0] == r)]
    seeds, folds = shared_part({pair: have for pair, have in finished.items() if pair[0] in recipes})
    if not folds:
        return None
    drawn: dict[str, list[dict[str, FloatArray]]] = {}
    notes: dict[str, None] = {}
    photos = people = 0
    for recipe in recipes:
        for seed in seeds:
            run = runs[recipe, seed]
            blend = load_oof_ensemble([run], data_folder, checkpoint, folds)
            notes |= dict.fromkeys(note.removesuffix(f" of {run.folder}") for note in blend.notes)
            decided = blend.decide(blend.plain(tta)).classes
            found = Draws(blend.truth, blend.person, blend.stratum, draws).parts(decided)
            drawn.setdefault(recipe, []).append({part: f1.mean(axis=1) for part, f1 in found.items()})
            photos, people = len(blend.rows), len(blend.stratum)
    lengths = {frozenset(t.epochs for t in run_recipe(runs[recipe, seeds[0]]).tasks.values()) for recipe in recipes}
    if checkpoint == "best" and len(lengths) > 1:
        notes["epochs differ, and more epochs are more chances for a best one; see --checkpoint last too"] = None
    scores = []
    for recipe in recipes:
        f1 = {part: np.stack([d[part] for d in drawn[recipe]]) for part in SCORED_PARTS}
        gain = {part: f1[part] - np.stack([d[part] for d in drawn[recipes[0]]]) for part in SCORED_PARTS}
        scores.append(
            RecipeScores(
                recipe,
                {part: over_seeds(values) for part, values in f1.items()},
                {part: over_seeds(values) for part, values in gain.items()},
            )
        )
    return SweepComparison(tuple(scores), seeds, folds, photos, people, (*_left_out(runs, recipes), *notes))


def records(comparison: SweepComparison) -> list[dict[str, Any]]:
    """A row for each recipe and part, for other tools. `seeds_*` are lists, in the order of `comparison.seeds`."""
    return [
        {
            "recipe": s.recipe,
            "part": part,
            "macro_f1": s.f1[part].mean.value,
            "low": s.f1[part].mean.low,
            "high": s.f1[part].mean.high,
            "deviation": s.f1[part].deviation,
            "seeds_f1": s.f1[part].seeds,
            "difference": s.gain[part].mean.value,
            "difference_low": s.gain[part].mean.low,
            "difference_high": s.gain[part].mean.high,
            "difference_deviation": s.gain[part].deviation,
            "seeds_difference": s.gain[part].seeds,
            "verdict": s.gain[part].mean.significance if number else "",
        }
        for number, s in enumerate(comparison.scores)
        for part in SCORED_PARTS
    ]


def shared_part(finished: Mapping[tuple[str, int], Collection[int]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(seeds, folds) that all recipes have finished. Where some seeds have more folds than others, those seeds count
    with which the most runs' folds are compared.

    Args:
        finished: (recipe, seed) -> folds.
    """
    recipes = {recipe for recipe, _ in finished}
    of_seed = {
        seed: set.intersection(*(set(finished.get((recipe, seed), ())) for recipe in recipes))
        for seed in dict.fromkeys(seed for _, seed in finished)
    }
    candidates = [*of_seed.values(), set.intersection(*of_seed.values())] if of_seed else [set()]

    def having(folds: Collection[int]) -> list[int]:
        return [seed for seed, have in of_seed.items() if have >= set(folds)]

    folds = max(candidates, key=lambda folds: (len(folds) * len(having(folds)), len(folds)))
    return tuple(having(folds)), tuple(sorted(folds))


def _left_out(runs: Runs, recipes: Sequence[str]) -> list[str]:
    without = [recipe for recipe in dict.fromkeys(r for r, _ in runs) if recipe not in recipes]
    return [f"{recipe} is left out: it has finished no fold" for recipe in without]


def over_seeds(drawn: FloatArray) -> OverSeeds:
    """A score, or a difference of scores, over people and seeds.

    Args:
        drawn: float64 (seeds, 1 + draws of people), everybody first.
    """
    count, draws = drawn.shape[0], drawn.shape[1] - 1
    chosen = np.random.default_rng(SEED).integers(count, size=(max(1, count - 1), draws))
    means = np.take_along_axis(drawn[:, 1:], chosen, axis=0).mean(axis=0)
    whole = interval(np.concatenate([[drawn[:, 0].mean()], means]))
    return OverSeeds(whole, tuple(drawn[:, 0].tolist()))
