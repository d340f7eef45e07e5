"""Options that several commands take. A command takes only those that it uses."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ensemble.recipes.views import VIEWS, Tta


class TrackerName(StrEnum):
    tensorboard = "tensorboard"
    wandb = "wandb"


DEFAULT_RUNS: Any = (Path("runs/default"),)  # a dataclass takes no list as a default; `step` makes it one


def _option(name: str, help: str, **more: Any) -> Any:
    return typer.Option(f"--{name}", *more.pop("short", ()), envvar=f"MASKENS_{name.upper()}", help=help, **more)


def _one_run(runs: list[Path]) -> list[Path]:
    if len(runs) > 1:
        raise typer.BadParameter("it is given more than once; this command takes one run.")
    return runs


RunOption = Annotated[list[Path], _option("run", "Run folder.", metavar="DIR", callback=_one_run)]
RunsOption = Annotated[
    list[Path], _option("run", "Run folder; several, on the same folds, are one ensemble.", metavar="DIR")
]
EachRunOption = Annotated[
    list[Path], _option("run", "Run folder; may be repeated, each is taken by itself.", metavar="DIR")
]
DataOption = Annotated[
    Path | None, _option("data", "Data folder. The run remembers it; at first 'data'.", metavar="DIR")
]


def seed_option(help: str) -> Any:
    """--seed, for what a command draws by it."""
    return _option("seed", help, min=0, max=2**32 - 1)


SeedOption = Annotated[
    int | None,
    seed_option(
        "Random seed of folds, batch order, augmentation and initial weights. The run remembers it; at first 42."
    ),
]
DeviceOption = Annotated[Literal["auto", "cpu", "cuda"], _option("device", "Where models run.")]
WorkersOption = Annotated[
    int | None, _option("workers", "Processes or threads that load photos; no result depends on it.", min=0, max=256)
]
JobsOption = Annotated[
    int | None,
    typer.Option(
        "--jobs", min=1, help="Jobs at a time: 1, or on a cluster as many as it takes at a time.", show_default=False
    ),
]
BackendOption = Annotated[
    Literal["sequential", "loky", "dask", "ray"] | None,
    _option(
        "backend",
        "Where jobs run, with the same result: sequential in this process, loky beside it (if --jobs is above 1), "
        "dask and ray on a cluster.",
        show_default=False,
    ),
]
AddressOption = Annotated[
    str | None,
    _option("address", "Scheduler of the cluster; without it, workers of dask or ray are started here.", metavar="URL"),
]
RetriesOption = Annotated[
    int, typer.Option("--retries", min=0, help="How often a job whose process or node is lost goes on.")
]
QuietOption = Annotated[bool, _option("quiet", "Print errors only.", short=("-q",))]
CacheOption = Annotated[
    str,
    _option(
        "cache",
        "Where decoded photos are kept; none decodes each time. By default .cache beside the run.",
        metavar="DIR|none",
        show_default=False,
    ),
]


def cache_folder(cache: str, run: Path) -> Path | None:
    """The folder that --cache names, "" if it is not given; None decodes each time."""
    return None if cache == "none" else Path(cache) if cache else run.parent / ".cache"


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


_SETS = " ".join(f"{name}: {', '.join(views)}." for name, views in VIEWS.items())

TtaOption = Annotated[
    Tta | None,
    typer.Option(
        "--tta",
        metavar="NAME|FILE",
        help=f"Views of test-time augmentation. {_SETS} Or a set of the recipe, or a TOML file with one "
        "(docs/tta.md). By default as tuned, else flip.",
        show_default=False,
    ),
]
ViewsOption = Annotated[
    Tta,
    typer.Option(
        "--tta", metavar="NAME|FILE", help=f"Views of the out-of-fold logits: {', '.join(VIEWS)}, or one's own."
    ),
]
CheckpointOption = Annotated[
    Literal["cross-fitted", "best", "last"],
    typer.Option(
        "--checkpoint", help="Epoch of each job: cross-fitted (best on the fold's other people), best, or last."
    ),
]
MissingOption = Annotated[bool, typer.Option("--allow-missing", help="Go ahead though some folds are not trained.")]
DryOption = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Check everything, time a few batches, estimate time, memory and disk; write nothing."
    ),
]
SkipBadOption = Annotated[
    bool,
    typer.Option(
        "--skip-bad-photos", help="Go on without photos that can't be read, and list them; docs/bad-photos.md."
    ),
]
NoTuningOption = Annotated[bool, typer.Option("--no-tuning", help="Leave out what `maskens tune` fitted.")]

# Of train, distil and sweep.
FoldOption = Annotated[str, typer.Option("--fold", metavar="FOLDS", help="3, 0..4, 0,2,4 or all.")]
TaskOption = Annotated[
    list[str] | None, typer.Option("--task", help="Only these tasks of the recipe; may be repeated.")
]
WeightsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--weights",
        metavar="[TASK=]FILE|RUN",
        help="Initial weights from a file, or fold by fold from another run. Default: from the hub.",
    ),
]
NoPretrainedOption = Annotated[bool, typer.Option("--no-pretrained", help="Start from random weights.")]
RestartOption = Annotated[bool, typer.Option("--restart", help="Forget what these jobs have done so far.")]
TrackOption = Annotated[
    list[TrackerName] | None,
    typer.Option("--track", help="Curves and pictures for TensorBoard, or sent to W&B; may be repeated."),
]
CompileOption = Annotated[
    bool, typer.Option("--compile", help="Compile each model first (torch.compile): minutes a job, faster epochs.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Go ahead though it will take long.")]
