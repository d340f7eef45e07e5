"""Terminal tables in the one style of all commands."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text


def new_table(title: str = "", left: Sequence[str] = (), right: Sequence[str] = ()) -> Table:
    """A table without vertical lines.

    Args:
        title: plain text, not markup: it may hold a path.
        left, right: names of its first columns, which don't wrap, by how they are justified.
    """
    table = Table(title=Text(title) if title else None, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in left:
        table.add_column(name, no_wrap=True)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def table_of_classes(title: str, right: Sequence[str] = ()) -> Table:
    """A table with a row a class: its number, its name, then columns of figures."""
    table = new_table(title, right=[""])
    table.add_column("class", no_wrap=True)
    for name in right:
        table.add_column(name, justify="right")
    return table
