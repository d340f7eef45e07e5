"""maskens compare."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensemble.commands.options import CheckpointOption, DataOption, QuietOption, ViewsOption
from ensemble.commands.step import step
from ensemble.commands.terminal import Observer, Terminal

if TYPE_CHECKING:
    from ensemble.evaluation.compare import Comparison


@dataclass(frozen=True)
class Options:
    """Which runs are compared, and how each decides."""

    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run folders, the first to compare with.")]
    tta: ViewsOption = "flip"
    checkpoint: CheckpointOption = "cross-fitted"
    data: DataOption = None
    quiet: QuietOption = False


def _print(found: Comparison, options: Options, terminal: Terminal) -> None:
    from ensemble.reporting.tables import class_gain_table, differences_table, scores_table

    terminal.print(differences_table(found))
    terminal.print(*(class_gain_table(section) for section in found.sections))
    terminal.print(*(scores_table(section) for section in found.sections))
    terminal.note(found.notes)
    terminal.say(
        f"{found.photos} photos of {found.people} people, {options.checkpoint} epochs, views: {options.tta}. "
        "Intervals are over people, for these very models: another seed moves scores too. "
        "Within noise: the interval of the difference holds 0. 1 of 20 differences looks real by chance.",
        "dim",
    )


@step(Options, show=_print)
def compare(options: Options, observer: Observer) -> Comparison:
    """What differs between runs, and whether it made a difference: out-of-fold F1 with intervals over people.

    Example:  maskens compare runs/default runs/heads
    \f
    Raises:
        MaskensError: fewer than two runs, runs of other photos, nothing trained.
    """
    from ensemble.evaluation.compare import compare as compare_runs

    return compare_runs(options.runs, options.data, options.tta, options.checkpoint)
