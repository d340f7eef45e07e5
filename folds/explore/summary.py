"""The terminal's view of what `maskens explore` found."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from folds.data.labels import AGES
from folds.explore.exploration import Exploration
from folds.explore.page import class_rows, group_rows, in_several, kind_rows, size_rows
from folds.pages.tables import new_table, table_of_classes

LISTED = 5  # problems of a kind; the page has them all


def class_table(found: Exploration) -> Table:
    """People and photos per class, rarest first."""
    table = table_of_classes("people and photos per class, rarest first", ["people", "photos"])
    for row in sorted(class_rows(found), key=lambda r: (r.photos, r.number)):
        table.add_row(str(row.number), row.name, str(row.people), str(row.photos))
    return table


def group_table(found: Exploration) -> Table:
    """People per gender and age band."""
    table = new_table("people per gender and age band")
    for name in ("", *AGES, "all"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for row in group_rows(found):
        table.add_row(row.name + row.mark, *(str(people) for people, _ in (*row.bands, row.total)))
    return table


def summary_lines(found: Exploration) -> list[str]:
    """What the photos are, a line a fact."""
    mean, spread = found.measures.colour
    people, rows = len({p.group for p in found.data.people}), len(found.data.people)
    colour = ", ".join(f"{n} {m:.0f} ± {s:.0f}" for n, m, s in zip(("red", "green", "blue"), mean, spread, strict=True))
    footnote = in_several(found)
    return [
        *([footnote] if footnote else []),
        f"{found.data.root}: {people} people on {rows} folders, {len(found.data.files)} photos",
        f"sizes (width x height): {_counts(size_rows(found))}",
        f"formats: {_counts(kind_rows(found))}",
        f"colour, mean and spread of 255: {colour}",
    ]


def warning_lines(found: Exploration) -> list[str]:
    """What looks wrong; of each kind the first few and how many there are."""
    pairs = ["  ~  ".join(found.data.files[photo] for photo in c.photos) for c in found.candidates]
    kinds = (
        ("unreadable photos", found.measures.unreadable),
        ("labels that disagree", [f.words for f in found.findings]),
        ("nearly the same photo under two people", pairs),
    )
    lines = []
    for what, items in kinds:
        if items:
            rest = [f"... and {len(items) - LISTED} more"] if len(items) > LISTED else []
            lines.append("\n".join([f"warning: {what}: {len(items)}", *(f"  - {i}" for i in items[:LISTED]), *rest]))
    return lines


def _counts(rows: Sequence[tuple[str, int]]) -> str:
    return "; ".join(f"{name} ({count})" for name, count in rows) or "none"
