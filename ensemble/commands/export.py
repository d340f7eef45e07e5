"""maskens export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ensemble.commands.options import (
    DEFAULT_RUNS,
    DataOption,
    MissingOption,
    NoTuningOption,
    QuietOption,
    RunOption,
    TtaOption,
)
from ensemble.commands.terminal import make_console, note, progress_bars, say


def export(
    tta: TtaOption = None,
    no_tuning: NoTuningOption = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The folder to write; by default onnx in the run.")
    ] = None,
    photos: Annotated[
        int, typer.Option("--photos", min=1, help="Eval photos on which onnxruntime is compared with torch.")
    ] = 32,
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0, help="Largest absolute difference of a logit that is accepted.")
    ] = 1e-3,
    allow_missing: MissingOption = False,
    run: RunOption = DEFAULT_RUNS,
    data: DataOption = None,
    quiet: QuietOption = False,
) -> None:
    """Write the ensemble as ONNX, one file a task, verified on photos; always on the CPU.

    Example:  maskens export --out faces-onnx
    """
    from ensemble.pipeline.export import export as export_run
    from ensemble.reporting.tables import export_table

    console = make_console(quiet)
    with progress_bars(console) as on_progress:
        done = export_run(
            run[0],
            out=out,
            data=data,
            tta=tta,
            tuned=not no_tuning,
            photos=photos,
            tolerance=tolerance,
            allow_missing=allow_missing,
            on_progress=on_progress,
        )
    say(console, done.used)
    note(console, done.notes, "warning")
    console.print(export_table(done.export))
    say(console, f"saved: {done.folder}")
