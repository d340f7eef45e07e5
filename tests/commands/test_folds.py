"""The command folds."""

from __future__ import annotations

from pathlib import Path

from run_command import maskens, ran, refused


def test_a_run_without_a_finished_epoch_may_still_change_its_mind(data: Path) -> None:
    ran("folds", "--k", "3")
    status = Path("runs/default/mask/fold0/job.json")
    status.parent.mkdir(parents=True)
    status.write_text("{}")
    ran("folds")  # the run remembers k
    refused(maskens("folds", "--k", "0"), "--k 0")
    assert "kept as runs/default/folds.1.csv" in maskens("folds", "--k", "2").out
    assert "fold 0..1" in maskens("folds", "--seed", "7").out, "with another seed too"


def test_a_photo_cut_in_half_is_found_before_training(data: Path) -> None:
    ran("folds", "--k", "3")
    photo = next((data / "train" / "images").glob("*/mask2*"))
    photo.write_bytes(photo.read_bytes()[:-200])
    refused(maskens("folds", "--k", "3", "--run", "other", "--check-photos"), str(photo.name), "can't be read")
    assert not Path("other").exists()
    refused(maskens("train", "--recipe", "demo"), "changed since `maskens folds`", photo.parent.name)
