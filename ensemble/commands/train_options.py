"""Options of the commands that train, train and distil."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer

from ensemble.commands.options import TrackerName

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


def chosen_folds(written: str, run: Path) -> Collection[int]:
    """The folds of a run that `--fold` names.

    Raises:
        MaskensError: it is malformed, or names folds that the run has not; or there is no run.
    """
    from folds.ranges import parse_folds, written_folds

    written_folds(written)  # a malformed value is refused before slow imports

    from folds.run import load_run

    return parse_folds(written, load_run(run).k)
