"""Damage to what a run holds: found where it is read, and by the command verify."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from edits import edit_arrays, edit_record
from run_command import maskens, ran, refused

RUN = Path("runs/default")


def flip_a_bit(file: Path) -> None:
    """In the middle of the file, with its time as before."""
    content, times = bytearray(file.read_bytes()), file.stat()
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_flipped_bit_in_a_model_is_refused_before_anything_is_predicted(copy: Path) -> None:
    file, before = RUN / "gender" / "fold1" / "model.safetensors", (RUN / "submission.csv").read_bytes()
    flip_a_bit(file)
    photo = next(Path("data/eval/images").iterdir())
    for command in (("infer",), ("infer", "--dry-run"), ("predict", photo)):
        found = maskens(*command)
        refused(found, f"{file} is damaged or was replaced", "--task gender --fold 1 --restart")
    assert (RUN / "submission.csv").read_bytes() == before


def test_a_flipped_bit_in_out_of_fold_logits_is_refused(copy: Path) -> None:
    file = RUN / "mask" / "fold2" / "oof.npz"
    flip_a_bit(file)
    for command in ("score", "tune", "audit", "report", "infer"):
        refused(maskens(command), f"{file} is damaged or was replaced", "--task mask --fold 2 --restart")


@pytest.mark.parametrize("content", ["half {", None])
def test_a_job_that_nothing_vouches_for_is_used_with_a_word(copy: Path, content: str | None) -> None:
    file = RUN / "mask" / "fold2" / "job.json"
    file.write_text(content) if content is not None else file.unlink()
    for command in ("score", "infer"):
        found = ran(command)
        assert "job.json of mask fold 2 is missing, damaged or not of a finished job" in found.out


def test_damaged_jobs_of_another_run_are_not_taken_over(copy: Path) -> None:
    ran("folds", "--run", "runs/other", "--k", "3")
    flip_a_bit(RUN / "mask" / "fold2" / "oof.npz")
    refused(
        maskens("train", "--run", "runs/other", "--reuse", RUN),
        "is damaged or was replaced",
        f"--run {RUN} --task mask --fold 2",
    )
    assert not list(Path("runs/other").glob("*/fold*/model.safetensors"))


def test_an_intact_run_matches_and_nothing_is_written(copy: Path) -> None:
    ran("score")
    ran("tune", "--force")
    ran("infer")
    before = {file: file.stat().st_mtime_ns for file in RUN.rglob("*")}
    found = ran("verify")
    assert "runs/default: all" in found.out
    assert "do not match" not in found.out
    for item in (
        "data in",
        "folds.csv",
        "recipe.toml",
        "model.safetensors: 12 of 12",
        "card: 12 of 12",
        "tuning: 3 of 3",
    ):
        assert item in found.out
    assert "eval.npz: classes from logits" in found.out
    assert {file: file.stat().st_mtime_ns for file in RUN.rglob("*")} == before


def change_a_class(file: Path) -> None:
    first, rest = file.read_text().split("\n", 2)[1:]
    image, answer = first.split(",")
    file.write_text(f"ImageID,ans\n{image},{(int(answer) + 1) % 18}\n{rest}")


def change_array(name: str, change: Callable[[np.ndarray], object]) -> None:
    """Of what was predicted."""
    edit_arrays(RUN / "eval.npz", **{name: change})


JOB = RUN / "gender" / "fold1"


def damage_jobs() -> None:
    flip_a_bit(JOB / "model.safetensors")
    (RUN / "gender/fold2/model.safetensors").unlink()
    flip_a_bit(RUN / "mask/fold1/oof.npz")
    (RUN / "mask/fold2/job.json").unlink()
    (RUN / "male-age/fold1/model.safetensors").write_bytes((RUN / "male-age/fold0/model.safetensors").read_bytes())
    edit_record(RUN / "female-age/fold1/job.json", best=0.123)


def damage_submission() -> None:
    change_a_class(RUN / "submission.csv")
    change_array("logits/mask", np.negative)


def damage_recipe() -> None:
    file = RUN / "recipe.toml"
    file.write_text(file.read_text().replace("epochs = 5", "epochs = 6"))


DAMAGE: dict[str, tuple[Callable[[], object], tuple[str, ...]]] = {
    "jobs": (
        damage_jobs,
        (
            "gender/fold1/model.safetensors",
            "--task gender --fold 1 --restart",
            "gender/fold2/model.safetensors",
            "mask/fold1/oof.npz",
            "--task mask --fold 1 --restart",
            "mask/fold2/job.json",
            "male-age/fold1 card",
            "female-age/fold1 out-of-fold F1",
            "best 0.1230",
        ),
    ),
    "submission": (
        damage_submission,
        ("submission.csv: as in eval.npz", "1 of 168 classes differ", "eval.npz: classes from logits"),
    ),
    "folds": (lambda: (RUN / "folds.csv").write_text("path,fold\n"), ("folds.csv", "start a new run")),
    "a recipe": (damage_recipe, ("recipe.toml", "put runs/default/recipe.toml back")),
    "eval logits of fewer photos": (
        lambda: change_array("logits/mask", lambda a: a[:, :, 1:]),
        ("eval.npz: classes from logits", "failed"),
    ),
    "fewer classes": (
        lambda: change_array("classes", lambda a: a[1:]),
        ("submission.csv: as in eval.npz", "all of 167 classes differ"),
    ),
    "a logit that became NaN, not one that was never there": (
        lambda: change_array("logits/mask", lambda a: [a[0], a[1] * np.nan, *a[2:]]),
        ("eval.npz: its arrays",),
    ),
    "a decision that can't be": (
        lambda: change_array("record", lambda a: str(a).replace('"offsets": [', '"offsets": [1, ')),
        ("eval.npz: classes from logits", "failed"),
    ),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGE.values(), ids=DAMAGE)
def test_what_does_not_match_is_named(copy: Path, damage: Callable[[], object], words: tuple[str, ...]) -> None:
    damage()
    found = maskens("verify")
    assert found.code == 1, found
    assert "checks do not match" in found.out
    for word in words:
        assert word in found.out, found.out


def test_data_and_tuning_of_another_time_do_not_match(copy: Path) -> None:
    ran("tune", "--force")
    tuning = RUN / "tuning.json"
    fitted = json.loads(tuning.read_text())["fitted"]
    fitted["runs"][0]["oof_hash"] = "0" * 64
    edit_record(tuning, fitted=fitted)
    table = Path("data/train/train.csv")
    table.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")
    found = maskens("verify")
    assert found.code == 1
    for word in ("data in", "--data DIR", "tuning.json: out-of-fold files", "maskens tune --run"):
        assert word in found.out
    assert "out-of-fold scores are not recomputed" in found.out


def test_an_unfinished_job_is_reported_and_not_verified(copy: Path) -> None:
    for file in ("oof.npz", "job.json"):
        (JOB / file).unlink()
    found = maskens("verify")
    assert "not finished, and not verified: gender fold 1" in found.out
    refused(maskens("verify", "--run", "data"), "is not a run folder")


def test_where_the_environments_of_jobs_differ_is_reported(copy: Path) -> None:
    record = json.loads((JOB / "job.json").read_text())["record"]
    record["versions"]["torch"] = "1.0"
    edit_record(JOB / "job.json", record=record)
    found = ran("verify")
    assert "torch differs: " in found.out
    assert "1.0 (gender fold 1)" in " ".join(found.out.split())
    assert "device differs" not in found.out
