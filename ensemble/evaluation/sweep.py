"""Recipes side by side, each trained with several seeds: which is better, and by how much of it the seed decides."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.decision.blend import load_blend
from ensemble.jobs.oof import Epoch
from ensemble.metrics.bootstrap import (
    DRAWS,
    SCORED_PARTS,
    SEED,
    Interval,
    draw_people,
    drawn_parts,
    interval,
    person_confusions,
)
from ensemble.recipes.run_recipe import run_recipe
from ensemble.recipes.tta_views import Tta
from folds.data.labels import FloatArray
from folds.run import Run

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
    runs: Runs, data_folder: Path | None = None, tta: Tta = "flip", epoch: Epoch = "cross-fitted", draws: int = DRAWS
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
    finished = {pair: _whole_folds(run) for pair, run in runs.items()}
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
            blend = load_blend([run], data_folder, epoch, folds)
            notes |= dict.fromkeys(note.removesuffix(f" of {run.folder}") for note in blend.notes)
            decided = blend.decide(blend.plain(tta)).classes
            confusions = person_confusions(blend.truth, decided, blend.person)
            found = drawn_parts(draw_people(blend.stratum, draws), confusions)
            drawn.setdefault(recipe, []).append({part: f1.mean(axis=1) for part, f1 in found.items()})
            photos, people = len(blend.rows), len(blend.stratum)
    lengths = {frozenset(t.epochs for t in run_recipe(runs[recipe, seeds[0]]).tasks.values()) for recipe in recipes}
    if epoch == "best" and len(lengths) > 1:
        notes["epochs differ, and more epochs are more chances for a best one; see --epoch last too"] = None
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


def _whole_folds(run: Run) -> list[int]:
    """Those of which every task is finished."""
    if not run.recipe_hash:
        return []
    tasks = run_recipe(run).tasks
    return [f for f in range(run.k) if all((run.job_folder(task, f) / "oof.npz").exists() for task in tasks)]


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
