"""The command folds."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from run_command import maskens, refused


def test_a_run_without_a_finished_epoch_may_still_change_its_mind(data: Path) -> None:
    assert maskens("folds", "--k", "3").code == 0
    status = Path("runs/default/mask/fold0/job.json")
    status.parent.mkdir(parents=True)
    status.write_text("{}")
    assert maskens("folds").code == 0, "the run remembers k"
    refused(maskens("folds", "--k", "0"), "--k 0")
    assert "kept as runs/default/folds.1.csv" in maskens("folds", "--k", "2").out
    assert "fold 0..1" in maskens("folds", "--seed", "7").out, "with another seed too"


def test_no_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused(maskens("folds"), "there is no data folder data", "--data DIR", "maskens sample data")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: "", ["train.csv is empty"]),
        (lambda text: text.split("\n")[0] + "\n", ["has a header but no rows"]),
        (lambda text: text.replace("gender", "sex", 1), ["lacks the column 'gender'"]),
        (lambda text: text.replace(",female,", ",feamale,"), ["gender 'feamale'", "did you mean 'female'", "row "]),
    ],
)
def test_a_spoilt_train_csv(data: Path, change: Callable[[str], str], words: list[str]) -> None:
    table = data / "train" / "train.csv"
    table.write_text(change(table.read_text()))
    refused(maskens("folds"), *words)
    assert not Path("runs").exists()


def test_a_photo_cut_in_half_is_found_before_training(data: Path) -> None:
    assert maskens("folds", "--k", "3").code == 0
    photo = next((data / "train" / "images").glob("*/mask2*"))
    photo.write_bytes(photo.read_bytes()[:-200])
    refused(maskens("folds", "--k", "3", "--run", "other", "--check-photos"), str(photo.name), "can't be read")
    assert not Path("other").exists()
    refused(maskens("train", "--recipe", "demo"), "changed since `maskens folds`", photo.parent.name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_write_permission(data: Path) -> None:
    locked = data.parent / "locked"
    locked.mkdir(mode=0o555)
    refused(maskens("folds", "--run", locked / "run"), "can't write", "Permission denied")


def test_a_run_folder_that_cannot_be_made(data: Path) -> None:
    (data.parent / "file").touch()
    refused(maskens("folds", "--k", "3", "--run", data.parent / "file" / "run"), "can't write", "Not a directory")
