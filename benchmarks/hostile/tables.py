"""CSVs: the labels, the photos to predict, folds, fixes and merges of one's own, submissions."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random

from folds.labels import CLASSES, GENDERS, MASKS, SHOT_MASK, SHOTS
from hostile.judge import Verdict, command, judge
from hostile.mutations import ODD_TEXTS, spoiled_text
from hostile.workplace import Workplace

Labels = dict[str, tuple[str, int, int, tuple[int, ...]]]  # path -> (id, gender, years, masks)

AS_NAMED = tuple(SHOT_MASK[shot] for shot in SHOTS)


def spoiled_csv(rng: Random, content: bytes) -> bytes:
    """A CSV with a cell, a row, a column or its text otherwise."""
    text = content.decode()
    if rng.random() < 0.5:
        return spoiled_text(rng, text)
    rows = list(csv.reader(io.StringIO(text)))
    row, column = rng.randrange(len(rows)), rng.randrange(len(rows[0]))
    other = rng.choice(rows)[rng.randrange(len(rows[0]))]
    odd, near = rng.choice(ODD_TEXTS), rng.choice((str.upper, str.title, str.strip))(rows[row][column] + " ")
    more = rng.choice(("", "x", other))
    ways: list[Callable[[], object]] = [
        partial(rows[row].__setitem__, column, odd),
        partial(rows[row].__setitem__, column, other),
        partial(rows[row].__setitem__, column, near),
        partial(rows[row].insert, column, more),
        partial(rows[row].append, more),
        partial(rows[row].pop, column),
        partial(rows.append, list(rows[row])),
        partial(rows.__setitem__, slice(None), [[*r[:column], r[column], *r[column:]] for r in rows]),
        partial(rows.__setitem__, slice(None), [[*r[:column], *r[column + 1 :], r[column]] for r in rows]),
    ]
    rng.choice(ways)()
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode()


def plain_rows(content: bytes, needed: Sequence[str]) -> list[dict[str, str]] | None:
    """The rows of a CSV as stripped text, cells that a row lacks empty; None where it has to be refused: not Unicode,
    quotes that don't match, a needed column missing or there twice, cells without a column, no rows."""
    try:
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        header = text.lstrip().partition("\n")[0]
        separator = next((s for s in ",;\t" if s in header), ",")
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
        records = [[cell.strip() for cell in row] for row in reader if row]
    except (UnicodeError, csv.Error):
        return None
    if "\0" in text or not records or any(records[0].count(column) != 1 for column in needed):
        return None
    columns, *rows = records
    if not rows or any(any(row[len(columns) :]) for row in rows):
        return None
    form = str if "ImageID" in needed else partial(unicodedata.normalize, "NFC")  # ImageIDs are written back
    padding = [""] * len(columns)
    return [dict(zip(columns, map(form, row + padding), strict=False)) for row in rows]


def plain_number(cell: str) -> int:
    """A whole number from 0 up, `20` or `20.0`; -1 for another cell."""
    found = re.fullmatch(r"(\d{1,18})(\.0+)?", cell)
    return int(found[1]) if found else -1


def labels_in(content: bytes, folders: set[str]) -> Labels | None:
    """What a train.csv says of people whose photos are in these folders; None where it has to be refused."""
    rows = plain_rows(content, ("id", "gender", "age", "path"))
    found: Labels = {}
    for row in rows or ():
        path, gender, age = row["path"], row["gender"].lower(), row["age"]
        years = plain_number(age)
        same = path.rstrip("/").removeprefix("./")
        if same not in folders or same in {p.rstrip("/").removeprefix("./") for p in found}:
            return None
        if not row["id"] or gender not in GENDERS or not 0 <= years <= 120:
            return None
        found[path] = row["id"], GENDERS.index(gender), years, AS_NAMED
    return found or None


def train_csv(rng: Random, place: Workplace) -> Verdict:
    file = place.data / "train" / "train.csv"
    spoiled = spoiled_csv(rng, file.read_bytes())
    run = place.scratch("run")
    with place.spoiled({file: spoiled}):
        ended = command("folds", "--data", place.data, "--run", run, "--k", 2, "--quiet")
    folders = {p.name for p in (place.data / "train" / "images").iterdir()}
    return judge(ended, lambda: _fault(run, labels_in(spoiled, folders)))


def _fault(run: Path, expected: Labels | None, groups: Mapping[str, str] | None = None) -> str:
    """What is wrong with the folds of a run: labels other than expected, or a person in two folds."""
    if expected is None:
        return "what has to be refused was accepted"
    with (run / "folds.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    found = {
        _typed(r["path"]): (_typed(r["id"]), r["gender"], int(r["age"]), _masks(r.get("masks") or "")) for r in rows
    }
    wanted = {path: (i, GENDERS[g], years, masks) for path, (i, g, years, masks) in expected.items()}
    if found != wanted:
        return f"other labels: {found.items() ^ wanted.items()}"
    group = {i: (groups or {}).get(i, i) for i, *_ in expected.values()}
    pairs = {(group[_typed(r["id"])], r["fold"]) for r in rows}
    return "" if len(pairs) == len(set(group.values())) else "a person is in two folds"


def _masks(words: str) -> tuple[int, ...]:
    return tuple(MASKS.index(word) for word in words.split("/")) if words else AS_NAMED


def info_csv(rng: Random, place: Workplace) -> Verdict:
    file = place.data / "eval" / "info.csv"
    spoiled = spoiled_csv(rng, file.read_bytes())
    out = place.scratch("submission.csv")
    known = dict(line.split(",") for line in place.submission.decode().splitlines())
    rows = plain_rows(spoiled, ["ImageID"])
    expected = None if rows is None else [row["ImageID"] for row in rows]
    with place.spoiled({file: spoiled}):
        ended = command(
            *("infer", "--run", place.run, "--out", out, "--cache", "none"),
            *("--workers", 0, "--device", "cpu", "--quiet"),
        )

    def fault() -> str:
        found = [tuple(line.split(",")) for line in out.read_text().splitlines()[1:]]
        return "" if expected and found == [(i, known.get(i)) for i in expected] else f"{expected}, and not {found}"

    return judge(ended, fault)


def own_folds_csv(rng: Random, place: Workplace) -> Verdict:
    """Folds of one's own, for `maskens folds --folds-file`."""
    spoiled = spoiled_csv(rng, (place.run / "folds.csv").read_bytes())
    file, run = place.scratch("own.csv"), place.folder / "scratch" / "run"
    file.write_bytes(spoiled)
    ended = command("folds", "--data", place.data, "--run", run, "--folds-file", file, "--quiet")
    rows = plain_rows(spoiled, ("path", "fold"))

    def fault() -> str:
        people = _people(place)
        if rows is None or sorted(r["path"] for r in rows) != sorted(people):
            return "rows that are not those of train.csv were accepted"
        with (run / "folds.csv").open(newline="") as handle:
            found = {_typed(r["path"]): r["fold"] for r in csv.DictReader(handle)}
        wanted = {r["path"]: str(plain_number(r["fold"])) for r in rows}
        return _fault(run, people) if found == wanted else f"other folds: {found.items() ^ wanted.items()}"

    return judge(ended, fault)


def _people(place: Workplace) -> Labels:
    folders = {p.name for p in (place.data / "train" / "images").iterdir()}
    found = labels_in((place.data / "train" / "train.csv").read_bytes(), folders)
    assert found
    return found


def fixes_csv(rng: Random, place: Workplace) -> Verdict:
    people = _people(place)
    chosen = rng.sample(sorted(people), 4)
    lines = ["path,photo,field,old,new,reason"]
    for path, field in zip(chosen, ("age", "gender", "mask", "age"), strict=True):
        _, gender, years, _ = people[path]
        old, new = {
            "age": (str(years), str(years + 1)),
            "gender": (GENDERS[gender], GENDERS[1 - gender]),
            "mask": ("not wear", "wear"),
        }[field]
        shown = f"*{path[3:]}" if rng.random() < 0.3 else path
        lines.append(f"{shown},{'normal' if field == 'mask' else ''},{field},{old},{new},looked at")
    spoiled = spoiled_csv(rng, "\n".join(lines).encode() + b"\n")
    file, run = place.scratch("fixes.csv"), place.folder / "scratch" / "run"
    file.write_bytes(spoiled)
    ended = command("folds", "--data", place.data, "--run", run, "--k", 2, "--fixes", file, "--quiet")
    return judge(ended, lambda: _fault(run, fixed(people, spoiled)))


def fixed(people: Labels, content: bytes) -> Labels | None:
    """The labels after a list of fixes; None where it has to be refused."""
    rows = plain_rows(content, ("path", "photo", "field", "old", "new", "reason"))
    found, seen = dict(people), set[tuple[str, str, str]]()
    for row in rows or ():
        path, photo, field, old, new = (_typed(row[c]) for c in ("path", "photo", "field", "old", "new"))
        fitting = [p for p in people if _fits(path, p)]
        if len(fitting) != 1 or (fitting[0], photo, field) in seen or (field == "mask") != (photo in SHOTS):
            return None
        seen.add((fitting[0], photo, field))
        person, gender, years, masks = found[fitting[0]]
        try:
            if field == "age":
                before, after, now = plain_number(old), plain_number(new), years
                years = after
            elif field == "gender":
                before, after, now = GENDERS.index(old.lower()), GENDERS.index(new.lower()), gender
                gender = after
            else:
                shot = SHOTS.index(photo)
                before, after, now = MASKS.index(old.lower()), MASKS.index(new.lower()), masks[shot]
                masks = (*masks[:shot], after, *masks[shot + 1 :])
        except ValueError:
            return None
        if before != now or after == now or (field != "mask" and photo):
            return None
        found[fitting[0]] = person, gender, years, masks
    return found if rows else None


def _fits(pattern: str, name: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name, re.DOTALL) is not None


def _typed(cell: str) -> str:
    return cell[1:] if cell[:1] == "'" and cell[1:2] in ("=", "+", "-", "@", "\t", "\r") else cell


def merges_csv(rng: Random, place: Workplace) -> Verdict:
    people = _people(place)
    ids = sorted({i for i, *_ in people.values()})
    pairs = [rng.sample(ids, 2) for _ in range(2)]
    spoiled = spoiled_csv(rng, "".join(f"{a},{b}\n" for a, b in [["a", "b"], *pairs]).encode())
    file, run = place.scratch("merges.csv"), place.folder / "scratch" / "run"
    file.write_bytes(spoiled)
    ended = command("folds", "--data", place.data, "--run", run, "--k", 2, "--merge", file, "--quiet")

    def fault() -> str:
        rows, group = plain_rows(spoiled, ("a", "b")), {i: i for i in ids}
        alone = {i.lstrip("0"): i for i in ids if sum(j.lstrip("0") == i.lstrip("0") for j in ids) == 1}
        for row in rows or ():
            a, b = (alone.get(i, i) for i in (_typed(row["a"]), _typed(row["b"])))
            if a not in group or b not in group or a == b:
                return "ids that are not in train.csv were merged"
            low, high = sorted((group[a], group[b]))
            group = {i: low if g == high else g for i, g in group.items()}
        return _fault(run, people if rows else None, group)

    return judge(ended, fault)


def submission_csv(rng: Random, place: Workplace) -> Verdict:
    """A CSV to be handed in, for `maskens check-submission`."""
    spoiled = spoiled_csv(rng, place.submission)
    file = place.scratch("mine.csv")
    file.write_bytes(spoiled)
    ended = command("check-submission", file, "--run", place.run)
    rows = plain_rows(spoiled, ("ImageID", "ans"))

    def fault() -> str:
        exact = list(rows[0]) == ["ImageID", "ans"] if rows else False
        right = exact and rows is not None and [r["ImageID"] for r in rows] == list(place.ids)
        right = right and all(r["ans"].isdecimal() and int(r["ans"]) < CLASSES for r in rows or ())
        return "" if right else "a submission that does not fit was accepted"

    return judge(ended, fault)
