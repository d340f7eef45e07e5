"""maskens quantize."""

from __future__ import annotations

from typing import Annotated

import typer

from ensemble.commands.options import DEFAULT_RUNS, CacheOption, DataOption, QuietOption, RunOption, TtaOption
from ensemble.commands.terminal import make_console, note, progress_bars, run_options, say


def quantize(
    bound: Annotated[
        float,
        typer.Option("--bound", min=0, max=1, help="Largest drop of a model's out-of-fold macro F1 that is accepted."),
    ] = 0.002,
    calibration_photos: Annotated[
        int, typer.Option("--calibration-photos", min=8, help="Training photos that a model is calibrated on.")
    ] = 256,
    tta: TtaOption = None,
    cache: CacheOption = "",
    run: RunOption = DEFAULT_RUNS,
    data: DataOption = None,
    quiet: QuietOption = False,
) -> None:
    """Make int8 copies of the models, each measured on people it never saw; always on the CPU.

    `maskens infer --precision int8` uses those whose macro F1 drops by no more than the bound. Another bound, given
    later, measures nothing anew.

    Example:  maskens quantize
    Example:  maskens quantize --bound 0.005
    """
    from ensemble.pipeline.quantize import quantize as quantize_run
    from ensemble.reporting.quantize_table import quantize_lines, quantize_table

    console = make_console(quiet)
    with progress_bars(console) as on_progress:
        done = quantize_run(
            run[0],
            bound=bound,
            calibration=calibration_photos,
            tta=tta,
            data=data,
            cache=cache,
            on_progress=on_progress,
        )
    say(console, done.used)
    note(console, done.notes)
    console.print(quantize_table(done.found))
    for line in quantize_lines(done.found, bound):
        say(console, line)
    say(console, f"saved: {done.folder}")
    missing = "" if done.complete else " --allow-missing"
    say(console, f"next: maskens infer{run_options(run)}{missing} --precision int8", "dim")
