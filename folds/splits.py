"""Person-grouped, stratified folds, and the checks that make a leak impossible rather than unlikely."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from folds.errors import MaskensError, refuse
from folds.files import safe_csv, unescape_cell
from folds.labels import AGES, CLASSES, GENDERS, MASKS, UNKNOWN, IntArray, age_band, label_text
from folds.people import AS_NAMED, Person, TrainData
from folds.ranges import NO_FOLD
from folds.table import LINE, find_name, read_table, whole_number

COLUMNS = ("path", "id", "fold", "gender", "age", "photos", "bytes", "stratum")
STRATA = tuple(f"{g} {a}" for g in GENDERS for a in AGES)
NO_AGE, NO_GENDER = (f"{g}, no age" for g in GENDERS), (f"{a}, no gender" for a in AGES)
STRATA_AND_UNKNOWN = (*STRATA, *NO_AGE, *NO_GENDER, "no gender or age")


def strata(people: Sequence[Person]) -> IntArray:
    """int64 (people,), indices into STRATA_AND_UNKNOWN: gender x age band, 0..5 where both are known. The mask state
    adds nothing to a row of train.csv: a person has all three, but for fixes."""
    genders = np.array([p.gender for p in people], dtype=np.int64)
    bands = age_band([p.age for p in people])
    found = np.where(genders == UNKNOWN, len(STRATA) + len(GENDERS) + bands, genders * len(AGES) + bands)
    found[bands == UNKNOWN] = (len(STRATA) + genders)[bands == UNKNOWN]
    found[(genders == UNKNOWN) & (bands == UNKNOWN)] = len(STRATA_AND_UNKNOWN) - 1
    return found


def largest_k(people: Sequence[Person]) -> tuple[int, str]:
    """The most folds that can all hold every class, and the limiting stratum, with the mask state if fixes left some of
    its people without a photo of it ("incorrect, male >=60")."""
    having = Counter((m, s) for m, s, _ in {(m, s, p.group) for p, s in _with_strata(people) for m in p.masks})
    least, mask, rarest = min((having[m, s], m, s) for m in range(len(MASKS)) for s in range(len(STRATA)))
    in_stratum = len({p.group for p, s in _with_strata(people) if s == rarest})
    return least, STRATA[rarest] if least == in_stratum else f"{MASKS[mask]}, {STRATA[rarest]}"


def _with_strata(people: Sequence[Person]) -> list[tuple[Person, int]]:
    return list(zip(people, strata(people).tolist(), strict=True))


def make_folds(data: TrainData, k: int, seed: int) -> IntArray:
    """The fold of each row, int64 (people,), whatever the order of the table; NO_FOLD for extra photos of people in no
    fold. Raises MaskensError: `k` folds can't all hold every class."""
    if (data.classes[data.scored] == UNKNOWN).all():
        raise MaskensError(f"no row of {data.table} has mask, gender and age: none can be scored.")
    people = data.own
    possible, rarest = largest_k(people)
    if k < 2:
        raise MaskensError(f"--k {k}: at least 2 folds are needed, one to train on and one to validate on.")
    if k > possible:
        hint = f"The largest k that works is {possible}." if possible >= 2 else "No k works with these people."
        raise MaskensError(
            f"--k {k}: every fold needs each gender, age band and mask state, but only {possible} people are "
            f"'{rarest}'. {hint}"
        )
    labels = strata(people)
    if data.table:  # a photo has one mask state, or none
        labels = labels * (len(MASKS) + 1) + np.array([p.masks[0] - UNKNOWN for p in people])
    folds = with_extra(data, split([p.group for p in people], labels, k, seed))
    check_folds(data, folds, k)
    return folds


def with_extra(data: TrainData, folds: IntArray) -> IntArray:
    """int64 (people,): the folds, int64 (own people,), and those of extra photos: their person's, so that nobody is
    trained on who is held out; NO_FOLD for a person who is in no fold."""
    home = dict(zip((p.group for p in data.own), folds.tolist(), strict=True))
    extra = [home.get(p.group, NO_FOLD) for p in data.people[len(folds) :]]
    return np.concatenate([folds, np.array(extra, dtype=np.int64)])


def split(groups: Sequence[str], labels: IntArray, k: int, seed: int) -> IntArray:
    """The fold of each row, int64 (rows,), by scikit-learn's StratifiedGroupKFold: rows of a group together, each fold
    with its share of each label. `groups` and `labels`, int64, are (rows,)."""
    from sklearn.model_selection import StratifiedGroupKFold  # here, because it takes a second to import

    folds = np.empty(len(groups), dtype=np.int64)
    splitter = StratifiedGroupKFold(n_splits=k, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of rare labels: `check_folds` refuses what matters
        for fold, (_, held_out) in enumerate(splitter.split(np.zeros(len(groups)), labels, groups)):
            folds[held_out] = fold
    return folds


def check_folds(data: TrainData, folds: IntArray, k: int) -> None:
    """Raise MaskensError if a person is in two folds or none, or a class is missing from a fold."""
    problems = []
    home: dict[str, int] = {}
    for person, fold in zip(data.people, folds.tolist(), strict=True):
        if person.extra and fold == NO_FOLD:
            continue
        if not 0 <= fold < k:
            problems.append(f"{person.path}: fold {fold} is not in 0..{k - 1}")
        elif home.setdefault(person.group, fold) != fold:
            who = f"id {person.id}" + (f", one person with id {person.group}," if person.merged_into else "")
            problems.append(f"{person.path}: {who} is in fold {home[person.group]} and in fold {fold} (a leak)")
    per_fold = photos_per_class_and_fold(data, folds, k)
    for fold in range(k):
        if not per_fold[:, fold].any():
            problems.append(f"fold {fold} is empty")
        elif (absent := np.flatnonzero(per_fold[:, fold] == 0)).size:
            problems.append(f"fold {fold} has no photo of class {', '.join(map(str, absent))}")
    largest = largest_k(data.own)[0]
    otherwise = f"Up to {largest} folds can work here if the people are split otherwise, as with another --seed."
    refuse(
        problems,
        "these folds would not give an honest score",
        f"The largest k that works here is {largest}." if k > largest else otherwise,
    )


def photos_per_class_and_fold(data: TrainData, folds: IntArray, k: int) -> IntArray:
    """int64 (18, k): photos of each class in each fold, without those that lack a label and extra ones."""
    photo_folds = folds[data.photo_person]
    valid = (photo_folds >= 0) & (photo_folds < k) & (data.classes != UNKNOWN) & data.scored
    return np.bincount((data.classes * k + photo_folds)[valid], minlength=CLASSES * k).reshape(CLASSES, k)


def folds_csv(data: TrainData, folds: IntArray) -> str:
    """The text of folds.csv: a row per row of the table, sorted by path. Columns `person` and `masks` follow merged ids
    and fixed masks if there are any, so that the hash of the file, to which models are bound, does too."""
    rows = [
        (p.path, p.id, fold, *_labels(p), len(p.photos), sum(p.bytes), STRATA_AND_UNKNOWN[s])
        for (p, s), fold in zip(_with_strata(data.own), folds.tolist(), strict=False)
    ]
    more = {}
    if any(p.merged_into for p in data.own):
        more["person"] = [p.group for p in data.own]
    if any(p.masks != AS_NAMED for p in data.own):
        more["masks"] = [
            "" if p.masks == AS_NAMED else "/".join(label_text("mask", m) for m in p.masks) for p in data.own
        ]
    return safe_csv((*COLUMNS, *more), [(*row, *cells) for row, *cells in zip(rows, *more.values(), strict=True)])


def _labels(person: Person) -> tuple[str, str]:
    """Gender and age as text."""
    return label_text("gender", person.gender), label_text("age", person.age)


def read_folds(path: Path, data: TrainData) -> tuple[IntArray, int]:
    """(folds, int64 (people,); k) from a CSV with at least the columns `path` and `fold`, ours or the user's own.

    Raises MaskensError: rows that are not people of the data, people without a row, folds that leak.
    """
    problems = list[str]()
    wanted = {p.path for p in data.own}
    assigned: dict[str, int] = {}
    for row in read_table(path, ("path", "fold")):
        number, name, fold = row[LINE], find_name(row["path"], wanted), whole_number(row["fold"])
        if name not in wanted:
            problems.append(f"row {number}: '{name}' is not in {data.table_name}")
        elif name in assigned:
            problems.append(f"row {number}: '{name}' is there twice")
        elif fold < 0:
            problems.append(f"row {number}: fold '{row['fold']}' is not a number from 0 up")
        assigned.setdefault(name, fold)
    problems += [f"'{p}' has no row" for p in sorted(wanted - assigned.keys())]
    refuse(problems, f"{path} does not fit the data in {data.source}")
    k = max(assigned.values()) + 1
    if k < 2:
        raise MaskensError(f"{path} puts all people into one fold: none is left to validate on.")
    if k > len(assigned):
        raise MaskensError(f"{path} names fold {k - 1} but has only {len(assigned)} people.")
    folds = with_extra(data, np.array([assigned[p.path] for p in data.own], dtype=np.int64))
    check_folds(data, folds, k)
    return folds, k


def what_changed(path: Path, data: TrainData) -> list[str]:
    """People whose rows or photo sizes differ from folds.csv; empty if others differ."""
    before = {unescape_cell(r["path"]): r | {"id": unescape_cell(r["id"])} for r in read_table(path, COLUMNS)}
    now = {p.path: p for p in data.own}
    lines = [f"{p} is new" for p in sorted(now.keys() - before.keys())]
    lines += [f"{p} is gone" for p in sorted(before.keys() - now.keys())]
    for name in sorted(now.keys() & before.keys()):
        person, row = now[name], before[name]
        present = (person.id, *_labels(person))
        if row["id"] != person.id and find_name(person.id, [row["id"]]) == row["id"]:
            lines.append(f"{name}: id is {person.id}, was {row['id']} (a spreadsheet drops zeros: save ids as text)")
        elif present != (row["id"], row["gender"], row["age"]):
            lines.append(f"{name}: id, gender or age differ from what folds.csv recorded")
        elif str(sum(person.bytes)) != row["bytes"]:
            lines.append(f"{name}: its photo files have another size")
    return lines


def people_per_fold(data: TrainData, folds: IntArray, k: int) -> IntArray:
    """int64 (k,): people in each fold; who has several folders, or ages in two bands, counts once."""
    unique = {(fold, p.group) for fold, p in zip(folds.tolist(), data.own, strict=False)}
    return np.bincount([fold for fold, _ in unique], minlength=k).astype(np.int64)


def people_per_stratum_and_fold(data: TrainData, folds: IntArray, k: int) -> IntArray:
    """int64 (6 or 12, k): people (a double folder counts once) of each of STRATA, or of STRATA_AND_UNKNOWN where labels
    are unknown, in each fold."""
    rows = {(s, f, p.group) for (p, s), f in zip(_with_strata(data.own), folds.tolist(), strict=False)}
    strata_there = len(STRATA_AND_UNKNOWN if any(s >= len(STRATA) for s, _, _ in rows) else STRATA)
    cells = [stratum * k + fold for stratum, fold, _ in rows]
    return np.bincount(cells, minlength=strata_there * k).reshape(-1, k)
