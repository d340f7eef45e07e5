"""What trackers are told of a job, and that no job ever minds."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import DEFAULTS, TinyRun, tiny_run
from tracked import BOTH, events, history, wandb_history

import cli
import ensemble.training.fit_fold
import ensemble.training.pictures
from ensemble.data.cache import DecodedPhotos
from ensemble.jobs.job import Job
from ensemble.jobs.oof import load_job_oof
from ensemble.jobs.spec import JobSpec
from ensemble.recipes.schema import Preprocessing
from ensemble.recipes.tasks import OutputSpec, true_labels
from ensemble.training.fit_fold import JobRun
from ensemble.training.pictures import confusion_matrix, counts, worst_photos
from ensemble.training.runner import run_job
from ensemble.training.tracking import SCALARS, TensorBoard, check_trackers, run_id
from folds.errors import MaskensError
from folds.layout import read_train
from folds.pages.contact_sheet import Sheet

RECIPE = f"{DEFAULTS}[tasks.mask]\n[tasks.heads]\nages = {{ cuts = [25, 30, 60] }}\n"


def job(setting: TinyRun, name: str, task: str = "mask", fold: int = 0, track: tuple[str, ...] = ()) -> JobSpec:
    """A job of a run of this name; all runs share a cache."""
    return setting.elsewhere(name).spec(task, fold, cache=setting.run.folder / "cache", track=track)


def trained(setting: TinyRun, spec: JobSpec) -> Path:
    assert run_job(spec, setting.data, setting.folds) is None
    return spec.run.job_folder(spec.task, spec.fold)


@pytest.fixture(scope="module")
def setting(make_data: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    root = tmp_path_factory.mktemp("tracking")
    data = read_train(make_data(root / "data", people=24))
    return tiny_run(root / "run", data, RECIPE, "tasks.*.epochs=2")


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
    monkeypatch.setattr(ensemble.training.pictures, "confusion_matrix", lambda *_: blank)


def stop_before_the_second_epoch_counts(setting: TinyRun, spec: JobSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(job: Job, identity: Any, trained: Any, rows: list[Any], *within: Any) -> None:
        if len(rows) == 2:
            raise KeyboardInterrupt
        save_last(job, identity, trained, rows, *within)

    save_last = ensemble.training.fit_fold.save_last
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ensemble.training.fit_fold, "save_last", save)
        run_job(spec, setting.data, setting.folds)


@pytest.fixture(scope="module")
def tracked(setting: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job of which both trackers are told; to be read only."""
    with pytest.MonkeyPatch.context() as patch:
        stay_offline(patch, tmp_path_factory.mktemp("wandb"))
        return trained(setting, job(setting, "tracked", "heads", track=BOTH))


def test_tensorboard_has_curves_pictures_and_the_recipe(setting: TinyRun, tracked: Path) -> None:
    folder = tracked
    found, rows = events(folder), history(folder)
    tags = found.Tags()
    assert set(tags["scalars"]) == {*SCALARS, "f1/mask", "f1/gender", "f1/age"}
    assert set(tags["images"]) == {"confusion/mask", "confusion/gender", "confusion/age", "worst"}
    for name in SCALARS:
        told = [(e.step, e.value) for e in found.Scalars(name)]
        assert told == [(r["epoch"], pytest.approx(r[name], rel=1e-4)) for r in rows]
    for part in ("mask", "gender", "age"):
        told = [e.value for e in found.Scalars(f"f1/{part}")]
        assert len(told) == 2
        assert all(0 < f1 <= 1 for f1 in told)
    assert [e.step for e in found.Images("worst")] == [1, 2]
    (text,) = found.Tensors("job/text_summary")
    told = text.tensor_proto.string_val[0].decode()
    for part in ("fold = 0", "seed = 1", setting.run.folds_hash, "drop_rate = 0.2", 'name = "HorizontalFlip"'):
        assert part in told


@pytest.mark.usefixtures("blank_matrices")
def test_a_job_that_goes_on_tells_each_epoch_once(setting: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = job(setting, "stopped", track=BOTH)
    stop_before_the_second_epoch_counts(setting, spec, monkeypatch)
    folder = spec.run.job_folder("mask", 0)
    assert [e.step for e in events(folder).Scalars("f1")] == [1, 2]
    trained(setting, spec)
    found, rows = events(folder), history(folder)
    assert len([*(folder / "tensorboard").iterdir()]) == 2
    for name in ("loss", "f1"):
        told = [(e.step, e.value) for e in found.Scalars(name)]
        assert told == [(r["epoch"], pytest.approx(r[name], rel=1e-4)) for r in rows]
    assert [e.step for e in found.Images("confusion/mask")] == [1, 2]
    assert len(found.Tensors("job/text_summary")) == 1

    told, runs = wandb_history(folder)
    assert [r["step"] for r in told] == [1, 2, 2], "W&B drops the second of two equal steps"
    assert told[1]["f1"] == told[2]["f1"]
    assert len({r.run_id for r in runs}) == 1


@pytest.mark.usefixtures("blank_matrices")
def test_a_job_begun_anew_forgets_what_was_tracked(setting: TinyRun) -> None:
    spec = job(setting, "anew", track=BOTH)
    folder = trained(setting, spec)
    (folder / "job.json").unlink()
    trained(setting, spec)
    assert [e.step for e in events(folder).Scalars("f1")] == [1, 2]
    assert [r["step"] for r in wandb_history(folder)[0]] == [1, 2]


@pytest.mark.usefixtures("blank_matrices")
def test_two_jobs_of_one_process_are_two_runs_of_wandb(setting: TinyRun) -> None:
    ids = set()
    for fold in (0, 1):
        spec = job(setting, "wandb", fold=fold, track=("wandb",))
        folder = trained(setting, spec)
        assert Job(spec.run, "mask", fold).status().note == ""
        rows, runs = wandb_history(folder)
        assert [r["step"] for r in rows] == [1, 2]
        assert rows[-1]["f1"] == pytest.approx(history(folder)[-1]["f1"], rel=1e-4)
        assert rows[-1]["worst/_type"] == rows[-1]["confusion/mask/_type"] == "image-file"
        (run,) = {(r.project, r.run_group, r.display_name) for r in runs}
        assert run == ("maskens", "wandb", f"mask-fold{fold}")
        config = {i.key: json.loads(i.value_json) for r in runs for i in r.config.update}
        assert (config["fold"], config["recipe"]["model_args"]) == (fold, {"drop_rate": 0.2})
        ids |= {r.run_id for r in runs}
    assert len(ids) == 2


def test_tracking_changes_no_result(setting: TinyRun, tracked: Path) -> None:
    without = trained(setting, job(setting, "untracked", "heads"))
    assert not {p.name for p in without.iterdir()} & set(BOTH)
    logits = [load_job_oof(folder / "oof.npz", {}) for folder in (without, tracked)]
    assert np.array_equal(logits[0].at("best"), logits[1].at("best"))
    assert np.array_equal(logits[0].at("last"), logits[1].at("last"))
    weights = [load_file(folder / "model.safetensors") for folder in (without, tracked)]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert [r["loss"] for r in history(without)] == [r["loss"] for r in history(tracked)]


@pytest.mark.usefixtures("blank_matrices")
@pytest.mark.parametrize("where", ["__init__", "epoch", "close"])
def test_a_tracker_that_fails_leaves_a_note_and_a_finished_job(
    setting: TinyRun, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TensorBoard, where, fail)
    spec = job(setting, f"fails-{where}", track=BOTH)
    folder = trained(setting, spec)
    status = Job(spec.run, "mask", 0).status()
    assert status.state == "done"
    assert status.note == "tracking with tensorboard ended: OSError: [Errno 28] No space left on device"
    assert [r["step"] for r in wandb_history(folder)[0]] == [1, 2], "the other one goes on"


def test_pictures_that_fail_end_tracking_and_not_the_job(setting: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensemble.training.pictures.draw", lambda sheet: 1 / 0)
    spec = job(setting, "no pictures", track=BOTH)
    trained(setting, spec)
    status = Job(spec.run, "mask", 0).status()
    assert (status.state, status.epoch) == ("done", 2)
    assert status.note == "tracking with tensorboard and wandb ended: ZeroDivisionError: division by zero"


def test_the_id_of_a_job_is_its_own_and_stays(setting: TinyRun) -> None:
    def id_of(spec: JobSpec) -> str:
        found = JobRun(spec, setting.data, setting.folds)
        return run_id(found.tracked(DecodedPhotos(setting.data.photos, [])))

    specs = [job(setting, "a"), job(setting, "a", fold=1), job(setting, "a", "heads"), job(setting, "b")]
    assert len({id_of(s) for s in specs}) == 4
    assert id_of(specs[0]) == id_of(job(setting, "a"))


def test_a_missing_package_is_refused_before_anything_is_computed(
    setting: TinyRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (setting.run.folder / "recipe.toml").read_bytes()
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorboard" else find(name))
    arguments = ["train", "--run", str(setting.run.folder), "--recipe", "demo", "--track", "tensorboard"]
    monkeypatch.setattr(sys, "argv", ["maskens", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert "--track tensorboard: tensorboard is not installed" in told
    assert "pip install 'maskens[tensorboard]'" in told
    assert (setting.run.folder / "recipe.toml").read_bytes() == before


def test_a_folder_of_logs_is_not_taken_for_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb")
    with pytest.raises(MaskensError, match="wandb is not installed"):
        check_trackers(["wandb"])


def test_wandb_without_a_login_is_refused_unless_it_stays_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    check_trackers(["wandb"])
    wandb = pytest.importorskip("wandb")
    monkeypatch.setattr(wandb.setup().settings, "mode", "online")
    for login in (lambda: False, lambda: (_ for _ in ()).throw(wandb.errors.UsageError("No API key configured."))):
        monkeypatch.setattr(wandb, "login", login)
        with pytest.raises(MaskensError, match=r"(?s)--track wandb: (nobody|No API key).*WANDB_MODE=offline"):
            check_trackers(["wandb"])


def test_the_worst_photos_come_in_the_order_of_their_loss(setting: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    sheets: list[Sheet] = []
    draw = ensemble.training.pictures.draw
    monkeypatch.setattr(ensemble.training.pictures, "draw", lambda sheet: sheets.append(sheet) or draw(sheet))
    target = OutputSpec("heads", (25, 30, 60), (0, 0, 1, 2))  # in finer bins than are scored
    rows = np.arange(7, 28)
    truth = true_labels(target, setting.data)[rows]
    logits = np.full((21, 9), -20, dtype=np.float32)
    gendered, aged = 3 + truth[:, 1], 5 + truth[:, 2] + 1
    for columns in (truth[:, 0], gendered, aged):
        logits[np.arange(21), columns] = 20
    logits[4, 3:5] = logits[4, [4, 3]]  # the wrong gender
    logits[9, 0:3] = 0  # no idea of the mask
    photos = DecodedPhotos(setting.data.photos, [Preprocessing((32, 24))])
    picture = worst_photos("title", photos, rows, target, logits, truth, most=3)
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    first, second, _ = sheets[0].cells
    person = setting.data.people[1]
    assert first.caption.split("\n") == [
        "is wear, male, 30-59",
        "as wear, female, 30-59",
        "p(true) 4.25e-18",
        person.path,
        "mask5.jpg",
    ]
    assert second.caption.split("\n")[2] == "p(true) 0.333"
    assert second.picture is not None
    assert np.array_equal(second.picture, photos[16][0])


def test_a_confusion_matrix_counts_the_truth_in_rows() -> None:
    matrix = counts(np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 0, 2]), 4)
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("classes", [2, 3, 18])
def test_a_confusion_matrix_is_coloured_by_shares_of_the_truth(classes: int) -> None:
    rare, common = np.eye(classes, dtype=np.int64), np.eye(classes, dtype=np.int64)
    common[0, 0] = 1000
    names = [f"name {i}" for i in range(classes)]
    pictures = [confusion_matrix(m, names, "title") for m in (rare, common)]
    assert pictures[0].shape == pictures[1].shape
    assert (pictures[0] != pictures[1]).any(axis=2).mean() < 0.01, "but for the figures"
