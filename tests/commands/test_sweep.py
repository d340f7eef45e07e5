"""The command sweep: recipes x seeds as one queue, stopped and continued, compared at the end."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from edits import rows_of
from run_command import maskens, ran, refused
from tiny_runs import DEFAULTS, at_batch

import ensemble
import ensemble.training.fit_fold
from folds.run_folder import load_run

ROWS = [(recipe, part) for recipe in ("a", "b") for part in ("18 classes", "mask", "gender", "age")]


@pytest.fixture(scope="module")
def swept(make_data: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recipes with two seeds on two folds; to be read only."""
    home = tmp_path_factory.mktemp("sweep")
    make_data(home / "data", people=12)
    (home / "a.toml").write_text(DEFAULTS.replace("epochs = 3", "epochs = 1") + "[tasks.heads]\n")
    (home / "b.toml").write_text('extends = "a.toml"\n[tasks.heads]\noptimizer = { lr = 1e-2 }\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        ran("folds", "--k", "2", "--seed", "7")
        outcome = ran("sweep", "--recipe", "a.toml", "--recipe", "b.toml", "--seed", "0..1", "--fold", "all")
    (home / "out.txt").write_text(outcome.out)
    return home


@pytest.fixture
def there(swept: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The finished sweep's home as the working folder."""
    monkeypatch.chdir(swept)
    return swept


@pytest.fixture
def copy(swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to change, beside a link to its data."""
    shutil.copytree(swept, tmp_path / "home", ignore=shutil.ignore_patterns("data"))
    (tmp_path / "home" / "data").symlink_to(swept / "data")
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def models(home: Path) -> dict[str, bytes]:
    return {str(p.relative_to(home)): p.read_bytes() for p in home.glob("runs/sweep/*/heads/*/model.safetensors")}


def test_runs_that_were_only_partly_written_are_completed(copy: Path) -> None:
    written = [copy / "runs" / "sweep" / run / "folds.csv" for run in ("a-seed0", "b-seed1")]
    for file in written:
        file.unlink()  # as after a crash between run.json and folds.csv
    assert "18 classes" in ran("sweep").out
    assert {file.read_text() for file in written} == {(copy / "runs" / "default" / "folds.csv").read_text()}


def test_each_recipe_and_seed_is_a_run_on_the_same_folds(there: Path) -> None:
    base = load_run(Path("runs/default"))
    for recipe in ("a", "b"):
        for seed in (0, 1):
            run = load_run(Path(f"runs/sweep/{recipe}-seed{seed}"))
            assert (run.folds_hash, run.fingerprint, run.seed) == (base.folds_hash, base.fingerprint, seed)
            assert f"{recipe}-seed{seed} heads fold 1: done" in (there / "out.txt").read_text()
    ran("score", "--run", "runs/sweep/b-seed1")
    ran("verify", "--run", "runs/sweep/b-seed1")


def test_a_run_of_a_sweep_is_what_folds_and_train_make(there: Path, tmp_path: Path) -> None:
    folds = ("--folds-file", "runs/default/folds.csv", "--seed", "1")
    ran("folds", "--run", tmp_path / "b", *folds)
    ran("train", "--run", tmp_path / "b", "--recipe", "b.toml", "--fold", "1")
    for file in ("folds.csv", "recipe.toml", "heads/fold1/model.safetensors", "heads/fold1/oof.npz"):
        assert (tmp_path / "b" / file).read_bytes() == (there / "runs/sweep/b-seed1" / file).read_bytes(), file


def test_at_the_end_recipes_are_compared_in_a_table_and_in_files(there: Path) -> None:
    shown = (there / "out.txt").read_text()
    assert "difference from the first" in shown
    assert "84 photos of 12 people, folds 0, 1, seeds 0, 1." in shown
    rows = rows_of("runs/sweep/comparison.csv")
    assert [(r["recipe"], r["part"]) for r in rows] == ROWS
    assert rows[4]["verdict"] in ("better", "worse", "within noise")
    found = json.loads(Path("runs/sweep/comparison.json").read_text())
    assert (found["seeds"], found["folds"]) == ([0, 1], [0, 1])
    scores = [ensemble.score(f"runs/sweep/b-seed{seed}").evaluation.f1["18 classes"].value for seed in (0, 1)]
    assert found["scores"][4]["seeds_f1"] == pytest.approx(scores)
    compared = ran("sweep", "--compare", "--checkpoint", "last", "--tta", "none")
    assert "Last epochs, views: none" in compared.out


def test_the_same_command_does_nothing_twice(there: Path) -> None:
    before = models(there)
    again = ran("sweep", "--recipe", "a.toml", "--recipe", "b.toml", "--seed", "0..1", "--fold", "all")
    assert "done\n" not in again.out
    assert models(there) == before


def test_a_seed_is_added_stopped_and_resumed(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = models(copy)
    with monkeypatch.context() as patch:
        at_batch(patch, 4, lambda: os.kill(os.getpid(), signal.SIGINT))
        stopped = maskens("sweep", "--seed", "2")
    assert stopped.code == 130
    assert "b-seed2 heads fold 0: 0 of 1 epochs and 2 batches; 1 of the 4 remaining jobs are done" in stopped.err
    part = maskens("sweep", "--compare")
    assert "folds 0, 1, seeds 0, 1." in part.out
    whole = ran("sweep")
    assert "folds 0, 1, seeds 0, 1, 2." in whole.out
    assert "a-seed2 heads fold 0" not in whole.out.replace("epoch", ""), "it was done"
    after = models(copy)
    assert len(after) == 12
    assert before.items() <= after.items()


def test_jobs_that_two_recipes_share_are_trained_once(copy: Path) -> None:
    Path("same.toml").write_text('extends = "b.toml"\n')
    outcome = ran("sweep", "--recipe", "same.toml")
    assert "4 finished jobs are taken over" in outcome.out
    assert "epoch 1/1" not in outcome.out
    found = models(copy)
    assert (
        found["runs/sweep/same-seed1/heads/fold0/model.safetensors"]
        == found["runs/sweep/b-seed1/heads/fold0/model.safetensors"]
    )


def test_a_failed_job_is_reported_and_the_rest_is_compared(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create = ensemble.training.fit_fold.create

    def failing(task: Any, **kwargs: Any) -> object:
        if task.optimizer.lr == 0.5:
            raise RuntimeError("out of luck")
        return create(task, **kwargs)

    monkeypatch.setattr(ensemble.training.fit_fold, "create", failing)
    Path("bad.toml").write_text('extends = "a.toml"\n[tasks.heads]\noptimizer = { lr = 0.5 }\n')
    outcome = maskens("sweep", "--recipe", "bad.toml")
    assert outcome.code == 1
    assert "4 of 4 jobs failed:" in outcome.err
    assert "bad-seed1 heads fold 0: RuntimeError: out of luck" in outcome.err
    assert "bad is not compared: it has finished no fold" in outcome.out
    assert "84 photos of 12 people" in outcome.out


def test_photos_that_are_skipped_are_so_in_all_runs(there: Path, tmp_path: Path) -> None:
    shutil.copytree("data", tmp_path / "data")
    photo = next((tmp_path / "data" / "train" / "images").glob("*/normal.jpg"))
    photo.write_bytes(photo.read_bytes()[:300])
    ran("folds", "--data", tmp_path / "data", "--run", tmp_path / "run", "--k", "2")
    words = ("sweep", "--run", tmp_path / "run", "--out", tmp_path / "sweep", "--recipe", "a.toml", "--fold", "0")
    refused(maskens(*words, "--seed", "0"), "normal.jpg can't be read", "--skip-bad-photos")
    ran(*words, "--seed", "0", "--skip-bad-photos")
    added = ran("sweep", "--out", tmp_path / "sweep", "--seed", "1")
    assert added.out.count("1 of 84 labelled photos can't be read and are skipped") == 1
    first, second = ((tmp_path / "sweep" / f"a-seed{seed}" / "skipped.csv").read_text() for seed in (0, 1))
    assert first == second


def test_a_dry_run_lists_the_matrix_and_writes_nothing(there: Path) -> None:
    outcome = ran("sweep", "--out", "runs/other", "--recipe", "a.toml", "--seed", "0..4", "--dry-run")
    assert [line.split() for line in outcome.out.splitlines() if line.startswith(" a ")] == [
        ["a", "5", "10", "0", "10", "0"]
    ]
    assert "10 jobs, 1 at a time: about" in outcome.out
    assert not Path("runs/other").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--out runs/new", "name what to train, like --recipe quick"),
        ("--recipe a.toml --recipe d/a.toml", "runs are named by their recipe"),
        ("--recipe a.toml --set tasks.heads.epochs=9", "another recipe of this name: - tasks.heads.epochs: 1, now 9"),
        ("--set tasks.heads.epochs=9", "--set, --weights and --no-pretrained need --recipe"),
        ("--out runs/default --recipe a.toml", "runs/default is a run folder"),
        ("--seed 2..0", "--seed 2..0: 2..0 runs backwards"),
        ("--seed 0..4294967295", "at most 100"),
        ("--fold 2", "there is no fold 2"),
        ("--out runs/new --compare", "there is no sweep in runs/new yet"),
    ],
)
def test_what_can_not_be_is_refused(there: Path, words: str, said: str) -> None:
    refused(maskens("sweep", *words.split()), said)


def test_everything_that_is_wrong_is_reported_at_once(there: Path) -> None:
    words = ("--recipe", "quik", "--recipe", "a.toml", "--recipe", "b.toml", "--set", "tasks.mask.epochs=2")
    outcome = maskens("sweep", "--out", "runs/new", *words)
    refused(outcome, "there is no recipe 'quik'", "--recipe a.toml: --set tasks.mask", "--recipe b.toml: --set")
    assert not Path("runs/new").exists()


def test_a_sweep_that_was_killed_before_its_first_run_asks_for_the_folds(copy: Path) -> None:
    for folder in Path("runs/sweep").glob("*-seed*"):
        shutil.rmtree(folder)
    Path("runs/default").rename("runs/mine")
    refused(maskens("sweep", "--dry-run"), "runs/sweep has no run yet. Name the run whose folds it")
    ran("sweep", "--dry-run", "--run", "runs/mine")


def test_a_run_or_record_that_does_not_belong_is_refused(copy: Path) -> None:
    shutil.copytree("runs/sweep/a-seed1", "runs/sweep/a-seed5")
    refused(maskens("sweep", "--seed", "5"), "a-seed5 does not belong to this sweep: - its seed is 1")
    data = load_run(Path("runs/default")).data_folder()
    ran("folds", "--run", "runs/else", "--data", data, "--k", "2", "--seed", "3")
    refused(maskens("sweep", "--run", "runs/else"), "runs/else has other data or folds than the sweep runs/sweep")
    record = json.loads(Path("runs/sweep/sweep.json").read_text())
    Path("runs/sweep/sweep.json").write_text(json.dumps(record | {"seeds": [9]}))
    refused(maskens("sweep"), "sweep.json can't be used: it was edited or damaged")
