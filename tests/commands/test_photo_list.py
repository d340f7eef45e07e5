"""The whole job on a list of photos, some of whose labels are unknown."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from conftest import MakeData
from photo_lists import as_list
from run_command import maskens, refused
from tiny_runs import DEFAULTS

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
        outcome = maskens(*words, "--tta", "none", "--device", "cpu", "--yes")
    assert outcome.code == 0, outcome
    assert "photos with all labels" in outcome.out, outcome
    return folder


def test_all_steps_work_alike(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(job)
    assert {file.name for file in (job / "run").iterdir()} >= {"submission.csv", "report.html", "oof.npz"}
    scored = json.loads(maskens("score", "--run", "run", "--json").out)
    with (job / "faces" / "photos.csv").open() as file:
        rows = list(csv.DictReader(file))
    complete = sum(bool(row["mask"] and row["gender"] and row["age"]) for row in rows)
    assert scored["score"]["photos"] == complete < len(rows)
    assert any(f"{len(rows) - complete} of {len(rows)} photos lack a label" in note for note in scored["notes"])
    for words in (("audit", "--run", "run"), ("explore", "--run", "run"), ("verify", "--run", "run")):
        outcome = maskens(*words)
        assert outcome.code == 0, outcome
    again = maskens("folds", "--run", "run")
    assert "the same folds were there already" in again.out, again


def test_fixes_name_the_photo_and_changes_are_refused(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(job)
    with (job / "faces" / "photos.csv").open() as file:
        row = next(row for row in csv.DictReader(file) if row["mask"] == "wear" and row["age"])
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
