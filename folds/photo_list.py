"""Lists of photos: CSVs with a row a photo, whose paths are relative to the list. Opens no photo."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from folds.errors import MaskensError, did_you_mean, refuse
from folds.files import sha256_of_lines, unescape_cell
from folds.labels import FIELDS, UNKNOWN, parse_label
from folds.people import ALONE, LIST_COLUMNS, EvalData, Lists, Person, PhotoSet, no_label, on_disk
from folds.table import LINE, composed, read_table

LINKED_OUT = "is a link that leads out of the folder of photos: copy what it leads to"


def read_labelled_lists(own: Path | None, lists: Lists) -> tuple[Person, ...]:
    """The photos of a list with labels, if there is one, and of the extra lists, each sorted by path.

    Columns are photo, and any of person, mask, gender and age, whose cells may be empty. A photo without a person is
    one of its own. A list that lacks a column of `lists`, which another has, may have ours.

    Raises MaskensError: an unusable CSV, a column of `lists` that no list has, or rows with a wrong label or without a
    photo (all listed).
    """
    tables = [table for table in (own, *lists.extra) if table]
    if not tables and (lists.columns or lists.labels):
        raise MaskensError("--columns and --labels are for lists of photos: name one with --photos or --extra.")
    found = {table: [name for name in read_table(table, ())[0] if name != LINE] for table in tables}
    for ours, name in lists.column_names.items():
        if all(name not in there for there in found.values()):
            near = did_you_mean(name, {column for there in found.values() for column in there})
            have = "; ".join(f"{table} has {', '.join(there)}" for table, there in found.items())
            raise MaskensError(f"--columns {ours}={name}: no list has the column '{name}'{near}. {have}.")
    first = 0 if own else 1  # extra lists count from 1
    return tuple(p for n, table in enumerate(tables, first) for p in _read_list(table, found[table], lists, n))


def _read_list(table: Path, there: Sequence[str], lists: Lists, extra: int) -> list[Person]:
    """The photos of a list with the columns `there`; `extra` is the number of an extra list, else 0. Raises
    MaskensError as above."""
    names, words = lists.column_names, lists.words
    column = {ours: name for ours in LIST_COLUMNS for name in (ours, names.get(ours, ours)) if name in there}
    for what, any_of in (("photos", ("photo",)), ("labels", tuple(FIELDS))):
        if not column.keys() & set(any_of):
            raise MaskensError(
                f"{table} has no {what}: it needs a column {' or '.join(any_of)}{did_you_mean(any_of[0], there)}; "
                f"it has {', '.join(there)}. Other names: --columns {any_of[0]}=NAME"
            )
    rows = read_table(table, tuple(column.values()))
    problems, people = list[str](), list[Person]()
    files = ListedFiles(table.parent, "")
    for row in rows:
        photo = _cell_path(row[column["photo"]])
        faults = [fault] if (fault := files.fault(photo, row[LINE], on_disk(table.parent, photo))) else []
        values = dict.fromkeys(FIELDS, UNKNOWN)
        for field in FIELDS.keys() & column.keys():
            text = unescape_cell(row[column[field]])
            value = words[field].get(text, parse_label(field, text)) if text else UNKNOWN
            if value is None or (field == "age" and value == 0):
                faults.append(no_label(field, text, words[field]))
            values[field] = UNKNOWN if value is None else value
        problems += [f"{table.name} row {row[LINE]}: {fault}" for fault in faults]
        if not faults and (stat := files.stats[photo]):
            person = composed(unescape_cell(row[column["person"]])) if "person" in column else ""
            masks, changed = (values["mask"],), (stat.st_mtime_ns,)
            label = (values["gender"], values["age"])
            path = f"extra{extra}:{photo}" if extra else photo
            size, is_extra = (stat.st_size,), extra > 0
            people.append(Person(path, person or path, *label, ALONE, size, masks, changed, extra=is_extra))
    words_too = "" if lists.labels else " Map other words: --labels gender:M=male,F=female"
    refuse(problems, f"{table} and its photos don't fit together", f"Correct them and run again.{words_too}")
    return sorted(people, key=lambda p: p.path)


def read_eval_list(table: Path, skip_bad: bool = False) -> EvalData:
    """Read a list of photos to predict: a CSV with a column `photo`.

    `skip_bad` skips photos whose files are missing or empty. Raises MaskensError: an unusable CSV, or rows without a
    photo (all listed).
    """
    root = table.parent
    listed = [(row[LINE], _cell_path(row["photo"])) for row in read_table(table, ("photo",))]
    return photos_to_predict(
        table, "photo", [(n, photo, on_disk(root, photo)) for n, photo in listed], root, "", skip_bad
    )


def _cell_path(cell: str) -> str:
    """./a is a."""
    return str(PurePosixPath(unescape_cell(cell)))


def inside(path: str) -> bool:
    """Whether a path of a CSV stays below the folder that it is relative to, and names something there."""
    parts = PurePosixPath(path.replace("\\", "/"))
    return not (parts.is_absolute() or ".." in parts.parts or str(parts) == "." or ":" in path)


def leads_out(path: Path, real_images: str) -> bool:
    """Whether a link below the folder of photos leads out of it. The folder may be a link itself."""
    return not os.path.realpath(path).startswith(real_images + os.sep)


class ListedFiles:
    """The files of a table's photos, checked one after the other.

    Args:
        root: whole names are relative to it.
        folder: below `root`; the table's names are relative to it.
        column: that holds them.
    """

    def __init__(self, root: Path, folder: str, column: str = "photo") -> None:
        self.images, self.nested, self.column = root / folder, not folder, column
        self.real = os.path.realpath(self.images)
        self.seen: dict[str, str] = {}  # name -> row
        self.stats: dict[str, os.stat_result | None] = {}
        self.bad: dict[str, str] = {}  # name -> why, of those that are missing or empty

    def fault(self, name: str, row: str, file: Path | None) -> str:
        """What is wrong with a photo, "" if nothing is; `file` is where it should be."""
        if name in self.seen:
            return f"{self.column} '{name}' is already in row {self.seen[name]}"
        self.seen[name], self.stats[name] = row, None
        if self.nested and not inside(name):
            return f"{self.column} '{name}' is not a file inside {self.images}"
        if file is None or not file.is_file():
            self.bad[name] = "is missing"
        elif (self.nested or os.path.islink(file)) and leads_out(file, self.real):
            return f"{self.images / name} {LINKED_OUT}"
        else:
            stat = self.stats[name] = file.stat()
            if stat.st_size == 0:
                self.bad[name] = "is an empty file"
        return f"{self.images / name} {self.bad[name]}" if name in self.bad else ""


def photos_to_predict(
    table: Path,
    column: str,
    rows: Sequence[tuple[str, str, Path | None]],
    root: Path,
    folder: str,
    skip_bad: bool = False,
) -> EvalData:
    """The photos of a table, checked.

    Args:
        rows: of each photo its row in the table, its name in `column`, and its file, None if there is none.
        root: whole names are relative to it.
        folder: below `root`; the table's names are relative to it.
        skip_bad: skips photos whose files are missing or empty.

    Raises:
        MaskensError: photos that are missing, empty, named twice, or links that lead out of the folder (all listed).
    """
    files, problems = ListedFiles(root, folder, column), list[str]()
    for number, image, file in rows:
        again = image in files.seen
        if (fault := files.fault(image, number, file)) and (again or not (skip_bad and image in files.bad)):
            problems.append(f"{table.name} row {number}: {fault}")
    skip = " Or skip files that are missing or empty: maskens infer --skip-bad-photos" if files.bad else ""
    refuse(problems, f"{table} and its photos don't fit together", f"Correct them and run again.{skip}")
    stats = files.stats
    fingerprint = sha256_of_lines(f"{i}\t{s.st_size if s else 'missing'}" for i, s in stats.items())
    path: Mapping[str, str] = {i: f"{folder}/{i}" if folder else i for i in stats}
    skipped = {path[i]: fault for i, fault in files.bad.items()}
    changed = [s.st_mtime_ns if s else 0 for s in stats.values()]
    return EvalData(tuple(stats), PhotoSet(root, [*path.values()], fingerprint, skipped, changed))
