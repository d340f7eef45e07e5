"""The command run: all steps in one, each skipped where it is done."""

from __future__ import annotations

import shlex
import shutil
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from edits import contents
from run_command import maskens, ran, refused
from tiny_runs import DEFAULTS

import ensemble
from ensemble.commands.training import Trained
from ensemble.training.queue import Failure
from folds.run_folder import load_run

steps = import_module("ensemble.commands.run")
HEADS = f"{DEFAULTS}[tasks.heads]\nepochs = 1\n"


@pytest.fixture
def typed(data: Path) -> list[str]:
    """A command for the folder `data`, whose recipe is beside it."""
    Path("tiny.toml").write_text(HEADS)
    return ["run", "--run", "my run", "--recipe", "tiny.toml", "--k", "2", "--device", "cpu"]


def _interrupted(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


def test_one_command_resumes_and_skips_what_is_done(typed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(steps, "train_from", _interrupted)
        assert maskens(*typed).code == 130
    outcome = ran(*typed)
    assert "folds: 2 folds are there" in outcome.out
    for result in ("submission.csv", "report.html"):
        assert Path("my run", result).is_file()
    assert "next: " not in outcome.out
    commands = [line[2:] for line in outcome.out.splitlines() if line.startswith("$ ")]
    assert commands[0] == "maskens train --run 'my run' --recipe tiny.toml --device cpu"

    files = contents(Path())
    again = ran(*typed)
    assert [line.partition(":")[0] for line in again.out.splitlines()] == [
        *("folds", "train", "tune", "score", "infer", "report", "done")
    ]
    for command in commands:
        ran(*shlex.split(command)[1:])
    assert contents(Path()) == files

    shutil.rmtree("my run/heads/fold1")
    monkeypatch.setattr(steps, "train_from", lambda began, options, observer: Trained(load_run(options.run[0]), 0, {}))
    late = maskens(*typed, "--hours", "1", "--tta", "none")
    (inferred,) = (line for line in late.out.splitlines() if line.startswith("$ maskens infer"))
    assert {"--allow-missing", "--no-tuning", "none"} <= {*inferred.split()}, "the tuning is of the lost job, too"
    assert "not trained: heads fold 1. Without --hours" in late.out
    shutil.rmtree("my run/heads")
    refused(maskens(*typed, "--hours", "1"), "--hours 1 is over, and no fold is trained")


def test_what_would_fail_after_training_is_refused_before_it(typed: list[str]) -> None:
    files = contents(Path())
    refused(maskens(*typed, "--data", "nope"), "there is no data folder nope")
    refused(maskens(*typed, "--tta", "flp"), "--tta flp", "did you mean 'flip'")
    refused(maskens(*typed, "--set", "tasks.heads.epoch=1"), "did you mean 'epochs'")
    refused(maskens(*typed, "--k", "7"), "The largest k that works is 3")
    table = Path("data/eval/info.csv")
    table.write_text(table.read_text() + "lost.jpg,0\n")
    refused(maskens(*typed), "info.csv row 8: data/eval/images/lost.jpg is missing")
    assert contents(Path()) == files | {str(table): table.read_bytes()}

    Path("data/eval/images/lost.jpg").write_bytes(b"no photo")
    refused(maskens(*typed), "lost.jpg", "--skip-bad-photos")
    assert load_run(Path("my run")).jobs_on_disk() == []


def test_with_hours_a_recipe_is_recommended(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def recommended(options: Any, observer: Any) -> SimpleNamespace:
        options.out.write_text(HEADS)
        return SimpleNamespace(why=[], next=["maskens folds"], earlier=None, path=options.out)

    monkeypatch.setattr(steps.recommend, "do", recommended)
    monkeypatch.setattr(steps, "train_from", _interrupted)
    outcome = maskens("run", "--run", "a", "--k", "2", "--hours", "2", "--device", "cpu")
    assert outcome.code == 130
    assert "$ maskens recommend --run a --hours 1.6 --device cpu --out a/recommended.toml" in outcome.out
    assert "$ maskens train --run a --recipe a/recommended.toml --device cpu --hours 2" in outcome.out


def test_failed_jobs_end_it(typed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(began: float, options: Any, observer: Any) -> Trained:
        return Trained(load_run(options.run[0]), 1, {("heads", 1): Failure("it broke", crashed=True)})

    monkeypatch.setattr(steps, "train_from", failing)
    outcome = maskens(*typed)
    assert outcome.code == 1
    assert "heads fold 1: it broke" in outcome.err
    ran = ensemble.run("data", run="my run", recipe="tiny.toml", device="cpu")
    assert (len(ran.trained.failed), ran.scored) == (1, None)


def test_a_dry_run_lists_the_commands_and_writes_nothing(typed: list[str]) -> None:
    Path("data/eval").rename("data/elsewhere")
    files = contents(Path())
    outcome = ran(*typed, "--dry-run")
    assert "$ maskens report --run 'my run'" in outcome.out
    assert "maskens infer" not in outcome.out, "there are no photos to predict"
    assert "2 jobs, 1 at a time" in outcome.out
    assert contents(Path()) == files
