"""The generated data folder: its layout and quirks, that it repeats, and that its labels can be learned."""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from edits import contents

from folds import sample
from folds.errors import MaskensError
from folds.labels import decode
from folds.layout import read_eval, read_train
from folds.people import repeated_ids
from folds.sample import SampleSummary, write_sample
from folds.splits import make_folds, strata
from folds.table import read_table

SIZE = (48, 64)


@pytest.fixture(scope="module")
def twenty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "twenty"
    write_sample(folder, 20, size=SIZE)
    return folder


def test_layout_and_counts(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    folder = tmp_path / "new" / "data"
    summary = write_sample(folder, 7, size=SIZE, on_progress=lambda done, total: steps.append((done, total)))
    assert summary == SampleSummary(folder, train_people=7, train_photos=49, eval_people=6, eval_photos=42)
    assert steps == [(done, 91) for done in range(1, 92)]
    assert len(read_train(folder).files) == 49
    assert len(read_eval(folder).ids) == 42
    assert sorted(p.name for p in folder.rglob("*.csv")) == ["answers.csv", "info.csv", "train.csv"]
    assert list(folder.parent.iterdir()) == [folder]
    for file in (*read_train(folder).files, *read_eval(folder).photos.files):
        photo = cv2.imread(str(folder / file))
        assert photo is not None and photo.shape == (64, 48, 3)
        starts = {".png": b"\x89PNG"}.get(Path(file).suffix, b"\xff\xd8")
        assert (folder / file).read_bytes().startswith(starts)


def test_answers_fit_info(twenty: Path) -> None:
    info = read_table(twenty / "eval/info.csv", ("ImageID", "ans"))
    answers = read_table(twenty / "eval/answers.csv", ("ImageID", "ans"))
    ids = [r["ImageID"] for r in info]
    assert ids == sorted(ids) == [r["ImageID"] for r in answers]
    assert all(Path(i).suffix == ".jpg" and len(i) == 44 and int(Path(i).stem, 16) >= 0 for i in ids)
    assert {r["ans"] for r in info} == {"0"}
    mask, _, _ = decode([int(r["ans"]) for r in answers])
    assert np.bincount(mask).tolist() == [30, 6, 6]
    assert {int(r["ans"]) for r in answers} == set(range(18))


def test_each_stratum_has_its_share_and_can_be_split(twenty: Path) -> None:
    data = read_train(twenty)
    assert np.bincount(strata(data.people), minlength=6).min() == 3
    make_folds(data, 3, seed=1)


@pytest.mark.parametrize("people", [6, 20])
def test_quirks_of_the_real_data(tmp_path: Path, people: int) -> None:
    write_sample(tmp_path / "data", people, size=(32, 32), seed=3)
    data = read_train(tmp_path / "data")
    assert {Path(f).suffix for f in data.files} == {".jpg", ".png", ".jpeg", ".JPG"}
    assert any(len({Path(n).suffix for n in p.photos}) == 4 for p in data.people)
    assert {"000003", "000003-1"} <= {p.id for p in data.people}
    table = read_table(tmp_path / "data/train/train.csv", ("id", "gender", "race", "age", "path"))
    paths = [r["path"] for r in table]
    assert paths == [f"{r['id']}_{r['gender']}_{r['race']}_{r['age']}" for r in table] != sorted(paths)
    [double] = repeated_ids(data.people)
    first, second = (p for p in data.people if p.id == double)
    assert first.gender == second.gender and second.age == first.age + 1
    [hidden] = [p for p in tmp_path.rglob(".*") if p.is_file()]
    assert hidden.name == "._mask1.jpg" and cv2.imread(str(hidden)) is None


def test_same_seed_same_bytes_whatever_the_jobs(tmp_path: Path) -> None:
    for name, seed, jobs in (("a", 3, 1), ("b", 3, 2), ("c", 4, 1)):
        write_sample(tmp_path / name, 6, size=SIZE, seed=seed, jobs=jobs)
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b
    assert set(a.values()) & set(c.values()) == {sample.APPLE_DOUBLE}, "another seed has other people"
    photos = [data for name, data in a.items() if Path(name).suffix != ".csv"]
    assert len(set(photos)) == len(photos)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"people": 5}, "5 people: at least 6"),
        ({"people": 6, "size": (31, 64)}, "31x64 pixels: at least 32x32"),
        ({"people": 6, "seed": -1}, "seed -1"),
        ({"people": 6, "jobs": 0}, "0 jobs"),
    ],
)
def test_refuses_arguments_out_of_range(tmp_path: Path, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(MaskensError, match=message):
        write_sample(tmp_path / "data", **arguments)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for taken in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(MaskensError, match="never overwrites"):
            write_sample(taken, 6, size=SIZE)
    assert contents(tmp_path) == {"mine.txt": b"mine"}
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    write_sample(tmp_path / "link", 6, size=SIZE)
    assert len(read_train(tmp_path / "empty").people) == 6


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count, write = itertools.count(), Path.write_bytes

    def fill_up(path: Path, data: bytes) -> int:
        if next(count) == 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", fill_up)
    with pytest.raises(MaskensError, match=r"data: No space left on device"):
        write_sample(tmp_path / "data", 12, size=SIZE, jobs=2)
    assert next(count) == 21
    assert list(tmp_path.iterdir()) == []


def test_labels_can_be_learned_from_other_people(tmp_path: Path) -> None:
    """A random forest on 24x32 pixels, asked about strangers: balanced accuracy at least 0.2 above chance.

    Chance is 1/3 for mask, 1/2 for gender, 1/3 for age; the scores are about 0.90, 0.89 and 0.99.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import balanced_accuracy_score

    write_sample(tmp_path / "data", 36, size=SIZE, jobs=2)
    train, held = read_train(tmp_path / "data"), read_eval(tmp_path / "data")
    answers = read_table(tmp_path / "data/eval/answers.csv", ("ans",))

    def pixels(files: list[str]) -> np.ndarray:
        photos = (cv2.imread(str(tmp_path / "data" / f)) for f in files)
        small = [cv2.resize(p, (24, 32), interpolation=cv2.INTER_AREA) for p in photos if p is not None]
        return np.array(small).reshape(len(files), -1) / 255

    seen, unseen = pixels(train.files), pixels(held.photos.files)
    truths = decode([int(r["ans"]) for r in answers])
    for name, known, truth in zip(("mask", "gender", "age"), train.labels, truths, strict=True):
        model = RandomForestClassifier(40, min_samples_leaf=3, class_weight="balanced", random_state=0)
        score = balanced_accuracy_score(truth, model.fit(seen, known).predict(unseen))
        assert score > 1 / len(set(truth.tolist())) + 0.2, f"{name}: {score:.2f}"
