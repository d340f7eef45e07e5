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
from ensemble.inference.settings import InferenceSettings
from ensemble.jobs.hardware import Hardware, choose_device
from ensemble.models.engine import EngineOptions
from ensemble.models.precision import PrecisionOption
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
from ensemble.recipes.run_recipe import run_recipe
from ensemble.recipes.tta_views import Tta
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
class InferOptions:
    """How eval photos are predicted; the defaults are those of `maskens infer` without options.

    Attributes:
        tta: name or TOML file of the views; None takes those that were tuned, else flip.
        decision: joint, the best of the 18 classes; hard, part by part; vote, one vote a run; None is joint, with
            `votes` vote.
        votes: other submissions of the same photos.
        tuned: with what `tune` fitted, if it fits.
        precision: auto: 16 bits where that is faster and the logits agree.
        compile: the models first, with torch.compile.
        early_exit: age models of one gender see a photo only where they can still change its class.
        allow_missing: go ahead though some folds are not trained.
        out: the CSV; None is submission.csv in the (first) run. Its logits go beside it.
        data: a folder that needs only `eval/`; None is the run's.
        cache: folder of decoded photos, None for none.
        device: auto, cpu or cuda.
        workers: loader processes; no result depends on it.
    """

    tta: Tta | None = None
    decision: Rule | None = None
    votes: Sequence[Folder] = ()
    tuned: bool = True
    precision: PrecisionOption = "fp32"
    compile: bool = False
    early_exit: bool = True
    allow_missing: bool = False
    out: Folder | None = None
    data: Folder | None = None
    cache: Folder | None = AUTO_CACHE
    device: str = "auto"
    workers: int | None = None


DEFAULT_OPTIONS = InferOptions()


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
    settings: InferenceSettings
    path: Path  # the CSV
    logits_file: Path

    def estimate(self) -> tuple[float, int]:
        """(seconds, bytes of disk for the photo cache) from a short probe that leaves nothing behind."""
        return estimate_inference(self.ensembles, self.data.photos, self.settings)


@dataclass(frozen=True)
class Inferred:
    """A submission and how it came about."""

    classes: IntArray  # (photos,), 0..17, in the order of info.csv
    check: SubmissionCheck
    path: Path
    earlier: Path | None  # where an earlier CSV is kept
    notes: tuple[str, ...]  # what was out of the ordinary


def plan_inference(runs: Folders = DEFAULT_RUN, options: InferOptions = DEFAULT_OPTIONS) -> InferencePlan:
    """Check all that an inference needs.

    Args:
        runs: several on the same folds are blended, each weighed alike or as `tune` found.

    Raises:
        MaskensError: models missing or damaged, runs of other folds, votes of other photos, a file that can't be
            written.
    """
    if options.votes and options.decision not in (None, "vote"):
        raise MaskensError(f"--vote and --decision {options.decision} exclude each other.")
    rule: Rule = "vote" if options.votes else options.decision or "joint"
    named = load_runs(runs)
    first = named[0]
    data = read_eval(Path(options.data or first.data))
    path = Path(options.out) if options.out else file_of(named, "submission.csv")
    logits_file = path.with_suffix(".logits.npz") if options.out else file_of(named, "eval.npz")
    must_be_writable(path)
    must_be_writable(logits_file)
    refuse_other_folds(named)
    used, recipes = named, [run_recipe(run) for run in named]
    applied = apply_tuning(used, recipes, options.tta, options.tuned)
    votes = tuple(align(Path(file), data.ids) for file in options.votes)
    fitted = applied.fitted
    if rule != "vote":
        used, recipes, fitted = weighted_runs(used, recipes, fitted)
    ensembles = load_ensembles(used, recipes, fitted, options.allow_missing)
    words = applied.without(*WITHOUT.get(rule, ())) if rule == "hard" or len(used) > 1 else applied.words
    models = sum(len(e.members) for e in ensembles)
    return InferencePlan(
        runs=tuple(named),
        data=data,
        ensembles=tuple(ensembles),
        fitted=fitted,
        used=f"{models} models, {len(data.ids)} photos, views: {fitted.tta}, {words}",
        rule=rule,
        votes=votes,
        settings=InferenceSettings(
            tta=fitted.tta_set,
            hardware=Hardware(choose_device(options.device), options.workers),
            cache=cache_folder(options.cache, first.folder),
            engine=EngineOptions(options.precision, options.compile),
            early_exit=fitted if options.early_exit and rule == "joint" else None,
            partial=logits_file.with_suffix(".partial.npz"),
        ),
        path=path,
        logits_file=logits_file,
    )


def run_inference(plan: InferencePlan, on_progress: OnProgress | None = None) -> Inferred:
    """Predict, decide, and write CSV and logits; interrupted, the same call goes on.

    Raises:
        MaskensError: a photo that can't be read, a model that gives no numbers, a full disk.
    """
    decoding, predicting = part_of(on_progress, "decoding"), part_of(on_progress, "predicting")
    prediction = predict_photos(plan.ensembles, plan.data.photos, plan.settings, decoding, predicting)
    decided = decide(prediction.joints, plan.fitted.weights, plan.fitted.offsets, plan.rule, plan.votes)
    save_logits(plan.logits_file, plan.data, plan.ensembles, prediction, plan.fitted.tta_set)
    earlier = write_submission(plan.path, plan.data.ids, decided.classes)
    check = check_submission(plan.path, plan.data.ids, plan.runs[0].class_photos)
    return Inferred(decided.classes, check, plan.path, earlier, tuple(prediction.notes))


def infer(
    runs: Folders = DEFAULT_RUN, options: InferOptions = DEFAULT_OPTIONS, *, on_progress: OnProgress | None = None
) -> Inferred:
    """Predict the eval photos with every fold's models and write ImageID,ans.

    Args:
        runs: as of `plan_inference`.
        on_progress: told of the photos that are decoded and predicted.

    Raises:
        MaskensError: as `plan_inference` and `run_inference`.
    """
    return run_inference(plan_inference(runs, options), on_progress)
