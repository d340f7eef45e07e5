"""Predicting the eval photos with every fold's models: the 18-class CSV."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ensemble.backends.choose import choose_hardware
from ensemble.data.cache import skip_unreadable
from ensemble.decision.anytime import parse_budget
from ensemble.decision.decide import Rule, decide
from ensemble.decision.members import Ensemble, geometries, load_ensembles
from ensemble.decision.submission import (
    SubmissionCheck,
    align,
    check_submission,
    unseen_words,
    write_skipped,
    write_submission,
)
from ensemble.decision.tuning import Fitted, StepName, apply_tuning, weighted_runs
from ensemble.jobs.hardware import BackendName
from ensemble.models.engine import EngineOption
from ensemble.models.engine_choice import engine_options
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
from ensemble.prediction.estimate import estimate_inference
from ensemble.prediction.infer import infer as predict_photos
from ensemble.prediction.infer import save_logits
from ensemble.prediction.outputs import InferenceSettings
from ensemble.prediction.strategies import check_budget
from ensemble.recipes.run_recipe import run_recipe
from ensemble.recipes.views import Tta
from folds.errors import MaskensError
from folds.files import must_be_writable
from folds.labels import IntArray
from folds.layout import read_eval, read_eval_people
from folds.people import EvalData
from folds.photos import Progress
from folds.run import Run, file_of, refuse_other_folds

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
        person_column: column of eval/info.csv that says who is on a photo: a person's photos are decided together, by
            the joint decision, and without early exit; None decides each photo by itself.
        tuned: with what `tune` fitted, if it fits.
        engine: torch, onnxruntime, openvino, or auto: the fastest whose logits are those of torch.
        precision: auto: 16 bits where that is faster and the logits agree.
        compile: the models first, with torch.compile.
        early_exit: age models of one gender see a photo only where they can still change its class.
        budget: exact, a share of the passes (`.5`) or seconds (`.2s-per-photo`): photos leave the ensemble once their
            class is unlikely to change. A pass is a view shown to the models of a fold.
        allow_missing: go ahead though some folds are not trained.
        skip_bad_photos: answer photos that can't be read by what is known without them; else they are refused.
        out: the CSV; None is submission.csv in the (first) run. Its logits go beside it.
        data: a folder that needs only `eval/`; None is the run's.
        cache: folder of decoded photos, None for none.
        device: auto, cpu or cuda.
        workers: loader processes; no result depends on it.
        jobs: processes at a time, each of which predicts a shard of the photos; None is one, and on a cluster as many
            as it takes.
        backend: sequential, loky, dask or ray; None is this process for one job at a time, else loky.
        address: of a cluster's scheduler, for dask and ray; None starts workers on this machine.
        retries: how often a shard whose process or node is lost is done anew.
    """

    tta: Tta | None = None
    decision: Rule | None = None
    votes: Sequence[Folder] = ()
    person_column: str | None = None
    tuned: bool = True
    engine: EngineOption = "torch"
    precision: PrecisionOption = "fp32"
    compile: bool = False
    early_exit: bool = True
    budget: str = "exact"
    allow_missing: bool = False
    skip_bad_photos: bool = False
    out: Folder | None = None
    data: Folder | None = None
    cache: Folder | None = AUTO_CACHE
    device: str = "auto"
    workers: int | None = None
    jobs: int | None = None
    backend: BackendName | None = None
    address: str | None = None
    retries: int = 2


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
    person: IntArray | None  # (photos,), equal for photos that are decided together; None: each by itself
    settings: InferenceSettings
    skip_bad: bool  # leave out photos that can't be read
    path: Path  # the CSV
    logits_file: Path

    def estimate(self, on_progress: OnProgress | None = None) -> tuple[float, int]:
        """(seconds, bytes of disk for the photo cache) from a short probe that leaves nothing behind."""
        opening = part_of(on_progress, "opening photos")
        return estimate_inference(self.ensembles, self.readable(opening, write=False).photos, self.settings)

    def readable(self, on_progress: Progress | None = None, write: bool = True) -> EvalData:
        """The data, with what can't be read among what is skipped, if that is asked for.

        Args:
            write: as of `skip_unreadable`.

        Raises:
            MaskensError: no photo can be read.
        """
        if not self.skip_bad:
            return self.data
        wanted = geometries(m for e in self.ensembles for m in e.members)
        threads = self.settings.hardware.decoding_threads
        found = skip_unreadable(self.data.photos, wanted, self.settings.cache, threads, on_progress, write)
        return dataclasses.replace(self.data, skipped=found.skipped)


@dataclass(frozen=True)
class Inferred:
    """A submission and how it came about."""

    classes: IntArray  # (photos,), 0..17, in the order of info.csv
    check: SubmissionCheck
    path: Path
    earlier: Path | None  # where an earlier CSV is kept
    notes: tuple[str, ...]  # what was out of the ordinary
    skipped: Mapping[str, str]  # ImageID -> why, of photos that could not be read
    warning: str  # what to say of these, "" if there are none


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
    if options.person_column and rule != "joint":
        raise MaskensError("--person-column needs --decision joint, which decides a person's photos together.")
    budget = parse_budget(options.budget)
    hardware = choose_hardware(options.device, options.workers, options.jobs, options.backend, options.address)
    engine = engine_options(options.engine, options.precision, options.compile, hardware.device)
    if budget and hardware.several_processes:
        raise MaskensError("--budget is kept by one process: leave out --jobs and --backend.")
    named = load_runs(runs)
    first = named[0]
    data = read_eval(first.data_folder(options.data), options.skip_bad_photos)
    person = read_eval_people(data, options.person_column) if options.person_column else None
    path = Path(options.out) if options.out else file_of(named, "submission.csv")
    logits_file = path.with_suffix(".logits.npz") if options.out else file_of(named, "eval.npz")
    must_be_writable(path)
    must_be_writable(logits_file)
    refuse_other_folds(named)
    used, recipes = named, [run_recipe(run) for run in named]
    applied = apply_tuning(used, recipes, options.tta, options.tuned)
    votes = tuple(align(Path(file), data.ids, exact=True) for file in options.votes)
    fitted = applied.fitted
    if rule != "vote":
        used, recipes, fitted = weighted_runs(used, recipes, fitted)
    ensembles = load_ensembles(used, recipes, fitted, options.allow_missing)
    if budget:
        check_budget(budget, ensembles, rule, person is not None)
    words = applied.without(*WITHOUT.get(rule, ())) if rule == "hard" or len(used) > 1 else applied.words
    if person is not None:
        words += (
            f", photos of each of {len(np.unique(person))} people together ({options.person_column}), no early exit"
        )
    models = sum(len(e.members) for e in ensembles)
    return InferencePlan(
        runs=tuple(named),
        data=data,
        ensembles=tuple(ensembles),
        fitted=fitted,
        used=f"{models} models, {len(data.ids)} photos, views: {fitted.tta}, {words}",
        rule=rule,
        votes=votes,
        person=person,
        settings=InferenceSettings(
            tta=fitted.tta_set,
            hardware=hardware,
            cache=cache_folder(options.cache, first.folder),
            engine=engine,
            early_exit=fitted if (options.early_exit or budget) and rule == "joint" and person is None else None,
            budget=budget,
            partial=logits_file.with_suffix(".partial.npz"),
            shards=logits_file.with_suffix(".shards"),
            retries=options.retries,
        ),
        skip_bad=options.skip_bad_photos,
        path=path,
        logits_file=logits_file,
    )


def run_inference(plan: InferencePlan, on_progress: OnProgress | None = None) -> Inferred:
    """Predict, decide, and write CSV and logits; interrupted, the same call goes on.

    Raises:
        MaskensError: a photo that can't be read, a model that gives no numbers, a full disk.
    """
    decoding, predicting = part_of(on_progress, "decoding"), part_of(on_progress, "predicting")
    plan = dataclasses.replace(plan, data=plan.readable(decoding))
    prediction = predict_photos(plan.ensembles, plan.data.photos, plan.settings, decoding, predicting)
    fitted, person = plan.fitted, plan.person
    decided = decide(prediction.joints, fitted.weights, fitted.offsets, plan.rule, plan.votes, person, prediction.seen)
    rule = plan.rule if person is None and not plan.votes else None
    save_logits(plan.logits_file, plan.data, plan.ensembles, prediction, fitted, decided.classes, rule)
    earlier, skipped = write_submission(plan.path, plan.data.ids, decided.classes), plan.data.skipped_ids
    write_skipped(plan.path, skipped, plan.data.ids, decided.classes)
    check = check_submission(plan.path, plan.data.ids, plan.runs[0].class_photos)
    notes = (*(line for e in plan.ensembles for line in e.notes), *prediction.notes)
    warning = unseen_words(plan.path, skipped, len(plan.data.ids), bool(plan.votes), plan.person is not None)
    return Inferred(decided.classes, check, plan.path, earlier, notes, skipped, warning)


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
