"""The options of every command, each written once: a field's name, type and default, and its help.

A class is the options of one command, or what several share; its docstring is the command's help. Only light modules
are imported here, so that --help and completion are quick.
"""

from __future__ import annotations

import dataclasses
import glob
import math
import tomllib
from collections.abc import Callable
from dataclasses import MISSING, dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Literal

import typer

from ensemble.recipes.views import VIEWS, Tta
from ensemble.serving.limits import Limits
from folds.errors import MaskensError
from folds.ranges import LARGEST_SEED, parse_seeds, written_folds

PANELS = ("Data", "Model", "Compute", "Output")
DEFAULT_RUNS: Any = (Path("runs/default"),)  # a dataclass takes no list as a default; `step` makes it one
RECIPES = Path(__file__).parents[1] / "recipes"
VIEW_SETS = ", ".join(VIEWS)
LIMITS = Limits()

# typer takes no list of a Literal
TrackerName = StrEnum("TrackerName", ["tensorboard", "wandb"])
FieldChoice = StrEnum("FieldChoice", ["gender", "age", "mask"])
StepChoice = StrEnum("StepChoice", ["views", "temperatures", "offsets"])


def _option(
    panel: str,
    default: Any,
    help: str,
    metavar: str = "",
    *,
    name: str = "",
    also: str = "",
    env: bool = False,
    complete: Callable[..., list[str]] | None = None,
    check: Callable[[Any], Any] | None = None,
) -> Any:
    """A field that is an option; a flag has no metavar.

    Args:
        name, also: without dashes, if it is not the field's own; another, with them.
        env: the environment may set it, as MASKENS_RUN sets --run.
        check: refuses a value before anything slow is imported, as typed and in a Python call.
    """

    def make(field: str) -> Any:
        word = name or field.replace("_", "-")
        return typer.Option(
            *(f"--{word}", *([also] if also else [])),
            metavar=metavar,
            help=help,
            rich_help_panel=panel,
            envvar=f"MASKENS_{word.upper()}" if env else None,
            show_envvar=False,
            autocompletion=complete,
            callback=check,
        )

    return dataclasses.field(default=default, metadata={"panel": panel, "make": make, "check": check})


def _between(low: float, high: float = math.inf) -> Callable[[Any], Any]:
    """The check of a number's range. Typer's own shows it in a column that is as wide as the help."""

    def check(value: Any) -> Any:
        if value is not None and not low <= value <= high:
            raise typer.BadParameter(f"{value} is not {low:g}{f' to {high:g}' if high < math.inf else ' or more'}.")
        return value

    return check


def _argument(default: Any, help: str, metavar: str, **more: Any) -> Any:
    """A field that is typed without its name."""
    made = typer.Argument(metavar=metavar, help=help, **more)
    return dataclasses.field(default=default, metadata={"panel": "Data", "make": lambda field: made, "check": None})


_data, _model, _compute, _output = (partial(_option, panel) for panel in PANELS)


# Completion, and what is refused at once


def complete_recipe(incomplete: str) -> list[str]:
    found = [*sorted(file.stem for file in RECIPES.glob("*.toml")), *sorted(map(str, Path().glob("*.toml")))]
    return [name for name in found if name.startswith(incomplete)]


def _complete_run(incomplete: str) -> list[str]:
    found = (path for ends in ("*", "*/*") for path in glob.glob(f"{glob.escape(incomplete)}{ends}/run.json"))
    return sorted(path.removesuffix("/run.json") for path in found)


def _names_of_run(key: str, context: typer.Context) -> list[str]:
    """The names in a table of the recipe of the run that is typed; none if it has no recipe."""
    runs = context.params.get("run") or DEFAULT_RUNS
    try:
        return [*tomllib.loads((Path(runs[0]) / "recipe.toml").read_text("utf-8")).get(key, {})]
    except (OSError, ValueError):
        return []


def _complete_task(context: typer.Context, incomplete: str) -> list[str]:
    return [name for name in _names_of_run("tasks", context) if name.startswith(incomplete)]


def _complete_tta(context: typer.Context, incomplete: str) -> list[str]:
    return [name for name in (*VIEWS, *_names_of_run("tta", context)) if name.startswith(incomplete)]


def _one_run(runs: list[Path]) -> list[Path]:
    if len(runs) > 1:
        raise typer.BadParameter("it is given more than once; this command takes one run.")
    return runs


def _parsed_by(parse: Callable[[str], object]) -> Callable[[str | None], str | None]:
    """A check that refuses malformed text before any slow import."""

    def check(text: str | None) -> str | None:
        if text:
            parse(text)
        return text

    return check


def _positive_hours(hours: float | None) -> float | None:
    if hours is not None and not (math.isfinite(hours) and hours > 0):
        raise MaskensError(f"--hours {hours:g}: give the hours that training may take, like 1 or 0.5.")
    return hours


def _written_without_full(text: str) -> None:
    written_folds(text)
    if "full" in text.lower():
        raise MaskensError(
            f"--fold {text}: only `maskens train` trains the model on everybody, which has no out-of-fold score: "
            "maskens train --run RUN --fold full"
        )


_folds, _seeds, _held_out_folds = map(_parsed_by, (written_folds, parse_seeds, _written_without_full))
_run = partial(_data, metavar="DIR", env=True, complete=_complete_run)
_seed = partial(_data, metavar="N", env=True, check=_between(0, LARGEST_SEED))
_hours = partial(_compute, metavar="H", check=_positive_hours)
_recipe = partial(_model, metavar="RECIPE", env=True, complete=complete_recipe)
_fixes = partial(_data, help="Label fixes: core, disputed, none or a CSV; repeatable. Stored in the run.")


# Options that several commands take. A command takes only those that it uses.


@dataclass(frozen=True, kw_only=True)
class Quiet:
    quiet: bool = _output(False, "Print errors only.", env=True, also="-q")


@dataclass(frozen=True, kw_only=True)
class Data(Quiet):
    data: Path | None = _data(None, "Data folder. Default: data; stored in the run.", "DIR", env=True)


@dataclass(frozen=True, kw_only=True)
class OneRun(Data):
    run: list[Path] = _run(DEFAULT_RUNS, "Run folder.", check=_one_run)


@dataclass(frozen=True, kw_only=True)
class Split(OneRun):
    photo_list: Path | None = _data(
        None, "A list of labelled photos instead of train.csv; docs/data.md. Stored in the run.", "CSV", name="photos"
    )
    extra: list[Path] | None = _data(
        None, "A list of extra photos to train on and never score; repeatable. Stored in the run.", "CSV"
    )
    allow_duplicates: bool = _data(False, "Accept extra photos that are near-duplicates of the folds' or eval's.")
    columns: list[str] | None = _data(
        None, "Columns of lists: person=subject_id,age=years; repeatable. Stored in the run.", "OURS=NAME"
    )
    labels: list[str] | None = _data(
        None, "Words of lists: gender:M=male,F=female; repeatable. Stored in the run.", "FIELD:A=B"
    )
    k: int | None = _data(None, "Number of folds. Default: 5; stored in the run.", "N")
    seed: int | None = _seed(
        None, "Seed of folds, batch order, augmentation, initial weights. Default: 42; stored in the run."
    )


@dataclass(frozen=True, kw_only=True)
class Runs:
    run: list[Path] = _run(DEFAULT_RUNS, "Run folder; repeat it to ensemble runs on the same folds.")


@dataclass(frozen=True, kw_only=True)
class SeveralRuns(Runs, Data): ...


@dataclass(frozen=True, kw_only=True)
class Workers:
    workers: int | None = _compute(
        None, "Worker processes for photos; the result is the same.", "N", env=True, check=_between(0, 256)
    )


@dataclass(frozen=True, kw_only=True)
class Device(Workers):
    device: Literal["auto", "cpu", "cuda"] = _compute("auto", "auto, cpu or cuda.", "NAME", env=True)


@dataclass(frozen=True, kw_only=True)
class SkipBad:
    skip_bad_photos: bool = _data(False, "Skip and list unreadable photos; docs/bad-photos.md.")


@dataclass(frozen=True, kw_only=True)
class Cluster(SkipBad, Device):
    jobs: int | None = _compute(
        None, "Jobs at a time. Default: 1; on a cluster as many as it takes.", "N", check=_between(1)
    )
    backend: Literal["sequential", "loky", "dask", "ray"] | None = _compute(
        None, "sequential, loky (processes), dask or ray (clusters). Default: loky if --jobs > 1.", "NAME", env=True
    )
    address: str | None = _compute(None, "Scheduler of the cluster. Default: start workers here.", "URL", env=True)
    retries: int = _compute(2, "How many times to restart a job whose worker crashed.", "N", check=_between(0))
    cache: str = _compute(
        "", "Decoded photos; none decodes each time. Default: .cache beside the run.", "DIR|none", env=True
    )
    dry_run: bool = _output(False, "Check everything, estimate time, memory and disk; write nothing.")


def cache_folder(cache: str, run: Path) -> Path | None:
    """The folder that --cache names, "" if it is not given; None decodes each time."""
    return None if cache == "none" else Path(cache) if cache else run.parent / ".cache"


@dataclass(frozen=True, kw_only=True)
class Views:
    tta: Tta | None = _model(
        None, f"Views: {VIEW_SETS}, or your own. Default: as tuned, else flip.", "SET", complete=_complete_tta
    )


@dataclass(frozen=True, kw_only=True)
class TunedViews(Views):
    no_tuning: bool = _model(False, "Ignore what `maskens tune` fitted.")


@dataclass(frozen=True, kw_only=True)
class Models:
    allow_missing: bool = _model(False, "Use the folds of which every task is trained.")
    only: Literal["full", "folds"] | None = _model(
        None, "full: only the models on everybody; folds: only those of the folds. Default: all.", "NAME"
    )


@dataclass(frozen=True, kw_only=True)
class Graphs:
    no_graphs: bool = _compute(False, "Neither keep nor use ONNX graphs beside the checkpoints.")


@dataclass(frozen=True, kw_only=True)
class Engines(Graphs):
    engine: Literal["torch", "onnxruntime", "openvino", "auto"] = _compute(
        "torch", "torch, onnxruntime, openvino or auto (fastest installed one that agrees with torch).", "NAME"
    )


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    checkpoint: Literal["cross-fitted", "best", "last"] = _model(
        "cross-fitted", "Epoch of each job: cross-fitted, best or last.", "NAME"
    )


@dataclass(frozen=True, kw_only=True)
class OofViews(Checkpoints):
    tta: Tta = _model("flip", f"Views: {VIEW_SETS}, or your own.", "SET", complete=_complete_tta)


@dataclass(frozen=True, kw_only=True)
class Training(Cluster, Data):
    change: list[str] | None = _model(
        None, "Change a key of the recipe: tasks.gender.epochs=5; repeatable.", "KEY=VALUE", name="set"
    )
    weights: list[str] | None = _model(
        None, "Initial weights: [TASK=]FILE, or a run (fold by fold). Default: from the hub.", "FILE|RUN"
    )
    no_pretrained: bool = _model(False, "Start from random weights.")
    compile_models: bool = _compute(
        False, "Compile each model (torch.compile): minutes a job, faster epochs on some machines.", name="compile"
    )
    track: list[TrackerName] | None = _output(None, "Log curves and pictures: tensorboard, wandb; repeatable.", "NAME")
    yes: bool = _output(False, "Don't ask before hours of work.", also="-y")


@dataclass(frozen=True, kw_only=True)
class Hours:
    hours: float | None = _hours(
        None, "Hours until the submission can be written; trains what fits. See docs/deadline.md."
    )


@dataclass(frozen=True, kw_only=True)
class TrainingOfRun(Training):
    fold: str = _data("all", "Folds to train: 3, 0..4, 0,2,4, all, or full (all people).", "FOLDS", check=_folds)
    recipe: str | None = _recipe(
        None, "A shipped recipe (see `maskens recipes`) or a TOML file. Default: original; stored in the run."
    )
    task: list[str] | None = _model(None, "Only this task; repeatable. Default: all.", "NAME", complete=_complete_task)
    restart: bool = _output(False, "Discard what these jobs have trained so far.")


# The options of each command


@dataclass(frozen=True, kw_only=True)
class RunOptions(Hours, Split, Training, Views):
    """From a data folder to submission.csv and report.html: folds, train, tune, score, infer and report in one.

    Prints each command that it equals. Typed again, it resumes and skips what is done: see docs/run.md.

    Example:  maskens run --data data --recipe quick
    """

    recipe: str | None = _recipe(
        None,
        "A shipped recipe (see `maskens recipes`) or a TOML file. Default: best, on a GPU heads; stored in the run.",
    )


@dataclass(frozen=True, kw_only=True)
class SampleOptions(Quiet, Workers):
    """Make a sample data folder of drawn faces, in the layout of the real one.

    Example:  maskens sample data --people 90
    """

    folder: Path = _argument(MISSING, "A new or empty folder.", "DIR")
    people: int = _data(90, "People with labels; a third as many more to predict.", "N")
    size: str = _data("384x512", "Photo size in pixels.", "WxH")
    seed: int = _seed(42, "Seed of the drawn people.")


@dataclass(frozen=True, kw_only=True)
class ExploreOptions(OneRun, Workers):
    """Show the data before training: counts, contact sheets, odd photos and labels, augmentation.

    Example:  maskens explore --per-class 12
    """

    fixes: list[str] | None = _fixes(None, metavar="NAME|CSV")
    seed: int | None = _seed(None, "Seed of the photos and augmentations shown. Default: the run's, else 42.")
    recipe: str = _recipe("original", "Recipe whose augmentation is shown.")
    out: Path | None = _output(None, "Folder of the page. Default: explore beside the run.", "DIR")
    per_class: int = _output(24, "Photos on a class's contact sheet, 1 to 200.", "N", check=_between(1, 200))


@dataclass(frozen=True, kw_only=True)
class FoldsOptions(Split, Workers):
    """Split the people into folds: each person in one fold, every class in each.

    Example:  maskens folds --k 5 --check-photos
    """

    folds_file: Path | None = _data(None, "Your own folds (columns path, fold), checked for leaks.", "CSV")
    fixes: list[str] | None = _fixes(None, metavar="NAME|CSV")
    merge: list[Path] | None = _data(
        None, "Ids that are one person (columns a, b), or none; repeatable; stored in the run.", "CSV"
    )
    merge_duplicates: bool = _data(False, "Open every photo; merge ids that share near-duplicates.")
    check_photos: bool = _data(False, "Open every photo; report unreadable ones and near-duplicates.")


@dataclass(frozen=True, kw_only=True)
class RecommendOptions(OneRun, Device):
    """Time a few models on this machine and write a recipe that fits the data and the time.

    Example:  maskens recommend --hours 2 --out evening.toml
    """

    hours: float = _hours(1.0, "Hours that training all folds may take.")
    out: Path = _output(Path("recommended.toml"), "The recipe, a TOML file.", "FILE")


@dataclass(frozen=True, kw_only=True)
class TrainOptions(TrainingOfRun, Hours, OneRun):
    """Train one model per fold and task; keep finished jobs and resume interrupted ones.

    Example:  maskens train --fold 0..4 --recipe quick
    """

    reuse: Path | None = _model(
        None, "Copy finished jobs of this run that have the same recipe.", "RUN", complete=_complete_run
    )
    pseudo: Path | None = _model(
        None, "Train on this run's confident predictions of eval, too; docs/pseudo.md.", "RUN", complete=_complete_run
    )
    graphs: bool = _output(False, "Keep each model's ONNX graph after training: --engine then starts at once.")
    pseudo_min_p: float | None = _model(None, "Minimum probability of a pseudo-label. Default: 0.95.", "P")


@dataclass(frozen=True, kw_only=True)
class DistilOptions(TrainingOfRun, SeveralRuns, Views):
    """Train a student on the predictions of an ensemble; fold k is trained on its models of fold k.

    The student is a run of its own on the same folds: see docs/distil.md.

    Example:  maskens distil --run runs/default --recipe quick --fold 0
    """

    fold: str = _data("all", "Folds to train: 3, 0..4, 0,2,4 or all.", "FOLDS", check=_held_out_folds)
    recipe: str | None = _recipe(
        None, "The student's: a shipped recipe or a TOML file. Default: the ensemble's; stored in its run."
    )
    tta: Tta | None = _model(
        None, f"The ensemble's views: {VIEW_SETS}, or your own. Default: flip.", "SET", complete=_complete_tta
    )
    temperature: float = _model(1.0, "Divides the ensemble's log probabilities.", "T")
    alpha: float = _model(0.5, "Weight of the ensemble in a target; the label has the rest.", "A")
    out: Path | None = _output(None, "The student's run folder. Default: RUN-student.", "DIR")


@dataclass(frozen=True, kw_only=True)
class SweepOptions(Training, OofViews):
    """Train several recipes with several seeds on the same folds, and compare them.

    Without options it resumes a sweep; recipes, seeds and folds named later are added to it.

    Example:  maskens sweep --recipe quick --recipe heads --seed 0..2
    """

    run: Path | None = _run(None, "Run whose folds the sweep uses. Default: runs/default; stored in the sweep.")
    fold: str | None = _data(
        None, "Folds to train or add: 3, 0..4, 0,2,4 or all. Default: all.", "FOLDS", check=_held_out_folds
    )
    seed: str | None = _data(
        None, "Seeds to train or add: 7, 0..2 or 0,2,4. Default: that of --run.", "SEEDS", env=True, check=_seeds
    )
    recipe: list[str] | None = _model(
        None,
        "Recipe to train or add; repeatable. The others are compared with the first.",
        "RECIPE",
        complete=complete_recipe,
    )
    out: Path = _output(Path("runs/sweep"), "The sweep's folder; its runs are named RECIPE-seedN.", "DIR")
    compare: bool = _output(False, "Train nothing; compare what is finished.")


@dataclass(frozen=True, kw_only=True)
class InferOptions(SeveralRuns, Cluster, TunedViews, Models, Engines):
    """Predict the eval photos, or any others, with every fold's models and write ImageID,ans.

    Runs are averaged, equally or with the weights of `maskens tune --blend`; each --vote file and each run has a vote.
    An interrupted command resumes when it is typed again.

    Example:  maskens infer --tta flip
    """

    photos: Path | None = _data(
        None, "Predict these instead: all photos below a folder, or a CSV with a column photo. Needs --out.", "DIR|CSV"
    )
    person_column: str | None = _data(
        None, "Column of eval/info.csv with the person on a photo, to decide gender and age per person.", "NAME"
    )
    vote: list[Path] | None = _data(None, "A submission that votes together with the runs; repeatable.", "CSV")
    decision: Literal["joint", "hard", "vote"] | None = _model(
        None, "joint, hard (part by part) or vote (by run). Default: joint; vote with --vote.", "NAME"
    )
    no_early_exit: bool = _model(False, "Run all age models on every photo.", also="--ask-all")
    max_passes: str = _model("all", "Fraction of forward passes, as .5; reports the changed classes.", "FRACTION")
    max_seconds_per_photo: float | None = _model(None, "Instead of --max-passes: average seconds per photo.", "S")
    precision: Literal["fp32", "bf16", "fp16", "auto"] = _compute(
        "fp32", "fp32, bf16, fp16 or auto (16 bits if faster and the logits agree).", "NAME"
    )
    compile: bool = _compute(False, "Compile the models first (torch.compile): faster for many photos.")
    out: Path | None = _output(None, "The CSV; logits beside it. Default: submission.csv in the run.", "FILE")


@dataclass(frozen=True, kw_only=True)
class PredictOptions(Runs, SkipBad, Device, TunedViews, Models, Engines, Quiet):
    """Classify any photos: mask, gender and age band with their probabilities, and whether the folds agree.

    A photo should show one face about as large as in training: the whole photo is resized, unless the recipe says
    crop = "face" or "eyes".

    Example:  maskens predict holiday/*.jpg --out holiday.csv
    """

    photos: list[Path] = _argument(MISSING, "Photos, or folders of them.", "PHOTO|DIR")
    out: Path | None = _output(None, "Write the predictions to a .csv or .json file.", "FILE")
    json: bool = _output(False, "Print JSON; messages go to stderr.")


@dataclass(frozen=True, kw_only=True)
class ServeOptions(Runs, Device, TunedViews, Models, Engines, Quiet):
    """Serve `maskens predict` over HTTP: a page to drop photos on, JSON, metrics. There is no password.

    Needs the extra: pip install 'maskens\\[serve]'. See docs/serve.md.

    Example:  maskens serve --run runs/default --port 8000
    """

    host: str = _output("127.0.0.1", "Address to listen on; 0.0.0.0: all of this machine.", "NAME")
    port: int = _output(8000, "Port; 0 takes any free one.", "N", check=_between(0, 65535))
    allow_host: list[str] | None = _output(None, "Another accepted host name; * accepts any; repeatable.", "NAME")
    max_mb: float = _compute(LIMITS.megabytes, "Largest request, all its photos together.", "MB", check=_between(0.001))
    max_megapixels: float = _compute(LIMITS.megapixels, "Largest photo.", "MP", check=_between(0.001))
    max_photos: int = _compute(LIMITS.photos, "Largest number of photos in a request.", "N", check=_between(1))
    max_queue: int = _compute(
        LIMITS.queue, "Photos that may wait for the models; others get status 429.", "N", check=_between(1)
    )
    wait_ms: float = _compute(5, "How long a photo waits for others to form a batch.", "MS", check=_between(0, 1000))


@dataclass(frozen=True, kw_only=True)
class ExportOptions(OneRun, TunedViews, Models, Graphs):
    """Write the ensemble as ONNX, one file per task, verified on photos; always on the CPU.

    Example:  maskens export --out faces-onnx
    """

    out: Path | None = _output(None, "The folder to write. Default: onnx in the run.", "DIR")
    photos: int = _output(32, "Photos on which onnxruntime and torch are compared.", "N", check=_between(1))
    tolerance: float = _output(1e-3, "Largest accepted absolute difference of a logit.", "X", check=_between(0))


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(SeveralRuns, TunedViews, Checkpoints):
    """Score the ensemble on people not seen in training: out-of-fold, or against --truth.

    Several runs on the same folds are scored as one ensemble.

    Example:  maskens score --run runs/default --tta flip
    """

    truth: Path | None = _data(None, "Score a submission against these answers (ImageID,ans).", "CSV")
    submission: list[Path] | None = _data(
        None, "With --truth: the file to score; repeatable. Default: the run's submission.", "CSV"
    )
    person_column: str | None = _data(None, "With --truth: its column of people, for intervals over people.", "NAME")
    json: bool = _output(False, "Print JSON; messages go to stderr.")


@dataclass(frozen=True, kw_only=True)
class TuneOptions(SeveralRuns):
    """Fit the decision on out-of-fold logits; keep what gains more than noise, for infer and predict.

    Fits views, head temperatures and class offsets, scored on people that they were not fitted on: see docs/decide.md.

    Example:  maskens tune --run runs/default
    """

    step: list[StepChoice] | None = _model(
        None, "Only views, temperatures or offsets; repeatable. Default: all.", "NAME"
    )
    blend: bool = _model(False, "Fit weights of the runs by greedy selection. Default: equal weights.")
    force: bool = _model(False, "Keep fits whose gain is within noise.")


@dataclass(frozen=True, kw_only=True)
class CompareOptions(Data, OofViews):
    """Compare runs: what differs between them, and out-of-fold F1 with intervals over people.

    Example:  maskens compare runs/default runs/heads
    """

    runs: list[Path] = _argument(
        MISSING, "Run folders; the others are compared with the first.", "RUN RUN...", autocompletion=_complete_run
    )


@dataclass(frozen=True, kw_only=True)
class AuditOptions(OneRun, OofViews, Workers):
    """Rank likely label errors: labels that out-of-fold predictions contradict.

    Example:  maskens audit --field gender --top 48
    """

    field: list[FieldChoice] | None = _data(None, "Only gender, age or mask; repeatable. Default: all.", "NAME")
    top: int = _output(24, "Suspects on a field's contact sheet, 1 to 200.", "N", check=_between(1, 200))
    out: Path | None = _output(None, "Folder of lists, sheets and page. Default: audit in the run.", "DIR")


@dataclass(frozen=True, kw_only=True)
class ReportOptions(SeveralRuns, TunedViews, Checkpoints, Workers):
    """Write one page on scores, confusions, calibration, ages and the worst photos.

    Several runs on the same folds are shown as one ensemble.

    Example:  maskens report --run runs/default --photos 24
    """

    photos: int = _output(16, "Worst and least certain photos shown, 0 to 500.", "N", check=_between(0, 500))
    out: Path | None = _output(None, "The page. Default: report.html in the (first) run.", "FILE")


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(Data):
    """Verify that a run holds what its commands wrote: data, folds, recipe, models, logits, submission.

    Exits with 1 if something does not match its record. Nothing is written.

    Example:  maskens verify --run runs/default
    """

    run: list[Path] = _run(DEFAULT_RUNS, "Run folder; repeat it to verify several.")


@dataclass(frozen=True, kw_only=True)
class CheckSubmissionOptions(OneRun):
    """Check a submission's rows, their order and classes, and compare its mix of classes with training.

    Example:  maskens check-submission runs/default/submission.csv
    """

    submission: Path | None = _argument(None, "The file to check. Default: submission.csv in the run.", "[CSV]")
