"""What the ensemble is worth: its decision on out-of-fold logits, with intervals over people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np

from ensemble.decision.blend import Blend, at_epoch
from ensemble.decision.joint import decide, decide_hard, joint_log_probabilities, vote
from ensemble.decision.tune import untuned
from ensemble.decision.tuning import Applied, Judged, Tuning, read_nested
from ensemble.jobs.oof import Epoch, Logits, job_names, pool, trained_folds
from ensemble.metrics.bootstrap import PARTS, Interval, draw_people, drawn_f1, drawn_parts, interval, person_confusions
from ensemble.metrics.scores import Score, score, score_record, task_scores
from ensemble.recipes.schema import Recipe
from ensemble.recipes.tasks import learns_from, true_labels
from ensemble.recipes.views import VIEWS, Tta
from folds.data.labels import CLASSES, FloatArray, IntArray
from folds.data.people import TrainData
from folds.files import save_npz
from folds.run import Run

VIEW_WORDS: dict[Tta, str] = {"none": "no TTA", "flip": "flip"}


@dataclass(frozen=True)
class OutOfFold:
    """The ensemble's decision on the people of its trained folds, each by models that never saw them."""

    rows: IntArray  # (photos,): index of each photo in TrainData.files
    fold: IntArray  # (photos,)
    logits: Mapping[str, Logits]  # task -> (photos, width), mean over the views
    joint: FloatArray  # (photos, 18), log probabilities
    classes: IntArray  # (photos,), the decision
    trained: list[int]  # the folds that count: those with every task trained
    missing: str  # which jobs are not trained, in words


def out_of_fold(run: Run, recipe: Recipe, data: TrainData, folds: IntArray, tta: Tta, epoch: Epoch) -> OutOfFold:
    """Pool the out-of-fold logits of a run and decide, untuned.

    The best epoch of a job was chosen on the very fold that is predicted here, which flatters a little;
    `epoch="last"` is free of that.

    Args:
        folds: int64 (people,).

    Raises:
        MaskensError: no fold has every task trained, or files that don't belong together.
    """
    trained, missing = trained_folds(run, recipe)
    pooled = pool(run, recipe, data, folds, trained, epoch)
    logits = {task: views[: len(VIEWS[tta])].mean(axis=0) for task, views in pooled.logits.items()}
    joint = joint_log_probabilities(logits, {name: task.target for name, task in recipe.tasks.items()})
    words = f"without {job_names(missing)}" if missing else ""
    return OutOfFold(pooled.rows, pooled.fold, logits, joint, decide(joint), trained, words)


@dataclass(frozen=True)
class Setting:
    """A way to decide; the first of several is that of a plain, untuned ensemble."""

    name: str
    f1: Interval
    accuracy: float
    gain: Interval  # in macro F1, against the first


@dataclass(frozen=True)
class FoldScore:
    """One fold by itself."""

    fold: int
    people: int
    photos: int
    f1: float  # macro over the 18 classes
    accuracy: float


@dataclass(frozen=True)
class Evaluation:
    """The score of an ensemble, as it will be used, on the people of its trained folds."""

    used: str  # how it decides, in words
    judged: Judged
    score: Score
    f1: dict[str, Interval]  # macro F1 of each of PARTS
    accuracy: Interval
    class_f1: list[Interval]
    tasks: dict[str, tuple[float, float]]  # task -> (macro F1, accuracy) on the photos it learns from
    folds: list[FoldScore]
    settings: list[Setting]
    people: int
    tuning: Tuning | None
    notes: tuple[str, ...]


def evaluate(blend: Blend, applied: Applied) -> Evaluation:
    """Score a run, or several as one ensemble, once over all photos.

    Where a tuning is applied, each photo is judged by one that was fitted on other people.

    Raises:
        MaskensError: a tuning whose log probabilities are missing.
    """
    tta = applied.fitted.tta
    plain = blend.judge(untuned(blend, tta))
    judged = plain
    if applied.tuning and applied.path:
        judged = read_nested(applied.path, [blend.data.files[i] for i in blend.rows])
    draws = _Draws(blend)
    decided = judged.classes
    confusions = person_confusions(blend.truth, decided, blend.person)
    parts = drawn_parts(draws.weights, confusions)
    ways = _ways(blend, tta, plain)
    if applied.tuning:
        ways["tuned"] = decided
    return Evaluation(
        used=f"{blend.epoch} epochs, {tta}, {applied.words}",
        judged=judged,
        score=score(blend.truth, decided),
        f1={part: interval(found.mean(axis=1)) for part, found in parts.items()},
        accuracy=interval(draws.accuracy(decided)),
        class_f1=[interval(parts[PARTS[0]][:, c]) for c in range(CLASSES)],
        tasks=_task_scores(blend, tta),
        folds=_fold_scores(blend, decided),
        settings=[draws.setting(name, classes, plain.classes) for name, classes in ways.items()],
        people=len(blend.stratum),
        tuning=applied.tuning,
        notes=blend.notes,
    )


class _Draws:
    """The same draws of people for everything that is compared."""

    def __init__(self, blend: Blend) -> None:
        self.truth, self.person = blend.truth, blend.person
        self.weights = draw_people(blend.stratum)

    def f1(self, decided: IntArray) -> FloatArray:
        confusions = person_confusions(self.truth, decided, self.person)
        return np.asarray(drawn_f1(self.weights, confusions, np.arange(CLASSES)).mean(axis=1))

    def accuracy(self, decided: IntArray) -> FloatArray:
        right = np.bincount(self.person, decided == self.truth).astype(np.float32)
        photos = np.bincount(self.person).astype(np.float32)
        return np.asarray((self.weights @ right) / (self.weights @ photos), dtype=np.float64)

    def setting(self, name: str, decided: IntArray, first: IntArray) -> Setting:
        f1 = self.f1(decided)
        return Setting(name, interval(f1), float((decided == self.truth).mean()), interval(f1 - self.f1(first)))


def _ways(blend: Blend, tta: Tta, plain: Judged) -> dict[str, IntArray]:
    """Name -> decision of every way that asks for no fitting, the plain one first."""
    found = {f"{blend.epoch}, {VIEW_WORDS[tta]}": plain.classes}
    both = {e: blend if e == blend.epoch else at_epoch(blend, e) for e in get_args(Epoch)}
    for epoch, its in both.items():
        for views in VIEWS:
            found.setdefault(f"{epoch}, {VIEW_WORDS[views]}", its.judge(untuned(its, views)).classes)
    found["part by part"] = decide_hard(plain.log_probabilities)
    if len(blend.runs) > 1:
        alone = [decide(joint) for joint in blend.joints(untuned(blend, tta))]
        found |= {f"{member.name} alone": classes for member, classes in zip(blend.runs, alone, strict=True)}
        found["hard vote"] = vote(np.stack(alone), plain.log_probabilities)
    return found


def _task_scores(blend: Blend, tta: Tta) -> dict[str, tuple[float, float]]:
    found = {}
    for member in blend.runs:
        for name, target in member.targets.items():
            mine = learns_from(target.predicts, blend.data)[blend.rows]
            truth = true_labels(target, blend.data)[blend.rows]
            logits = member.logits[name][: len(VIEWS[tta])].mean(axis=0)
            key = name if len(blend.runs) == 1 else f"{member.name}: {name}"
            found[key] = task_scores(target, logits[mine], truth[mine])
    return found


def _fold_scores(blend: Blend, decided: IntArray) -> list[FoldScore]:
    found = []
    for fold in blend.trained:
        mine = blend.fold == fold
        own = score(blend.truth[mine], decided[mine])
        found.append(FoldScore(fold, len(np.unique(blend.person[mine])), own.photos, own.f1, own.accuracy))
    return found


def save_oof(blend: Blend, evaluation: Evaluation, tta: Tta) -> None:
    """Replace oof.npz of a run: its pooled logits, mean over the views, and the log probabilities as used."""
    (member,) = blend.runs
    arrays: dict[str, object] = {f"logits/{t}": v[: len(VIEWS[tta])].mean(axis=0) for t, v in member.logits.items()}
    record = {"views": VIEWS[tta], "epoch": blend.epoch, "used": evaluation.used}
    record |= {"recipe_hash": member.recipe.hash, "folds_hash": member.run.folds_hash}
    files = [blend.data.files[i] for i in blend.rows]
    arrays |= {"files": files, "fold": blend.fold, "log_probabilities": evaluation.judged.log_probabilities}
    arrays["classes"] = evaluation.judged.classes
    save_npz(member.run.folder / "oof.npz", arrays | {"record": json.dumps(record)})


def evaluation_record(found: Evaluation) -> dict[str, Any]:
    """An evaluation as plain values for JSON; intervals as {value, low, high}."""
    return {
        "used": found.used,
        "people": found.people,
        "macro_f1": asdict(found.f1[PARTS[0]]),
        "accuracy_interval": asdict(found.accuracy),
        "parts_macro_f1": {part: asdict(f1) for part, f1 in found.f1.items()},
        "class_f1": [asdict(f1) for f1 in found.class_f1],
        "score": score_record(found.score),
        "tasks": {name: {"macro_f1": f1, "accuracy": a} for name, (f1, a) in found.tasks.items()},
        "folds": [asdict(fold) for fold in found.folds],
        "settings": [asdict(setting) for setting in found.settings],
        "tuning": found.tuning.model_dump(mode="json", exclude={"fitted"}) if found.tuning else None,
        "notes": list(found.notes),
    }
