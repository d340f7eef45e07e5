"""Two runs and more side by side: what differs in them, and whether it made a difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ensemble.decision.blend import Blend, load_blend
from ensemble.jobs.oof import Epoch
from ensemble.jobs.pseudo_labels import pseudo_words
from ensemble.jobs.soft_targets import soft_words
from ensemble.metrics.bootstrap import (
    DRAWS,
    SCORED_PARTS,
    Interval,
    draw_people,
    drawn_parts,
    interval,
    person_confusions,
)
from ensemble.recipes.run_recipe import flat
from ensemble.recipes.schema import Recipe
from ensemble.recipes.tta_views import Tta
from folds.data.labels import CLASSES, FloatArray, IntArray
from folds.data.people import TrainData
from folds.errors import MaskensError, typed
from folds.files import sha256
from folds.run import Run, load_run
from folds.splitting.split import strata


@dataclass(frozen=True)
class ComparedRun:
    """One run, as far as it is compared."""

    blend: Blend  # of this run alone
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


def compare(runs: Sequence[Path], data_folder: Path | None, tta: Tta, epoch: Epoch, draws: int = DRAWS) -> Comparison:
    """Score runs on the photos that all of them predicted out-of-fold.

    Raises:
        MaskensError: fewer than two runs, one named twice, runs of other photos, or runs that share no
            predicted photo.
    """
    if len(runs) < 2 or len({r.resolve() for r in runs}) < len(runs):
        raise MaskensError("name two runs or more to compare, each once.")
    compared = [_compared_run(load_run(folder), data_folder, tta, epoch) for folder in runs]
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
        weights = draw_people(stratum, draws)
        truth = contestant.data.classes[shared]
        f1 = [drawn_parts(weights, person_confusions(truth, decided, person)) for decided in decisions]
        sections.append(Section(labels, [_scores(name, own, f1[0]) for name, own in zip(names, f1, strict=True)]))
    notes = [line for c in compared for line in c.blend.notes]
    if any(not np.array_equal(c.blend.folds, first.blend.folds) for c in compared):
        notes.append(
            "the people were split into other folds, which alone moves scores; for the same split use "
            f"maskens folds --folds-file {typed(first.run.folds_file)}"
        )
    lengths = {frozenset(t.epochs for t in c.recipe.tasks.values()) for c in compared}
    if epoch == "best" and len(lengths) > 1:
        notes.append("epochs differ, and more epochs are more chances for a best one; see --epoch last too")
    return Comparison(_differences(compared), sections, len(shared), int(person.max()) + 1, notes)


def _compared_run(run: Run, data_folder: Path | None, tta: Tta, epoch: Epoch) -> ComparedRun:
    blend = load_blend([run], data_folder, epoch)
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
    fixes = contestant.run.fixes
    return f"{fixes.labels} fixed ({', '.join(fixes.sources)}, {fixes.hash[:6]})" if fixes.labels else "as given"


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
        ("pseudo-labels", [pseudo_words(c.run) for c in compared]),
        ("soft targets", [soft_words(c.run) for c in compared]),
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
