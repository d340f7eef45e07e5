"""Corrections of the labels as data, applied in memory: label fixes, and two ids that are one person."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from folds.errors import MaskensError, did_you_mean, refuse
from folds.files import safe_csv, unescape_cell
from folds.labels import FIELDS, OLDEST, UNKNOWN, label_text, parse_label
from folds.people import Fix, Person, TrainData
from folds.table import LINE, find_name, read_table

FIX_COLUMNS = ("path", "photo", "field", "old", "new", "reason")
MERGE_COLUMNS = ("a", "b")
NONE = "none"  # in place of a list: no fixes, no merges


def shipped_fixes() -> dict[str, Path]:
    """Name -> file of the lists that come with maskens."""
    return {p.stem: p for p in sorted((Path(__file__).parent / "known_errors").glob("*.csv"))}


def read_fixes(names: Sequence[str]) -> tuple[Fix, ...]:
    """The rows of lists, shipped names or CSV files, or of "none" alone; `apply_fixes` checks them.

    Raises MaskensError: a name that is neither, an unusable CSV, or "none" together with others.
    """
    known = shipped_fixes()
    found = []
    for name in _lists("--fixes", names):
        file = known.get(name, Path(name))
        if not file.exists():
            raise MaskensError(
                f"--fixes {name}: there is no such list{did_you_mean(name, [*known, NONE])}. "
                f"Name {', '.join(known)}, a CSV file with the columns {', '.join(FIX_COLUMNS)}, or {NONE}."
            )
        for row in read_table(file, FIX_COLUMNS):
            cells = {c: unescape_cell(row[c]) for c in FIX_COLUMNS}
            found.append(Fix(**cells, source=name, where=f"{name} row {row[LINE]}"))
    return tuple(found)


def _lists(option: str, names: Sequence[str]) -> Sequence[str]:
    if NONE in names and set(names) != {NONE}:
        raise MaskensError(f"{option} {NONE} drops all rows and can't be combined with others.")
    return () if NONE in names else names


def apply_fixes(data: TrainData, fixes: Sequence[Fix]) -> TrainData:
    """The data with fixed labels and their sorted `fixes`, which name whole paths.

    Raises MaskensError: rows that don't fit the data or each other, all listed together, with file and row.
    """
    if not fixes:
        return data
    people = {p.path: p for p in data.people}
    problems = list[str]()
    seen = {(f.path, f.photo, f.field): f for f in data.fixes}
    for fix in fixes:
        fitting = [find_name(fix.path, people)]
        if fitting[0] not in people:
            pattern = re.sub(r"([\[?])", r"[\1]", fitting[0])  # only * is special; many of them don't backtrack
            fitting = [p for p in people if fnmatch.fnmatchcase(p, pattern)]
        if len(fitting) != 1:
            problems.append(
                f"{fix.where}: path '{fix.path}' fits {len(fitting)} rows of {data.table_name}, expected one"
            )
            continue
        person, key = people[fitting[0]], (fitting[0], fix.photo, fix.field)
        if key in seen:
            problems.append(f"{fix.where}: {fix.field} of '{key[0]}' is fixed in {seen[key].where} already")
        elif fault := _fault(fix, person):
            problems.append(f"{fix.where}: {fault}")
        else:
            old, new = (label_text(fix.field, _value(fix.field, text)) for text in (fix.old, fix.new))
            seen[key] = dataclasses.replace(fix, path=key[0], old=old, new=new)
            people[person.path] = _fixed(person, fix)
    refuse(problems, f"these fixes don't fit the data in {data.source}", "Correct the list, or skip it: --fixes none.")
    fixed = tuple(people[p.path] for p in data.people)
    in_order = sorted(seen.values(), key=lambda f: (f.path, f.field, f.photo))
    return dataclasses.replace(data, people=fixed, fixes=tuple(in_order))


def fixes_csv(fixes: Sequence[Fix]) -> str:
    """The text that `read_fixes` reads; "" without fixes."""
    return safe_csv(FIX_COLUMNS, [[getattr(f, c) for c in FIX_COLUMNS] for f in fixes]) if fixes else ""


def describe_fixes(data: TrainData) -> str:
    """Like "14 labels of 11 people (8 gender, 6 mask)"."""
    counts = Counter(f.field for f in data.fixes)
    fields = ", ".join(f"{counts[f]} {f}" for f in FIELDS if counts[f])
    paths = {f.path for f in data.fixes}
    people = {p.group for p in data.people if p.path in paths}  # a double folder counts once
    return f"{len(data.fixes)} labels of {len(people)} people ({fields})"


def _fault(fix: Fix, person: Person) -> str:
    """What is wrong with a row; "" if nothing is."""
    if fix.field not in FIELDS:
        return f"field '{fix.field}' is none of {', '.join(FIELDS)}{did_you_mean(fix.field, FIELDS)}"
    if fix.field == "mask" and fix.photo not in person.shots:
        shots = ", ".join(person.shots) or "empty: each photo has a row of its own"
        return f"photo '{fix.photo}' is none of {shots}{did_you_mean(fix.photo, person.shots)}"
    if fix.field != "mask" and fix.photo:
        return f"photo '{fix.photo}' is given, but {fix.field} is the same on all photos: leave it empty"
    names = () if fix.field == "age" else FIELDS[fix.field]
    bands_too = fix.field == "age" and person.age < UNKNOWN
    for column, text in (("old", fix.old), ("new", fix.new)):
        if (value := parse_label(fix.field, text)) is None or (value < 0 and not bands_too):
            allowed = f"none of {', '.join(names)}" if names else f"not a whole number of years between 0 and {OLDEST}"
            return f"{column} '{text}' is {allowed}{did_you_mean(text, names)}"
    old, new = _value(fix.field, fix.old), _value(fix.field, fix.new)
    if old == new:
        return f"old and new are both '{fix.new}'"
    now: int = person.masks[person.shots.index(fix.photo)] if fix.field == "mask" else getattr(person, fix.field)
    photo = f" {fix.photo}" if fix.photo else ""
    found = label_text(fix.field, now)
    return "" if now == old else f"{fix.field} of '{person.path}'{photo} is '{found}', not '{fix.old}'"


def _value(field: str, text: str) -> int:
    """The label in a cell that holds one."""
    value = parse_label(field, text)
    assert value is not None
    return value


def _fixed(person: Person, fix: Fix) -> Person:
    value = _value(fix.field, fix.new)
    if fix.field == "mask":
        masks = (value if shot == fix.photo else mask for shot, mask in zip(person.shots, person.masks, strict=True))
        return dataclasses.replace(person, masks=tuple(masks))
    return dataclasses.replace(person, **{fix.field: value})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Merge:
    """Two ids that are one person."""

    a: str
    b: str
    where: str = dataclasses.field(default="", compare=False)  # file and row


def read_merges(names: Sequence[str]) -> tuple[Merge, ...]:
    """The rows of CSV files with the columns a and b, or of "none" alone; `apply_merges` checks them.

    Raises MaskensError: no such file, an unusable CSV, or "none" together with others.
    """
    rows = [(n, row) for n in _lists("--merge", names) for row in read_table(Path(n), MERGE_COLUMNS)]
    return tuple(Merge(r["a"], r["b"], f"{n} row {r[LINE]}") for n, r in rows)


def apply_merges(data: TrainData, merges: Sequence[Merge]) -> TrainData:
    """The data with these ids as one person, whose group is the smallest of its ids, on top of earlier merges.

    Merges are transitive: a-b and b-c also merge a and c. Raises MaskensError: ids that are not in the
    data or pairs of one id, all listed together, with file and row.
    """
    if not merges:
        return data
    parent = {p.id: p.group for p in data.people}

    def root(i: str) -> str:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    problems = []
    for m in merges:
        a, b = find_name(m.a, parent), find_name(m.b, parent)
        missing = [
            f"{m.where}: {c} '{i}' is not in {data.table_name}" for c, i in (("a", a), ("b", b)) if i not in parent
        ]
        problems += missing or ([f"{m.where}: a and b are both '{a}'"] if a == b else [])
        if not missing:
            first, second = sorted((root(a), root(b)))
            parent[second] = first
    refuse(problems, f"these merges don't fit the data in {data.source}", "Correct the list, or skip it: --merge none.")
    people = tuple(dataclasses.replace(p, merged_into="" if root(p.id) == p.id else root(p.id)) for p in data.people)
    return dataclasses.replace(data, people=people)


def merged_people(data: TrainData) -> Mapping[str, tuple[str, ...]]:
    """Of each person that several ids were merged to: the id of the group -> all its ids, sorted."""
    found: dict[str, set[str]] = {}
    for p in data.people:
        if p.merged_into:
            found.setdefault(p.merged_into, {p.merged_into}).add(p.id)
    return {group: tuple(sorted(found[group])) for group in sorted(found)}


def merged_csv(data: TrainData) -> str:
    """The text that `read_merges` reads, a row an id that is in the group of another; "" without merges."""
    rows = [(group, i) for group, ids in merged_people(data).items() for i in ids if i != group]
    return safe_csv(MERGE_COLUMNS, rows) if rows else ""
