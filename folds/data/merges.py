"""Merged ids: two ids that are one person, as data, applied in memory; nothing in the data folder changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from folds.data.people import TrainData, fingerprint_of
from folds.data.table import LINE, read_table, with_zeros
from folds.errors import SHOWN, MaskensError, counted, did_you_mean, refuse, typed
from folds.files import as_typed, listing_text, sha256_of_text

COLUMNS = ("a", "b")
NONE = "none"  # in place of a list: no merges


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
    rows = [(name, row) for name in names for row in read_table(Path(name), COLUMNS)]
    return tuple(Merge(as_typed(row["a"]), as_typed(row["b"]), name, row[LINE]) for name, row in rows)


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
    return listing_text(COLUMNS, rows) if rows else ""


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
