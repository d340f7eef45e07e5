"""Runs, or recipes trained with several seeds, compared on the same people."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.decision.oof_ensemble import OofEnsemble, load_oof_ensemble
from ensemble.jobs.oof import Checkpoint, whole_folds
from ensemble.jobs.soft_targets import describe_pseudo_labels, describe_soft_targets
from ensemble.metrics.scores import SCORED_PARTS, SEED, Draws, Interval, interval
from ensemble.recipes.recipe_file import flat
from ensemble.recipes.views import Tta
from folds.errors import MaskensError, typed
from folds.files import sha256
from folds.labels import CLASSES, FloatArray
from folds.run_folder import Run, load_run


@dataclass(frozen=True)
class OverSeeds:
    """A figure of each seed's run, and their mean with its interval."""

    mean: Interval
    seeds: tuple[float, ...]

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds; None of a single one."""
        return float(np.std(self.seeds, ddof=1)) if len(self.seeds) > 1 else None

    @property
    def significance(self) -> str:
        """Of a difference; with one seed each, another seed may reverse it."""
        found = self.mean.significance
        one_seed = len(self.seeds) == 1 and found in ("better", "worse")
        return f"{found} on these people, one seed each" if one_seed else found


@dataclass(frozen=True)
class Scores:
    """Out-of-fold F1 of one run, or of one recipe over its seeds, and the difference to the first one's."""

    name: str
    f1: dict[str, OverSeeds]  # macro F1 of each of SCORED_PARTS
    gain: dict[str, OverSeeds]
    class_f1: list[OverSeeds]  # of the 18 classes
    class_gain: list[OverSeeds]


@dataclass(frozen=True)
class Comparison:
    """Runs or recipes on the photos that all of them predicted out-of-fold."""

    differences: list[tuple[str, list[str]]]  # what differs, and its value in each run; of recipes, in the first seed's
    scores: list[Scores]
    photos: int
    people: int
    notes: list[str]
    seeds: tuple[int, ...] = ()  # of recipes
    folds: tuple[int, ...] = ()


def compare_runs(folders: Sequence[Path], data_folder: Path | None, tta: Tta, checkpoint: Checkpoint) -> Comparison:
    """Compare runs with the first one. Raises MaskensError: fewer than two runs, one named twice, runs of other photos,
    or runs that share no predicted photo."""
    if len(folders) < 2 or len({folder.resolve() for folder in folders}) < len(folders):
        raise MaskensError("name two runs or more to compare, each once.")
    short = [folder.resolve().name for folder in folders]
    names = short if len(set(short)) == len(short) else [str(folder) for folder in folders]
    runs = {name: [load_run(folder)] for name, folder in zip(names, folders, strict=True)}
    return _compare(runs, data_folder, tta, checkpoint)


def compare_recipes(
    runs: Mapping[tuple[str, int], Run],
    data_folder: Path | None = None,
    tta: Tta = "flip",
    checkpoint: Checkpoint = "cross-fitted",
) -> Comparison | None:
    """Compare recipes with the first one, on the folds and seeds that all of them have finished; None if there is no
    fold yet that all recipes have finished with the same seed. `runs` maps (recipe, seed) to a run; all have the same
    folds. Raises MaskensError: files that don't belong together."""
    finished = {pair: whole_folds(run)[0] if run.recipe_hash else [] for pair, run in runs.items()}
    named = list(dict.fromkeys(recipe for recipe, _ in runs))
    recipes = [r for r in named if any(folds for (recipe, _), folds in finished.items() if recipe == r)]
    seeds, folds = shared_part({pair: have for pair, have in finished.items() if pair[0] in recipes})
    if not folds:
        return None
    chosen = {recipe: [runs[recipe, seed] for seed in seeds] for recipe in recipes}
    found = _compare(chosen, data_folder, tta, checkpoint, folds)
    skipped = [f"{recipe} is not compared: it has finished no fold" for recipe in named if recipe not in recipes]
    return dataclasses.replace(found, notes=[*skipped, *found.notes], seeds=seeds, folds=folds)


def _compare(
    groups: Mapping[str, Sequence[Run]],
    data_folder: Path | None,
    tta: Tta,
    checkpoint: Checkpoint,
    folds: Collection[int] | None = None,
) -> Comparison:
    """
    Args:
        groups: name -> its runs, one a seed; as many seeds for each.
        folds: None takes all that are trained.
    """
    ensembles = {
        name: [load_oof_ensemble([r], data_folder, checkpoint, folds) for r in g] for name, g in groups.items()
    }
    every = [ensemble for group in ensembles.values() for ensemble in group]
    first, shared = every[0], every[0].rows
    for other in every[1:]:
        if other.data.own_photos_fingerprint != first.data.own_photos_fingerprint:
            raise MaskensError(
                f"{other.runs[0].name} was made from other photos than {first.runs[0].name}; they can't be compared."
            )
        shared = np.intersect1d(shared, other.rows)
    if not len(shared):
        raise MaskensError("the runs have no photo in common that each predicted out-of-fold; train the same folds.")
    classes = {
        name: [e.decide(e.plain(tta)).classes[np.searchsorted(e.rows, shared)] for e in group]
        for name, group in ensembles.items()
    }
    people, person = np.unique(first.person[np.searchsorted(first.rows, shared)], return_inverse=True)
    drawn = Draws(first.data.classes[shared], person, first.stratum[people])
    f1 = {name: [drawn.parts(decided) for decided in group] for name, group in classes.items()}
    scores = [_scores(name, group, f1[next(iter(f1))]) for name, group in f1.items()]
    notes = [*dict.fromkeys(line for ensemble in every for line in ensemble.notes)]
    own = len(first.data.own)
    labels = [ensemble.data.classes[ensemble.data.scored] for ensemble in every]
    if any(not np.array_equal(classes, labels[0]) for classes in labels):
        notes.append(f"the runs' label fixes differ; all are scored on the labels of {first.runs[0].name}")
    if any(not np.array_equal(ensemble.folds[:own], first.folds[:own]) for ensemble in every):
        notes.append(
            "the people were split into other folds, which alone changes scores; for the same split: "
            f"maskens folds --folds-file {typed(first.runs[0].run.folds_file)}"
        )
    if checkpoint == "best" and len({frozenset(t.epochs for t in e.runs[0].recipe.tasks.values()) for e in every}) > 1:
        notes.append("epochs differ, and more epochs are more chances for a best one; see --checkpoint last too")
    firsts = [group[0] for group in ensembles.values()]
    return Comparison(_differences(firsts), scores, len(shared), len(people), notes)


def _scores(name: str, own: Sequence[dict[str, FloatArray]], first: Sequence[dict[str, FloatArray]]) -> Scores:
    """
    Args:
        own: of each seed, part -> float64 (1 + draws, labels).
    """
    f1 = {part: np.stack([seed[part] for seed in own]) for part in SCORED_PARTS}
    gain = {part: f1[part] - np.stack([seed[part] for seed in first]) for part in SCORED_PARTS}
    whole = SCORED_PARTS[0]
    return Scores(
        name,
        {part: over_seeds(values.mean(axis=2)) for part, values in f1.items()},
        {part: over_seeds(values.mean(axis=2)) for part, values in gain.items()},
        [over_seeds(f1[whole][:, :, c]) for c in range(CLASSES)],
        [over_seeds(gain[whole][:, :, c]) for c in range(CLASSES)],
    )


def _differences(compared: Sequence[OofEnsemble]) -> list[tuple[str, list[str]]]:
    """Key paths of the recipes whose values differ, and what else differs. A task that a run has not is one row."""
    runs, recipes = [e.runs[0].run for e in compared], [e.runs[0].recipe for e in compared]
    splits = [sha256(e.folds[: len(e.data.own)].tobytes())[:6] for e in compared]
    rows = [
        ("seed", [str(run.seed) for run in runs]),
        ("folds", [f"{run.k}, split {split}" for run, split in zip(runs, splits, strict=True)]),
        ("labels", [f"{run.fixes} ({run.fixes_hash[:6]})" if run.fixes_hash else "as given" for run in runs]),
        ("pseudo-labels", [describe_pseudo_labels(run) for run in runs]),
        ("soft targets", [describe_soft_targets(run) for run in runs]),
        ("extra photos", [f"{int((~e.data.scored).sum()):,} ({e.data.extra_hash[:6]})" for e in compared]),
        ("photos skipped", [f"{len(e.data.skipped):,}" for e in compared]),
    ]
    for task in dict.fromkeys(task for recipe in recipes for task in recipe.tasks):
        its = [recipe.tasks.get(task) for recipe in recipes]
        if None in its:
            rows.append((f"tasks.{task}", [t.model if t else "-" for t in its]))
        values = [flat(t.model_dump(mode="json", exclude={"weights"})) if t else None for t in its]
        for key in dict.fromkeys(key for v in values if v for key in v):
            shown = [str(v.get(key)) if v else "-" for v in values]
            if len({*shown} - {"-"}) > 1:
                rows.append((f"tasks.{task}.{key}", shown))
    return [row for row in rows if len(set(row[1])) > 1]


def records(comparison: Comparison) -> list[dict[str, Any]]:
    """A row for each recipe and part, for other tools. `seeds_*` are lists, in the order of `comparison.seeds`."""

    def named(figure: OverSeeds, *names: str) -> dict[str, Any]:
        mean = figure.mean
        return dict(zip(names, (mean.value, mean.low, mean.high, figure.deviation, figure.seeds), strict=True))

    rows = []
    for number, scores in enumerate(comparison.scores):
        for part in SCORED_PARTS:
            gain = scores.gain[part]
            row = {"recipe": scores.name, "part": part}
            row |= named(scores.f1[part], "macro_f1", "low", "high", "deviation", "seeds_f1")
            row |= named(
                gain, "difference", "difference_low", "difference_high", "difference_deviation", "seeds_difference"
            )
            rows.append(row | {"verdict": gain.mean.significance if number else ""})
    return rows


def shared_part(finished: Mapping[tuple[str, int], Collection[int]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(seeds, folds) that all recipes have finished, of (recipe, seed) -> folds. Where some seeds have more folds than
    others, the choice has the most pairs of seed and fold."""
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


def over_seeds(drawn: FloatArray) -> OverSeeds:
    """A score, or a difference of scores, with its interval over people and, where there are several, seeds.

    Each draw takes people and one seed fewer than there are, both with replacement: with so few seeds, that gives the
    right variance (McCarthy & Snowden 1985, "The Bootstrap and Finite Population Sampling"). All that is compared has
    the same draws.

    Args:
        drawn: float64 (seeds, 1 + draws of people), everybody first.
    """
    count, draws = drawn.shape[0], drawn.shape[1] - 1
    chosen = np.random.default_rng(SEED).integers(count, size=(max(1, count - 1), draws))
    means = np.take_along_axis(drawn[:, 1:], chosen, axis=0).mean(axis=0)
    whole = interval(np.concatenate([[drawn[:, 0].mean()], means]))
    return OverSeeds(whole, tuple(drawn[:, 0].tolist()))
