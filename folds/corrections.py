"""Corrections of the labels as data, applied in memory: label fixes, and two ids that are one person."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from folds.errors import SHOWN, MaskensError, counted, did_you_mean, refuse, typed
from folds.files import safe_csv, sha256_of_text, unescape_cell
from folds.labels import GENDERS, MASKS, SHOTS
from folds.people import OLDEST, Fix, Person, TrainData, fingerprint_of
from folds.table import LINE, read_table, whole_number, with_zeros

COLUMNS = ("path", "photo", "field", "old", "new", "reason")
FIELDS: dict[str, tuple[str, ...]] = {"gender": GENDERS, "age": (), "mask": MASKS}  # names; age has years instead
NONE = "none"  # in place of a list: no fixes, no merges


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
        Fix(**{c: unescape_cell(row[c]) for c in COLUMNS}, source=name, row=row[LINE])
        for row in read_table(file, COLUMNS)
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
    return safe_csv(COLUMNS, [[getattr(f, c) for c in COLUMNS] for f in fixes]) if fixes else ""


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


MERGE_COLUMNS = ("a", "b")


@dataclass(frozen=True)
class Merge:
    """Two ids that are one person. Where that comes from is no part of its identity."""

    a: str
    b: str
    source: str = dataclasses.field(default="", compare=False)
    row: str = dataclasses.field(default="", compare=False)


def read_merges(names: Sequence[str]) -> tuple[Merge, ...]:
    """The rows of CSV files with the columns a and b, unchecked: whether they fit is known when they are applied.

    Args:
        names: files; or "none" alone.

    Raises:
        MaskensError: no such file, an unusable CSV, or "none" together with others.
    """
    if NONE in names:
        if set(names) != {NONE}:
            raise MaskensError(f"--merge {NONE} drops all merges and can't go together with others.")
        return ()
    rows = [(name, row) for name in names for row in read_table(Path(name), MERGE_COLUMNS)]
    return tuple(Merge(unescape_cell(row["a"]), unescape_cell(row["b"]), name, row[LINE]) for name, row in rows)


def apply_merges(data: TrainData, merges: Sequence[Merge]) -> TrainData:
    """The data with these ids as one person, on top of those that are one already; no merges, the same data.

    What is merged goes on: with a-b and b-c, a and c are one person too. The person goes by the smallest of its ids.

    Returns:
        data whose people have `merged_into`, and a fingerprint that follows it.

    Raises:
        MaskensError: ids that are not in the data or pairs of one id, all listed together, with file and row.
    """
    if not merges:
        return data
    ids = sorted({p.id for p in data.people})
    place = {i: n for n, i in enumerate(ids)}
    problems = list[str]()
    merges = [dataclasses.replace(m, a=with_zeros(m.a, place), b=with_zeros(m.b, place)) for m in merges]
    for m in merges:
        faults = [
            f"{column} '{i}' is not in train.csv{did_you_mean(i, ids) if len(problems) < SHOWN else ''}"
            for column, i in (("a", m.a), ("b", m.b))
            if i not in place
        ]
        faults += [f"a and b are both '{m.a}'"] if m.a == m.b and not faults else []
        problems += [f"{m.source} row {m.row}: {fault}" for fault in faults]
    refuse(
        problems,
        f"these merges don't fit the data in {data.root} ({counted(problems)})",
        "Mend the list, or go on without it: --merge none.",
    )
    pairs = {(place[m.a], place[m.b]) for m in merges} | {(place[p.id], place[p.group]) for p in data.people}
    first = _smallest_connected(len(ids), sorted(pairs))
    smallest = {i: ids[first[n]] for i, n in place.items()}
    people = tuple(dataclasses.replace(p, merged_into=_unless_same(smallest[p.id], p.id)) for p in data.people)
    return dataclasses.replace(data, people=people, fingerprint=fingerprint_of(people))


def _unless_same(group: str, person_id: str) -> str:
    return "" if group == person_id else group


def _smallest_connected(count: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Of each of `count` things the first that pairs connect it with, by whatever steps."""
    import numpy as np  # with scipy here, as few runs have merges
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    a, b = np.array(pairs).T
    graph = coo_array((np.ones(len(pairs), dtype=np.int8), (a, b)), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    _, first = np.unique(label, return_index=True)
    return [int(n) for n in first[label]]


def merged_people(data: TrainData) -> Mapping[str, tuple[str, ...]]:
    """Of each person that several ids were merged to: the id it goes by -> all its ids, sorted."""
    found: dict[str, set[str]] = {}
    for p in data.people:
        if p.merged_into:
            found.setdefault(p.merged_into, {p.merged_into}).add(p.id)
    return {group: tuple(sorted(found[group])) for group in sorted(found)}


def merged_csv(data: TrainData) -> str:
    """The text that `read_merges` reads, a row an id that goes by another; "" without merges."""
    rows = [(group, i) for group, ids in merged_people(data).items() for i in ids if i != group]
    return safe_csv(MERGE_COLUMNS, rows) if rows else ""


def kept_merges(file: Path, expected: str) -> tuple[Merge, ...]:
    """The merges that a run keeps in `file`, empty if it has none.

    Args:
        expected: sha256 of the file; "" if the run has no merges.

    Raises:
        MaskensError: the file is missing or not as it was made.
    """
    if sha256_of_text(file) == expected:
        return read_merges([str(file)]) if expected else ()
    wrong = "is missing" if not file.exists() else "was edited after it was made, or not made by this run"
    raise MaskensError(
        f"{file} {wrong}. Name the merged ids again: maskens folds --run {typed(file.parent)} "
        "--merge FILE (or --merge none); "
        "or, where models were trained, put the file back."
    )
