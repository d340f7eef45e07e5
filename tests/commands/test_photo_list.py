"""The whole job on a list of photos, some of whose labels are unknown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeData
from edits import rows_of
from photo_lists import as_list
from PIL import Image
from run_command import maskens, ran, refused
from tiny_runs import DEFAULTS

from ensemble.jobs.card import read_card

RECIPE = f"""{DEFAULTS.replace("epochs = 3", "epochs = 1")}
[tasks.parts]
predicts = "heads"
mix = {{ mixup = 0.4 }}
[tasks.age]
ages = {{ sigma = 2.0 }}
"""


@pytest.fixture(scope="module")
def job(make_data: MakeData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list `faces/photos.csv` with other names of columns, and the run `run` on it."""
    folder = tmp_path_factory.mktemp("list")
    as_list(make_data(folder / "data", people=24), blank=0.05)
    (folder / "data" / "train").rename(folder / "faces")
    table = folder / "faces" / "photos.csv"
    table.write_text(table.read_text().replace("photo,person,", "file,subject,", 1).replace(",female,", ",f,"))
    (folder / "tiny.toml").write_text(RECIPE)
    mapped = ("--columns", "photo=file,person=subject", "--labels", "gender:f=female")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = ("run", "--run", "run", "--photos", "faces/photos.csv", *mapped, "--recipe", "tiny.toml", "--k", "2")
        outcome = ran(*words, "--tta", "none", "--device", "cpu", "--yes")
    assert "photos with all labels" in outcome.out, outcome
    return folder


def test_all_steps_work_alike(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(job)
    assert {file.name for file in (job / "run").iterdir()} >= {"submission.csv", "report.html", "oof.npz"}
    scored = json.loads(maskens("score", "--run", "run", "--json").out)
    rows = rows_of(job / "faces" / "photos.csv")
    complete = sum(bool(row["mask"] and row["gender"] and row["age"]) for row in rows)
    assert scored["score"]["photos"] == complete < len(rows)
    assert any(f"{len(rows) - complete} of {len(rows)} photos lack a label" in note for note in scored["notes"])
    for words in (("audit", "--run", "run"), ("explore", "--run", "run"), ("verify", "--run", "run")):
        ran(*words)
    again = maskens("folds", "--run", "run")
    assert "the same folds were there already" in again.out, again
    (job / "data").rename("away")
    refused(maskens("infer", "--run", "run"), "run has no photos to predict", "--photos DIR --out FILE", "--data DIR")
    (job / "away").rename("data")


def test_fixes_name_the_photo_and_changes_are_refused(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(job)
    row = next(row for row in rows_of(job / "faces" / "photos.csv") if row["mask"] == "wear" and row["age"])
    fix = (
        f"path,photo,field,old,new,reason\n{row['file']},,mask,wear,incorrect,seen\n{row['file']},,age,{row['age']},31,"
    )
    (job / "mine.csv").write_text(f"{fix}\n")
    made = maskens(
        *("folds", "--run", "fixed", "--photos", "faces/photos.csv", "--columns", "photo=file,person=subject"),
        *("--labels", "gender:f=female", "--fixes", "mine.csv", "--k", "2"),
    )
    assert "fixes: 2 labels of 1 people (1 age, 1 mask) from mine.csv" in made.out, made
    table = job / "faces" / "photos.csv"
    text = table.read_text()
    table.write_text(text.replace(",wear,", ",not wear,", 1))
    refused(maskens("score", "--run", "run"), "photos.csv changed since `maskens folds` made run")
    table.write_text(text)


EXTRA = f"""{DEFAULTS.replace("epochs = 3", "epochs = 1")}
[tasks.age]
[tasks.mask]
[tasks.gender]
"""


def test_extra_photos_are_trained_on_and_not_scored(data: Path) -> None:
    more = Path("faces")
    more.mkdir()
    rng = np.random.default_rng(0)
    for name in "abcd":
        Image.fromarray(rng.integers(0, 255, (32, 24, 3), dtype=np.uint8)).save(more / f"{name}.png")
    (more / "list.csv").write_text("photo,age\na.png,60\nb.png,>=60\nc.png,7\nd.png,41\n")
    Path("tiny.toml").write_text(EXTRA)
    ran("folds", "--k", "2", "--run", "plain")
    made = maskens("folds", "--k", "2", "--run", "more", "--extra", "faces/list.csv")
    assert "extra photos: 4; labelled: mask 0, gender 0, age 4" in made.out, made
    assert Path("more/folds.csv").read_bytes() == Path("plain/folds.csv").read_bytes()
    for run in ("plain", "more"):
        ran("train", "--run", run, "--recipe", "tiny.toml", "--device", "cpu", "--fold", "0", "--yes")
    with np.load("plain/mask/fold0/oof.npz") as one, np.load("more/mask/fold0/oof.npz") as other:
        assert np.array_equal(one["files"], other["files"])
    assert (
        read_card(Path("more/age/fold0/model.safetensors")).people
        != read_card(Path("plain/age/fold0/model.safetensors")).people
    )
    ran("verify", "--run", "more")
    compared = ran("compare", "plain", "more")
    assert "more: 4 extra photos, of which each task is trained on: age 4, mask 0, gender 0" in compared.out, compared
    (more / "list.csv").write_text("photo,age\na.png,60\nb.png,>=60\nc.png,7\n")
    refused(maskens("train", "--run", "more"), "the extra photos in faces/list.csv changed since")


def test_extra_photos_of_people_who_are_scored_or_predicted_are_refused(data: Path) -> None:
    more, person = Path("more"), sorted((data / "train" / "images").iterdir())[0]
    more.mkdir()
    shutil.copy(person / "normal.jpg", more / "same.jpg")
    shutil.copy(data / "eval" / "images" / "a01.jpg", more / "eval.jpg")
    table, folds = more / "list.csv", ("folds", "--k", "2", "--run", "run", "--extra", more / "list.csv")
    table.write_text("photo,person,gender\nsame.jpg,,male\neval.jpg,,female\n")
    refused(maskens(*folds), "same.jpg ~ train/images/", "eval.jpg ~ eval/images/a01.jpg", "--allow-duplicates")
    assert not Path("run").exists()
    assert {row["photo"] for row in rows_of("extra-duplicates.csv")} == {"same.jpg", "eval.jpg"}
    ran(*folds, "--allow-duplicates")
    ran("folds", "--run", "run")  # it was accepted
    table.write_text(f"photo,person,gender\nsame.jpg,{person.name[:6]},male\n")
    ran(*folds)  # the same person never crosses a fold
