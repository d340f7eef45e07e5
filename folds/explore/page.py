"""What `maskens explore` leaves: index.html, its pictures as PNG files, and its summary in the terminal."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import joblib
from rich.table import Table

from folds.explore.exploration import PAIRS, Exploration, people_of, photo_caption, portrait
from folds.explore.merge_candidates import FILE, candidates_csv, candidates_sheet
from folds.files import replacing, write_text
from folds.labels import AGE_CUTS, AGES, CLASS_NAMES, GENDERS, age_band
from folds.pages.charts import age_histogram
from folds.pages.contact_sheet import Cell, Sheet, save
from folds.pages.html import render, write_page
from folds.pages.tables import new_table, table_of_classes

GENERATOR = "maskens explore"
OURS = re.compile(
    r"index\.html|merge-candidates\.csv|ages\.png|(class-\d\d|duplicates|labels|(augment|faces)-[\w-]+)(-\d+)?\.jpg"
)
SIZES_SHOWN = 8
NEAR = 2  # years within which an age counts as near a cut
NAMED = 5  # ids of a footnote


@dataclass(frozen=True)
class ClassRow:
    """A class in numbers."""

    number: int
    name: str
    people: int
    photos: int


@dataclass(frozen=True)
class GroupRow:
    """A gender: (people, photos) of each age band and of all."""

    name: str
    bands: tuple[tuple[int, int], ...]
    total: tuple[int, int]

    @property
    def mark(self) -> str:
        """*" where the people of the bands are more than the total, which `in_several` explains; else ""."""
        return " *" if sum(people for people, _ in self.bands) != self.total[0] else ""


def write_exploration(
    folder: Path, found: Exploration, augmented: Sequence[Sheet], faces: Sequence[Sheet], recipe: str, workers: int
) -> None:
    """Write the page and its pictures into an empty folder.

    Args:
        augmented: sheets with `heads` that show what a recipe's transforms do.
        faces: sheets of photos with the faces that a recipe cuts out.
        recipe: its name.
        workers: threads that draw.

    Raises:
        MaskensError: if the system refuses to write.
    """
    years = people_years(found)
    light, dark = age_histogram(years), age_histogram(years, dark=True)
    with replacing(folder / "ages.png") as handle:
        handle.write(light)
    classes, labels = class_sheets(found), label_sheet(found)
    pairs = candidates_sheet(found.data, found.candidates, PAIRS, found.thumbs)
    if found.candidates:
        write_text(folder / FILE, candidates_csv(found.data, found.candidates))
    sheets = [*classes, *(s for s in (pairs, labels) if s.cells), *augmented, *faces]
    joblib.Parallel(n_jobs=workers, prefer="threads")(joblib.delayed(save)(folder, s) for s in sheets)
    html = render(
        "explore.html",
        generator=GENERATOR,
        title=f"The data in {found.data.root}",
        found=found,
        measures=found.measures,
        classes=class_rows(found),
        groups=group_rows(found),
        several=in_several(found),
        findings=findings(found),
        bands=AGES,
        cuts=AGE_CUTS,
        people=len({p.group for p in found.data.people}),
        kinds=kind_rows(found),
        sizes=size_rows(found),
        extremes=extreme_cells(found),
        light=light,
        dark=dark,
        sheets=classes,
        pairs=pairs,
        labels=labels,
        augmented=augmented,
        faces=faces,
        recipe=recipe,
    )
    write_page(folder, html)


def findings(found: Exploration) -> dict[str, str]:
    """What each section shows, in a sentence."""
    rows, years = class_rows(found), [p.age for p in found.data.people]
    rarest, most = min(rows, key=lambda r: r.photos), max(rows, key=lambda r: r.photos)
    near = sum(min(abs(year - cut + 0.5) for cut in AGE_CUTS) < NEAR for year in years)
    (size, photos), *others = size_rows(found) or [("no readable photo", 0)]
    pairs, odd = len(found.candidates), len(found.findings)
    return {
        "classes": f"The rarest class is {rarest.number} ({rarest.name}): {rarest.photos} photos of {rarest.people} "
        f"people; the largest is {most.number} ({most.name}): {most.photos} photos.",
        "ages": f"Ages range from {min(years)} to {max(years)}; {near} of {len(years)} labels are within {NEAR} years "
        "of a cut.",
        "files": f"{photos} of {int(found.measures.readable.sum())} readable photos are {size} pixels."
        if others
        else f"All readable photos are {size} pixels.",
        "labels": f"{odd} {'conflict' if odd == 1 else 'conflicts'} between rows of train.csv or with folder names.",
        "duplicates": f"{pairs} {'pair' if pairs == 1 else 'pairs'} of people with nearly the same photo.",
    }


def class_rows(found: Exploration) -> list[ClassRow]:
    """The 18 classes in their order."""
    photos = Counter(found.data.classes.tolist())
    return [
        ClassRow(number, name, people, photos[number])
        for number, (name, people) in enumerate(zip(CLASS_NAMES, found.class_people, strict=True))
    ]


def group_rows(found: Exploration) -> list[GroupRow]:
    """People and photos per gender x age band, a row a gender, the last row for both."""
    people = found.data.people
    bands = age_band([p.age for p in people]).tolist()

    def count(genders: Sequence[int], band: int | None) -> tuple[int, int]:
        inside = [p for p, b in zip(people, bands, strict=True) if p.gender in genders and band in (None, b)]
        return len({p.group for p in inside}), sum(len(p.photos) for p in inside)

    kinds = [(name, [number]) for number, name in enumerate(GENDERS)] + [("both", list(range(len(GENDERS))))]
    return [GroupRow(n, tuple(count(g, b) for b in range(len(AGES))), count(g, None)) for n, g in kinds]


def in_several(found: Exploration) -> str:
    """A footnote on people who count in several groups of `group_rows`, "" if nobody does."""
    groups: dict[str, set[tuple[int, int]]] = {}
    bands = age_band([p.age for p in found.data.people]).tolist()
    for person, band in zip(found.data.people, bands, strict=True):
        groups.setdefault(person.group, set()).add((person.gender, band))
    several = sorted(group for group, mine in groups.items() if len(mine) > 1)
    if not several:
        return ""
    ids = ", ".join(several[:NAMED]) + (" ..." if len(several) > NAMED else "")
    people = f"{len(several)} people have" if len(several) > 1 else "1 person has"
    return f"* {people} labels in several groups: counted in each, but once in the totals. Ids: {ids}"


def people_years(found: Exploration) -> list[list[int]]:
    """Ages of the people of each gender; who is on two folders counts once, unless at two ages."""
    everyone = sorted({(p.group, p.gender, p.age) for p in found.data.people})
    return [[age for _, g, age in everyone if g == gender] for gender in range(len(GENDERS))]


def kind_rows(found: Exploration) -> list[tuple[str, int]]:
    """(end of the name, real format and colour mode; photos), most first."""
    return Counter(k for k in found.measures.kinds if k).most_common()


def size_rows(found: Exploration) -> list[tuple[str, int]]:
    """(width x height, photos), most first; rare sizes together in the last row."""
    counts = Counter(f"{w} x {h}" for h, w in found.measures.sizes[found.measures.readable].tolist()).most_common()
    rest = counts[SIZES_SHOWN:]
    return counts[:SIZES_SHOWN] + ([(f"{len(rest)} other sizes", sum(n for _, n in rest))] if rest else [])


def _cell(found: Exploration, photo: int, caption: str) -> Cell:
    name = CLASS_NAMES[int(found.data.classes[photo])]
    return Cell(found.thumbs.get(photo), caption, f"{found.data.files[photo]} ({name})")


def _path(found: Exploration, photo: int) -> str:
    return found.data.people[int(found.data.photo_person[photo])].path


def class_sheets(found: Exploration) -> list[Sheet]:
    """A contact sheet a class, also of one without photos."""
    return [
        Sheet(
            f"class-{row.number:02d}",
            f"class {row.number}: {row.name} ({len(drawn)} of {row.photos} photos)",
            tuple(_cell(found, photo, _path(found, photo)) for photo in drawn),
        )
        for row, drawn in zip(class_rows(found), found.drawn, strict=True)
    ]


def label_sheet(found: Exploration) -> Sheet:
    """The faces of the people whose labels disagree, with what train.csv says of them."""
    cells = []
    for index in people_of(found.findings):
        person = found.data.people[index]
        words = f"{person.path}\nid {person.id}, {GENDERS[person.gender]}, {person.age}"
        cells.append(_cell(found, portrait(index), words))
    return Sheet("labels", "people whose labels disagree, and their row in train.csv", tuple(cells), columns=6)


def extreme_cells(found: Exploration) -> dict[str, list[Cell]]:
    """The photos that stand out, with the value that makes them so."""
    return {
        name: [_cell(found, photo, f"{value:.0f}: {photo_caption(found.data, photo)}") for photo, value in photos]
        for name, photos in found.extremes.items()
    }


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
