"""maskens train --hours."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from run_command import maskens, ran, refused
from tiny_runs import DEFAULTS

import ensemble.training.cost
from ensemble.training.cost import Cost
from ensemble.training.deadline import Deadline, save_deadline
from folds.run_folder import load_run

RECIPE = f"{DEFAULTS}[tasks.heads]\nepochs = 2\n"
HOURS = 0.15
TRAIN = ("train", "--run", "run", "--recipe", "mine.toml", "--device", "cpu", "--workers", 0)
SLOW = Cost(decode=0.0, train=4.0, predict=0.1, start=0.0, weights=1, memory=1)  # an epoch takes six minutes or so


@pytest.fixture
def timed(data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of three folds, of whose models a probe says that they are slow; they are not."""
    Path("mine.toml").write_text(RECIPE)
    ran("folds", "--run", "run", "--k", 3)
    monkeypatch.setattr(ensemble.training.cost, "probe", lambda *_: SLOW)
    return Path("run")


def test_the_folds_that_fit_are_trained_and_what_is_cut_is_reported(timed: Path) -> None:
    dry = maskens(*TRAIN, "--hours", HOURS, "--dry-run")
    assert re.search(r"deadline 20\S+ \S+: .*fold 0: 1 of 2 epochs; folds 1, 2: not trained", dry.out), dry
    assert not (timed / "deadline.json").exists()
    outcome = ran(*TRAIN, "--hours", HOURS)
    assert "deadline: fold 0: 1 of 2 epochs\n" in outcome.out, "the second job knows how fast it is"
    assert "next: maskens infer --run run\n" in outcome.out
    assert json.loads((timed / "deadline.json").read_text())["hours"] == HOURS
    assert "3 of 3 jobs are finished already, with fewer epochs than the recipe's (fold 0: " in maskens(*TRAIN).out
    assert not (timed / "deadline.json").exists(), "without --hours there is none"
    for command in ("infer", "score", "verify"):
        ran(command, "--run", "run")
    again = maskens(*TRAIN, "--fold", 0, "--restart")
    assert json.loads((timed / "heads" / "fold0" / "job.json").read_text())["epoch"] == 2, again


def test_too_little_time_is_refused_with_the_least_that_would_do(timed: Path) -> None:
    before = sorted(timed.iterdir())
    outcome = maskens(*TRAIN, "--hours", 0.01)
    refused(outcome, "--hours 0.01 is too short: at least 0.")
    assert sorted(timed.iterdir()) == before
    least = float(re.search(r"at least (\S+) h", outcome.err)[1])  # type: ignore[index]
    ran(*TRAIN, "--hours", least, "--dry-run")
    for hours in ("0", "-1", "nan", "inf"):
        refused(maskens(*TRAIN, "--hours", hours), f"--hours {hours}: give the hours")


def test_the_same_command_resumes_towards_the_same_deadline(timed: Path) -> None:
    ran(*TRAIN, "--fold", 0)
    save_deadline(load_run(timed), Deadline.after(HOURS, 0.0))
    past = ran(*TRAIN, "--hours", HOURS)
    assert "leaves no time for another fold" in past.out and "Another --hours gives more time" in past.out
    assert "deadline: folds 1, 2: not trained" in past.out
    assert "next: maskens infer --run run --allow-missing" in past.out
    assert not (timed / "heads" / "fold1").exists()
    ran(*TRAIN, "--hours", 3, "--fold", 1)
    assert (timed / "heads" / "fold1" / "oof.npz").exists()
