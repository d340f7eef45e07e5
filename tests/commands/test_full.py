"""A model on everybody: `maskens train --fold full`, and the predictions with it."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cards import model_card
from conftest import MakeData
from edits import rows_of
from run_command import maskens, ran, refused
from tiny_runs import DEFAULTS, at_batch
from torch import nn

from ensemble.jobs.card import person_key, read_card
from ensemble.jobs.finished import full_epochs, full_schedule
from ensemble.jobs.job import JobStatus, write_status
from ensemble.jobs.spec import JobSpec
from ensemble.models.build import save_checkpoint
from ensemble.recipes.recipe_file import parse_recipe
from ensemble.training import fit_fold
from folds import ranges
from folds.layout import read_train
from folds.run_folder import Run, load_run

RUN = Path("runs/default")
FULL = RUN / "heads" / "full"
RECIPE = f"{DEFAULTS}[tasks.heads]\n"


@pytest.fixture(scope="module")
def finished(make_data: MakeData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of two folds and the model on everybody, and what commands said before and after it."""
    folder = tmp_path_factory.mktemp("full")
    make_data(folder / "data", people=18)
    (folder / "mine.toml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ran("folds", "--k", "2")
        refused(maskens("train", "--fold", "full", "--recipe", "mine.toml"), "no fold of heads", "--fold 0..1")
        ran("train", "--recipe", "mine.toml")
        Path("score.json").write_text(maskens("score", "--json").out)
        refused(maskens("infer", "--only", "full"), "no heads full", f"maskens train --run {RUN} --fold full")
        outcome = ran("train", "--fold", "all,full")
        Path("train.txt").write_text(outcome.out)
    return folder


@pytest.fixture
def there(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """It as the working folder; the run's jobs are to be read only."""
    monkeypatch.chdir(finished)
    return finished


@pytest.fixture
def copied(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to spoil."""
    shutil.copytree(finished, tmp_path / "copied")
    monkeypatch.chdir(tmp_path / "copied")
    return tmp_path / "copied"


def best_epoch(fold: int) -> int:
    f1 = [float(row["f1"]) for row in rows_of(RUN / "heads" / f"fold{fold}" / "history.csv")]
    return f1.index(max(f1)) + 1


def test_it_is_trained_on_everybody_for_the_median_of_the_folds_best_epochs(there: Path) -> None:
    card, status = read_card(FULL / "model.safetensors"), json.loads((FULL / "job.json").read_text())
    epochs = math.ceil(statistics.median([best_epoch(0), best_epoch(1)]))
    assert (card.epoch, status["epoch"], status["epochs"], card.f1) == (epochs, epochs, epochs, None)
    people = {person_key(person) for person in read_train(Path("data")).people}
    assert "".join(sorted(people)) == card.people
    assert f"heads full: epoch {epochs}/{epochs}" in (there / "train.txt").read_text()
    assert "macro F1 -  kept -" in (there / "train.txt").read_text()
    assert sorted(file.name for file in FULL.iterdir()) == ["history.csv", "job.json", "model.safetensors"]
    assert "3 of 3 jobs are finished already" in ran("train", "--fold", "0..1,full").out


@pytest.mark.parametrize(("best", "epochs"), [((1, 2, 4), 2), ((1, 2), 2), ((3,), 3), ((), None)])
def test_the_median_is_rounded_up(tmp_path: Path, best: tuple[int, ...], epochs: int | None) -> None:
    assert full_epochs(run_of(tmp_path, [{"epoch": epoch} for epoch in best]), "heads") == epochs


@pytest.mark.parametrize(("planned", "epochs"), [((None, 2), 3), ((1, 2), 2), ((), 3)])
def test_rates_are_those_of_folds_that_a_deadline_cut(tmp_path: Path, planned: tuple[Any, ...], epochs: int) -> None:
    run = run_of(tmp_path, [{"epochs": epochs} for epochs in planned])
    assert full_schedule(JobSpec(run, parse_recipe(RECIPE, "tiny"), "heads", ranges.FULL, "cpu", 0, 1, None)) == epochs


def run_of(tmp_path: Path, cards: list[dict[str, Any]]) -> Run:
    """A run of finished folds with these cards."""
    run = Run(tmp_path / "run", "", "", "", 3, 0, (1,) * 18)
    for fold, values in enumerate(cards):
        card = model_card(task="heads", fold=fold, **values)
        save_checkpoint(run.job_folder("heads", fold) / "model.safetensors", nn.Linear(1, 1), card)
        (run.job_folder("heads", fold) / "oof.npz").touch()
    return run


def test_stopped_or_trained_again_it_is_the_same(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (FULL / "model.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        at_batch(patch, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert maskens("train", "--fold", "full", "--restart").code == 128 + signal.SIGTERM
    assert not (FULL / "model.safetensors").exists()
    assert "2 models, " in ran("infer", "--dry-run").out, "an unfinished one predicts nothing"
    ran("train", "--fold", "full")
    assert (FULL / "model.safetensors").read_bytes() == before


def test_a_fold_that_fails_keeps_it_waiting(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(FULL)
    shutil.rmtree(FULL.with_name("fold1"))
    monkeypatch.setattr(fit_fold, "create", None)
    outcome = maskens("train", "--fold", "all,full")
    assert "heads full: waits for the folds of heads, of which one failed" in outcome.err
    assert not FULL.joinpath("last.pt").exists()


def logits(file: Path) -> np.ndarray:
    with np.load(file) as arrays:
        return np.asarray(arrays["logits/heads"])


def test_it_predicts_with_the_folds_or_alone(there: Path, tmp_path: Path) -> None:
    said = {}
    for only in ("all", "full", "folds"):
        chosen = () if only == "all" else ("--only", only)
        said[only] = ran("infer", "--out", tmp_path / f"{only}.csv", *chosen).out.splitlines()[0]
    assert said["all"].startswith("3 models of folds 0..1 and full, 6 photos")
    assert said["full"].startswith("1 models of full, 6 photos")
    assert said["folds"].startswith("2 models, 6 photos")
    every, full, folds = (logits(tmp_path / f"{only}.logits.npz") for only in said)
    assert len(every) == 3
    np.testing.assert_allclose(full, every[2:], atol=1e-5)
    np.testing.assert_allclose(folds, every[:2], atol=1e-5)
    photo = next(Path("data/eval/images").iterdir())
    (record,) = json.loads(ran("predict", photo, "--json").out)
    assert record["folds"] == 3


@pytest.mark.parametrize("only", [(), ("--only", "full"), ("--only", "folds")])
def test_what_it_predicted_is_verified(copied: Path, only: tuple[str, ...]) -> None:
    ran("infer", *only)
    assert "do not match" not in ran("verify").out
    if not only:
        file = FULL / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"x")
        outcome = maskens("verify")
        assert outcome.code == 1
        assert "--task heads --fold full --restart" in outcome.out + outcome.err
        refused(maskens("infer"), f"{file} is damaged or was replaced", "--task heads --fold full --restart")


def test_the_score_is_as_without_it_and_names_it(there: Path) -> None:
    before, after = json.loads((there / "score.json").read_text()), json.loads(ran("score", "--json").out)
    note = f"{RUN}: the full model is not part of the out-of-fold score"
    assert after.pop("notes") == [*before.pop("notes"), note]
    assert after == before
    assert note in ran("score").out


def test_other_best_epochs_than_it_was_trained_for_are_named(copied: Path) -> None:
    job = load_run(RUN)
    status = json.loads((FULL / "job.json").read_text())
    known = {key: status[key] for key in ("task", "fold", "state", "record", "checksums")}
    write_status(job, JobStatus(**known, epoch=9, epochs=9))
    assert "heads full was trained for 9 epochs" in ran("train", "--fold", "full").out


def test_a_record_that_is_lost_is_refused(copied: Path) -> None:
    (FULL / "job.json").unlink()
    refused(maskens("train", "--fold", "full"), "full/job.json", "--task heads --fold full --restart")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sweep", "--recipe", "mine.toml", "--fold", "full"), "maskens train --run RUN --fold full"),
        (("distil", "--fold", "0,full"), "maskens train --run RUN --fold full"),
        (("infer", "--only", "fold"), "--only"),
        (("infer", "--only", "full", "--max-passes", "0.5"), "of 3 (folds times views) or more"),
    ],
)
def test_where_it_makes_no_sense_it_is_refused(there: Path, words: tuple[str, ...], message: str) -> None:
    refused(maskens(*words), message)


def test_runs_with_targets_or_weights_of_folds_have_none(there: Path, tmp_path: Path) -> None:
    ran("folds", "--run", tmp_path / "next", "--folds-file", RUN / "folds.csv")
    train = ("train", "--run", tmp_path / "next", "--recipe", "mine.toml", "--fold", "all,full")
    refused(maskens(*train, "--weights", RUN), "heads start from weights of each fold")
    refused(maskens(*train, "--weights", FULL / "model.safetensors"), "was trained on 18 people of fold 0, 1")
