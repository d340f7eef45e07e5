"""Predicting the eval photos with every fold's models: the 18-class CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ensemble.decision.decide import Rule, decide
from ensemble.decision.members import Ensemble, load_ensembles
from ensemble.decision.submission import SubmissionCheck, align, check_submission, write_submission
from ensemble.decision.tuning import Fitted, StepName, apply_tuning, weighted_runs
from ensemble.inference.estimate import estimate_inference
from ensemble.inference.infer import infer as predict_photos
from ensemble.inference.infer import save_logits
from ensemble.jobs.hardware import Hardware, choose_device
from ensemble.models.engine import EngineOptions
from ensemble.models.precision import Asked
from ensemble.pipeline.inputs import (
    AUTO_CACHE,
    DEFAULT_RUN,
    Folder,
    Folders,
    OnProgress,
    cache_folder,
    load_runs,
    part_of,
)
from ensemble.recipes.binding import run_recipe
from ensemble.recipes.views import Tta
from folds.data.labels import IntArray
from folds.data.layout import read_eval
from folds.data.people import EvalData
from folds.errors import MaskensError
from folds.files import must_be_writable
from folds.run import Run
from folds.runs import file_of, refuse_other_folds

WITHOUT: dict[Rule, tuple[StepName, ...]] = {"hard": ("offsets",), "vote": ("weights", "offsets")}
"""Steps of a tuning that make no difference to a decision."""


@dataclass(frozen=True)
class InferencePlan:
    """Everything that an inference needs, checked, before the first photo is opened."""

    runs: tuple[Run, ...]
    data: EvalData
    ensembles: tuple[Ensemble, ...]
    fitted: Fitted
    used: str  # models, photos, views and tuning in words
    rule: Rule
    votes: tuple[IntArray, ...]  # of other submissions, each (photos,)
    execution: EngineOptions
    early_exit: bool  # age models see only photos whose class they can change
    hardware: Hardware
    cache: Path | None
    path: Path  # the CSV
    logits_file: Path

    def estimate(self) -> tuple[float, int]:
        """(seconds, bytes of disk for the photo cache) from a short probe that leaves nothing behind."""
        return estimate_inference(
            self.ensembles, self.data, self.fitted.tta, self.hardware, self.cache, self.execution, self.early_exit
        )


@dataclass(frozen=True)
class Inferred:
    """A submission and how it came about."""

    classes: IntArray  # (photos,), 0..17, in the order of info.csv
    check: SubmissionCheck
    path: Path
    earlier: Path | None  # where an earlier CSV is kept
    notes: tuple[str, ...]  # what was out of the ordinary


def plan_inference(
    runs: Folders = DEFAULT_RUN,
    *,
    tta: Tta | None = None,
    decision: Rule | None = None,
    votes: Sequence[Folder] = (),
    tuned: bool = True,
    precision: Asked = "fp32",
    compile: bool = False,
    early_exit: bool = True,
    allow_missing: bool = False,
    out: Folder | None = None,
    data: Folder | None = None,
    cache: Folder | None = AUTO_CACHE,
    device: str = "auto",
    workers: int | None = None,
) -> InferencePlan:
    """Check all that an inference needs.

    Args:
        runs: several on the same folds are blended, each weighed alike or as `tune` found.
        tta: views; None takes those that were tuned, else flip.
        decision: joint, the best of the 18 classes; hard, part by part; vote, one vote a run. None is joint, with
            `votes` vote.
        votes: other submissions of the same photos.
        tuned: with what `tune` fitted, if it fits.
        precision: fp32, bf16, fp16, or auto: 16 bits where that is faster and the logits agree.
        compile: the models first, with torch.compile.
        early_exit: show a photo to the age models of one gender only where they can still change its class; the
            classes stay the same.
        allow_missing: go ahead though some folds are not trained.
        out: the CSV; None is submission.csv in the (first) run. Its logits go beside it.
        data: a folder that needs only `eval/`; None is the run's.
        cache: folder of decoded photos, None for none.
        device: auto, cpu or cuda.
        workers: loader processes; no result depends on it.

    Raises:
        MaskensError: models missing or damaged, runs of other folds, votes of other photos, a file that can't be
            written.
    """
    if votes and decision not in (None, "vote"):
        raise MaskensError(f"--vote and --decision {decision} exclude each other.")
    how: Rule = "vote" if votes else decision or "joint"
    named = load_runs(runs)
    first = named[0]
    found = read_eval(Path(data or first.data))
    path = Path(out) if out else file_of(named, "submission.csv")
    logits_file = path.with_suffix(".logits.npz") if out else file_of(named, "eval.npz")
    must_be_writable(path)
    must_be_writable(logits_file)
    refuse_other_folds(named)
    used, recipes = named, [run_recipe(run) for run in named]
    applied = apply_tuning(used, recipes, tta, not tuned)
    others = tuple(align(Path(file), found.ids) for file in votes)
    fitted = applied.fitted
    if how != "vote":
        used, recipes, fitted = weighted_runs(used, recipes, fitted)
    ensembles = load_ensembles(used, recipes, fitted, allow_missing)
    words = applied.without(*WITHOUT.get(how, ())) if how == "hard" or len(used) > 1 else applied.words
    models = sum(len(e.members) for e in ensembles)
    return InferencePlan(
        runs=tuple(named),
        data=found,
        ensembles=tuple(ensembles),
        fitted=fitted,
        used=f"{models} models, {len(found.ids)} photos, views: {fitted.tta}, {words}",
        rule=how,
        votes=others,
        execution=EngineOptions(precision, compile),
        early_exit=early_exit and how == "joint",
        hardware=Hardware(choose_device(device), workers),
        cache=cache_folder(cache, first.folder),
        path=path,
        logits_file=logits_file,
    )


def run_inference(planned: InferencePlan, on_progress: OnProgress | None = None) -> Inferred:
    """Predict, decide, and write CSV and logits; interrupted, the same call goes on.

    Raises:
        MaskensError: a photo that can't be read, a model that gives no numbers, a full disk.
    """
    prediction = predict_photos(
        planned.ensembles,
        planned.data,
        planned.fitted.tta,
        planned.hardware,
        planned.cache,
        part_of(on_progress, "decoding"),
        part_of(on_progress, "predicting"),
        planned.execution,
        planned.fitted if planned.early_exit else None,
        planned.logits_file.with_suffix(".partial.npz"),
    )
    decided = decide(prediction.joints, planned.fitted.weights, planned.fitted.offsets, planned.rule, planned.votes)
    save_logits(planned.logits_file, planned.data.ids, planned.data, planned.ensembles, prediction, planned.fitted.tta)
    earlier = write_submission(planned.path, planned.data.ids, decided.classes)
    check = check_submission(planned.path, planned.data.ids, planned.runs[0].class_photos)
    return Inferred(decided.classes, check, planned.path, earlier, tuple(prediction.notes))


def infer(runs: Folders = DEFAULT_RUN, *, on_progress: OnProgress | None = None, **options: object) -> Inferred:
    """Predict the eval photos with every fold's models and write ImageID,ans.

    Args:
        options: as of `plan_inference`.

    Raises:
        MaskensError: as `plan_inference` and `run_inference`.
    """
    return run_inference(plan_inference(runs, **options), on_progress)  # type: ignore[arg-type]
