"""Label fixes: known errors of the labels as data, applied in memory; nothing on disk changes."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from folds.data.labels import GENDERS, MASKS, SHOTS
from folds.data.people import OLDEST, Fix, Person, TrainData, fingerprint_of
from folds.data.table import LINE, read_table, whole_number, with_zeros
from folds.errors import SHOWN, MaskensError, counted, did_you_mean, refuse
from folds.files import as_typed, listing_text

COLUMNS = ("path", "photo", "field", "old", "new", "reason")
FIELDS: dict[str, tuple[str, ...]] = {"gender": GENDERS, "age": (), "mask": MASKS}  # names; age has years instead
NONE = "none"  # in place of a list: no fixes


def shipped() -> dict[str, Path]:
    """Name -> file of the lists that come with maskens."""
    return {p.stem: p for p in sorted((Path(__file__).parent / "known_errors").glob("*.csv"))}


def read_fixes(names: Sequence[str]) -> tuple[Fix, ...]:
    """The rows of shipped lists or CSV files, unchecked: whether they fit is known when they are applied.

    Args:
        names: shipped names or files, in any mix; or "none" alone.

    Raises:
        MaskensError: a name that is neither, an unusable CSV, or "none" together with others.
    """
    if NONE in names:
        if set(names) != {NONE}:
            raise MaskensError(f"--fixes {NONE} drops all fixes and can't go together with others.")
        return ()
    return tuple(fix for name in names for fix in _read(name))


def _read(name: str) -> list[Fix]:
    known = shipped()
    file = known.get(name, Path(name))
    if not file.exists():
        raise MaskensError(
            f"--fixes {name}: there is no such list{did_you_mean(name, [*known, NONE])}. "
            f"Name {', '.join(known)}, a CSV file with the columns {', '.join(COLUMNS)}, or {NONE}."
        )
    return [
        Fix(**{c: as_typed(row[c]) for c in COLUMNS}, source=name, row=row[LINE]) for row in read_table(file, COLUMNS)
    ]


def apply_fixes(data: TrainData, fixes: Sequence[Fix]) -> TrainData:
    """The data with other labels, and a fingerprint that follows them; no fixes, the same data.

    Returns:
        data whose `fixes` name whole paths and are sorted, whatever the order in which they were given.

    Raises:
        MaskensError: rows that don't fit the data or each other, all listed together, with file and row.
    """
    if not fixes:
        return data
    people = {p.path: p for p in data.people}
    problems, found = list[str](), list[Fix]()
    seen = {(f.path, f.photo, f.field): f for f in data.fixes}
    for fix in fixes:
        faults = _row_faults(fix)
        path, fault = _folder(fix.path, people, suggest=len(problems) < SHOWN)
        if fault:
            faults.append(fault)
        elif (first := seen.setdefault((path, fix.photo, fix.field), fix)) is not fix:
            faults.append(f"{_label(fix, path)} is fixed in {first.where} already")
        elif not faults:
            faults += _label_faults(fix, people[path])
        problems += [f"{fix.where}: {f}" for f in faults]
        found.append(dataclasses.replace(fix, path=path))
    refuse(
        problems,
        f"these fixes don't fit the data in {data.root} ({counted(problems)})",
        "Mend the list, or go on without it: --fixes none.",
    )
    for fix in found:
        people[fix.path] = _fixed(people[fix.path], fix)
    fixed = tuple(people[p.path] for p in data.people)
    in_order = sorted([*data.fixes, *map(_normal, found)], key=lambda f: (f.path, f.field, f.photo))
    return dataclasses.replace(data, people=fixed, fingerprint=fingerprint_of(fixed), fixes=tuple(in_order))


def fixes_csv(fixes: Sequence[Fix]) -> str:
    """The text that `read_fixes` reads; "" without fixes."""
    return listing_text(COLUMNS, [[getattr(f, c) for c in COLUMNS] for f in fixes]) if fixes else ""


def fixed_people(data: TrainData) -> int:
    """People (a double folder counts once) with a fixed label."""
    paths = {f.path for f in data.fixes}
    return len({p.group for p in data.people if p.path in paths})


def describe_fixes(data: TrainData) -> str:
    """Like "14 labels of 11 people (8 gender, 6 mask)"."""
    counts = Counter(f.field for f in data.fixes)
    labels = "1 label" if len(data.fixes) == 1 else f"{len(data.fixes)} labels"
    people = "1 person" if fixed_people(data) == 1 else f"{fixed_people(data)} people"
    return f"{labels} of {people} ({', '.join(f'{counts[f]} {f}' for f in FIELDS if counts[f])})"


def _row_faults(fix: Fix) -> list[str]:
    """What is wrong with a row whatever the data."""
    if fix.field not in FIELDS:
        return [f"field '{fix.field}' is none of {', '.join(FIELDS)}{did_you_mean(fix.field, FIELDS)}"]
    faults = []
    if fix.field == "mask" and fix.photo not in SHOTS:
        faults.append(f"photo '{fix.photo}' is none of {', '.join(SHOTS)}{did_you_mean(fix.photo, SHOTS)}")
    elif fix.field != "mask" and fix.photo:
        faults.append(f"photo '{fix.photo}' is given, but {fix.field} is the same on all photos: leave it empty")
    names = FIELDS[fix.field]
    allowed = f"none of {', '.join(names)}" if names else f"not a whole number of years between 0 and {OLDEST}"
    for column, text in (("old", fix.old), ("new", fix.new)):
        if _value(fix.field, text) < 0:
            faults.append(f"{column} '{text}' is {allowed}{did_you_mean(text, names)}")
    if not faults and _value(fix.field, fix.old) == _value(fix.field, fix.new):
        faults.append(f"old and new are both '{fix.new}'")
    return faults


def _label_faults(fix: Fix, person: Person) -> list[str]:
    now = person.gender if fix.field == "gender" else person.age
    if fix.field == "mask":
        now = person.masks[SHOTS.index(fix.photo)]
    if now == _value(fix.field, fix.old):
        return []
    instead = " already: leave the row out" if now == _value(fix.field, fix.new) else f", not '{fix.old}'"
    return [f"{_label(fix, person.path)} is '{_name(fix.field, now)}'{instead}"]


def _folder(path: str, people: Mapping[str, Person], suggest: bool) -> tuple[str, str]:
    """(the one folder that a path or pattern fits, "") or ("", what is wrong). Suggesting takes its time."""
    if (path := with_zeros(path, people)) in people:
        return path, ""
    if "*" not in path:
        return "", f"path '{path}' is not in train.csv{did_you_mean(path, people) if suggest else ''}"
    first, *middle, last = map(re.escape, path.split("*"))
    # each part where it comes first, once and for all: trying all places takes years with enough stars
    pattern = first + "".join(f"(?>.*?{part})" for part in middle) + ".*" + last
    fitting = [p for p in people if re.fullmatch(pattern, p)]
    if len(fitting) == 1:
        return fitting[0], ""
    listed = f"{len(fitting)} folders: {', '.join(fitting[:3])}" + (", ..." if len(fitting) > 3 else "")
    return "", f"path '{path}' fits {listed if fitting else 'no folder in train.csv'}"


def _value(field: str, text: str) -> int:
    """The label or the years that a cell names; -1 if it names none."""
    if field == "age":
        return years if (years := whole_number(text)) <= OLDEST else -1
    names = FIELDS[field]
    return names.index(text.lower()) if text.lower() in names else -1


def _name(field: str, value: int) -> str:
    return str(value) if field == "age" else FIELDS[field][value]


def _normal(fix: Fix) -> Fix:
    old, new = (_name(fix.field, _value(fix.field, text)) for text in (fix.old, fix.new))
    return dataclasses.replace(fix, old=old, new=new)


def _label(fix: Fix, path: str) -> str:
    return f"{fix.field} of '{path}'" + (f" {fix.photo}" if fix.photo else "")


def _fixed(person: Person, fix: Fix) -> Person:
    value = _value(fix.field, fix.new)
    if fix.field == "gender":
        return dataclasses.replace(person, gender=value)
    if fix.field == "age":
        return dataclasses.replace(person, age=value)
    shot = SHOTS.index(fix.photo)
    return dataclasses.replace(person, masks=(*person.masks[:shot], value, *person.masks[shot + 1 :]))
