"""maskens tune."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensemble.commands.options import DEFAULT_RUNS, DataOption, QuietOption, RunsOption
from ensemble.commands.step import step
from ensemble.commands.terminal import Observer, Terminal, run_options
from folds.errors import MaskensError

if TYPE_CHECKING:
    from ensemble.decision.tuning import Tuning

ASKED_FOR = ("view-weights", "weights")  # steps that are no part of a tuning unless they are named


class StepChoice(StrEnum):
    views = "views"
    view_weights = "view-weights"
    temperatures = "temperatures"
    offsets = "offsets"


@dataclass(frozen=True)
class Options:
    """What is fitted, for which runs."""

    step: Annotated[
        list[StepChoice] | None,
        typer.Option("--step", help="Only these; may be repeated. By default all but view-weights."),
    ] = None
    blend: Annotated[
        bool, typer.Option("--blend", help="Fit the weights of several runs by greedy selection; else they are equal.")
    ] = False
    force: Annotated[bool, typer.Option("--force", help="Keep what is fitted even if its gain is noise.")] = False
    run: RunsOption = DEFAULT_RUNS
    data: DataOption = None
    quiet: QuietOption = False


@dataclass(frozen=True)
class Tuned:
    """What was fitted and kept."""

    tuning: Tuning
    path: Path
    earlier: Path | None  # where an earlier tuning is kept
    notes: tuple[str, ...]


def _print(done: Tuned, options: Options, terminal: Terminal) -> None:
    from ensemble.reporting.tables import steps_table

    terminal.note(done.notes)
    terminal.print(steps_table(done.tuning))
    for line in done.tuning.summary:
        terminal.say(line, "bold")
    if done.earlier:
        terminal.say(f"the earlier tuning is kept as {done.earlier}")
    terminal.say(f"saved: {done.path}")
    terminal.say(f"next: maskens infer{run_options(options.run)}", "dim")


@step(Options, show=_print, first="run")
def tune(options: Options, observer: Observer) -> Tuned:
    """Fit the decision on out-of-fold logits; what is worth more than noise is kept and used by infer.

    The set of views, a weight for each of them, a temperature of each head, offsets of the classes, weights of
    the runs. Each is scored by cross-validation over people: on people that it was not fitted on.

    Example:  maskens tune --run runs/default --run runs/heads --blend
    \f
    Raises:
        MaskensError: one run to be weighed, too few people, nothing trained.
    """
    from ensemble.decision.blend import load_oof_ensemble
    from ensemble.decision.fitting import STEPS
    from ensemble.decision.fitting import tune as fit_steps
    from ensemble.decision.tuning import save_tuning, tuning_file
    from ensemble.recipes.schema import soft_f1_warnings
    from folds.files import must_be_writable
    from folds.run_folder import load_run

    runs = [load_run(folder) for folder in options.run]
    if options.blend and len(runs) == 1:
        raise MaskensError("--blend weighs several runs: --run A --run B --blend.")
    wanted = {*(options.step or (s for s in STEPS if s not in ASKED_FOR)), *(["weights"] if options.blend else [])}
    blend = load_oof_ensemble(runs, options.data, "cross-fitted")
    path = runs[0].folder / tuning_file([member.untuned for member in blend.runs])
    must_be_writable(path)
    chosen = [s for s in STEPS if s in wanted]
    with observer.progress() as on_progress:
        tuning, nested = fit_steps(blend, chosen, options.force, on_step=partial(on_progress, "fitting"))
    earlier = save_tuning(path, tuning, [blend.data.files[i] for i in blend.rows], nested)
    improper = [task for member in blend.runs for task in member.recipe.soft_f1_tasks if "temperatures" in chosen]
    warned = soft_f1_warnings(improper, "a temperature corrects its probabilities on average only")
    return Tuned(tuning, path, earlier, (*blend.notes, *warned))
