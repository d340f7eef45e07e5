"""The command train."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
from run_command import maskens, python, ran, refused
from tiny_runs import DEFAULTS, at_batch


def test_a_stopped_training_prints_how_to_resume_and_does(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = Path("runs/default/mask/fold0/model.safetensors")
    unbroken = weights.read_bytes()
    shutil.rmtree(weights.parent)
    with monkeypatch.context() as patch:
        at_batch(patch, 30, lambda: os.kill(os.getpid(), signal.SIGTERM))
        stopped = maskens("train")
    assert stopped.code == 128 + signal.SIGTERM
    assert stopped.err.startswith("error: stopped. Saved: mask fold 0: ")
    assert "same command resumes" in stopped.err
    ran("train")
    assert weights.read_bytes() == unbroken
    ran("score")


def test_a_finished_job_outlives_its_job_json(copy: Path) -> None:
    folder = Path("runs/default/mask/fold0")
    weights, status = folder / "model.safetensors", folder / "job.json"
    before, unbroken = json.loads(status.read_text()), weights.read_bytes()
    status.write_bytes(status.read_bytes()[:100])
    outcome = ran("train")
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
    ran("train", "--task", "mask", "--fold", "0", "--restart")
    assert weights.read_bytes() == unbroken, "the same seed gives the same weights"


def test_weights_of_a_file_reach_training(data: Path) -> None:
    donor = timm.create_model("test_resnet", num_classes=1000)
    safetensors.torch.save_file(donor.state_dict(), "w.safetensors")
    Path("mine.toml").write_text(
        "[defaults]\nmodel = 'test_resnet.r160_in1k'\nresize = [32, 24]\nepochs = 1\n[tasks.heads]\n"
        "optimizer = { name = 'sgd', lr = 1e-12, weight_decay = 0.0 }\n"
    )
    ran("folds", "--k", "2")
    ran("train", "--fold", "0", "--recipe", "mine.toml", "--weights", "w.safetensors")
    trained = safetensors.torch.load_file("runs/default/heads/fold0/model.safetensors")
    layers = [k for k in donor.state_dict() if k.endswith("conv1.weight")]
    assert layers
    assert all(np.allclose(trained[k], donor.state_dict()[k], atol=1e-6) for k in layers)
    Path("w.safetensors").rename("moved.safetensors")
    refused(maskens("train", "--fold", "1"), "name the run's initial weights again with --weights FILE")
    ran("train", "--fold", "1", "--weights", "moved.safetensors")


def test_a_variant_reuses_what_does_not_differ_and_is_compared(copy: Path) -> None:
    ran("folds", "--k", "3", "--run", "runs/other")
    change = ("--set", "tasks.mask.epochs=1")
    outcome = ran("train", "--run", "runs/other", *change, "--reuse", "runs/default")
    assert "9 finished jobs are taken from runs/default" in outcome.out
    assert "tasks.mask.epochs" not in maskens("train", "--run", "runs/other", *change).out, "and keeps it"
    refused(
        maskens("train", "--run", "runs/other", "--set", "tasks.mask.epochs=2"), "tasks.mask.epochs: 1, now 2", "--set"
    )
    outcome = ran("compare", "runs/default", "runs/other")
    shown = "\n".join(line.rstrip() for line in outcome.out.splitlines())
    assert re.search(r"tasks\.mask\.epochs +5 +1\n", shown)
    first, second = shown.split(" default\n")[-1].split(" other\n")
    gender = [re.search(r"gender +([\d.]+ \(.*?\))", part)[1] for part in (first, second)]  # type: ignore[index]
    assert gender[0] == gender[1]
    assert re.search(r"gender .* equal", second)
    assert re.search(r"mask .* (worse|within noise)", second)
    ran("folds", "--k", "3", "--run", "runs/twin")
    outcome = maskens("train", "--run", "runs/twin", "--reuse", "runs/default")
    assert "12 finished jobs are taken" in outcome.out, "the reused run's recipe is the start"
    assert maskens("score", "--run", "runs/twin").out.splitlines()[:-1] == maskens("score").out.splitlines()[:-1]
    refused(maskens("train", "--run", "runs/twin", "--recipe", "quick"), "has models of the recipe 'demo'")
    refused(maskens("train", "--run", "runs/twin", "--reuse", "runs/default", "--restart"), "exclude each other")
    refused(maskens("train", "--reuse", "runs/none"), "there is no run in runs/none")


TWO_AT_ONCE = """
import os, sys
import cli, ensemble.commands.train
from ensemble.training.fit_fold import JobRun

def noted(self):
    print("trains", self.job, flush=True)
    run(self)

run, JobRun.run = JobRun.run, noted
sys.argv = ["maskens", "train", "--recipe", "mine.toml", "--quiet"]
other = os.fork()  # libraries are imported once, and both begin in the same moment
try:
    cli.main()
except SystemExit as end:
    if not other:
        os._exit(end.code or 0)  # torch's way out of a forked process may never end
    print("other", os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]))
    raise
"""


def test_two_processes_that_train_a_run_at_the_same_time_train_each_job_once(data: Path) -> None:
    Path("mine.toml").write_text(f"{DEFAULTS}[tasks.heads]\nepochs = 1\n")
    ran("folds", "--k", "2")
    one = python("-c", TWO_AT_ONCE)
    *trained, other = one.stdout.splitlines()
    codes = sorted([one.returncode, int(other.removeprefix("other "))])
    assert codes == [0, 0] or (codes == [0, 2] and "another maskens is training heads fold" in one.stderr), one
    assert sorted(trained) == ["trains heads fold 0", "trains heads fold 1"]
    assert "2 of 2 jobs are finished already" in ran("train").out
    ran("verify")
