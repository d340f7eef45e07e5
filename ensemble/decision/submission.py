"""The 18-class CSV: writing it, reading it back, and catching a broken one before it is handed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from folds.errors import MaskensError, refuse
from folds.files import csv_text, replace_keeping, safe_csv
from folds.labels import CLASSES, IntArray
from folds.people import describe_skipped
from folds.table import LINE, composed, read_table, whole_number

HEADER = ("ImageID", "ans")
WARN_DISTANCE = 0.25  # total variation distance of predictions from the training set's mix of classes
WARN_ABSENT = 10.0  # photos of a class that the training set's mix leads one to expect


def write_submission(path: Path, ids: Sequence[str], classes: IntArray) -> Path | None:
    """Write ImageID,ans in the order given. Returns where the file that was there before is kept, if it differed."""
    return replace_keeping(path, csv_text(HEADER, zip(ids, classes.tolist(), strict=True)))


def skipped_file(path: Path) -> Path:
    """Where the photos of a submission that could not be read are listed: beside it."""
    return path.with_suffix(".skipped.csv")


def skipped_warning(path: Path, skipped: Mapping[str, str], photos: int) -> str:
    """A warning about photos of a submission that could not be read, ImageID -> why; "" if there are none."""
    if not skipped:
        return ""
    count = f"{len(skipped):,} of {photos:,} photos can't be read and are answered without a model"
    return f"{count}: {describe_skipped(skipped)}. All are listed in {skipped_file(path)}"


def skipped_text(skipped: Mapping[str, str], ids: Sequence[str], classes: IntArray) -> str:
    """A row for each photo that could not be read, ImageID -> why, with its answer; "" if there is none."""
    rows = [(i, skipped[i], ans) for i, ans in zip(ids, classes.tolist(), strict=True) if i in skipped]
    return safe_csv(("ImageID", "reason", "ans"), rows) if rows else ""


def read_answers(path: Path, exact: bool = False) -> tuple[list[str], IntArray]:
    """ImageID and class of each row of a submission or an answers file. `exact` refuses what a leaderboard may refuse,
    and classes like `1.0`. Raises MaskensError: unusable CSV; rows whose class is not a whole number in 0..17, or
    repeated ids, listed."""
    rows = read_table(path, HEADER, exact)
    problems = []
    seen: dict[str, str] = {}
    classes = []
    for row in rows:
        number = row[LINE]
        if row["ImageID"] in seen:
            problems.append(f"row {number}: ImageID '{row['ImageID']}' is already in row {seen[row['ImageID']]}")
        seen.setdefault(row["ImageID"], number)
        value = whole_number(row["ans"])
        if not 0 <= value < CLASSES:
            problems.append(f"row {number}: ans '{row['ans']}' is not a class in 0..{CLASSES - 1}")
        classes.append(value)
    decimal = [row for row in rows if "." in row["ans"] and whole_number(row["ans"]) >= 0]
    if exact and decimal:
        example = f"{len(decimal)} answers are decimal numbers, like '{decimal[0]['ans']}' in row {decimal[0][LINE]}"
        problems.append(f"{example}: write whole numbers (in pandas: frame['ans'].astype(int))")
    refuse(problems, f"{path} is not usable")
    return [r["ImageID"] for r in rows], np.array(classes, dtype=np.int64)


def align(path: Path, ids: Sequence[str], exact: bool = False) -> IntArray:
    """Classes of a file of answers, int64 (photos,), in the order of `ids`, not its own. `exact` refuses
    what a leaderboard may refuse. Raises MaskensError: if the file does not hold exactly these ids."""
    found, classes = read_answers(path, exact)
    ids, found = ([composed(i) for i in names] for names in (ids, found))
    place = {i: n for n, i in enumerate(found)}
    missing = [i for i in ids if i not in place]
    extra = place.keys() - set(ids)
    if missing or extra:
        example = missing[0] if missing else next(iter(extra))
        raise MaskensError(
            f"{path} holds other photos: {len(missing)} are missing and {len(extra)} are unexpected, e.g. {example}."
        )
    return classes[[place[i] for i in ids]]


def read_people(path: Path, column: str) -> IntArray:
    """Who is on each photo of a table, as info.csv: int64 (photos,), equal for photos of one person, 0..people-1.

    Raises MaskensError: no such column, one that names no people, or rows where it is empty, listed.
    """
    if column in (*HEADER, "photo"):
        raise MaskensError(f"--person-column {column}: that column of {path} does not say who is on a photo.")
    rows = read_table(path, (column,))
    empty = [f"row {row[LINE]}: '{column}' is empty" for row in rows if not row[column]]
    refuse(empty, f"{path} does not name the person on every photo")
    return np.unique([row[column] for row in rows], return_inverse=True)[1].astype(np.int64)


@dataclass(frozen=True)
class SubmissionCheck:
    """What a submission looks like compared with the training set."""

    photos: int
    histogram: IntArray  # (18,)
    expected: IntArray  # (18,), photos a class would have at the training prior, rounded
    distance: float  # total variation distance of the two, 0..1
    warnings: tuple[str, ...]


def check_submission(path: Path, ids: Sequence[str], class_photos: Sequence[int]) -> SubmissionCheck:
    """Check that a file has the rows of info.csv in its order with classes in 0..17; `class_photos` are the photos of
    each class in training, (18,). Raises MaskensError: if a leaderboard would refuse or misread the file."""
    found, classes = read_answers(path, exact=True)
    if found != list(ids):
        missing, extra = set(ids) - set(found), set(found) - set(ids)
        problems = [f"{len(missing)} photos of info.csv have no row, e.g. {min(missing)}"] if missing else []
        problems += [f"{len(extra)} rows are not in info.csv, e.g. {min(extra)}"] if extra else []
        if not problems:
            first = next(n for n, (a, b) in enumerate(zip(found, ids, strict=True)) if a != b)
            problems = [f"the rows are not in the order of info.csv, from row {first + 2} on"]
        refuse(problems, f"{path} does not fit info.csv", "Write it again: maskens infer")
    return class_mix(classes, class_photos)


def class_mix(classes: IntArray, class_photos: Sequence[int]) -> SubmissionCheck:
    """The classes of a submission compared with the training set's, (18,)."""
    histogram = np.bincount(classes, minlength=CLASSES).astype(np.int64)
    prior = np.array(class_photos) / sum(class_photos)
    expected = prior * len(classes)
    distance = float(np.abs(histogram / len(classes) - prior).sum() / 2)
    warnings = []
    if distance > WARN_DISTANCE:
        warnings.append(
            f"the mix of classes differs from training: {distance:.0%} of the photos would have to change class. "
            "Unless these photos really differ, check the models and the photos"
        )
    absent = [str(c) for c in range(CLASSES) if histogram[c] == 0 and expected[c] >= WARN_ABSENT]
    if absent:
        warnings.append(f"no photo at all is of class {', '.join(absent)}")
    return SubmissionCheck(len(classes), histogram, expected.round().astype(np.int64), distance, tuple(warnings))
