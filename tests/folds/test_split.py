"""Folds that keep every person together and every class everywhere."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from conftest import MakeData
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from folds.errors import MaskensError
from folds.files import sha256
from folds.labels import SHOTS, IntArray
from folds.layout import read_train
from folds.people import Person, TrainData
from folds.splits import (
    STRATA,
    check_folds,
    folds_csv,
    largest_k,
    make_folds,
    people_per_fold,
    people_per_stratum_and_fold,
    photos_per_class_and_fold,
    read_folds,
    split,
    strata,
    what_changed,
)
from folds.terminal_tables import folds_table

Row = tuple[str, int, int]  # id, gender, age in years
PHOTOS = tuple(f"{s}.jpg" for s in SHOTS)
BANDS = ((0, 29), (30, 59), (60, 120))


def train_data(rows: Sequence[Row]) -> TrainData:
    people = tuple(Person(f"p{n:04d}", i, g, a, PHOTOS, (9,) * 7) for n, (i, g, a) in enumerate(rows))
    return TrainData(Path("data"), people)


def round_robin(people: int) -> TrainData:
    return train_data([(f"{n:04d}", n % 6 // 3, (20, 40, 60)[n % 3]) for n in range(people)])


@st.composite
def splittable(draw: st.DrawFn) -> tuple[TrainData, int]:
    """(data, k): at least k people in each stratum, some on several folders, rows in any order."""
    k = draw(st.integers(2, 5))
    rows: list[Row] = []
    for gender in range(2):
        for low, high in BANDS:
            for _ in range(draw(st.integers(k, k + 4))):
                rows.append((f"{len(rows):03d}", gender, draw(st.integers(low, high))))
    for again in draw(st.lists(st.integers(0, len(rows) - 1), max_size=6)):
        rows.append(rows[again])  # a second or third folder of the same person
    if draw(st.booleans()):
        rows.append((rows[0][0], 1 - rows[0][1], 120 - rows[0][2]))  # one whose labels disagree
    draw(st.randoms(use_true_random=False)).shuffle(rows)
    return train_data(rows), k


@given(splittable(), st.integers(0, 2**32 - 1))
def test_nobody_is_split_or_lost_and_every_fold_has_every_class(case: tuple[TrainData, int], seed: int) -> None:
    data, k = case
    folds = make_folds(data, k, seed)
    assert folds.shape == (len(data.people),)
    assert set(folds.tolist()) == set(range(k))
    homes: dict[str, set[int]] = {}
    for person, fold in zip(data.people, folds.tolist(), strict=True):
        homes.setdefault(person.id, set()).add(fold)
    assert all(len(home) == 1 for home in homes.values())
    for fold in range(k):
        assert {int(c) for c in data.classes[folds[data.photo_person] == fold]} == set(range(18))
    np.testing.assert_array_equal(make_folds(data, k, seed), folds)


def test_folds_do_not_depend_on_the_order_of_the_rows(tmp_path: Path, make_data: MakeData) -> None:
    root = make_data(tmp_path / "data", people=12)
    table = root / "train" / "train.csv"
    header, *rows = table.read_text().splitlines()
    texts = set()
    for seed in range(3):
        random.Random(seed).shuffle(rows)
        table.write_text("\n".join([header, *rows]))
        data = read_train(root)
        texts.add(folds_csv(data, make_folds(data, 2, 42)))
    assert len(texts) == 1


@pytest.mark.parametrize("sizes", [(50, 50, 50, 50, 50, 50), (61, 51, 10, 92, 75, 11)])
def test_every_fold_has_its_share_of_every_class_to_within_one_person(sizes: tuple[int, ...]) -> None:
    """300 people, 5 folds, both for even strata and for such as the data have."""
    spread = [stratum for stratum, size in enumerate(sizes) for _ in range(size)]
    for seed in range(5):
        random.Random(seed).shuffle(spread)
        data = train_data([(str(n), s // 3, (20, 40, 60)[s % 3]) for n, s in enumerate(spread)])
        counts = people_per_stratum_and_fold(data, make_folds(data, 5, seed), 5)
        assert counts.sum(axis=1).tolist() == list(sizes)
        assert np.abs(counts - np.array(sizes)[:, None] / 5).max() < 1


@given(splittable())
def test_the_largest_k_is_the_smallest_number_of_ids_in_a_stratum(case: tuple[TrainData, int]) -> None:
    data, k = case
    ids = [
        {p.id for p in data.people if p.gender == g and low <= p.age <= high} for g in range(2) for low, high in BANDS
    ]
    possible, name = largest_k(data.people)
    assert possible == min(map(len, ids)) >= k
    assert len(ids[STRATA.index(name)]) == possible
    check_folds(data, make_folds(data, possible, 0), possible)


@pytest.mark.parametrize(
    ("k", "twice", "seed", "digest"),
    [
        (2, 0, 4294967295, "5dd30306db42a4c9"),
        (5, 0, 0, "2feadd600e956fbc"),
        (5, 40, 42, "04e5ca0dd17bca14"),
        (20, 0, 42, "7436ef782cd0a0d2"),
        (20, 40, 42, "e2e426da6f4a0261"),
    ],
)
def test_folds_are_those_of_earlier_versions(k: int, twice: int, seed: int, digest: str) -> None:
    """`twice`: ids on two folders; `digest`: first half of the folds' sha256."""
    rng = np.random.default_rng(k)
    labels = rng.choice(6, size=600, p=[0.2, 0.17, 0.03, 0.31, 0.25, 0.04])
    ids = [f"{n:06}" for n in rng.permutation(600)]
    ids[:twice] = ids[300 : 300 + twice]  # of another stratum, or of the same
    assert sha256(split(ids, labels, k, seed).astype("<i8").tobytes())[:16] == digest


def test_strata_follow_gender_and_the_scoring_cuts() -> None:
    people = train_data([("a", 0, 29), ("b", 0, 30), ("c", 0, 60), ("d", 1, 29), ("e", 1, 59), ("f", 1, 60)]).people
    assert strata(people).tolist() == [0, 1, 2, 3, 4, 5]
    assert STRATA == ("male <30", "male 30-59", "male >=60", "female <30", "female 30-59", "female >=60")


MEN = [(str(n), n % 6 // 3, (20, 40, 60)[n % 3]) for n in range(60) if n % 6 != 2 or n < 18]
TWELVE = [(str(n), n % 6 // 3, (20, 40, 60)[n % 3]) for n in range(12)]


@pytest.mark.parametrize(
    ("rows", "k", "message"),
    [
        (MEN, 4, r"--k 4: .* only 3 people are 'male >=60'\. The largest k that works is 3\.$"),
        ([*TWELVE, *TWELVE], 3, r"--k 3: .* only 2 people are 'male <30'\. The largest k that works is 2\.$"),
        (TWELVE[:5], 2, r"only 0 people are 'female >=60'\. No k works with these people\.$"),
        (MEN, 1, "--k 1: at least 2 folds are needed"),
    ],
    ids=["too many", "second folders are no second people", "none", "one fold"],
)
def test_folds_that_can_not_be_are_refused_with_the_rarest_people(rows: list[Row], k: int, message: str) -> None:
    with pytest.raises(MaskensError, match=message):
        make_folds(train_data(rows), k, 0)


@given(splittable(), st.data())
def test_moving_one_of_a_persons_two_folders_is_always_found(case: tuple[TrainData, int], draw: st.DataObject) -> None:
    data, k = case
    rows = [(p.id, p.gender, p.age) for p in data.people]
    data = train_data([*rows, rows[0]])
    folds = make_folds(data, k, 0)
    folds[-1] = draw.draw(st.integers(0, k - 1).filter(lambda fold: fold != folds[0]))
    with pytest.raises(
        MaskensError, match=rf"id {rows[0][0]} is in fold {folds[0]} and in fold {folds[-1]} \(a leak\)"
    ):
        check_folds(data, folds, k)


def test_people_and_photos_are_counted() -> None:
    bands = train_data([("1", 0, 29), ("1", 0, 30), ("2", 1, 40), ("3", 1, 41)])
    folds = np.array([0, 0, 1, 1])
    assert people_per_fold(bands, folds, 2).tolist() == [1, 2], "who is in two age bands is one person"
    assert people_per_stratum_and_fold(bands, folds, 2).sum(axis=0).tolist() == [2, 2]
    data = train_data([("a", 0, 20), ("a", 0, 20), ("b", 0, 20), ("c", 1, 70)])
    people = people_per_stratum_and_fold(data, folds, 2)
    assert people.tolist() == [[1, 1], [0, 0], [0, 0], [0, 0], [0, 0], [0, 1]]
    photos = photos_per_class_and_fold(data, folds, 2)
    assert {c: photos[c].tolist() for c in np.flatnonzero(photos.any(axis=1)).tolist()} == {
        0: [10, 5],
        6: [2, 1],
        12: [2, 1],
        5: [0, 5],
        11: [0, 1],
        17: [0, 1],
    }


@pytest.mark.parametrize("k", [5, 10, 20])
@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_terminal_cuts_no_figure_off(k: int, width: int) -> None:
    output = io.StringIO()
    Console(file=output, width=width).print(folds_table(round_robin(24), np.arange(24) % k, k))
    text = output.getvalue()
    assert "…" not in text
    counts = [24 // k + (fold < 24 % k) for fold in range(k)]
    people = [line.split() for line in text.splitlines() if line.strip().startswith("people ")][-1]
    narrow = "fewest in a fold" in text
    assert people[1:] == ([str(min(counts)), str(max(counts))] if narrow else [*map(str, counts)]) + ["24"]
    assert narrow == {5: False, 10: width < 120, 20: width < 200}[k]


class TestOwnFolds:
    """`--folds-file`: the user's own folds, held to the same rules."""

    data = round_robin(18)
    fold_of: IntArray = np.arange(18) // 6

    def write(self, folder: Path, changes: dict[str, str | None] | None = None, extra: str = "") -> Path:
        """A CSV with one fold a person, but for `changes` (None leaves the row out) and `extra` rows."""
        cells = {p.path: str(f) for p, f in zip(self.data.people, self.fold_of, strict=True)} | (changes or {})
        rows = [f"{path},{fold}\n" for path, fold in cells.items() if fold is not None]
        (folder / "mine.csv").write_text("path,fold\n" + "".join(rows) + extra)
        return folder / "mine.csv"

    def test_good_folds_are_accepted_in_any_order_with_other_columns(self, tmp_path: Path) -> None:
        folds, k = read_folds(self.write(tmp_path), self.data)
        assert (folds.tolist(), k) == (self.fold_of.tolist(), 3)
        rows = [f"x,{f},{p.path}" for p, f in zip(self.data.people, self.fold_of, strict=True)]
        (tmp_path / "mine.csv").write_text("\n".join(["note,fold,path", *reversed(rows)]))
        np.testing.assert_array_equal(read_folds(tmp_path / "mine.csv", self.data)[0], self.fold_of)

    @given(splittable(), st.integers(0, 99))
    def test_what_was_written_is_read_back(self, case: tuple[TrainData, int], seed: int) -> None:
        data, k = case
        folds = make_folds(data, k, seed)
        text = folds_csv(data, folds)
        with TemporaryDirectory() as folder:
            path = Path(folder) / "folds.csv"
            path.write_text(text)
            again, again_k = read_folds(path, data)
            assert what_changed(path, data) == []
        np.testing.assert_array_equal(again, folds)
        assert again_k == k

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"p0003": None}, r"'p0003' has no row"),
            ({"stranger": "0"}, r"row 20: 'stranger' is not in train\.csv"),
            ({"p0000": "one"}, r"row 2: fold 'one' is not a number from 0 up"),
            ({"p0000": "-1"}, r"row 2: fold '-1' is not a number from 0 up"),
            ({"p0000": "0.5", "p0002": None}, r"row 2: fold '0\.5' is .*\n  - 'p0002' has no row"),
            ({"p0000": "", "./p0000": "1"}, r"row 2: fold '' is .*\n  - row 20: './p0000' is not in"),
        ],
    )
    def test_rows_that_do_not_fit_are_named(self, tmp_path: Path, changes: dict[str, str | None], message: str) -> None:
        with pytest.raises(MaskensError, match=rf"mine\.csv does not fit the data in data:\n  - {message}"):
            read_folds(self.write(tmp_path, changes), self.data)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({f"p{n:04d}": "0" for n in range(18)}, "puts all people into one fold"),
            ({f"p{n:04d}": "3" for n in range(12, 18)}, r"(?s)fold 2 is empty.*The largest k that works here is 3\."),
            ({"p0006": "0"}, r"\n  - fold 1 has no photo of class 0, 6, 12\n"),  # the only young man of fold 1
            ({"p0000": "1" + "0" * 5000}, r"(?s)mine\.csv .*fold"),
        ],
        ids=["one fold", "empty fold", "class missing", "absurd number"],
    )
    def test_folds_that_would_give_no_honest_score_are_refused(
        self, tmp_path: Path, changes: dict[str, str | None], message: str
    ) -> None:
        with pytest.raises(MaskensError, match=message):
            read_folds(self.write(tmp_path, changes), self.data)


def test_the_file_shows_who_is_where() -> None:
    data = train_data([("b", 1, 61), ("007", 0, 29)])
    assert folds_csv(data, np.array([1, 0])) == (
        "path,id,fold,gender,age,photos,bytes,stratum\n"
        "p0000,b,1,female,61,7,63,female >=60\n"
        "p0001,007,0,male,29,7,63,male <30\n"
    )
