"""Terminal table of what was verified of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from folds.pages.tables import new_table

if TYPE_CHECKING:
    from ensemble.evaluation.verify import Verification

SHOWN = 16  # characters of a hash or of another value that matches


def verification_table(found: Verification) -> Table:
    """What matches, a row for each kind of thing, and what does not, a row for each."""
    table = new_table(str(found.run.folder))
    for name in ("item", "expected", "found"):
        table.add_column(name, overflow="fold")
    for kind in dict.fromkeys(check.kind for check in found.checks):
        of_kind = [check for check in found.checks if check.kind == kind]
        good = [check for check in of_kind if check.ok]
        if len(good) == 1:
            table.add_row(Text(good[0].item), Text(_short(good[0].expected)), "ok")
        elif good:
            table.add_row(Text(f"{kind}: {len(good)} of {len(of_kind)}"), "as recorded", "ok")
        for check in of_kind:
            if not check.ok:
                values = (check.expected, check.found)
                expected, got = map(_short, values) if check.expected[:SHOWN] != check.found[:SHOWN] else values
                table.add_row(Text(check.item), Text(expected), Text(got), style="bold red")
    return table


def _short(text: str) -> str:
    return text if len(text) <= SHOWN or " " in text else f"{text[:SHOWN]}..."
