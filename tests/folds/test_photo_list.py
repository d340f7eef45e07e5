"""A list of photos as training data: what is read, what is refused, and its folds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import MakeData
from photo_lists import HEADER, as_list

from ensemble.jobs.spec import JobSpec, training_rows
from ensemble.recipes.recipe_file import load_recipe
from folds.errors import MaskensError
from folds.labels import AGES, FIELDS, UNKNOWN, age_band, label_text, of_band, parse_label
from folds.layout import read_train
from folds.people import Lists, label_conflicts
from folds.ranges import FULL, NO_FOLD
from folds.splits import folds_csv, make_folds, photos_per_class_and_fold, read_folds


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data folder whose photos a.jpg to f.jpg are not described yet."""
    (tmp_path / "train" / "deep").mkdir(parents=True)
    for number, name in enumerate("abcdef"):
        (tmp_path / "train" / "deep" / f"{name}.jpg").write_bytes(b"x" * (number + 1))
    return tmp_path


def write(root: Path, *rows: str, header: str = ",".join(HEADER)) -> Path:
    table = root / "train" / "photos.csv"
    table.write_text("\n".join([header, *rows, ""]))
    return table


def test_a_row_is_a_photo_with_any_of_its_labels(root: Path) -> None:
    write(
        root, "deep/b.jpg,p,not wear,Female,61", "deep/a.jpg,p,,,30-59", "./deep/c.jpg,,wear,,", "deep/d.jpg,q,,male,1"
    )
    data = read_train(root)
    assert data.files == [f"deep/{name}.jpg" for name in "abcd"]
    assert all(data.photos.path(file).is_file() for file in data.files)
    assert [p.group for p in data.people] == ["p", "p", "deep/c.jpg", "q"], "without a person a photo is one"
    masks, genders, bands = data.labels
    assert (masks.tolist(), genders.tolist(), bands.tolist()) == ([-1, 2, 0, -1], [-1, 1, -1, 0], [1, 2, -1, 0])
    assert data.classes.tolist() == [UNKNOWN, 17, UNKNOWN, UNKNOWN]


def test_columns_and_words_of_others_are_mapped(root: Path) -> None:
    rows = ("deep/a.jpg,1,M,x,senior", "deep/b.jpg,1,F,y,25")
    write(root, *rows, header="file,subject,sex,cover,years")
    columns = ("photo=file,person=subject", "gender=sex,mask=cover,age=years")
    data = read_train(
        root,
        lists=Lists(columns=columns, labels=("gender:M=male,F=female", "mask:x=wear,y=not wear", "age:senior=>=60")),
    )
    assert [(p.id, p.gender, p.masks[0], label_text("age", p.age)) for p in data.people] == [
        ("1", 0, 0, ">=60"),
        ("1", 1, 2, "25"),
    ]
    assert label_conflicts(data) == ["id 1 is male in one row and female in another"]


def test_everything_wrong_is_listed_together_with_its_row(root: Path) -> None:
    (root / "train" / "deep" / "f.jpg").write_bytes(b"")
    (root / "train" / "link.jpg").symlink_to("/etc/hostname")
    write(
        root,
        "deep/a.jpg,p,not waer,male,0", "deep/b.jpg,p,wear,femal,130", "deep/c.jpg,p,wear,,29.5", "gone.jpg,p,wear,,",
        "../x.jpg,p,wear,,", "deep/a.jpg,p,wear,,", "deep/f.jpg,p,wear,,", "link.jpg,p,wear,,", ",p,wear,,",
    )  # fmt: skip
    with pytest.raises(MaskensError) as refused:
        read_train(root)
    for words in (
        "row 2: mask 'not waer' is none of wear, incorrect, not wear (did you mean 'not wear'",
        "row 2: age '0' is neither years from 1 to 120 nor one of <30, 30-59, >=60",
        "row 3: gender 'femal' is none of male, female (did you mean 'female'", "row 3: age '130'", "row 4: age '29.5'",
        "gone.jpg is missing", "row 6: photo '../x.jpg' is not a file inside",
        "row 7: photo 'deep/a.jpg' is already in row 2", "f.jpg is an empty file", "row 9", "link that leads out",
        "row 10: photo '.' is not a file",
    ):  # fmt: skip
        assert words in str(refused.value)


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        (Lists(columns=("gendr=sex",)), "did you mean 'gender'"),
        (Lists(columns=("gender",)), "'gender' is not NAME=VALUE"),
        (Lists(columns=("gender=gendr",)), "no list has the column 'gendr' (did you mean 'gender'"),
        (Lists(labels=("sex:M=male",)), "--labels sex:M=male: write FIELD:WORD=LABEL"),
        (Lists(labels=("gender:M=mael",)), "gender 'mael' is none of male, female (did you mean 'male'"),
    ],
)
def test_a_mapping_that_fits_nothing_is_refused(root: Path, lists: Lists, words: str) -> None:
    write(root, "deep/a.jpg,p,wear,male,20")
    with pytest.raises(MaskensError) as refused:
        read_train(root, lists=lists)
    assert words in str(refused.value)


def test_a_mapping_that_fits_no_extra_list_is_refused(make_data: MakeData, tmp_path: Path) -> None:
    root = make_data(tmp_path / "data", people=6)
    with pytest.raises(MaskensError, match="--columns and --labels are for lists of photos"):
        read_train(root, lists=Lists(columns=("age=years",)))
    tables = [tmp_path / f"{name}.csv" for name in "ab"]
    for table, header in zip(tables, ("photo,years", "photo,age"), strict=True):
        (tmp_path / f"{table.stem}.jpg").write_bytes(b"x")
        table.write_text(f"{header}\n{table.stem}.jpg,20\n")
    assert len(read_train(root, lists=Lists(None, tuple(tables), ("age=years",))).people) == 8, "ours for the rest"
    with pytest.raises(MaskensError, match=r"'year' \(did you mean 'years'.*a.csv has photo, years; .*b.csv has photo"):
        read_train(root, lists=Lists(None, tuple(tables), ("age=year",)))


def test_a_list_that_nobody_can_use_is_refused(root: Path) -> None:
    write(root, "deep/a.jpg,p", header="photo,person")
    with pytest.raises(MaskensError, match=r"photos.csv has no labels.*it has photo, person.*--columns"):
        read_train(root)
    write(root, "deep/a.jpg,wear", header="phto,mask")
    with pytest.raises(MaskensError, match=r"has no photos.*did you mean 'phto'.*--columns photo=NAME"):
        read_train(root)
    write(root, "deep/a.jpg,p,maskd,,")
    with pytest.raises(MaskensError, match=r"mask 'maskd' is none of .*did you mean 'masked'"):
        read_train(root, lists=Lists(labels=("mask:masked=wear",)))
    write(root, "deep/a.jpg,p,wear,male,", "deep/b.jpg,p,,male,20")
    with pytest.raises(MaskensError, match=r"no row of .*photos.csv has mask, gender and age"):
        make_folds(read_train(root), 2, 0)
    (root / "train" / "train.csv").touch()
    with pytest.raises(MaskensError, match=r"has train/train.csv and train/photos.csv"):
        read_train(root)


def test_ages_as_words_and_numbers() -> None:
    for field, words in FIELDS.items():
        assert [label_text(field, parse_label(field, word) or 0) for word in words] == [*words]
    assert [parse_label("age", text) for text in ("7", "20.0", "121", "old", "")] == [7, 20, None, None, None]
    years = [UNKNOWN, 45, *of_band(range(3))]
    assert age_band(years).tolist() == [UNKNOWN, 1, 0, 1, 2]
    assert age_band(years, (30, 58)).tolist() == [UNKNOWN, 1, 0, UNKNOWN, 2], "a band that a cut divides"
    assert [label_text("age", int(year)) for year in years] == ["", "45", *AGES]


def test_folds_of_a_list_keep_people_together_and_have_every_class(make_data: MakeData, tmp_path: Path) -> None:
    root = make_data(tmp_path / "data", people=36)
    before = read_train(root)
    classes = dict(zip(before.files, before.classes.tolist(), strict=True))
    data = read_train(as_list(root))
    assert {f"train/{f}": c for f, c in zip(data.files, data.classes.tolist(), strict=True)} == classes
    partial = read_train(as_list(make_data(tmp_path / "partial", people=36), blank=0.05))
    assert 0 < (partial.classes == UNKNOWN).sum() < len(partial.files)
    for its in (data, partial):
        folds = make_folds(its, 3, 1)
        assert all(
            len({f for f, p in zip(folds, its.people, strict=True) if p.id == i}) == 1
            for i in {p.id for p in its.people}
        )
        assert photos_per_class_and_fold(its, folds, 3).min() > 0
        table = tmp_path / "folds.csv"
        table.write_text(folds_csv(its, folds))
        assert np.array_equal(read_folds(table, its)[0], folds)
    assert data.fingerprint != partial.fingerprint


def test_extra_photos_go_by_their_person_and_are_never_scored(make_data: MakeData, tmp_path: Path) -> None:
    root = make_data(tmp_path / "data", people=18)
    plain = read_train(root)
    more = tmp_path / "more"
    more.mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (more / name).write_bytes(b"x")
    known = plain.people[4].id
    (more / "list.csv").write_text(f"photo,who,age\na.jpg,{known},64\nb.jpg,stranger,30-59\nc.jpg,,7\n")
    data = read_train(root, lists=Lists(None, (more / "list.csv",), ("person=who",)))
    assert data.files[-3:] == ["extra1:a.jpg", "extra1:b.jpg", "extra1:c.jpg"]
    assert all(data.photos.path(file).is_file() for file in data.files)
    assert (data.fingerprint, data.own_photos_fingerprint) == (plain.fingerprint, plain.photos.fingerprint)
    assert plain.extra_hash == "" != data.extra_hash
    folds, without = make_folds(data, 3, 1), make_folds(plain, 3, 1)
    assert folds.tolist() == [*without.tolist(), without[4], NO_FOLD, NO_FOLD]
    assert folds_csv(data, folds) == folds_csv(plain, without)
    (tmp_path / "folds.csv").write_text(folds_csv(data, folds))
    assert np.array_equal(read_folds(tmp_path / "folds.csv", data)[0], folds)
    for fold in (*range(3), FULL):
        spec = JobSpec(None, load_recipe("heads"), "heads", fold, "cpu", 0, 1, None)  # type: ignore[arg-type]
        there = {data.files[row] for row in training_rows(spec, data, folds)}
        assert "extra1:b.jpg" in there
        assert ("extra1:a.jpg" in there) == (fold != without[4]), "nobody is trained on who is held out"
