"""The folder of `maskens explore`: index.html and contact sheets as JPEG files; and its summary in the terminal."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from folds.explore.duplicates import FILE, candidates_csv, candidates_sheet
from folds.explore.exploration import Exploration, people_of
from folds.files import write_text
from folds.labels import AGE_CUTS, AGES, CLASS_NAMES, GENDERS, UNKNOWN, age_band, label_text
from folds.pages.charts import age_histogram
from folds.pages.contact_sheet import Cell, Sheet, photo_caption, save_sheets
from folds.pages.html import INDEX, render
from folds.people import repeated_ids
from folds.terminal_tables import new_table, table_of_classes

GENERATOR = "maskens explore"
OURS = re.compile(r"index\.html|merge-candidates\.csv|(class-\d\d|duplicates|labels|(augment|faces)-[\w-]+)\.jpg")
SHOWN = 8  # sizes and formats
PAIRS = 24  # people with nearly the same photo that are shown; all are counted
NEAR = 2  # years within which an age counts as near a cut
LISTED = 5  # problems of a kind in the terminal; the page has them all


class ClassRow(NamedTuple):
    number: int
    name: str
    people: int
    photos: int


def write_exploration(
    folder: Path, found: Exploration, augmented: Sequence[Sheet], faces: Sequence[Sheet], recipe: str, workers: int
) -> None:
    """Write the page and its pictures into an empty folder, in `workers` threads, with sheets of the transforms of the
    recipe of this name and of the faces that it crops. Raises MaskensError: the system refuses to write."""
    everyone = sorted({(p.group, p.gender, p.age) for p in found.data.people})  # a person of two folders counts once
    years = [[age for _, g, age in everyone if g == gender and age >= 0] for gender in range(len(GENDERS))]
    classes, labels = class_sheets(found), label_sheet(found)
    pairs = candidates_sheet(found.data, found.candidates[:PAIRS], workers)
    if found.candidates:
        write_text(folder / FILE, candidates_csv(found.candidates))
    save_sheets(folder, [*classes, pairs, labels, *augmented, *faces], workers)
    extremes = {
        name: [_cell(found, i, f"{value:.0f}: {photo_caption(found.data.files[i])}") for i, value in photos]
        for name, photos in found.extremes.items()
    }
    html = render(
        "explore.html",
        generator=GENERATOR,
        title=f"Data exploration: {found.data.source}",
        found=found,
        classes=class_rows(found),
        groups=group_rows(found),
        findings=findings(found),
        bands=AGES,
        cuts=AGE_CUTS,
        repeated=repeated_ids(found.data.people),
        people=len({p.group for p in found.data.people}),
        kinds=common(facts.kind for facts in found.photos.values()),
        sizes=common(facts.size for facts in found.photos.values()),
        extremes=extremes,
        ages=age_histogram(years),
        sheets=classes,
        pairs=pairs,
        labels=labels,
        augmented=augmented,
        faces=faces,
        recipe=recipe,
    )
    write_text(folder / INDEX, html)


def findings(found: Exploration) -> dict[str, str]:
    """What each section shows, in a sentence."""
    rows, years = class_rows(found), [p.age for p in found.data.people if p.age >= 0]
    rarest, most = min(rows, key=lambda r: r.photos), max(rows, key=lambda r: r.photos)
    near = sum(min(abs(year - cut + 0.5) for cut in AGE_CUTS) < NEAR for year in years)
    size, photos = common(facts.size for facts in found.photos.values())[0] if found.photos else ("no size", 0)
    return {
        "classes": f"The rarest class is {rarest.number} ({rarest.name}): {rarest.photos} photos of {rarest.people} "
        f"people; the largest is {most.number} ({most.name}): {most.photos} photos.",
        "ages": f"Ages range from {min(years or [0])} to {max(years or [0])}; {near} of {len(years)} labels are within "
        f"{NEAR} years of a cut.",
        "files": f"{photos} of {len(found.photos)} readable photos are {size} pixels; {len(found.unreadable)} can't be "
        "read.",
        "colour": "Mean red, green, blue: {:.0f}, {:.0f}, {:.0f} of 255.".format(*found.colour[0]),
        "labels": f"Conflicts between rows of {found.data.table_name} or with folder names: {len(found.conflicts)}.",
        "duplicates": f"Pairs of ids with nearly the same photo: {len(found.candidates)}.",
    }


def class_rows(found: Exploration) -> list[ClassRow]:
    """The 18 classes in their order."""
    data, rows = found.data, []
    for number, name in enumerate(CLASS_NAMES):
        persons = data.photo_person[data.classes == number]
        rows.append(ClassRow(number, name, len({data.people[i].group for i in persons}), len(persons)))
    return rows


def group_rows(found: Exploration) -> list[tuple[str, list[tuple[int, int]]]]:
    """(people, photos) of each age band and of all, a row a gender, the last row for both."""
    people = found.data.people
    bands = age_band([p.age for p in people]).tolist()

    def count(genders: Sequence[int], band: int | None) -> tuple[int, int]:
        inside = [p for p, b in zip(people, bands, strict=True) if p.gender in genders and band in (None, b)]
        return len({p.group for p in inside}), sum(len(p.photos) for p in inside)

    kinds = [*((name, [number]) for number, name in enumerate(GENDERS)), ("both", range(len(GENDERS)))]
    return [(name, [count(genders, band) for band in (*range(len(AGES)), None)]) for name, genders in kinds]


def common(values: Iterable[str]) -> list[tuple[str, int]]:
    """(value, photos) of the most common ones, most first."""
    return Counter(values).most_common(SHOWN)


def _cell(found: Exploration, photo: int, caption: str) -> Cell:
    number = int(found.data.classes[photo])
    name = CLASS_NAMES[number] if number != UNKNOWN else "not all labels known"
    return Cell(found.thumbs.get(photo), caption, f"{found.data.files[photo]} ({name})")


def class_sheets(found: Exploration) -> list[Sheet]:
    """A contact sheet a class, also of one without photos."""
    data = found.data
    return [
        Sheet(
            f"class-{row.number:02d}",
            f"class {row.number}: {row.name} ({len(drawn)} of {row.photos} photos)",
            tuple(_cell(found, photo, data.people[data.photo_person[photo]].path) for photo in drawn),
        )
        for row, drawn in zip(class_rows(found), found.drawn, strict=True)
    ]


def label_sheet(found: Exploration) -> Sheet:
    """The faces of the people whose labels disagree, with their row of the table."""
    cells = []
    for index in people_of(found.conflicts):
        p = found.data.people[index]
        caption = f"{p.path}\nid {p.id}, {label_text('gender', p.gender)}, {label_text('age', p.age)}"
        cells.append(_cell(found, int(found.data.portraits[index]), caption))
    return Sheet("labels", "people whose labels disagree, and their row in the table", tuple(cells), columns=6)


def summary_tables(found: Exploration) -> tuple[Table, Table]:
    """People and photos per class, rarest first; people per gender and age band."""
    classes = table_of_classes("people and photos per class, rarest first", "people", "photos")
    for row in sorted(class_rows(found), key=lambda r: (r.photos, r.number)):
        classes.add_row(*map(str, row))
    groups = new_table("people per gender and age band", "<gender", *(f">{name}" for name in (*AGES, "all")))
    for name, cells in group_rows(found):
        groups.add_row(name, *(str(people) for people, _ in cells))
    return classes, groups


def summary_lines(found: Exploration) -> list[str]:
    """What the photos are, a line a fact."""
    people, rows = len({p.group for p in found.data.people}), len(found.data.people)
    where = f"in {rows} rows" if found.data.table else f"on {rows} folders"

    def counts(what: str) -> str:
        rows = common(getattr(facts, what) for facts in found.photos.values())
        return "; ".join(f"{name} ({count})" for name, count in rows) or "none"

    colours = zip(("red", "green", "blue"), *found.colour, strict=True)
    return [
        f"{found.data.source}: {people} people {where}, {len(found.data.files)} photos",
        f"sizes (width x height): {counts('size')}",
        f"formats: {counts('kind')}",
        f"colour, mean ± deviation of 255: {', '.join(f'{name} {m:.0f} ± {s:.0f}' for name, m, s in colours)}",
    ]


def warnings(found: Exploration) -> list[str]:
    """What looks wrong; of each kind the first few and how many there are."""
    kinds = {
        "unreadable photos": found.unreadable,
        "labels that disagree": [words for words, _ in found.conflicts],
        "nearly the same photo under two ids": [*map(str, found.candidates)],
    }
    return [
        "\n".join([f"{what}: {len(items)}", *(f"  - {item}" for item in items[:LISTED])])
        + (f"\n... and {len(items) - LISTED} more" if len(items) > LISTED else "")
        for what, items in kinds.items()
        if items
    ]
