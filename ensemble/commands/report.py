"""maskens report."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ensemble.commands.options import ReportOptions
from ensemble.commands.score import Scored, evaluate_runs
from ensemble.commands.step import step
from ensemble.commands.terminal import Observer, Terminal
from ensemble.reporting.report import GENERATOR, write_report
from ensemble.reporting.tables import headline
from folds.files import must_be_writable
from folds.pages.html import refuse_foreign_file
from folds.run_folder import file_of, load_run


@dataclass(frozen=True)
class Reported:
    """The score and the page that shows it."""

    scored: Scored
    path: Path
    replaced: bool  # an earlier report


def _print(done: Reported, options: ReportOptions, terminal: Terminal) -> None:
    terminal.note(done.scored.evaluation.notes)
    terminal.lines(headline(done.scored.evaluation, done.scored.runs), "bold")
    if done.replaced:
        terminal.say(f"the earlier report in {done.path} was replaced")
    if options.photos:
        terminal.say("it shows photos of people; --photos 0 makes a report without them")
    terminal.say(f"saved: {done.path}")


@step(ReportOptions, show=_print, first="run")
def report(options: ReportOptions, observer: Observer) -> Reported:
    """
    Raises:
        MaskensError: nothing trained, runs that don't belong together, or a file that is not a report's to replace.
    """
    path = options.out or file_of([load_run(folder) for folder in options.run], lambda run: run.report_file)
    must_be_writable(path)
    refuse_foreign_file(path, GENERATOR)
    scored = evaluate_runs(options)
    replaced = path.exists()
    with observer.progress() as on_progress:
        opened = partial(on_progress, "opening photos")
        write_report(path, scored.oof, scored.evaluation, options.photos, options.workers or -1, opened)
    return Reported(scored, path, replaced)
