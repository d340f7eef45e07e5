"""maskens compare."""

from __future__ import annotations

import ensemble.evaluation.compare as comparing
from ensemble.commands.options import CompareOptions
from ensemble.commands.step import step
from ensemble.commands.terminal import Observer, Terminal
from ensemble.reporting.tables import class_gain_table, comparison_line, differences_table, scores_table


def _print(found: comparing.Comparison, options: CompareOptions, terminal: Terminal) -> None:
    terminal.print(differences_table(found), class_gain_table(found), scores_table(found))
    terminal.note(found.notes)
    terminal.say(comparison_line(found, options.checkpoint, options.tta), "dim")


@step(CompareOptions, show=_print, first="runs")
def compare(options: CompareOptions, observer: Observer) -> comparing.Comparison:
    """
    Raises:
        MaskensError: fewer than two runs, runs of other photos, nothing trained.
    """
    return comparing.compare_runs(options.runs, options.data, options.tta, options.checkpoint)
