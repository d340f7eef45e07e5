"""The command train."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
from run_command import maskens, refused, started


def test_training_again_has_nothing_left_to_do(there: Path) -> None:
    outcome = maskens("train", "--fold", "0..2")
    assert outcome.code == 0
    assert "12 of 12 jobs are finished already" in outcome.out


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_stopped_training_says_how_to_resume_and_does(copy: Path) -> None:
    weights = Path("runs/default/mask/fold0/model.safetensors")
    unbroken = weights.read_bytes()
    shutil.rmtree(weights.parent)
    process = started(*("train", "--jobs", 2), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    for line in process.stdout:
        if "epoch" in line:
            break
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert err.startswith("error: stopped.")
    assert "same command resumes" in err
    assert "mask fold 0: " in err
    assert "Traceback" not in err
    assert maskens("train").code == 0
    assert weights.read_bytes() == unbroken
    assert maskens("score").code == 0


def test_a_finished_job_outlives_its_job_json(copy: Path) -> None:
    folder = Path("runs/default/mask/fold0")
    weights, status = folder / "model.safetensors", folder / "job.json"
    before, unbroken = json.loads(status.read_text()), weights.read_bytes()
    status.write_bytes(status.read_bytes()[:100])
    outcome = maskens("train")
    assert outcome.code == 0, outcome
    assert f"{status} was damaged or missing and is made anew" in outcome.out
    assert "12 of 12 jobs are finished already" in outcome.out
    after = json.loads(status.read_text())
    assert {k: after[k] for k in ("state", "checksums", "record", "best")} == {
        k: before[k] for k in ("state", "checksums", "record", "best")
    }
    assert weights.read_bytes() == unbroken

    status.unlink()
    shutil.copy("runs/default/mask/fold1/model.safetensors", weights)
    refused(maskens("train"), str(status), "another recipe, seed or folds", "--task mask --fold 0 --restart")
    assert weights.read_bytes() == Path("runs/default/mask/fold1/model.safetensors").read_bytes(), "nothing is trained"
    assert maskens("train", "--task", "mask", "--fold", "0", "--restart").code == 0
    assert weights.read_bytes() == unbroken, "the same seed gives the same weights"


def test_a_photo_already_cut_before_the_folds_is_refused_before_training(data: Path) -> None:
    photo = next((data / "train" / "images").glob("*/mask2*"))
    photo.write_bytes(photo.read_bytes()[:-200])
    assert maskens("folds", "--k", "3").code == 0
    for cache in ("", "none"):
        refused(maskens("train", "--recipe", "demo", "--cache", cache), photo.name, "can't be read")
        assert not list(Path("runs/default").glob("*/fold*"))


def test_weights_of_a_file_reach_training(data: Path) -> None:
    donor = timm.create_model("test_resnet", num_classes=1000)
    safetensors.torch.save_file(donor.state_dict(), "w.safetensors")
    Path("mine.toml").write_text(
        "[defaults]\nmodel = 'test_resnet.r160_in1k'\nresize = [32, 24]\nepochs = 1\n[tasks.heads]\n"
        "optimizer = { name = 'sgd', lr = 1e-12, weight_decay = 0.0 }\n"
    )
    assert maskens("folds", "--k", "2").code == 0
    outcome = maskens("train", "--fold", "0", "--recipe", "mine.toml", "--weights", "w.safetensors")
    assert outcome.code == 0, outcome
    trained = safetensors.torch.load_file("runs/default/heads/fold0/model.safetensors")
    layers = [k for k in donor.state_dict() if k.endswith("conv1.weight")]
    assert layers
    assert all(np.allclose(trained[k], donor.state_dict()[k], atol=1e-6) for k in layers)
    Path("w.safetensors").rename("moved.safetensors")
    refused(maskens("train", "--fold", "1"), "name the run's initial weights again with --weights FILE")
    assert maskens("train", "--fold", "1", "--weights", "moved.safetensors").code == 0


def test_a_variant_reuses_what_does_not_differ_and_is_compared(copy: Path) -> None:
    assert maskens("folds", "--k", "3", "--run", "runs/other").code == 0
    change = ("--set", "tasks.mask.epochs=1")
    outcome = maskens("train", "--run", "runs/other", *change, "--reuse", "runs/default")
    assert outcome.code == 0, outcome
    assert "9 finished jobs are taken from runs/default" in outcome.out
    assert "tasks.mask.epochs" not in maskens("train", "--run", "runs/other", *change).out, "and keeps it"
    refused(
        maskens("train", "--run", "runs/other", "--set", "tasks.mask.epochs=2"), "tasks.mask.epochs: 1, now 2", "--set"
    )
    outcome = maskens("compare", "runs/default", "runs/other")
    assert outcome.code == 0, outcome
    shown = "\n".join(line.rstrip() for line in outcome.out.splitlines())
    assert re.search(r"tasks\.mask\.epochs +5 +1\n", shown)
    first, second = shown.split(" default\n")[-1].split(" other\n")
    gender = [re.search(r"gender +([\d.]+ \(.*?\))", part)[1] for part in (first, second)]  # type: ignore[index]
    assert gender[0] == gender[1]
    assert re.search(r"gender .* equal", second)
    assert re.search(r"mask .* (worse|within noise)", second)
    refused(maskens("compare", "runs/default"), "name two runs or more to compare")
    assert maskens("folds", "--k", "3", "--run", "runs/twin").code == 0
    outcome = maskens("train", "--run", "runs/twin", "--reuse", "runs/default")
    assert "12 finished jobs are taken" in outcome.out, "the reused run's recipe is the start"
    assert maskens("score", "--run", "runs/twin").out.splitlines()[:-1] == maskens("score").out.splitlines()[:-1]
    refused(maskens("train", "--run", "runs/twin", "--recipe", "quick"), "has models of the recipe 'demo'")
    refused(maskens("train", "--run", "runs/twin", "--reuse", "runs/default", "--restart"), "exclude each other")
    refused(maskens("train", "--reuse", "runs/none"), "there is no run in runs/none")


def test_all_errors_of_a_recipe_are_told_at_once_before_anything_is_computed(data: Path) -> None:
    assert maskens("folds", "--k", "3").code == 0
    Path("mine.toml").write_text('extends = "demo"\n[tasks.mask]\nepoch = 3\nbatch_size = 1\n')
    refused(
        maskens("train", "--recipe", "mine.toml"),
        "tasks.mask.epoch: unknown key (did you mean 'epochs'",
        "tasks.mask.batch_size: input should be",
    )
    assert not list(Path("runs/default").glob("*/fold*"))


@pytest.mark.parametrize(
    ("fold", "words"),
    [
        ("7", ["--fold 7: there is no fold 7; this run has the folds 0..2"]),
        ("4..0", ["--fold 4..0: 4..0 runs backwards. Write 0..4."]),
        ("two", ["'two' is not a fold"]),
    ],
)
def test_a_fold_that_is_none(there: Path, fold: str, words: list[str]) -> None:
    refused(maskens("train", "--fold", fold), *words)


def test_an_unknown_recipe_model_task_or_device(data: Path) -> None:
    assert maskens("folds", "--k", "3").code == 0
    refused(maskens("train", "--recipe", "quik"), "there is no recipe 'quik' (did you mean 'quick'?)")
    recipe = Path("mine.toml")
    recipe.write_text("[defaults]\nmodel = 'tf_efficientnet_lite00'\npretrained = false\n[tasks.heads]\n")
    refused(maskens("train", "--recipe", recipe), "timm has no model 'tf_efficientnet_lite00'", "tf_efficientnet_lite0")
    refused(maskens("train", "--recipe", "demo", "--task", "msk"), "--task msk", "did you mean 'mask'")
    refused(maskens("train", "--device", "tpu"), "tpu")
    assert sorted(p.name for p in Path("runs/default").iterdir()) == ["folds.csv", "run.json"]


def test_another_recipe_or_seed_than_the_runs(there: Path) -> None:
    refused(
        maskens("train", "--recipe", "original", "--no-pretrained"), "models of the recipe 'demo'", "tasks.mask.model"
    )
    refused(maskens("train", "--seed", "7"), "No such option: --seed")
    refused(maskens("folds", "--k", "4"), "has models trained on other folds")
