"""maskens export."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ensemble.commands.options import ExportOptions
from ensemble.commands.step import step
from ensemble.commands.terminal import Observer, Terminal
from ensemble.decision.members import choose_ensembles
from ensemble.jobs.hardware import Hardware
from ensemble.prediction.predictor import kept_graphs
from folds.errors import refuse_without
from folds.layout import find_eval
from folds.run_folder import load_run, read_run_data

if TYPE_CHECKING:
    from ensemble.prediction.export import Export


@dataclass(frozen=True)
class Exported:
    """What was written and where."""

    export: Export
    folder: Path
    used: str  # describes models, views and tuning
    notes: tuple[str, ...]  # what the user should know of the models
    graphs: tuple[str, ...]  # which graphs were kept for `--engine`


def _print(done: Exported, options: ExportOptions, terminal: Terminal) -> None:
    from ensemble.reporting.tables import export_table

    terminal.say(done.used)
    terminal.note(done.notes, "warning")
    terminal.print(export_table(done.export))
    terminal.lines(done.graphs)
    terminal.say(f"saved: {done.folder}")


@step(ExportOptions, show=_print, first="run")
def export(options: ExportOptions, observer: Observer) -> Exported:
    """
    Raises:
        MaskensError: the extra is not installed, models are missing, or the logits differ.
    """
    refuse_without(("onnx", "onnxscript", "onnxruntime"), "onnx", "maskens export")
    run = load_run(options.run[0])
    to_predict = find_eval(run.data_folder(options.data))
    photos = to_predict.photos if to_predict else read_run_data(run, options.data).photos
    folder = options.out or run.folder / "onnx"
    chosen = choose_ensembles([run], options.tta, not options.no_tuning, options.allow_missing, options.only)

    from ensemble.models.engine_choice import keep_graphs  # imports torch, once nothing else is wrong
    from ensemble.prediction.export import export as export_ensemble

    (ensemble,), hardware = chosen.ensembles, Hardware("cpu", None)
    with observer.progress() as on_progress:
        progress = partial(on_progress, "exporting")
        done = export_ensemble(
            ensemble, photos, folder, chosen.fitted.offsets, options.photos, options.tolerance, hardware, progress
        )
        models = [] if options.no_graphs else kept_graphs(ensemble.members)
        graphs = keep_graphs(models, hardware.job_threads, partial(on_progress, "keeping graphs"))
    return Exported(done, folder, chosen.description, chosen.notes, tuple(graphs))
