"""maskens compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ensemble.commands.options import CheckpointOption, DataOption, QuietOption, ViewsOption
from ensemble.commands.terminal import make_console, note, say


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run folders, the first to compare with.")],
    tta: ViewsOption = "flip",
    checkpoint: CheckpointOption = "cross-fitted",
    data: DataOption = None,
    quiet: QuietOption = False,
) -> None:
    """What differs between runs, and whether it made a difference: out-of-fold F1 with intervals over people.

    Example:  maskens compare runs/default runs/heads
    """
    from ensemble.pipeline.compare import compare as compare_runs
    from ensemble.reporting.tables import class_gain_table, differences_table, scores_table

    console = make_console(quiet)
    found = compare_runs(runs, data=data, tta=tta, checkpoint=checkpoint)
    console.print(differences_table(found))
    for section in found.sections:
        console.print(class_gain_table(section))
    for section in found.sections:
        console.print(scores_table(section))
    note(console, found.notes)
    say(
        console,
        f"{found.photos} photos of {found.people} people, {checkpoint} epochs, views: {tta}. "
        "Intervals are over people, for these very models: another seed moves scores too. "
        "Within noise: the interval of the difference holds 0. 1 of 20 differences looks real by chance.",
        "dim",
    )
