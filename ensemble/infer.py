"""Predicting new photos with every model of a run: each photo decoded once for all of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

from ensemble.cache import Geometry, open_photos
from ensemble.combine import (
    blend,
    column_temperatures,
    decide,
    decide_hard,
    joint_log_probabilities,
    mean_logits,
    vote,
)
from ensemble.loader import plain_batches
from ensemble.models import ModelCard, load_checkpoint, read_card, to_input
from ensemble.oof import Logits, job_names, save_npz
from ensemble.precision import Asked, Chosen, autocast, choose_precision
from ensemble.predict import all_views
from ensemble.process import settle
from ensemble.recipe import Recipe
from ensemble.tasks import Target
from ensemble.train import Hardware
from ensemble.tta import VIEWS, Tta
from ensemble.tuning import Fitted, Judged
from folds.decode import Progress
from folds.errors import MaskensError, refuse
from folds.labels import IntArray
from folds.run import Run

BATCH = 64
Decision = Literal["joint", "hard", "vote"]


@dataclass(frozen=True)
class Member:
    """One trained model of the ensemble."""

    task: str
    fold: int
    path: Path
    card: ModelCard


class PhotoFiles(Protocol):
    """Photos to predict: an eval folder, or any others."""

    @property
    def root(self) -> Path: ...
    @property
    def files(self) -> Sequence[str]:
        """Path of each photo below `root`."""

    @property
    def fingerprint(self) -> str: ...


@dataclass(frozen=True)
class Ensemble:
    """The models of one run, in the order of task and fold, and what was fitted for them."""

    members: tuple[Member, ...]
    temperatures: Mapping[str, Sequence[Sequence[float]]]  # task -> (folds of the run, heads); empty if untuned

    @property
    def targets(self) -> dict[str, Target]:
        return {m.task: m.card.target for m in self.members}

    def folds(self, task: str) -> list[int]:
        """The folds whose model there is, in the order of the logits."""
        return [m.fold for m in self.members if m.task == task]

    def scale(self, task: str) -> npt.NDArray[np.float64] | None:
        """float64 (folds, width): by what a task's logits are divided, in the order of `folds`; None if by nothing."""
        if task not in self.temperatures:
            return None
        return column_temperatures(self.temperatures[task], self.targets[task])[self.folds(task)]

    def joint(self, logits: Mapping[str, Logits], only: int | None = None) -> npt.NDArray[np.float64]:
        """Log probabilities of the 18 classes: mean of the logits over folds and views, then jointly.

        Args:
            logits: task -> float32 (folds, views, photos, width).
            only: the one fold whose models are asked; by default all.

        Returns:
            float64 (photos, 18).
        """
        means = {}
        for task, values in logits.items():
            chosen = [n for n, fold in enumerate(self.folds(task)) if only in (None, fold)]
            scale = self.scale(task)
            means[task] = mean_logits(values[chosen], None if scale is None else scale[chosen])
        return joint_log_probabilities(means, self.targets)

    @property
    def complete_folds(self) -> list[int]:
        """The folds of which every task has a model."""
        return sorted(set.intersection(*(set(self.folds(t)) for t in self.targets)))


@dataclass(frozen=True)
class Prediction:
    """What the ensembles say of photos."""

    joints: npt.NDArray[np.float64]  # (runs, photos, 18), log probabilities
    logits: list[dict[str, Logits]]  # of each run, task -> (folds, views, photos, width)
    chosen: tuple[Chosen, ...] = ()  # of each model

    @property
    def precision(self) -> str:
        """How the models predicted, in words."""
        counts = Counter(c.precision for c in self.chosen)
        words = ", ".join(f"{name} for {count} of {len(self.chosen)} models" for name, count in counts.items())
        if set(counts) == {"fp32"}:
            return "; ".join(dict.fromkeys([words, *(c.note for c in self.chosen if c.note)]))
        largest = max(c.difference for c in self.chosen)
        notes = dict.fromkeys(c.note for c in self.chosen if c.note)
        return "; ".join([f"{words}, largest difference of a logit to fp32 {largest:.2g} on a first batch", *notes])


def members(run: Run, recipe: Recipe, allow_missing: bool) -> list[Member]:
    """The trained models of a run, checked against its recipe and folds by their cards.

    Raises:
        MaskensError: jobs that are not trained (unless allowed, and then a task without any), damaged
            checkpoints, or checkpoints of another recipe or other folds.
    """
    found: list[Member] = []
    missing: list[tuple[str, int]] = []
    problems: list[str] = []
    for task in recipe.tasks:
        for fold in range(run.k):
            folder = run.job_folder(task, fold)
            path = folder / "model.safetensors"
            if not (folder / "oof.npz").exists() or not path.exists():
                missing.append((task, fold))
                continue
            try:
                card = read_card(path)
            except MaskensError as error:
                problems.append(str(error))
                continue
            wrong = [
                name
                for name, ours, its in (
                    ("recipe", recipe.tasks[task].hash, card.task_hash), ("folds", run.folds_hash, card.folds_hash),
                    ("task", task, card.task), ("fold", fold, card.fold),
                )
                if ours != its
            ]  # fmt: skip
            if wrong:
                problems.append(f"{path} belongs to another {' and '.join(wrong)}")
            found.append(Member(task, fold, path, card))
    refuse(problems, "the trained models can't all be used")
    without = [t for t in recipe.tasks if t not in {m.task for m in found}]
    if without or (missing and not allow_missing):
        folds = ",".join(str(f) for f in sorted({f for _, f in missing}))
        hint = "" if without else " Or predict with the folds that are there: --allow-missing."
        raise MaskensError(
            f"{len(missing)} of {len(recipe.tasks) * run.k} models are not trained yet: {job_names(missing, 8)}. "
            f"Train them: maskens train --run {run.folder} --fold {folds}.{hint}"
        )
    return found


def load_ensembles(
    runs: Sequence[Run], recipes: Sequence[Recipe], fitted: Fitted, allow_missing: bool
) -> list[Ensemble]:
    """The trained models of several runs and the temperatures fitted for them. Raises as `members`."""
    return [
        Ensemble(tuple(members(run, recipe, allow_missing)), share.temperatures)
        for run, recipe, share in zip(runs, recipes, fitted.runs, strict=True)
    ]


def infer(
    ensembles: Sequence[Ensemble],
    data: PhotoFiles,
    tta: Tta,
    hardware: Hardware,
    cache: Path | None,
    on_decode: Progress | None = None,
    on_predict: Progress | None = None,
    precision: Asked = "fp32",
) -> Prediction:
    """Logits of every model of every run, and each run's joint log probabilities.

    All models are loaded once; each batch of photos is read once and shown to every one of them.

    Args:
        precision: of the forward passes; each model is tried on the first batch.
        on_decode: called with (photos decoded, photos in all) while the cache is filled.
        on_predict: called with (photos predicted, photos in all).
    """
    device = torch.device(hardware.device)
    settle(hardware.job_threads)
    everyone = [m for ensemble in ensembles for m in ensemble.members]
    models = [load_checkpoint(m.path, device)[0] for m in everyone]
    shapes = [Geometry(m.card.resize, m.card.crop) for m in everyone]
    distinct = list(dict.fromkeys(shapes))
    total = len(data.files)
    photos = open_photos(data.root, data.files, data.fingerprint, distinct, cache, hardware.decoders, on_decode)
    outputs = [np.empty((len(VIEWS[tta]), total, m.card.target.width), np.float32) for m in everyone]
    start, chosen = 0, list[Chosen]()
    workers = 0 if cache else hardware.job_workers
    for batch in plain_batches(photos, range(total), BATCH, workers, pin=device.type == "cuda"):
        rows = slice(start, start + len(batch[0]))
        for number, (member, model, shape) in enumerate(zip(everyone, models, shapes, strict=True)):
            x = to_input(batch[distinct.index(shape)], member.card.mean, member.card.std, device)
            if start == 0:
                chosen.append(choose_precision(model, x, precision))
            with autocast(device, chosen[number].precision):
                outputs[number][:, rows] = all_views(model, x, tta).numpy()
        start = rows.stop
        if on_predict:
            on_predict(start, total)
    left = iter(outputs)
    logits = []
    for ensemble in ensembles:
        own: dict[str, list[Logits]] = {}
        for member in ensemble.members:
            own.setdefault(member.task, []).append(next(left))
        logits.append({task: np.stack(found) for task, found in own.items()})
    joints = np.stack([e.joint(found) for e, found in zip(ensembles, logits, strict=True)])
    return Prediction(joints, logits, tuple(chosen))


def judge(prediction: Prediction, fitted: Fitted, decision: Decision, others: Sequence[IntArray] = ()) -> Judged:
    """Probabilities of the blended runs, and the decision.

    Args:
        decision: joint over the 18 classes; hard, part by part, without offsets; or vote: each run one vote by its
            own joint decision, with the offsets if it is the only one.
        others: further votes, each int64 (photos,); they need `vote`.
    """
    log_p = blend(prediction.joints, fitted.weights)
    raised = log_p + np.array(fitted.offsets)
    if decision == "vote":
        runs = [raised] if len(prediction.joints) == 1 else list(prediction.joints)
        return Judged(log_p, vote(np.stack([*map(decide, runs), *others]), log_p))
    return Judged(log_p, decide(raised) if decision == "joint" else decide_hard(log_p))


def save_logits(
    path: Path, ids: Sequence[str], data: PhotoFiles, ensembles: Sequence[Ensemble], prediction: Prediction
) -> None:
    """Replace the logits behind a submission: image ids, and `logits/<task>` float32 (folds, views, photos, width);
    of several runs `run0/logits/<task>` and so on."""
    several = len(ensembles) > 1
    arrays: dict[str, Any] = {"ids": np.array(ids)}
    folds: dict[str, list[int]] = {}
    for number, (ensemble, logits) in enumerate(zip(ensembles, prediction.logits, strict=True)):
        prefix = f"run{number}/" if several else ""
        arrays |= {f"{prefix}logits/{task}": values for task, values in logits.items()}
        folds |= {f"{prefix}{task}": ensemble.folds(task) for task in logits}
    views = VIEWS["flip"][: next(iter(prediction.logits[0].values())).shape[1]]
    record = {"fingerprint": data.fingerprint, "views": views, "folds": folds}
    record |= {"runs": [str(e.members[0].path.parent.parent.parent) for e in ensembles]}
    save_npz(path, arrays | {"record": json.dumps(record)})
