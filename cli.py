"""The command line: parses, calls, prints. Heavy libraries are imported inside the commands."""

from __future__ import annotations

import contextlib
import functools
import inspect
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from folds.errors import MaskensError

if TYPE_CHECKING:
    from rich.console import Console

    from ensemble.decision.blend import Blend
    from ensemble.decision.tuning import StepName
    from ensemble.evaluation.evaluate import Evaluation
    from ensemble.inference.infer import Decision
    from ensemble.jobs.hardware import Hardware
    from ensemble.jobs.spec import JobSpec
    from ensemble.recipes.views import Tta
    from folds.data.labels import IntArray
    from folds.data.people import TrainData
    from folds.run import Run

app = typer.Typer(
    name="maskens",
    help="Person-grouped folds, one model per fold and task, test-time augmentation, one honest ensemble, one CSV.",
    epilog="First run:  maskens sample data  &&  maskens folds  &&  maskens train --recipe demo  &&  "
    "maskens infer --tta flip  &&  maskens score",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


SHOWN_PHOTOS = 40  # rows of a table in the terminal


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class TtaChoice(StrEnum):
    none = "none"
    flip = "flip"


class TrackChoice(StrEnum):
    tensorboard = "tensorboard"
    wandb = "wandb"


class PrecisionChoice(StrEnum):
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"
    auto = "auto"


class DecisionChoice(StrEnum):
    joint = "joint"
    hard = "hard"
    vote = "vote"


class StepChoice(StrEnum):
    views = "views"
    temperatures = "temperatures"
    offsets = "offsets"


class EpochChoice(StrEnum):
    best = "best"
    last = "last"


class FieldChoice(StrEnum):
    gender = "gender"
    age = "age"
    mask = "mask"


@dataclass(frozen=True)
class Shared:
    """The options that every command takes."""

    runs: tuple[Path, ...]
    data: Path | None
    seed: int | None
    device: Device
    workers: int | None
    quiet: bool

    @property
    def run(self) -> Path:
        """The run, where only one makes sense."""
        if len(self.runs) > 1:
            raise MaskensError("--run is given more than once; this command takes one run.")
        return self.runs[0]

    @property
    def console(self) -> Console:
        from rich.console import Console

        return Console(quiet=self.quiet)

    @property
    def hardware(self) -> Hardware:
        return self.hardware_for(1)

    def hardware_for(self, jobs: int) -> Hardware:
        from ensemble.jobs.hardware import Hardware, choose_device

        return Hardware(choose_device(self.device), self.workers, jobs)

    def load_run(self) -> Run:
        """The run, refused if another seed is asked for than it was made with."""
        return self._load(self.run)

    def load_runs(self) -> list[Run]:
        """All runs that are named, as `load_run`."""
        return [self._load(folder) for folder in self.runs]

    def _load(self, folder: Path) -> Run:
        from folds.run import load_run

        run = load_run(folder)
        if self.seed not in (None, run.seed):
            raise MaskensError(
                f"--seed {self.seed}: {run.folder} was made with seed {run.seed}, which rules all that follows. "
                f"Leave --seed out, or start another run: maskens folds --run NEW_DIR --seed {self.seed}"
            )
        return run

    def read_train(self, fixes: list[str] | None) -> tuple[Run | None, TrainData, int]:
        """(the run if there is one yet, its data with the fixes asked for or its own, the seed)."""
        from folds.data.fixes import read_fixes
        from folds.data.layout import read_train
        from folds.run import kept_fixes, remembered

        run = remembered(self.run)
        chosen = read_fixes(fixes) if fixes else kept_fixes(run) if run else ()
        data = read_train(self.data or Path(run.data if run else "data"), chosen)
        return run, data, self.seed if self.seed is not None else run.seed if run else 42


def _option(name: str, help: str, **more: Any) -> Any:
    return typer.Option(f"--{name}", *more.pop("short", ()), envvar=f"MASKENS_{name.upper()}", help=help, **more)


_SHARED: dict[str, tuple[Any, Any]] = {
    "run": (
        Annotated[
            list[Path],
            _option(
                "run",
                "Run folder. score, tune, infer, predict, report take several.",
                metavar="DIR",
            ),
        ],
        [Path("runs/default")],
    ),
    "data": (
        Annotated[Path | None, _option("data", "Data folder. The run remembers it; at first 'data'.", metavar="DIR")],
        None,
    ),
    "seed": (
        Annotated[
            int | None,
            _option(
                "seed",
                "Rules folds, order, augmentation and initial weights. The run remembers it; at first 42.",
                min=0,
                max=2**32 - 1,
            ),
        ],
        None,
    ),
    "device": (Annotated[Device, _option("device", "Where models run.")], Device.auto),
    "workers": (
        Annotated[
            int | None,
            _option("workers", "Processes that load photos; no result depends on it.", min=0, max=256),
        ],
        None,
    ),
    "quiet": (Annotated[bool, _option("quiet", "Print errors only.", short=("-q",))], False),
}


def told(function: Callable[..., None]) -> Callable[..., None]:
    """Turn what the user can mend into one message and exit code 2."""

    @functools.wraps(function)
    def telling(*args: Any, **values: Any) -> None:
        try:
            function(*args, **values)
        except MaskensError as error:
            _fail(str(error))
        except KeyboardInterrupt:
            _fail("stopped. What was finished is saved; the same command goes on from there.", code=130)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            _fail(f"the system refused: {where}{error.strerror or error}")

    return telling


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a command whose first argument is `Shared`; typer sees the shared options after its own."""
    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    both = own + [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in _SHARED.items()
    ]

    @functools.wraps(function)
    @told
    def parsed(**values: Any) -> None:
        shared = {name: values.pop(name) for name in _SHARED}
        function(Shared(runs=tuple(shared.pop("run")), **shared), **values)

    parsed.__signature__ = inspect.Signature(both)  # type: ignore[attr-defined]
    parsed.__annotations__ = {p.name: p.annotation for p in both}
    app.command(name=function.__name__.replace("_", "-"))(parsed)
    return function


FixesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--fixes",
        metavar="NAME|CSV",
        help="Label fixes: core, disputed or your own; may be repeated. The run remembers them; none drops them.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a key of the recipe: tasks.gender.epochs=5; may be repeated."
    ),
]
TtaOption = Annotated[
    TtaChoice | None,
    typer.Option(
        "--tta",
        help="none: the photo as it is. flip: and mirrored left to right. By default as tuned, else flip.",
        show_default=False,
    ),
]
EpochOption = Annotated[EpochChoice, typer.Option("--epoch", help="Each job's best epoch, or its last.")]
ViewsOption = Annotated[TtaChoice, typer.Option("--tta", help="Views of the out-of-fold logits.")]
MissingOption = Annotated[bool, typer.Option("--allow-missing", help="Go ahead though some folds are not trained.")]
DryOption = Annotated[
    bool,
    typer.Option("--dry-run", help="Check everything, probe shortly, tell what it would take; write nothing."),
]
UntunedOption = Annotated[bool, typer.Option("--untuned", help="Leave out what `maskens tune` fitted.")]
CacheOption = Annotated[
    str,
    _option(
        "cache",
        "Where decoded photos are kept; none decodes each time. By default .cache beside the run.",
        metavar="DIR|none",
        show_default=False,
    ),
]


def main() -> None:
    """Entry point of the command `maskens`."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        sys.exit(app(standalone_mode=False))
    except typer.TyperException as error:
        _explain(error)


def _terminate(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _fail(message: str, code: int = 2) -> NoReturn:
    from rich.console import Console

    console = Console(stderr=True)
    console.print("error:", style="bold red", emoji=False, highlight=False, end=" ")
    _say(console, message)
    sys.exit(code)


def _explain(error: typer.TyperException) -> NoReturn:
    """Show a wrong option or argument as typer would, which takes 40 ms more: it loads markdown and tracebacks."""
    if not error.format_message():  # a command without any argument: its help is shown already
        sys.exit(error.exit_code)

    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    console = Console(stderr=True)
    context: typer.Context | None = getattr(error, "ctx", None)
    if context:
        _say(console, context.get_usage(), "bold")
        _say(console, f"Try '{context.command_path} --help' for help.", "dim")
    message = error.format_message().replace("Value error, ", "")  # pydantic's word for it, not the user's
    console.print(Panel(Text(message), title="Error", title_align="left", border_style="red"))
    sys.exit(error.exit_code)


def _stderr(quiet: bool) -> Console:
    from rich.console import Console

    return Console(stderr=True, quiet=quiet)


def _say(console: Console, message: str, style: str | None = None) -> None:
    """A line that is neither broken nor read as markup or emoji: it may hold a path."""
    console.print(message, style=style, markup=False, emoji=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def _bars(console: Console, *names: str) -> Iterator[list[Callable[[int, int], None]]]:
    """Progress bars, each shown from the first (done, all) that its callback is told."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    name = TextColumn("{task.description}")
    columns = (name, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:

        def callback(name: str) -> Callable[[int, int], None]:
            task = progress.add_task(name, total=None, visible=False)
            return lambda done, total: progress.update(task, completed=done, total=total, visible=True)

        yield [callback(name) for name in names]


def _size(text: str) -> tuple[int, int]:
    width, separator, height = text.lower().partition("x")
    if not (separator and width.isdecimal() and height.isdecimal()):
        raise MaskensError(f"--size {text}: write width and height in pixels, like 384x512.")
    return int(width), int(height)


def _show_estimate(
    console: Console, todo: list[JobSpec], data: TrainData, folds: IntArray, hardware: Hardware, restart: bool
) -> None:
    from ensemble.reporting.plan_tables import estimate_lines, estimate_table
    from ensemble.training.estimate import estimate_training

    with _bars(console, "probing") as (bar,):
        found = estimate_training(todo, data, folds, hardware, restart, bar)
    console.print(estimate_table(found))
    for line in estimate_lines(found, hardware.jobs):
        _say(console, line, "bold")
    _say(console, "Measured on a few batches, with nothing else running; nothing was written.", "dim")


def _named(runs: Sequence[Run]) -> str:
    return "".join(f" --run {run.folder}" for run in runs)


def _cache_folder(cache: str, run: Path) -> Path | None:
    if cache == "none":
        return None
    return Path(cache) if cache else run.parent / ".cache"


def _evaluated(
    shared: Shared, tta: TtaChoice | None, epoch: EpochChoice, untuned: bool
) -> tuple[Blend, Evaluation, Tta]:
    """(the runs as one ensemble, what it is worth out-of-fold, the views it uses)."""
    from ensemble.decision.blend import load_blend
    from ensemble.decision.tuning import apply_tuning
    from ensemble.evaluation.evaluate import evaluate

    blend = load_blend(shared.load_runs(), shared.data, epoch.value)
    runs, recipes = [m.run for m in blend.runs], [m.recipe for m in blend.runs]
    plain = untuned or epoch is EpochChoice.last  # a tuning belongs to the best epochs, whose models there are
    applied = apply_tuning(runs, recipes, tta.value if tta else None, plain)
    return blend, evaluate(blend, applied), applied.fitted.tta


@command
def sample(
    shared: Shared,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    people: Annotated[int, typer.Option("--people", help="People with labels; a third as many more to predict.")] = 90,
    size: Annotated[str, typer.Option("--size", metavar="WxH", help="Photo size in pixels.")] = "384x512",
) -> None:
    """Make a sample set of drawn faces in the data's own layout, quirks and all.

    Example:  maskens sample data --people 90
    """
    from folds.sample import write_sample

    console = shared.console
    with _bars(console, "drawing") as (bar,):
        made = write_sample(
            folder,
            people,
            size=_size(size),
            seed=42 if shared.seed is None else shared.seed,
            jobs=shared.workers or -1,
            on_progress=bar,
        )
    _say(
        console,
        f"{made.folder}: {made.train_people} people with labels ({made.train_photos} photos), "
        f"{made.eval_people} to predict ({made.eval_photos} photos; the truth is in eval/answers.csv)",
    )
    most = made.train_people // 6  # people of each gender and age band
    few = "" if most >= 5 else f" --k {most}" if most >= 2 else " (too few people for folds: --people 12 at least)"
    _say(console, f"next: maskens folds --data {made.folder}{few}", "dim")


@command
def explore(
    shared: Shared,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where the page goes; by default explore beside the run."),
    ] = None,
    per_class: Annotated[
        int, typer.Option("--per-class", metavar="N", min=1, max=200, help="Photos on a class's contact sheet.")
    ] = 24,
    recipe: Annotated[
        str,
        typer.Option("--recipe", metavar="NAME|FILE", envvar="MASKENS_RECIPE", help="Whose augmentation is shown."),
    ] = "original",
    fixes: FixesOption = None,
) -> None:
    """Look at the data before any training: counts, contact sheets, odd photos and labels, augmentation.

    Example:  maskens explore --per-class 12
    """
    from folds.data.fixes import describe_fixes
    from folds.pages.html import building, refuse_foreign_page

    console = shared.console
    _, data, seed = shared.read_train(fixes)
    folder = out or shared.run.parent / "explore"

    from folds.explore.page import GENERATOR, OURS, write_exploration

    refuse_foreign_page(folder, GENERATOR, OURS)

    from ensemble.recipes.reading import load_recipe
    from ensemble.reporting.augment_sheet import augment_sheets, check_augmentation
    from folds.data.decode import read_photo
    from folds.explore.look import examples, label_of
    from folds.explore.look import explore as look
    from folds.explore.summary import class_table, group_table, summary_lines, warning_lines

    shown_recipe = load_recipe(recipe)
    check_augmentation(shown_recipe)
    workers = shared.workers or -1
    replaces = folder.is_dir() and any(folder.iterdir())
    with building(folder) as build, _bars(console, "opening photos") as (bar,):
        found = look(data, per_class, seed, workers, bar)
        shown = [(label_of(data, i), read_photo(data.root / data.files[i])) for i in examples(found)]
        write_exploration(build, found, augment_sheets(shown_recipe, shown, seed), shown_recipe.name, workers)
    console.print(class_table(found))
    console.print(group_table(found))
    for line in summary_lines(found):
        _say(console, line)
    for line in warning_lines(found):
        _say(console, line, "yellow")
    if data.fixes:
        _say(console, f"shown with label fixes: {describe_fixes(data)}")
    if replaces:
        _say(console, f"the earlier page in {folder} was replaced")
    _say(console, f"saved: {folder / 'index.html'} and its pictures beside it")


@command
def folds(
    shared: Shared,
    k: Annotated[
        int | None, typer.Option("--k", help="Number of folds. The run remembers it; at first 5.", show_default=False)
    ] = None,
    folds_file: Annotated[
        Path | None,
        typer.Option("--folds-file", metavar="CSV", help="Your own folds (columns path, fold), checked like ours."),
    ] = None,
    fixes: FixesOption = None,
    check_photos: Annotated[
        bool,
        typer.Option("--check-photos", help="Open every photo: unreadable ones, near-duplicates across people."),
    ] = False,
) -> None:
    """Deal the people to folds, no person in two, every class in each.

    Example:  maskens folds --k 5 --check-photos
    """
    from folds.data.fixes import describe_fixes
    from folds.data.people import label_conflicts, repeated_ids
    from folds.errors import refuse
    from folds.run import kept_folds, refuse_foreign, start_run
    from folds.splitting.folds_table import folds_table
    from folds.splitting.split import make_folds, read_folds

    console = shared.console
    refuse_foreign(shared.run)
    before, data, seed = shared.read_train(fixes)
    assigned = None
    if folds_file:
        assigned, k = read_folds(folds_file, data)
    elif before and (k or before.k, seed) == (before.k, before.seed):
        assigned, k = kept_folds(before, data), before.k
    k = k or (before.k if before else 5)
    if assigned is None:
        assigned = make_folds(data, k, seed)
    if check_photos:
        from folds.explore.check import check_photos as open_all
        from folds.explore.check import describe

        with _bars(console, "opening photos") as (bar,):
            found = open_all(data, shared.workers or -1, bar)
        refuse(found.unreadable, f"photos in {data.root} can't be used", "Replace them and run again.")
        _say(console, f"all {len(data.files)} photos can be read")
        for line in describe(found.duplicates, data.root):
            _say(console, f"warning: nearly the same photo of two people: {line}", "yellow")
    run, note = start_run(shared.run, data, assigned, k, seed)
    console.print(folds_table(data, assigned, k))
    for i in repeated_ids(data.people):
        _say(console, f"note: id {i} has more than one folder; they are one person and share a fold", "dim")
    for line in label_conflicts(data):
        _say(console, f"warning: {line}", "yellow")
    if data.fixes:
        _say(console, f"fixes: {describe_fixes(data)} from {', '.join(run.fixes.sources)}")
    if note:
        _say(console, note)
    _say(console, f"saved: {run.folds_file}")
    _say(console, f"next: maskens train --run {run.folder} --fold 0..{k - 1}", "dim")


@command
def train(
    shared: Shared,
    fold: Annotated[str, typer.Option("--fold", metavar="FOLDS", help="3, 0..4, 0,2,4 or all.")] = "all",
    task: Annotated[
        list[str] | None, typer.Option("--task", help="Only these tasks of the recipe; may be repeated.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="NAME|FILE",
            envvar="MASKENS_RECIPE",
            help="A shipped recipe (see `maskens recipes`) or a TOML file. The run remembers it; at first original.",
        ),
    ] = None,
    change: SetOption = None,
    weights: Annotated[
        list[str] | None,
        typer.Option("--weights", metavar="[TASK=]FILE", help="Initial weights from a file, not from the hub."),
    ] = None,
    no_pretrained: Annotated[bool, typer.Option("--no-pretrained", help="Start from random weights.")] = False,
    reuse: Annotated[
        Path | None,
        typer.Option("--reuse", metavar="RUN", help="Copy jobs that this run has finished with the same task recipe."),
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Forget what these jobs have done so far.")] = False,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Jobs at a time.")] = 1,
    track: Annotated[
        list[TrackChoice] | None,
        typer.Option(
            "--track",
            help="Keep curves and pictures for TensorBoard (tensorboard --logdir RUN), or send them, photos and all, "
            "to W&B; may be repeated.",
        ),
    ] = None,
    compile_models: Annotated[
        bool,
        typer.Option(
            "--compile", help="Compile each model first (torch.compile): up to minutes a job, then faster epochs."
        ),
    ] = False,
    cache: CacheOption = "",
    dry_run: DryOption = False,
) -> None:
    """Train one model per fold and task; finished jobs are kept, interrupted ones go on.

    Example:  maskens train --fold 0..4 --recipe quick --weights tf_efficientnet_lite0.safetensors
    """
    from folds.splitting.ranges import parse_folds, written_folds

    written_folds(fold)  # a slip in it is told before numpy is imported

    from folds.run import load_data, load_run

    run = shared.load_run()
    chosen = parse_folds(fold, run.k)
    data, assigned = load_data(run, shared.data)

    from ensemble.data.augment import build
    from ensemble.jobs.plan import begun, plan, refuse_idle, select_tasks, unfinished
    from ensemble.recipes.binding import bind_recipe, resolve_recipe
    from ensemble.reporting.live_table import jobs_view
    from ensemble.training.jobs import fill_cache
    from ensemble.training.jobs import train as train_jobs
    from ensemble.training.preflight import preflight
    from ensemble.training.reuse import take_over
    from ensemble.training.tracking import check_trackers, where_to_look

    console = shared.console
    hardware = shared.hardware_for(jobs)
    trackers = tuple(dict.fromkeys(t.value for t in track or []))
    check_trackers(trackers)
    if reuse and restart:
        raise MaskensError("--reuse and --restart exclude each other: take finished jobs over, or do them anew.")
    source = load_run(reuse) if reuse else None
    resolved = resolve_recipe(run, recipe, change or [], weights or [], no_pretrained, source, build)
    tasks = select_tasks(resolved, task or [])
    specs = plan(run, resolved, tasks, chosen, hardware, _cache_folder(cache, run.folder), trackers, compile_models)
    todo = specs if restart else unfinished(specs)
    if len(todo) < len(specs):
        _say(console, f"{len(specs) - len(todo)} of {len(specs)} jobs are finished already; --restart does them anew")
    if todo:
        refuse_idle(todo, data, assigned)
        going_on = set() if restart else begun(todo)
        found = preflight(resolved, {s.task: 0 for s in todo}, going_on, hardware.device)
        for warning in [*found, *filter(None, [hardware.crowding])]:
            _say(console, f"warning: {warning}", "yellow")
    if dry_run:
        if todo:
            _show_estimate(console, todo, data, assigned, hardware, restart)
        return
    if source and todo:
        bind_recipe(run, resolved)
        _say(console, f"{take_over(todo, source)} finished jobs are taken from {source.folder}")
        todo = unfinished(todo)
    if todo:
        with _bars(console, "decoding photos") as (bar,):
            fill_cache(todo, data, hardware, bar)
        bind_recipe(run, resolved)
        for line in where_to_look(trackers, run.folder):
            _say(console, f"next, while it trains: {line}", "dim")
        with jobs_view(console, f"maskens train, {run.folder}, recipe {resolved.name}") as view:
            failed = train_jobs(todo, data, assigned, specs, hardware, view, restart)
        if failed:
            lines = [f"  - {t} fold {f}: {failure.message}" for (t, f), failure in failed.items()]
            crashed = any(failure.crashed for failure in failed.values())
            _fail("\n".join([f"{len(failed)} of {len(todo)} jobs failed:", *lines]), code=1 if crashed else 2)
    _say(console, f"next: maskens infer --run {run.folder}", "dim")


@command
def infer(
    shared: Shared,
    more: Annotated[list[Path] | None, typer.Argument(metavar="CSV", hidden=True)] = None,
    tta: TtaOption = None,
    decision: Annotated[
        DecisionChoice | None,
        typer.Option(
            "--decision",
            help="joint: the best of the 18 classes. hard: mask, gender, then age by itself. vote: one vote a run. "
            "By default joint, with --vote vote.",
            show_default=False,
        ),
    ] = None,
    votes: Annotated[
        list[Path] | None,
        typer.Option("--vote", metavar="CSV...", help="Other submissions of the same photos that vote with the runs."),
    ] = None,
    untuned: UntunedOption = False,
    precision: Annotated[
        PrecisionChoice,
        typer.Option("--precision", help="Of the arithmetic. auto: 16 bits where that is faster and the logits agree."),
    ] = PrecisionChoice.fp32,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="The CSV; by default submission.csv in the run. Its logits go beside it."
        ),
    ] = None,
    compile_models: Annotated[
        bool, typer.Option("--compile", help="Compile the models first (torch.compile): pays for many photos.")
    ] = False,
    ask_all: Annotated[
        bool,
        typer.Option("--ask-all", help="Ask both age models of every photo, even where one can't change the class."),
    ] = False,
    allow_missing: MissingOption = False,
    cache: CacheOption = "",
    dry_run: DryOption = False,
) -> None:
    """Predict the eval photos with every fold's models and write ImageID,ans.

    `--data DIR` may name another data folder that has only eval/.

    Several runs are blended, each weighed alike or as `maskens tune --blend` found. With `--vote a.csv b.csv` each
    file and each run has a vote; of classes with equally many the most probable one wins.

    Example:  maskens infer --tta flip
    """
    from folds.data.layout import read_eval
    from folds.files import must_be_writable
    from folds.run import file_of, refuse_other_folds

    if more and not votes:
        raise MaskensError(f"unexpected argument '{more[0]}'. Other submissions are named with --vote.")
    if votes and decision not in (None, DecisionChoice.vote):
        raise MaskensError(f"--vote and --decision {decision} exclude each other.")
    how: Decision = "vote" if votes else decision.value if decision else "joint"
    runs = named = shared.load_runs()
    first = runs[0]
    data = read_eval(shared.data or Path(first.data))

    from ensemble.decision.members import load_ensembles
    from ensemble.decision.submission import align, check_submission, write_submission
    from ensemble.decision.tuning import apply_tuning, heard
    from ensemble.inference.infer import infer as predict_all
    from ensemble.inference.infer import judge, save_logits
    from ensemble.models.engine import Execution
    from ensemble.recipes.binding import run_recipe
    from ensemble.reporting.photo_tables import submission_table

    console = shared.console
    hardware = shared.hardware
    path = out or file_of(runs, "submission.csv")
    logits_file = out.with_suffix(".logits.npz") if out else file_of(runs, "eval.npz")
    must_be_writable(path)
    must_be_writable(logits_file)
    refuse_other_folds(runs)
    recipes = [run_recipe(run) for run in runs]
    applied = apply_tuning(runs, recipes, tta.value if tta else None, untuned)
    others = [align(file, data.ids) for file in [*(votes or []), *(more or [])]]
    fitted = applied.fitted
    if how != "vote":
        runs, recipes, fitted = heard(runs, recipes, fitted)
    ensembles = load_ensembles(runs, recipes, fitted, allow_missing)
    views = fitted.tta
    models = sum(len(e.members) for e in ensembles)
    execution = Execution(precision.value, compile_models)
    routing = fitted if how == "joint" and not ask_all else None
    unused: dict[str, tuple[StepName, ...]] = {"hard": ("offsets",), "vote": ("weights", "offsets")}
    words = applied.without(*unused.get(how, ())) if how == "hard" or len(runs) > 1 else applied.words
    _say(console, f"{models} models, {len(data.ids)} photos, views: {views}, {words}")
    if dry_run:
        from ensemble.inference.estimate import estimate_inference
        from ensemble.reporting.plan_tables import time_words

        seconds, disk = estimate_inference(
            ensembles, data, views, hardware, _cache_folder(cache, first.folder), execution, routing is not None
        )
        _say(
            console, f"about {time_words(seconds)}; photo cache {disk / 1e9:.2f} GB more. Nothing was written.", "bold"
        )
        return
    with _bars(console, "decoding", "predicting") as (decoding, predicting):
        prediction = predict_all(
            ensembles, data, views, hardware, _cache_folder(cache, first.folder), decoding, predicting,
            execution, routing, logits_file.with_suffix(".partial.npz"),
        )  # fmt: skip
    for line in prediction.notes:
        _say(console, line)
    judged = judge(prediction, fitted, how, others)
    save_logits(logits_file, data.ids, data, ensembles, prediction)
    aside = write_submission(path, data.ids, judged.classes)
    check = check_submission(path, data.ids, first.class_photos)
    console.print(submission_table(check))
    for warning in check.warnings:
        _say(console, f"warning: {warning}", "yellow")
    if aside:
        _say(console, f"the earlier file is kept as {aside}")
    _say(console, f"saved: {path}")
    _say(console, f"next: maskens score{_named(named)}", "dim")


@command
def predict(
    shared: Shared,
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO|DIR...", help="Photos, or folders of them.")],
    tta: TtaOption = None,
    untuned: UntunedOption = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Keep the result: a .csv or a .json file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    allow_missing: MissingOption = False,
) -> None:
    """Classify any photos: mask, gender and age band with their probabilities, and whether the folds agree.

    A photo should show one face about as large as in training: it is brought to the models' size as a whole.

    Example:  maskens predict holiday/*.jpg --out holiday.csv
    """
    from folds.data.photo_files import check_loose, find_photos, trained_aspect
    from folds.files import csv_text, json_text, must_be_writable, replace_keeping
    from folds.run import refuse_other_folds

    runs = shared.load_runs()
    found = find_photos(photos)
    if out and out.suffix not in (".csv", ".json"):
        raise MaskensError(f"--out {out}: name a .csv or a .json file.")
    if out:
        must_be_writable(out)
    refuse_other_folds(runs)

    from ensemble.decision.members import load_ensembles
    from ensemble.decision.tuning import apply_tuning, heard
    from ensemble.inference.infer import infer as predict_all
    from ensemble.inference.predictions import verdict_records, verdicts, whole_folds
    from ensemble.recipes.binding import run_recipe
    from ensemble.reporting.photo_tables import verdicts_table

    console = shared.console
    hardware = shared.hardware
    recipes = [run_recipe(run) for run in runs]
    applied = apply_tuning(runs, recipes, tta.value if tta else None, untuned)
    runs, recipes, fitted = heard(runs, recipes, applied.fitted)
    ensembles = load_ensembles(runs, recipes, fitted, allow_missing)
    whole_folds(ensembles)
    height, width = ensembles[0].members[0].card.resize
    aspect = trained_aspect(runs[0]) or height / width
    with _bars(console, "opening", "predicting") as (opening, predicting):
        odd = check_loose(found, aspect, hardware.decoders, opening)
        prediction = predict_all(ensembles, found, fitted.tta, hardware, None, on_predict=predicting)
    records = verdict_records(found.files, verdicts(ensembles, prediction, fitted), odd)
    text = json_text(records) if out and out.suffix == ".json" else ""
    if out and not text:
        text = csv_text(list(records[0]), [list(r.values()) for r in records])
    aside = replace_keeping(out, text) if out else None
    if as_json:
        typer.echo(json_text(records), nl=False)
    else:
        console.print(verdicts_table(records[:SHOWN_PHOTOS]))
        if len(records) > SHOWN_PHOTOS:
            rest = f"{len(records) - SHOWN_PHOTOS} more photos"
            _say(console, f"... and {rest}{'' if out else ': --out FILE keeps them all'}")
        models = sum(len(e.members) for e in ensembles)
        _say(console, f"{len(records)} photos, {models} models, views: {fitted.tta}, {applied.words}")
    told = _stderr(shared.quiet) if as_json else console
    for file in odd[:5]:
        _say(told, f"warning: {file} has another shape than in training, so it is distorted", "yellow")
    if len(odd) > 5:
        _say(told, f"warning: so have {len(odd) - 5} more", "yellow")
    if aside:
        _say(told, f"the earlier file is kept as {aside}")
    if out:
        _say(told, f"saved: {out}")


@command
def score(
    shared: Shared,
    truth: Annotated[
        Path | None,
        typer.Option("--truth", metavar="CSV", help="Score a submission against these answers (ImageID,ans)."),
    ] = None,
    submission: Annotated[
        Path | None,
        typer.Option("--submission", metavar="CSV", help="With --truth: the file to score; by default the run's."),
    ] = None,
    tta: TtaOption = None,
    epoch: EpochOption = EpochChoice.best,
    untuned: UntunedOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON instead.")] = False,
) -> None:
    """What the ensemble is worth on people never seen in training: out-of-fold, or against --truth.

    Several runs on the same folds are scored as one ensemble.

    Example:  maskens score --run runs/default --run runs/heads
    """
    from folds.files import json_text

    console = shared.console
    if submission and not truth:
        raise MaskensError("--submission needs --truth CSV, the answers to score it against.")
    if truth:
        from ensemble.decision.submission import align, read_answers
        from ensemble.metrics.scores import score as score_classes
        from ensemble.metrics.scores import score_record
        from ensemble.reporting.score_tables import class_table, parts_table
        from folds.run import file_of

        path = submission or file_of(shared.load_runs(), "submission.csv")
        ids, predicted = read_answers(path)
        result = score_classes(align(truth, ids), predicted)
        if as_json:
            typer.echo(json_text(score_record(result)), nl=False)
            return
        console.print(class_table(result))
        console.print(parts_table(result, {}))
        words = f"over {result.photos} photos ({path} against {truth})"
        _say(console, f"macro F1 {result.f1:.4f}, accuracy {result.accuracy:.4f} {words}", "bold")
        return

    from ensemble.evaluation.evaluate import evaluation_record, save_oof
    from ensemble.reporting.score_tables import evaluation_tables, headline

    blend, found, views = _evaluated(shared, tta, epoch, untuned)
    if len(blend.runs) == 1:
        save_oof(blend, found, views)
    if as_json:
        typer.echo(json_text(evaluation_record(found)), nl=False)
        return
    for note in found.notes:
        _say(console, f"note: {note}", "yellow")
    for table in evaluation_tables(found):
        console.print(table)
    for line in headline(found, [m.name for m in blend.runs]):
        _say(console, line, "bold")


@command
def tune(
    shared: Shared,
    step: Annotated[
        list[StepChoice] | None,
        typer.Option("--step", help="Only these; may be repeated. By default all three."),
    ] = None,
    blend: Annotated[
        bool, typer.Option("--blend", help="Weigh several runs by greedy selection; else they are weighed alike.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Keep what is fitted even if its gain is noise.")] = False,
) -> None:
    """Fit the decision on out-of-fold logits; what is worth more than noise is kept and used by infer.

    Views, a temperature of each fold and head, offsets of the classes, weights of the runs. Each is judged by
    cross-validation over people: on people that it was not fitted on.

    Example:  maskens tune --run runs/default --run runs/heads --blend
    """
    from ensemble.decision.blend import load_blend
    from ensemble.decision.tune import STEPS
    from ensemble.decision.tune import tune as fit_steps
    from ensemble.decision.tuning import save_tuning, tuning_file
    from ensemble.reporting.score_tables import steps_table
    from folds.files import must_be_writable

    console = shared.console
    if blend and len(shared.runs) == 1:
        raise MaskensError("--blend weighs several runs: --run A --run B --blend.")
    runs = shared.load_runs()
    steps = [
        s for s in STEPS if (s in [c.value for c in step] if step else s != "weights") or (blend and s == "weights")
    ]
    found = load_blend(runs, shared.data, "best")
    path = runs[0].folder / tuning_file([member.share for member in found.runs])
    must_be_writable(path)
    with _bars(console, "fitting") as (bar,):
        tuning, nested = fit_steps(found, steps, force, on_step=bar)
    aside = save_tuning(path, tuning, [found.data.files[i] for i in found.rows], nested)
    for note in found.notes:
        _say(console, f"note: {note}", "yellow")
    console.print(steps_table(tuning))
    for line in tuning.summary:
        _say(console, line, "bold")
    if aside:
        _say(console, f"the earlier tuning is kept as {aside}")
    _say(console, f"saved: {path}")
    _say(console, f"next: maskens infer{_named(runs)}", "dim")


@command
def compare(
    shared: Shared,
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run folders; the first is the yardstick.")],
    tta: ViewsOption = TtaChoice.flip,
    epoch: EpochOption = EpochChoice.best,
) -> None:
    """What differs between runs, and whether it made a difference: out-of-fold F1 with intervals over people.

    Example:  maskens compare runs/default runs/heads
    """
    from ensemble.evaluation.compare import compare as compare_runs
    from ensemble.reporting.compare_tables import class_gain_table, differences_table, scores_table

    console = shared.console
    found = compare_runs(runs, shared.data, tta.value, epoch.value)
    console.print(differences_table(found))
    for section in found.sections:
        console.print(class_gain_table(section))
    for section in found.sections:
        console.print(scores_table(section))
    for note in found.notes:
        _say(console, f"note: {note}", "yellow")
    _say(
        console,
        f"{found.photos} photos of {found.people} people, {epoch.value} epochs, views: {tta.value}. "
        "Intervals are over people, for these very models: another seed moves scores too. "
        "Within noise: the interval of the difference holds 0; of 20 differences that mean nothing, one looks real.",
        "dim",
    )


@command
def audit(
    shared: Shared,
    tta: ViewsOption = TtaChoice.flip,
    epoch: EpochOption = EpochChoice.best,
    field: Annotated[
        list[FieldChoice] | None, typer.Option("--field", help="Only these labels; may be repeated.")
    ] = None,
    top: Annotated[
        int, typer.Option("--top", metavar="N", min=1, max=200, help="Suspects on a field's contact sheet.")
    ] = 24,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where lists, sheets and page go; by default audit in the run."),
    ] = None,
) -> None:
    """Likely label errors, ranked: what models that never saw the person say against the labels. A list to look at.

    Example:  maskens audit --field gender --top 48
    """
    from folds.pages.html import INDEX, building
    from folds.run import load_data

    run = shared.load_run()
    data, assigned = load_data(run, shared.data)
    folder = out or run.folder / "audit"

    from ensemble.evaluation.audit import NAMES
    from ensemble.evaluation.audit import audit as find_suspects
    from ensemble.evaluation.evaluate import out_of_fold
    from ensemble.recipes.binding import run_recipe
    from ensemble.reporting.audit_page import SUSPECTS, refuse_to_replace, write_audit
    from ensemble.reporting.photo_tables import suspects_table

    console = shared.console
    refuse_to_replace(folder)
    predicted = out_of_fold(run, run_recipe(run), data, assigned, tta.value, epoch.value)
    found = find_suspects(predicted, data, [f.value for f in field or []] or tuple(NAMES))
    note = ""
    if predicted.missing:
        note = f"only folds {', '.join(map(str, predicted.trained))} of {run.k} are trained: {predicted.missing}"
        _say(console, note, "yellow")
    with building(folder) as build, _bars(console, "opening photos") as (bar,):
        write_audit(build, found, f"Likely label errors in {data.root}", note, top, shared.workers or -1, bar)
    views = f"{epoch.value} epochs, views: {tta.value}"
    if found.suspects:
        console.print(suspects_table(found))
        counts = ", ".join(f"{n} {name}" for name, n in found.counts.items())
        _say(console, f"{len(found.suspects)} suspects ({counts}) among {len(found.people)} people ({views})", "bold")
    else:
        _say(console, f"no suspects: no label of {len(found.people)} people is unlikely ({views})", "bold")
    _say(console, f"saved: {folder / INDEX}, lists and contact sheets beside it")
    if found.suspects:
        earlier = f"--fixes {run.fixes_file} " if data.fixes else ""
        _say(
            console,
            f"next: look at them, copy the rows of {folder / SUSPECTS} that you believe to mine.csv, then  "
            f"maskens folds --run NEW --data {data.root} --folds-file {run.folds_file} {earlier}--fixes mine.csv",
            "dim",
        )


@command
def report(
    shared: Shared,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="The page; by default report.html in the (first) run."),
    ] = None,
    photos: Annotated[
        int, typer.Option("--photos", metavar="N", min=0, max=500, help="Worst and most uncertain photos; 0 for none.")
    ] = 16,
    tta: TtaOption = None,
    epoch: EpochOption = EpochChoice.best,
    untuned: UntunedOption = False,
) -> None:
    """One page on what the ensemble is worth and where it errs: scores, confusions, calibration, ages, photos.

    Several runs on the same folds are shown as one ensemble.

    Example:  maskens report --run runs/default --photos 24
    """
    from folds.files import must_be_writable
    from folds.pages.html import refuse_foreign_file

    console = shared.console
    runs = shared.load_runs()

    from ensemble.reporting.report import gather
    from ensemble.reporting.report_page import GENERATOR, report_file, write_report
    from ensemble.reporting.score_tables import headline

    path = out or report_file(runs)
    must_be_writable(path)
    refuse_foreign_file(path, GENERATOR)
    blend, found, _ = _evaluated(shared, tta, epoch, untuned)
    gathered = gather(blend, found, photos)
    replaces = path.exists()
    with _bars(console, "opening photos") as (bar,):
        write_report(path, gathered, shared.workers or -1, bar)
    for note in found.notes:
        _say(console, f"note: {note}", "yellow")
    for line in headline(found, [m.name for m in blend.runs]):
        _say(console, line, "bold")
    if replaces:
        _say(console, f"the earlier report in {path} was replaced")
    if photos:
        _say(console, "it shows photos of people; share it with care, or leave them out: --photos 0")
    _say(console, f"saved: {path}")


@command
def check_submission(
    shared: Shared,
    submission: Annotated[
        Path | None,
        typer.Argument(metavar="[CSV]", help="The file to check; by default the run's submission.csv."),
    ] = None,
) -> None:
    """Check a submission's rows, order and range, and its classes against the training set's mix.

    Example:  maskens check-submission runs/default/submission.csv
    """
    from folds.data.layout import read_eval

    run = shared.load_run()
    data = read_eval(shared.data or Path(run.data))

    from ensemble.decision.submission import check_submission as check_file
    from ensemble.reporting.photo_tables import submission_table

    console = shared.console
    path = submission or run.submission_file
    check = check_file(path, data.ids, run.class_photos)
    console.print(submission_table(check))
    for warning in check.warnings:
        _say(console, f"warning: {warning}", "yellow")
    _say(
        console,
        f"{path} is accepted: {check.photos} rows in the order of info.csv, all classes in 0..17; "
        f"{check.distance:.0%} away from the training mix",
    )


@command
def export(
    shared: Shared,
    tta: TtaOption = None,
    untuned: UntunedOption = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The folder to write; by default onnx in the run.")
    ] = None,
    photos: Annotated[
        int, typer.Option("--photos", min=1, help="Eval photos on which onnxruntime is held against torch.")
    ] = 32,
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0, help="Largest difference of a logit that is let pass.")
    ] = 1e-3,
    allow_missing: MissingOption = False,
) -> None:
    """Write the ensemble as ONNX, one file a task, verified on photos; always on the CPU.

    Example:  maskens export --out faces-onnx
    """
    from ensemble.decision.members import load_ensembles
    from ensemble.decision.tuning import apply_tuning
    from ensemble.inference.export import check_extra
    from ensemble.inference.export import export as export_all
    from ensemble.recipes.binding import run_recipe
    from ensemble.reporting.photo_tables import export_table
    from folds.data.layout import read_eval

    check_extra()
    run = shared.load_run()
    data = read_eval(shared.data or Path(run.data))
    console = shared.console
    folder = out or run.folder / "onnx"
    recipe = run_recipe(run)
    applied = apply_tuning([run], [recipe], tta.value if tta else None, untuned)
    fitted = applied.fitted
    (ensemble,) = load_ensembles([run], [recipe], fitted, allow_missing)
    _say(console, f"{len(ensemble.members)} models, views: {fitted.tta}, {applied.words}")
    threads = shared.hardware.job_threads
    with _bars(console, "exporting") as (bar,):
        done = export_all(ensemble, data, folder, fitted.tta, fitted.offsets, photos, tolerance, threads, bar)
    console.print(export_table(done))
    _say(console, f"saved: {folder}")


recipes_app = typer.Typer(help="The recipes that come with maskens.", add_completion=False)
app.add_typer(recipes_app, name="recipes")


@recipes_app.callback(invoke_without_command=True)
@told
def recipes(context: typer.Context) -> None:
    """List the recipes that come with maskens and what each is for.

    Example:  maskens recipes show quick
    """
    if context.invoked_subcommand is None:
        from rich.console import Console

        from ensemble.recipes.reading import load_recipe, shipped
        from ensemble.reporting.plan_tables import recipes_table

        Console().print(recipes_table([load_recipe(name) for name in shipped()]))


@recipes_app.command()
@told
def show(
    name: Annotated[str, typer.Argument(metavar="NAME|FILE", help="A shipped recipe or a TOML file.")],
    change: SetOption = None,
) -> None:
    """Print a recipe as TOML with every value written out.

    Example:  maskens recipes show quick --set tasks.gender.epochs=5 > mine.toml
    """
    from ensemble.data.augment import build
    from ensemble.recipes.reading import load_recipe

    typer.echo(load_recipe(name, change or [], build_transform=build).text, nl=False)


if __name__ == "__main__":
    main()
