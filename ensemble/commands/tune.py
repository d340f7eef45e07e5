"""maskens tune."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ensemble.commands.options import StepChoice, TuneOptions
from ensemble.commands.step import step
from ensemble.commands.terminal import Observer, Terminal, run_options
from ensemble.decision import fitting
from ensemble.decision.oof_ensemble import load_oof_ensemble
from ensemble.decision.tuning import Tuning, save_tuning, tuning_file
from ensemble.recipes.schema import soft_f1_warnings
from ensemble.reporting.tables import steps_table
from folds.errors import MaskensError
from folds.files import must_be_writable
from folds.run_folder import load_run


@dataclass(frozen=True)
class Tuned:
    """What was fitted and kept."""

    tuning: Tuning
    path: Path
    earlier: Path | None  # where an earlier tuning is kept
    notes: tuple[str, ...]


def _print(done: Tuned, options: TuneOptions, terminal: Terminal) -> None:
    terminal.note(done.notes)
    terminal.print(steps_table(done.tuning))
    terminal.lines(done.tuning.summary, "bold")
    terminal.saved(done.path, done.earlier)
    terminal.next(f"maskens infer{run_options(options.run)}")


@step(TuneOptions, show=_print, first="run")
def tune(options: TuneOptions, observer: Observer) -> Tuned:
    """
    Raises:
        MaskensError: one run to be weighed, too few people, nothing trained.
    """
    runs = [load_run(folder) for folder in options.run]
    if options.blend and len(runs) == 1:
        raise MaskensError("--blend weighs several runs: --run A --run B --blend.")
    asked = {*(options.step or StepChoice), *(["weights"] * options.blend)}
    oof = load_oof_ensemble(runs, options.data, "cross-fitted")
    path = runs[0].folder / tuning_file([member.untuned for member in oof.runs])
    must_be_writable(path)
    chosen = [s for s in fitting.STEPS if s in asked]
    with observer.progress() as on_progress:
        tuning, nested = fitting.tune(oof, chosen, options.force, on_step=partial(on_progress, "fitting"))
    earlier = save_tuning(path, tuning, [oof.data.files[i] for i in oof.rows], nested)
    improper = [task for member in oof.runs for task in member.recipe.soft_f1_tasks if "temperatures" in chosen]
    warned = soft_f1_warnings(improper, "a temperature corrects its probabilities on average only")
    return Tuned(tuning, path, earlier, (*oof.notes, *warned))
