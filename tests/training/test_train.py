"""One job and many, on tiny models: what training promises."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from tiny_runs import DEFAULTS, Silent, TinyRun, history, tiny_run

import ensemble.models.precision
import ensemble.training.fit_fold
import ensemble.training.queue
import ensemble.training.trainer
from ensemble.decision.blend import load_oof_ensemble
from ensemble.decision.tuning import apply_tuning
from ensemble.evaluation.evaluate import evaluate, save_oof
from ensemble.jobs.card import person_key, read_card, refuse_leaking_weights
from ensemble.jobs.finished import is_done, restore, unfinished
from ensemble.jobs.hardware import Hardware
from ensemble.jobs.job import JOB_FILES, Job
from ensemble.jobs.oof import load_job_oof
from ensemble.jobs.spec import plan
from ensemble.metrics.scores import task_scores
from ensemble.models.build import load_checkpoint, to_input
from ensemble.models.engine import InferenceEngine
from ensemble.recipes.recipe_file import bind_recipe, load_recipe, parse_recipe, with_weights
from ensemble.recipes.tasks import OutputSpec, true_labels
from ensemble.recipes.views import as_set
from ensemble.training.queue import train
from ensemble.training.runner import run_job
from folds.errors import MaskensError
from folds.layout import read_train
from folds.people import PhotoSet, TrainData
from folds.splits import make_folds

TINY = f"{DEFAULTS}[tasks.mask]\n[tasks.gender]\n[tasks.male-age]\n[tasks.female-age]\n"


@pytest.fixture(scope="module")
def data(make_data: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> TrainData:
    return read_train(make_data(tmp_path_factory.mktemp("train") / "data", people=24))


@pytest.fixture
def setting(data: TrainData, tmp_path: Path) -> TinyRun:
    return tiny_run(tmp_path / "run", data, TINY)


@pytest.fixture
def short(data: TrainData, tmp_path: Path) -> TinyRun:
    """A run whose jobs have one epoch."""
    return tiny_run(tmp_path / "short", data, TINY, "tasks.*.epochs=1")


@pytest.fixture(scope="module")
def whole(data: TrainData, tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """The same run, its first job trained without anything special; to be read only."""
    there = tiny_run(tmp_path_factory.mktemp("whole") / "run", data, TINY)
    assert run_job(there.spec(), data, there.folds) is None
    return there


def result(setting: TinyRun, task: str = "mask", fold: int = 0) -> tuple[np.ndarray, np.ndarray]:
    oof = load_job_oof(setting.run.job_folder(task, fold) / "oof.npz", {})
    return oof.at("best"), oof.at("last")


def test_a_job_leaves_all_that_is_promised(whole: TinyRun) -> None:
    folder = whole.run.job_folder("mask", 0)
    assert sorted(p.name for p in folder.iterdir()) == ["history.csv", "job.json", "model.safetensors", "oof.npz"]
    rows = history(whole)
    assert [r["epoch"] for r in rows] == ["1", "2", "3"]
    status = Job(whole.run, "mask", 0).status()
    assert (status.state, status.epoch, status.error) == ("done", 3, "")
    assert status.record["task_hash"] == whole.recipe.tasks["mask"].hash
    assert status.record["versions"]["torch"] == torch.__version__.split("+")[0]
    assert is_done(whole.spec())


def test_the_checkpoint_is_the_best_epoch_and_the_oof_logits_are_its_own(whole: TinyRun) -> None:
    scores = [float(r["f1"]) for r in history(whole)]
    path = whole.run.job_folder("mask", 0) / "model.safetensors"
    model, card = load_checkpoint(path, torch.device("cpu"))
    assert card.epoch == 1 + scores.index(max(scores))
    assert card.f1 == pytest.approx(max(scores), abs=1e-5)
    assert card.labels == {"mask": ["wear", "incorrect", "not wear"]}

    oof = load_job_oof(path.parent / "oof.npz", {"fold": 0})
    held_out = np.flatnonzero(whole.folds[whole.data.photo_person] == 0)
    assert oof.files.tolist() == [whole.data.files[i] for i in held_out]
    assert oof.at("best").shape == (2, len(held_out), 3)
    f1, _ = task_scores(OutputSpec("mask"), oof.at("best")[0], true_labels(OutputSpec("mask"), whole.data)[held_out])
    assert f1 == pytest.approx(max(scores), abs=1e-5)

    from ensemble.data.cache import DecodedPhotos
    from ensemble.recipes.schema import Preprocessing

    photos = DecodedPhotos(PhotoSet(whole.data.root, oof.files.tolist(), ""), [Preprocessing((32, 24))])
    batch = torch.from_numpy(np.stack([photos[i][0] for i in range(8)]))
    with torch.no_grad():
        x = to_input(batch, card.mean, card.std, torch.device("cpu"))
        assert model(x).numpy() == pytest.approx(oof.at("best")[0, :8], abs=1e-4)
        assert model(x.flip(3)).numpy() == pytest.approx(oof.at("best")[1, :8], abs=1e-4)


def test_the_same_training_leaves_the_same_bytes(setting: TinyRun, whole: TinyRun) -> None:
    """But for the seconds and photos a second in history.csv, and what job.json tells of them."""
    assert run_job(setting.spec(), setting.data, setting.folds) is None
    ours, theirs = setting.run.job_folder("mask", 0), whole.run.job_folder("mask", 0)
    for name in ("model.safetensors", "oof.npz"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    assert history(setting) == history(whole)


def test_a_run_is_the_same_for_any_number_of_workers_and_with_the_cache(
    setting: TinyRun, whole: TinyRun, tmp_path: Path
) -> None:
    variants = [("workers", 2, None), ("cached", 0, tmp_path / "cache")]
    for name, workers, cache in variants:
        there = setting.elsewhere(name)
        assert run_job(there.spec(workers=workers, cache=cache), setting.data, setting.folds) is None
        best, last = result(there)
        assert history(there) == history(whole)
        assert np.array_equal(best, result(whole)[0])
        assert np.array_equal(last, result(whole)[1])


def with_auto(setting: TinyRun, name: str) -> TinyRun:
    recipe = parse_recipe(TINY, "tiny", changes=["tasks.*.precision=auto"])
    there = setting.elsewhere(name)
    return dataclasses.replace(there, run=bind_recipe(there.run, recipe), recipe=recipe)


def test_the_precision_that_auto_came_to_is_told_recorded_and_that_of_all_folds(
    setting: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto, answers = with_auto(setting, "auto"), iter([("bf16", "precision auto: bf16"), ("fp32", "as it happens")])
    monkeypatch.setattr(ensemble.models.precision, "measure", lambda *_: next(answers))
    for fold in (0, 1):
        assert run_job(auto.spec(fold=fold), setting.data, setting.folds) is None
        status = Job(auto.run, "mask", fold).status()
        assert (status.note, status.record["precision"]) == ("precision auto: bf16", "bf16")
    kept = json.loads((auto.run.folder / "precision.json").read_text())
    assert [v["precision"] for v in kept.values()] == ["bf16"]


def test_auto_that_comes_to_fp32_gives_what_fp32_does(
    setting: TinyRun, whole: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensemble.models.precision, "FASTER", float("inf"))
    auto = with_auto(setting, "auto")
    assert run_job(auto.spec(), setting.data, setting.folds) is None
    assert history(auto) == history(whole)
    assert np.array_equal(result(auto)[1], result(whole)[1])
    assert Job(auto.run, "mask", 0).status().record["precision"] == "fp32"


def test_a_compiled_job_says_so_and_leaves_a_plain_checkpoint(
    setting: TinyRun, whole: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensemble.models.precision, "COMPILER", "eager")
    there = setting.elsewhere("compiled")
    compiled = plan(there.run, there.recipe, ["mask"], [0], Hardware("cpu", 0), None, compile=True)[0]
    assert run_job(dataclasses.replace(compiled, threads=1), setting.data, setting.folds) is None
    status = Job(there.run, "mask", 0).status()
    assert re.fullmatch(r"compiled in \d+ s", status.note)
    assert (Job(whole.run, "mask", 0).status().record["compiled"], status.record["compiled"]) == (False, True)
    assert is_done(setting.elsewhere("compiled").spec()), "how it was computed is no part of what it is"
    assert np.array_equal(result(there)[1], result(whole)[1])
    load_checkpoint(there.run.job_folder("mask", 0) / "model.safetensors", torch.device("cpu"))


@pytest.mark.parametrize("cores", [1, 2, 4, 16, 64])
@pytest.mark.parametrize("jobs", [1, 2, 4])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_maskens_chooses_fits_the_cores(
    device: str, jobs: int, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(Hardware, "cores", cores)
    chosen = Hardware(device, None, jobs)
    assert chosen.job_threads >= 1
    assert chosen.job_workers >= (device == "cuda")
    each = 1 if device == "cpu" else 2
    fits = jobs * (chosen.job_threads + chosen.job_workers) <= cores
    assert fits or cores < jobs * each
    assert (chosen.oversubscription == "") == (fits or (device == "cuda" and jobs == 1))


def test_more_than_the_cores_can_do_is_told_and_threads_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(Hardware, "cores", 2)
    assert Hardware("cpu", None).oversubscription == ""
    asked = Hardware("cpu", 1)
    assert asked.job_threads == Hardware("cpu", 0).job_threads == 2, "the number of workers moves no digit"
    assert "2 threads and 1 loader processes a job, --jobs 1: that is 3 at work on 2 cores" in asked.oversubscription
    assert "3 at work on 2 cores" in Hardware("cpu", 0, jobs=3).oversubscription
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert "lower --jobs, --workers or OMP_NUM_THREADS" in Hardware("cpu", 0).oversubscription


def test_fine_tuning_is_the_same_for_any_number_of_workers(setting: TinyRun) -> None:
    recipe = parse_recipe(TINY, "tiny", changes=[f"tasks.*.{key}" for key in (*FINE_TUNING, "augment=camera")])
    for name, workers in (("alone", 0), ("two", 2)):
        there = dataclasses.replace(setting.elsewhere(name), recipe=recipe)
        assert run_job(there.spec(workers=workers), setting.data, setting.folds) is None
    alone, two = setting.elsewhere("alone"), setting.elsewhere("two")
    assert history(alone) == history(two)
    assert np.array_equal(result(alone)[1], result(two)[1])


def test_the_mean_of_the_last_epochs_is_the_last_epochs_model(setting: TinyRun, whole: TinyRun) -> None:
    recipe = parse_recipe(TINY, "tiny", changes=["tasks.*.average_epochs=2"])
    averaged = dataclasses.replace(setting.elsewhere("averaged"), recipe=recipe)
    assert run_job(averaged.spec(), setting.data, setting.folds) is None
    assert history(averaged)[:2] == history(whole)[:2]
    assert history(averaged)[2]["loss"] == history(whole)[2]["loss"]
    _, last = result(averaged)
    job = ensemble.training.fit_fold.JobRun(averaged.spec(), setting.data, setting.folds)
    f1, _ = task_scores(OutputSpec("mask"), last[0], job.truth[job.oof_rows])
    assert f1 == pytest.approx(float(history(averaged)[2]["f1"]), abs=1e-5), "what is validated is what predicts"
    assert not np.allclose(last, result(whole)[1], atol=1e-4)


def test_another_seed_gives_another_run(setting: TinyRun, whole: TinyRun) -> None:
    other = dataclasses.replace(setting, run=dataclasses.replace(setting.run, seed=2))
    assert run_job(other.spec(), setting.data, setting.folds) is None
    assert not np.array_equal(result(whole)[1], result(other)[1])


FINE_TUNING = ("head_epochs=1.5", "sizes=[[24, 16]]", "average_epochs=2", "optimizer.layer_decay=0.7", "ema=0.5")


@pytest.mark.parametrize(("epochs_before", "keys"), [(2, ()), (3, ()), (1, FINE_TUNING)])
def test_an_interrupted_job_goes_on_as_if_nothing_had_happened(
    setting: TinyRun, whole: TinyRun, epochs_before: int, keys: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    if keys:
        recipe = parse_recipe(TINY, "tiny", changes=[f"tasks.*.{key}" for key in keys])
        setting = dataclasses.replace(setting, recipe=recipe)
        whole = setting.elsewhere("whole")
        run_job(whole.spec(), setting.data, setting.folds)

    saved = 0

    def save_then_stop(*args: object) -> None:
        nonlocal saved
        save_last(*args)  # type: ignore[arg-type]
        saved += 1
        if saved == epochs_before:
            raise KeyboardInterrupt

    save_last = ensemble.training.fit_fold.save_last
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ensemble.training.fit_fold, "save_last", save_then_stop)
        run_job(setting.spec(), setting.data, setting.folds)
    assert Job(setting.run, "mask", 0).status().state == "stopped"
    assert unfinished([setting.spec()]) == [setting.spec()]

    assert run_job(setting.spec(), setting.data, setting.folds) is None
    assert history(setting) == history(whole)
    assert np.array_equal(result(setting)[0], result(whole)[0])
    assert np.array_equal(result(setting)[1], result(whole)[1])
    assert not (setting.run.job_folder("mask", 0) / "last.pt").exists()


class Killed(BaseException):
    """What no handler expects."""


def killed_after(writes: int) -> Callable[..., None]:
    """An os.replace that puts this many files in their place and then ends the process, as far as files can tell."""
    replace, left = os.replace, writes

    def replace_or_die(*args: Any) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            replace(*args)
        if left <= 0:
            raise Killed

    return replace_or_die


def test_a_job_goes_on_to_the_same_bytes_wherever_it_was_killed(
    make_data: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = read_train(make_data(tmp_path / "data", people=12))
    monkeypatch.setattr(ensemble.training.fit_fold, "TICK", float("inf"))  # so that the writes are always as many
    first = tiny_run(tmp_path / "run", data, TINY, "tasks.*.epochs=2")
    hardware, writes = Hardware("cpu", workers=0), 0
    whole = first.elsewhere("whole")
    assert run_job(whole.spec(), whole.data, whole.folds) is None
    killed = True
    while killed:
        there = first.elsewhere(f"killed{writes}")
        specs = [there.spec()]
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", killed_after(writes))
            try:
                train(specs, there.data, there.folds, specs, hardware, Silent())
                killed = False
            except Killed:
                writes += 1
        job = specs[0].job
        for name in JOB_FILES:
            assert not (job.folder / name).exists() or job.verified_sha256(name)
        if unfinished(specs):
            assert train(specs, there.data, there.folds, specs, hardware, Silent()) == {}
        assert is_done(there.spec())
        assert history(there) == history(whole)
        for name in JOB_FILES:
            theirs = whole.spec().job.verified_sha256(name)
            assert job.verified_sha256(name) == theirs, f"{name} of a job killed after {writes} writes"
    assert writes > 2 * 4, "last.pt, model.safetensors, history.csv, job.json of each epoch"


def test_what_a_kill_left_of_a_finished_job_is_removed_by_the_next_training(whole: TinyRun, setting: TinyRun) -> None:
    shutil.copytree(whole.run.folder, setting.run.folder, dirs_exist_ok=True)
    done, begun = setting.spec(), setting.spec(fold=1)
    left = [s.run.job_folder("mask", s.fold) / name for s in (done, begun) for name in ("last.pt", "error.txt")]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert restore([done, begun]) == []
    assert [path.exists() for path in left] == [False, False, True, True]
    assert is_done(done)


def test_a_damaged_or_foreign_resume_file_is_refused_with_the_way_out(setting: TinyRun) -> None:
    folder = setting.run.job_folder("mask", 0)
    folder.mkdir(parents=True)
    (folder / "last.pt").write_bytes(b"PK half a file")
    failure = run_job(setting.spec(), setting.data, setting.folds)
    assert failure is not None
    assert not failure.crashed
    assert "last.pt is damaged" in failure.message
    assert "--task mask --fold 0 --restart" in failure.message
    torch.save({"identity": {"recipe_hash": "other"}}, folder / "last.pt")
    failure = run_job(setting.spec(), setting.data, setting.folds)
    assert failure is not None
    assert "another recipe, seed or folds" in failure.message
    hardware = Hardware("cpu", workers=0)
    specs = [setting.spec()]
    assert train(specs, setting.data, setting.folds, specs, hardware, Silent(), restart=True) == {}
    assert is_done(setting.spec())


@pytest.mark.parametrize(("task", "gender"), [("male-age", 0), ("female-age", 1)])
def test_an_age_task_learns_from_one_gender_and_predicts_everybody(setting: TinyRun, task: str, gender: int) -> None:
    job = ensemble.training.fit_fold.JobRun(setting.spec(task), setting.data, setting.folds)
    genders, held_out = setting.data.labels[1], setting.folds[setting.data.photo_person] == 0
    assert set(genders[job.learned.rows]) == set(genders[job.valid_rows]) == {gender}
    assert not held_out[job.learned.rows].any()
    assert held_out[job.valid_rows].all()
    assert job.oof_rows.tolist() == np.flatnonzero(held_out).tolist()


def test_a_loss_that_is_no_number_stops_the_job_with_advice(setting: TinyRun) -> None:
    wild = setting.recipe.tasks["mask"].model_copy(
        update={"optimizer": setting.recipe.tasks["mask"].optimizer.model_copy(update={"name": "sgd", "lr": 1e30})}
    )
    there = dataclasses.replace(setting, recipe=setting.recipe.model_copy(update={"tasks": {"mask": wild}}))
    failure = run_job(there.spec(), setting.data, setting.folds)
    assert failure is not None
    assert re.match(
        r"the loss became (nan|inf) in epoch 1, first in batch [1-5] of 5 \((\w+/\w+\.jpg, ){4}\S+\.jpg and 11 more\): "
        "lower the learning rate of 'mask'$",
        failure.message.replace("train/images/", ""),
    ), failure.message
    assert Job(setting.run, "mask", 0).status().state == "failed"


class NanFrom:
    """A loss that is NaN from one batch of one epoch on, as `task_loss`; batches of the others are counted only."""

    def __init__(self, batch: int) -> None:
        self.left, self.loss = batch, ensemble.training.trainer.task_loss

    def __call__(self, *args: Any) -> torch.Tensor:
        self.left -= 1
        return self.loss(*args) * (torch.nan if self.left < 0 else 1)


@pytest.mark.parametrize("tick", [float("inf"), 0.0], ids=["at the end of the epoch", "as progress is told"])
def test_a_loss_that_becomes_nan_names_the_batch_and_keeps_what_was_good(
    setting: TinyRun, whole: TinyRun, tick: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensemble.training.fit_fold, "TICK", tick)
    job = ensemble.training.fit_fold.JobRun(setting.spec(), setting.data, setting.folds)
    order = job.learned.batches(job.seed)
    order.epoch = 1
    bad = [setting.data.files[index] for _, index, _ in list(order)[2]]
    with monkeypatch.context() as patch:
        patch.setattr(ensemble.training.trainer, "task_loss", NanFrom(len(order) + 2))
        failure = run_job(setting.spec(), setting.data, setting.folds)
    assert failure is not None
    assert not failure.crashed
    assert f"the loss became nan in epoch 2, first in batch 3 of {len(order)} ({', '.join(bad[:5])}" in failure.message
    assert "what it learned up to epoch 1 is kept" in failure.message
    folder = setting.run.job_folder("mask", 0)
    assert sorted(p.name for p in folder.iterdir()) == ["history.csv", "job.json", "last.pt", "model.safetensors"]
    assert read_card(folder / "model.safetensors").epoch == 1

    assert run_job(setting.spec(), setting.data, setting.folds) is None, "it goes on from the last good epoch"
    assert history(setting) == history(whole)


def test_weights_that_the_last_update_spoils_are_not_kept(setting: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    epoch = ensemble.training.fit_fold.Trainer.epoch

    def spoil(self: Any, number: int, *args: Any) -> Any:
        found = epoch(self, number, *args)
        if number == 1:
            next(self.model.parameters()).data.fill_(torch.nan)
        return found

    monkeypatch.setattr(ensemble.training.fit_fold.Trainer, "epoch", spoil)
    failure = run_job(setting.spec(), setting.data, setting.folds)
    assert failure is not None
    assert "after epoch 2 the model gives no finite logits: lower the learning rate of 'mask'" in failure.message
    assert [row["epoch"] for row in history(setting)] == ["1"]


def test_one_crashing_job_does_not_take_the_others_with_it(short: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    create = ensemble.training.fit_fold.create

    def failing(task: object, **kwargs: object) -> object:
        if getattr(task, "predicts", "") == "gender":
            raise RuntimeError("out of luck")
        return create(task, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(ensemble.training.fit_fold, "create", failing)
    hardware = Hardware("cpu", workers=0)
    specs = plan(short.run, short.recipe, ["gender", "mask"], [0], hardware, None)
    view = Silent()
    failures = train(specs, short.data, short.folds, specs, hardware, view)
    assert set(failures) == {0}
    assert failures[0].crashed
    assert "out of luck" in (short.run.job_folder("gender", 0) / "error.txt").read_text()
    assert [s.state for s in view.shown[-1]] == ["failed", "done"]


def test_what_libraries_warn_of_is_in_the_jobs_log_and_not_on_the_terminal(
    short: TinyRun, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    real = ensemble.training.trainer.Trainer.epoch

    def warning(self: Any, *args: Any, **values: Any) -> Any:
        warnings.warn("the rate has no effect", UserWarning, stacklevel=2)
        logging.getLogger("timm").warning("the model was renamed")
        return real(self, *args, **values)

    monkeypatch.setattr(ensemble.training.trainer.Trainer, "epoch", warning)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run_job(short.spec("mask"), short.data, short.folds) is None
    log = short.run.job_folder("mask", 0) / "log.txt"
    assert "the rate has no effect" in log.read_text()
    assert "timm: the model was renamed" in log.read_text()
    assert capfd.readouterr().err == ""
    assert Job(short.run, "mask", 0).status().note.endswith(f"libraries warn: the rate has no effect (all in {log})")


def test_two_commands_never_train_the_same_job(short: TinyRun) -> None:
    hardware, mine, other = Hardware("cpu", workers=0), short.spec("mask"), short.spec("gender")
    with ensemble.jobs.locks.lock_jobs([mine]):
        with pytest.raises(MaskensError, match="another maskens is training mask fold 0"):
            train([mine], short.data, short.folds, [mine], hardware, Silent())
        assert train([other], short.data, short.folds, [other], hardware, Silent()) == {}
    assert train([mine], short.data, short.folds, [mine], hardware, Silent()) == {}


def test_a_batch_too_large_for_the_gpu_is_predicted_in_halves() -> None:
    sizes = []

    class Small(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > 3:
                raise torch.OutOfMemoryError
            sizes.append(len(x))
            return x.mean(dim=(2, 3))

    x = torch.rand(10, 3, 4, 4)
    assert torch.allclose(InferenceEngine(Small(), 10).logits(x), x.mean(dim=(2, 3)))
    assert sizes == [3, 3, 3, 1], "halved until it fits, and kept"


def test_finished_jobs_are_not_done_again_but_another_recipes_are(whole: TinyRun) -> None:
    hardware = Hardware("cpu", workers=0)
    specs = plan(whole.run, whole.recipe, ["mask"], [0, 1], hardware, None)
    assert unfinished(specs) == specs[1:]
    other = parse_recipe(TINY.replace("3e-3", "4e-3"), "tiny")
    assert len(unfinished(plan(whole.run, other, ["mask"], [0, 1], hardware, None))) == 2


def test_evaluation_pools_each_photo_once_and_says_what_is_missing(short: TinyRun) -> None:
    hardware = Hardware("cpu", workers=0)
    specs = plan(short.run, short.recipe, list(short.recipe.tasks), [0, 1], hardware, None)
    with pytest.raises(MaskensError, match=r"no fold of .* has all of its tasks trained"):
        load_oof_ensemble([short.run], None, "best")
    train(specs[:5], short.data, short.folds, specs, hardware, Silent())
    partly = load_oof_ensemble([short.run], None, "best")
    assert partly.trained == (0,)
    assert "not trained: gender fold 1, male-age fold 1, female-age fold 1" in partly.notes[0]
    train(specs[5:], short.data, short.folds, specs, hardware, Silent())
    blend = load_oof_ensemble([short.run], None, "last")
    whole = evaluate(blend, apply_tuning([short.run], [short.recipe], "none", tuned=False))
    assert whole.score.photos == len(short.data.files)
    assert whole.score.support.tolist() == np.bincount(short.data.classes, minlength=18).tolist()
    save_oof(blend, whole, as_set("none"))
    with np.load(short.run.folder / "oof.npz") as pooled:
        assert pooled["files"].tolist() == short.data.files
        assert np.exp(pooled["log_probabilities"]).sum(axis=1) == pytest.approx(1)
        assert pooled["fold"].tolist() == short.folds[short.data.photo_person].tolist()
    card = read_card(short.run.job_folder("gender", 1) / "model.safetensors")
    assert (card.task_hash, card.folds_hash) == (short.recipe.tasks["gender"].hash, short.run.folds_hash)
    assert (card.task, card.fold, card.k, card.resize, card.crop) == ("gender", 1, 2, (32, 24), None), "its own"


# Initial weights from other trainings


def test_a_run_as_initial_weights_gives_each_fold_those_of_the_same_fold(short: TinyRun) -> None:
    """The learning rate is too small to move any weight far."""
    for fold in (0, 1):
        assert run_job(short.spec(fold=fold), short.data, short.folds) is None
    start = parse_recipe(TINY, "tiny", changes=["tasks.*.epochs=1", "tasks.*.optimizer.lr=1e-12"])
    with pytest.raises(MaskensError, match="has not finished fold 0, 1 of gender"):
        with_weights(start, [f"gender={short.run.folder}"], pretrained=True)
    named = with_weights(start, [str(short.run.folder)], pretrained=True)
    assert [name for name, task in named.tasks.items() if task.weights] == ["mask"]
    other = parse_recipe(TINY, "tiny", changes=["tasks.*.model=test_vit"])
    with pytest.raises(MaskensError, match=r"its model of 'mask' is test_resnet\.r160_in1k, and here it is test_vit"):
        with_weights(other, [str(short.run.folder)], pretrained=True)
    mine = short.run.folder.parent / "mine.toml"
    mine.write_text(TINY.replace("[tasks.mask]", '[tasks.mask]\nweights = "short"'))
    in_recipe = with_weights(load_recipe(str(mine)), [], pretrained=True).tasks["mask"]
    assert (in_recipe.weights, in_recipe.weights_sha256) == (
        named.tasks["mask"].weights,
        named.tasks["mask"].weights_sha256,
    )
    there = short.elsewhere("next")
    recipe = with_weights(start, [f"mask={short.run.folder}"], pretrained=True)
    there = dataclasses.replace(there, recipe=recipe, run=bind_recipe(there.run, recipe))
    specs = [there.spec(fold=fold) for fold in (0, 1)]
    refuse_leaking_weights(specs, there.data, there.folds)
    for spec in specs:
        assert run_job(spec, there.data, there.folds) is None
        before, after = (
            safetensors.torch.load_file(run.job_folder("mask", spec.fold) / "model.safetensors")
            for run in (short.run, there.run)
        )
        assert torch.allclose(before["layer1.0.conv1.weight"], after["layer1.0.conv1.weight"], atol=1e-6)
        other = safetensors.torch.load_file(short.run.job_folder("mask", 1 - spec.fold) / "model.safetensors")
        assert not torch.allclose(other["layer1.0.conv1.weight"], after["layer1.0.conv1.weight"], atol=1e-6)


def test_initial_weights_that_were_trained_on_a_folds_people_are_refused_for_it(short: TinyRun, tmp_path: Path) -> None:
    assert run_job(short.spec(fold=0), short.data, short.folds) is None
    file = tmp_path / "renamed.safetensors"
    shutil.copy(short.run.job_folder("mask", 0) / "model.safetensors", file)
    recipe = with_weights(short.recipe, [f"mask={file}"], pretrained=True)
    there = dataclasses.replace(short, recipe=recipe)
    refuse_leaking_weights([there.spec(fold=0), there.spec("gender", 1)], there.data, there.folds)
    with pytest.raises(MaskensError, match=r"tasks\.mask: .*renamed\.safetensors was trained on 12 people of fold 1\n"):
        refuse_leaking_weights([there.spec(fold=0), there.spec(fold=1)], there.data, there.folds)
    # other folds of the same people, and the same people under other labels
    mixed = make_folds(short.data, 2, seed=5)
    with pytest.raises(MaskensError, match=r"people of fold 0, 1\n"):
        refuse_leaking_weights([there.spec(fold=0), there.spec(fold=1)], there.data, mixed)
    older = tuple(dataclasses.replace(p, age=p.age + 1) for p in short.data.people)
    with pytest.raises(MaskensError, match="people of fold 1"):
        refuse_leaking_weights([there.spec(fold=1)], dataclasses.replace(short.data, people=older), there.folds)
    # a model that went through a second training has still seen the people of the first
    assert run_job(there.spec(fold=0), short.data, mixed) is None
    card = read_card(short.run.job_folder("mask", 0) / "model.safetensors")
    learned = {person_key(p) for p, fold in zip(short.data.people, short.folds, strict=True) if fold != 0}
    assert all(key in card.people for key in learned)
    # other people are nobody that it has seen
    others = tuple(dataclasses.replace(p, path=f"{p.path}x") for p in short.data.people)
    refuse_leaking_weights([there.spec(fold=1)], dataclasses.replace(short.data, people=others), there.folds)
