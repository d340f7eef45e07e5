"""What trackers get of a job, and that no job ever minds."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from edits import hide_package
from safetensors.torch import load_file
from tiny_runs import DEFAULTS, TinyRun, tiny_run
from tracked import BOTH, events, history, wandb_history

import ensemble.training.tracking
from ensemble.data.cache import DecodedPhotos
from ensemble.jobs.job import Job
from ensemble.jobs.oof import load_job_oof
from ensemble.jobs.spec import JobSpec
from ensemble.recipes.schema import Preprocessing
from ensemble.recipes.tasks import OutputSpec, true_labels
from ensemble.training import fit_fold
from ensemble.training.fit_fold import JobRun
from ensemble.training.queue import run_job
from ensemble.training.tracking import (
    SCALARS,
    TRACKERS,
    TensorBoard,
    TrackedJob,
    check_trackers,
    draw_matrix,
    run_id,
    worst_photos,
)
from folds.errors import MaskensError
from folds.pages.contact_sheet import Sheet
from folds.people import TrainData

RECIPE = f"{DEFAULTS}[tasks.mask]\n[tasks.heads]\nages = {{ cuts = [25, 30, 60] }}\n"


@pytest.fixture(scope="module")
def runs(data: TrainData, tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return tiny_run(tmp_path_factory.mktemp("tracking") / "run", data, RECIPE, "tasks.*.epochs=2")


def job(runs: TinyRun, name: str, task: str = "mask", fold: int = 0, track: tuple[str, ...] = ()) -> JobSpec:
    """A job of a run of this name; all runs share a cache."""
    return runs.elsewhere(name).spec(task, fold, cache=runs.run.folder / "cache", track=track)


def trained(runs: TinyRun, spec: JobSpec) -> Job:
    assert run_job(spec, runs.data, runs.folds) is None
    return spec.job


def stay_offline(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        patch.setenv(name, str(folder / name))


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stay_offline(monkeypatch, tmp_path)


@pytest.fixture
def blank_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Confusion matrices are pictures, but nobody draws them: that takes longer than the training."""
    blank = np.zeros((8, 8, 3), dtype=np.uint8)
    monkeypatch.setattr(ensemble.training.tracking, "draw_matrix", lambda *_: blank)


@pytest.fixture(scope="module")
def tracked(runs: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job with both trackers; to be read only."""
    importlib.import_module("matplotlib.font_manager")  # where there is no font cache, that warns, once
    with pytest.MonkeyPatch.context() as patch:
        stay_offline(patch, tmp_path_factory.mktemp("wandb"))
        return trained(runs, job(runs, "tracked", "heads", track=BOTH))


def test_tensorboard_has_curves_pictures_and_the_recipe(runs: TinyRun, tracked: Job) -> None:
    found, rows = events(tracked.folder), history(tracked.folder)
    tags = found.Tags()
    assert set(tags["scalars"]) == {*SCALARS, "f1/mask", "f1/gender", "f1/age"}
    assert set(tags["images"]) == {"confusion/mask", "confusion/gender", "confusion/age", "worst"}
    for name in SCALARS:
        scalars = [(e.step, e.value) for e in found.Scalars(name)]
        assert scalars == [(r["epoch"], pytest.approx(r[name], rel=1e-4)) for r in rows]
    assert all(0 < e.value <= 1 for part in ("mask", "gender", "age") for e in found.Scalars(f"f1/{part}"))
    assert [e.step for e in found.Images("worst")] == [1, 2]
    (text,) = found.Tensors("job/text_summary")
    written = text.tensor_proto.string_val[0].decode()
    for part in ("fold = 0", "seed = 1", runs.run.folds_hash, "drop_rate = 0.2", 'name = "HorizontalFlip"'):
        assert part in written


def test_wandb_has_curves_pictures_and_the_recipe(tracked: Job) -> None:
    assert tracked.status().note == ""
    rows, found = wandb_history(tracked.folder)
    assert [r["step"] for r in rows] == [1, 2]
    assert rows[-1]["f1"] == pytest.approx(history(tracked.folder)[-1]["f1"], rel=1e-4)
    assert rows[-1]["worst/_type"] == rows[-1]["confusion/mask/_type"] == "image-file"
    assert {(r.project, r.run_group, r.display_name) for r in found} == {("maskens", "tracked", "heads-fold0")}
    config = {i.key: json.loads(i.value_json) for r in found for i in r.config.update}
    assert (config["fold"], config["recipe"]["model_args"]) == (0, {"drop_rate": 0.2})


@pytest.mark.usefixtures("blank_matrices")
def test_a_job_that_resumes_reports_each_epoch_once_and_one_that_starts_over_forgets_them(
    runs: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, save_last = job(runs, "stopped", track=BOTH), fit_fold.save_last
    folder = spec.job.folder

    def stop_before_the_second_epoch_counts(job: Job, state: dict[str, Any]) -> None:
        if len(state["history"]) == 2:
            raise KeyboardInterrupt
        save_last(job, state)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fit_fold, "save_last", stop_before_the_second_epoch_counts)
        run_job(spec, runs.data, runs.folds)
    assert [e.step for e in events(folder).Scalars("f1")] == [1, 2]
    trained(runs, spec)
    found, rows = events(folder), history(folder)
    assert len([*(folder / "tensorboard").iterdir()]) == 2
    for name in ("loss", "f1"):
        scalars = [(e.step, e.value) for e in found.Scalars(name)]
        assert scalars == [(r["epoch"], pytest.approx(r[name], rel=1e-4)) for r in rows]
    assert [e.step for e in found.Images("confusion/mask")] == [1, 2]
    assert len(found.Tensors("job/text_summary")) == 1
    steps, wandb_runs = wandb_history(folder)
    assert [r["step"] for r in steps] == [1, 2, 2], "W&B drops the second of two equal steps"
    assert steps[1]["f1"] == steps[2]["f1"]
    assert len({r.run_id for r in wandb_runs}) == 1

    (folder / "job.json").unlink()
    trained(runs, spec)
    assert [e.step for e in events(folder).Scalars("f1")] == [1, 2]
    assert [r["step"] for r in wandb_history(folder)[0]] == [1, 2]


def test_tracking_changes_no_result(runs: TinyRun, tracked: Job) -> None:
    without = trained(runs, job(runs, "untracked", "heads"))
    assert not {p.name for p in without.folder.iterdir()} & set(BOTH)
    logits = [load_job_oof(each.oof, {}).logits for each in (without, tracked)]
    assert np.array_equal(*logits)
    weights = [load_file(each.model) for each in (without, tracked)]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert [r["loss"] for r in history(without.folder)] == [r["loss"] for r in history(tracked.folder)]


@pytest.mark.usefixtures("blank_matrices")
@pytest.mark.parametrize("where", ["__init__", "epoch", "close"])
def test_a_tracker_that_fails_leaves_a_note(runs: TinyRun, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    numbers: list[int] = []
    other = SimpleNamespace(epoch=lambda number, *_: numbers.append(number), close=lambda success: None)
    monkeypatch.setitem(TRACKERS, "wandb", lambda *_: other)
    monkeypatch.setattr(TensorBoard, where, fail)
    done = trained(runs, job(runs, f"fails-{where}", track=BOTH))
    assert done.status().state == "done"
    assert all(words in done.status().note for words in ("tensorboard", "No space left on device"))
    assert numbers == [1, 2], "the other tracker continues"


def test_pictures_that_fail_end_tracking_and_not_the_job(runs: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensemble.training.tracking.draw", lambda sheet: 1 / 0)
    status = trained(runs, job(runs, "no pictures", track=("tensorboard",))).status()
    assert (status.state, status.epoch) == ("done", 2)
    assert "tensorboard" in status.note and "ZeroDivisionError" in status.note


def test_the_id_of_a_job_is_its_own_and_stays(runs: TinyRun) -> None:
    def id_of(spec: JobSpec) -> str:
        found = JobRun(spec, runs.data, runs.folds)
        return run_id(found.tracked(DecodedPhotos(runs.data.photos, [])))

    specs = [job(runs, "a"), job(runs, "a", fold=1), job(runs, "a", "heads"), job(runs, "b")]
    assert len({id_of(s) for s in specs}) == 4
    assert id_of(specs[0]) == id_of(job(runs, "a"))


def test_a_missing_package_is_refused_beside_a_folder_of_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        hide_package(patch, "tensorboard")
        with pytest.raises(
            MaskensError, match=r"--track tensorboard needs tensorboard.*pip install 'maskens\[tensorboard\]'"
        ):
            check_trackers(["tensorboard"])
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb")
    with pytest.raises(MaskensError, match="--track wandb needs wandb"):
        check_trackers(["wandb"])


def test_wandb_without_a_login_is_refused_unless_it_stays_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    check_trackers(["wandb"])
    wandb = pytest.importorskip("wandb")
    monkeypatch.setattr(wandb.setup().settings, "mode", "online")
    for login in (lambda: False, lambda: (_ for _ in ()).throw(wandb.errors.UsageError("No API key configured."))):
        monkeypatch.setattr(wandb, "login", login)
        with pytest.raises(MaskensError, match=r"(?s)--track wandb: (not logged in|No API key).*WANDB_MODE=offline"):
            check_trackers(["wandb"])


def test_the_worst_photos_come_in_the_order_of_their_loss(data: TrainData, monkeypatch: pytest.MonkeyPatch) -> None:
    sheets: list[Sheet] = []
    draw = ensemble.training.tracking.draw
    monkeypatch.setattr(ensemble.training.tracking, "draw", lambda sheet: sheets.append(sheet) or draw(sheet))
    output_spec = OutputSpec("heads", (25, 30, 60), (0, 0, 1, 2))  # in finer bins than are scored
    rows = np.arange(7, 28)
    truth = true_labels(output_spec, data)[rows]
    logits = np.full((21, 9), -20, dtype=np.float32)
    gendered, aged = 3 + truth[:, 1], 5 + truth[:, 2] + 1
    for columns in (truth[:, 0], gendered, aged):
        logits[np.arange(21), columns] = 20
    logits[4, 3:5] = logits[4, [4, 3]]  # the wrong gender
    logits[9, 0:3] = 0  # no idea of the mask
    photos = DecodedPhotos(data.photos, [Preprocessing((32, 24))])
    tracked = TrackedJob(None, output_spec, {}, photos, rows, truth)  # type: ignore[arg-type]
    picture = worst_photos("title", tracked, logits)
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    first, second, *_ = sheets[0].cells
    for words in ("is wear, male, 30-59", "as wear, female, 30-59", "4.25e-18", data.people[1].path, "mask5.jpg"):
        assert words in first.caption
    assert "0.333" in second.caption
    assert second.picture is not None
    assert np.array_equal(second.picture, photos[16][0])


def test_a_confusion_matrix_is_coloured_by_the_shares_of_its_rows() -> None:
    rare, common = np.eye(3, dtype=np.int64), np.eye(3, dtype=np.int64)
    common[0, 0] = 1000
    pictures = [draw_matrix(matrix, ["a", "b", "c"], "title") for matrix in (rare, common)]
    assert pictures[0].shape == pictures[1].shape
    assert (pictures[0] != pictures[1]).any(axis=2).mean() < 0.01, "but for the figures"
