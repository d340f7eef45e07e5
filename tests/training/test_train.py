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
from conftest import MakeData
from tiny_runs import TINY, Silent, TinyRun, history, tiny_run

import ensemble.models.precision
import ensemble.training.trainer
from ensemble.data.cache import DecodedPhotos
from ensemble.jobs.card import person_key, read_card, refuse_leaking_weights
from ensemble.jobs.finished import is_done, restore, unfinished
from ensemble.jobs.hardware import Hardware
from ensemble.jobs.job import JOB_FILES, Job
from ensemble.jobs.locks import lock_jobs
from ensemble.jobs.oof import load_job_oof
from ensemble.jobs.spec import identity, plan
from ensemble.metrics.scores import task_scores
from ensemble.models.build import load_checkpoint, to_input
from ensemble.recipes.recipe_file import bind_recipe, load_recipe, parse_recipe, with_weights
from ensemble.recipes.schema import Preprocessing
from ensemble.recipes.tasks import OutputSpec, true_labels
from ensemble.training import fit_fold
from ensemble.training.queue import run_job, train
from ensemble.training.trainer import load_last, save_last
from folds.errors import MaskensError
from folds.layout import read_train
from folds.people import PhotoSet, TrainData
from folds.splits import make_folds

FINE_TUNING = (
    *("head_epochs=1.5", "sizes=[[24, 16]]", "average_epochs=2", "optimizer.layer_decay=0.7", "ema=0.5"),
    "augment=camera",
)
ONE, CPU = Hardware("cpu", workers=0), torch.device("cpu")


@pytest.fixture
def short(data: TrainData, tmp_path: Path) -> TinyRun:
    """A run whose jobs have one epoch."""
    return tiny_run(tmp_path / "short", data, TINY, "tasks.*.epochs=1")


def changed(setting: TinyRun, name: str, *keys: str) -> TinyRun:
    recipe = parse_recipe(TINY, "tiny", changes=[f"tasks.*.{key}" for key in keys])
    there = setting.elsewhere(name)
    return dataclasses.replace(there, run=bind_recipe(there.run, recipe), recipe=recipe)


def trained(setting: TinyRun, task: str = "mask", fold: int = 0, **options: Any) -> Job:
    spec = setting.spec(task, fold, **options)
    assert run_job(spec, setting.data, setting.folds) is None
    return spec.job


def failed(setting: TinyRun, task: str = "mask") -> str:
    failure = run_job(setting.spec(task), setting.data, setting.folds)
    assert failure is not None and not failure.crashed
    return failure.message


def result(setting: TinyRun) -> tuple[np.ndarray, np.ndarray]:
    oof = load_job_oof(setting.run.job_folder("mask", 0) / "oof.npz", {})
    return oof.at("best"), oof.at("last")


def alike(one: TinyRun, other: TinyRun) -> bool:
    return history(one) == history(other) and all(map(np.array_equal, result(one), result(other)))


def test_a_job_leaves_the_checkpoint_of_its_best_epoch_with_its_own_oof_logits(whole: TinyRun) -> None:
    job, rows = whole.spec().job, history(whole)
    assert sorted(p.name for p in job.folder.iterdir()) == ["history.csv", "job.json", "model.safetensors", "oof.npz"]
    assert [r["epoch"] for r in rows] == ["1", "2", "3"]
    status = job.status()
    assert (status.state, status.epoch, status.error) == ("done", 3, "")
    assert status.record["task_hash"] == whole.recipe.tasks["mask"].hash
    assert status.record["versions"]["torch"] == torch.__version__.split("+")[0]
    assert is_done(whole.spec())

    scores = [float(r["f1"]) for r in rows]
    model, card = load_checkpoint(job.model, CPU)
    assert card.epoch == 1 + scores.index(max(scores))
    assert card.f1 == pytest.approx(max(scores), abs=1e-5)
    assert card.output_spec.names == {"mask": ["wear", "incorrect", "not wear"]}
    assert (card.task, card.fold, card.k, card.preprocessing.resize) == ("mask", 0, 2, (32, 24))
    assert (card.task_hash, card.folds_hash) == (whole.recipe.tasks["mask"].hash, whole.run.folds_hash)
    oof = load_job_oof(job.oof, {"fold": 0})
    best = oof.at("best")
    held_out = np.flatnonzero(whole.folds[whole.data.photo_person] == 0)
    assert oof.files.tolist() == [whole.data.files[i] for i in held_out]
    assert best.shape == (2, len(held_out), 3)
    f1, _ = task_scores(OutputSpec("mask"), best[0], true_labels(OutputSpec("mask"), whole.data)[held_out])
    assert f1 == pytest.approx(max(scores), abs=1e-5)
    photos = DecodedPhotos(PhotoSet(whole.data.root, oof.files.tolist(), ""), [Preprocessing((32, 24))])
    x = to_input(torch.from_numpy(np.stack([photos[i][0] for i in range(8)])), card.mean, card.std, CPU)
    with torch.no_grad():
        assert model(x).numpy() == pytest.approx(best[0, :8], abs=1e-4)
        assert model(x.flip(3)).numpy() == pytest.approx(best[1, :8], abs=1e-4)


def test_a_recipe_may_keep_the_last_epoch_whatever_it_scores(
    data: TrainData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    falling = iter((0.9, 0.8, 0.7))
    monkeypatch.setattr(fit_fold, "task_scores", lambda *_: (next(falling), 0.5))
    there = tiny_run(tmp_path / "run", data, TINY, "tasks.*.checkpoint=last")
    assert run_job(there.spec(), data, there.folds) is None
    job = there.spec().job
    oof = load_job_oof(job.oof, {})
    assert (read_card(job.model).epoch, job.status().best) == (3, 0.7)
    for checkpoint in ("cross-fitted", "best"):
        assert np.array_equal(oof.at(checkpoint), oof.at("last"))  # type: ignore[arg-type]


def test_a_run_is_the_same_for_any_number_of_workers_and_with_the_cache_but_for_no_other_seed(
    setting: TinyRun, whole: TinyRun, tmp_path: Path
) -> None:
    alone, two = (changed(setting, name, *FINE_TUNING) for name in ("alone", "two"))
    trained(alone)
    trained(two, workers=2, cache=tmp_path / "cache")
    assert alike(alone, two)
    job = fit_fold.JobRun(alone.spec(), setting.data, setting.folds)
    f1, _ = task_scores(OutputSpec("mask"), result(alone)[1][0], job.truth[job.oof_rows])
    assert f1 == pytest.approx(float(history(alone)[2]["f1"]), abs=1e-5), "what is validated is what predicts"
    other = dataclasses.replace(setting, run=dataclasses.replace(setting.run, seed=2))
    trained(other)
    assert not np.array_equal(result(whole)[1], result(other)[1])


def test_the_precision_that_auto_came_to_is_reported_recorded_and_that_of_all_folds(
    setting: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([("bf16", "precision auto: bf16")])
    auto = changed(setting, "auto", "precision=auto", "epochs=1")
    with monkeypatch.context() as patch:
        patch.setattr(ensemble.models.precision, "measure", lambda *_: next(answers))
        for fold in (0, 1):
            status = trained(auto, fold=fold).status()
            assert (status.note, status.record["precision"]) == ("precision auto: bf16", "bf16")
    kept = json.loads((auto.run.folder / "precision.json").read_text())
    assert [v["precision"] for v in kept.values()] == ["bf16"]


def test_a_compiled_job_reports_it_and_leaves_a_plain_checkpoint(
    setting: TinyRun, whole: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs: list[Any] = []
    monkeypatch.setattr(ensemble.models.precision, "COMPILER", lambda graph, _: graphs.append(graph) or graph.forward)
    (compiled,) = plan(setting.run, setting.recipe, ["mask"], [0], ONE, None, compile=True)
    assert run_job(dataclasses.replace(compiled, threads=1), setting.data, setting.folds) is None
    status = compiled.job.status()
    assert re.fullmatch(r"compiled in \d+ s", status.note)
    assert len(graphs) == 1, "for the trial and the training together"
    assert (whole.spec().job.status().record["compiled"], status.record["compiled"]) == (False, True)
    assert is_done(setting.spec()), "how it was computed is no part of what it is"
    assert np.array_equal(result(setting)[1], result(whole)[1])
    load_checkpoint(compiled.job.model, CPU)


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


def test_a_job_resumes_to_the_same_bytes_wherever_it_was_killed(
    make_data: MakeData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = read_train(make_data(tmp_path / "data", people=12))
    monkeypatch.setattr(fit_fold, "TICK", float("inf"))  # so that the writes are always as many
    first = tiny_run(tmp_path / "run", data, TINY, "tasks.*.epochs=2")
    whole, writes, killed = first.elsewhere("whole"), 0, True
    expected = [trained(whole).verified_sha256(name) for name in JOB_FILES]
    while killed:
        there = first.elsewhere(f"killed{writes}")
        specs = [there.spec()]
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", killed_after(writes))
            try:
                train(specs, there.data, there.folds, specs, ONE, Silent())
                killed = False
            except Killed:
                writes += 1
        job = specs[0].job
        for name in JOB_FILES:
            assert not (job.folder / name).exists() or job.verified_sha256(name)
        if unfinished(specs):
            assert train(specs, there.data, there.folds, specs, ONE, Silent()) == {}
        assert is_done(there.spec())
        assert history(there) == history(whole)
        assert [job.verified_sha256(name) for name in JOB_FILES] == expected, f"killed after {writes} writes"
    assert writes > 2 * 4, "last.pt, model.safetensors, history.csv, job.json of each epoch"


def test_finished_jobs_are_not_done_again_and_their_leftovers_removed(whole: TinyRun, setting: TinyRun) -> None:
    specs = plan(whole.run, whole.recipe, ["mask"], [0, 1], ONE, None)
    assert unfinished(specs) == specs[1:]
    other = parse_recipe(TINY.replace("3e-3", "4e-3"), "tiny")
    assert len(unfinished(plan(whole.run, other, ["mask"], [0, 1], ONE, None))) == 2
    shutil.copytree(whole.run.folder, setting.run.folder, dirs_exist_ok=True)
    done, begun = setting.spec(), setting.spec(fold=1)
    left = [s.job.folder / name for s in (done, begun) for name in ("last.pt", "error.txt")]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert restore([done, begun]) == []
    assert [path.exists() for path in left] == [False, False, True, True]
    assert is_done(done)
    before = done.job.model.stat().st_mtime_ns
    assert run_job(done, setting.data, setting.folds) is None
    assert done.job.model.stat().st_mtime_ns == before, "a worker that was lost may not have reported its end"


def test_a_damaged_or_foreign_resume_file_is_refused_with_the_way_out(setting: TinyRun) -> None:
    spec, weights = setting.spec(), torch.arange(1000.0)
    save_last(spec.job, {"identity": identity(spec), "trained": {"weights": weights}})
    state = load_last(spec.job, identity(spec))
    assert state is not None and torch.equal(state["trained"]["weights"], weights)
    flipped = bytearray(spec.job.last.read_bytes())
    flipped[flipped.index(weights.numpy().tobytes()) + 2000] ^= 1
    for damaged in (flipped, b"PK half a file"):
        spec.job.last.write_bytes(damaged)
        message = failed(setting)
        assert "last.pt is damaged" in message and "--task mask --fold 0 --restart" in message
    torch.save({"identity": {"recipe_hash": "other"}}, spec.job.last)
    assert "another recipe, seed or folds" in failed(setting)
    assert train([spec], setting.data, setting.folds, [spec], ONE, Silent(), restart=True) == {}
    assert is_done(spec)


@pytest.mark.parametrize(("task", "gender"), [("male-age", 0), ("female-age", 1)])
def test_an_age_task_trains_on_one_gender_and_predicts_everybody(setting: TinyRun, task: str, gender: int) -> None:
    job = fit_fold.JobRun(setting.spec(task), setting.data, setting.folds)
    genders, held_out = setting.data.labels[1], setting.folds[setting.data.photo_person] == 0
    assert set(genders[job.batches.photos.rows]) == set(genders[job.valid_rows]) == {gender}
    assert not held_out[job.batches.photos.rows].any()
    assert held_out[job.valid_rows].all()
    assert job.oof_rows.tolist() == np.flatnonzero(held_out).tolist()


def test_a_job_reports_its_first_batch(short: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    reported = []
    monkeypatch.setattr(fit_fold, "TICK", float("inf"))
    monkeypatch.setattr(fit_fold, "write_status", lambda run, status: reported.append(status))
    fit_fold.JobRun(short.spec(), short.data, short.folds).run()
    first = next(status for status in reported if status.state == "training")
    assert first.epoch == 0 and first.loss is not None and first.photos_per_s


class NanFrom:
    """A loss that is NaN from one batch of one epoch on, as `task_loss`; batches of the others are counted only."""

    def __init__(self, batch: int) -> None:
        self.left, self.loss = batch, ensemble.training.trainer.task_loss

    def __call__(self, *args: Any) -> torch.Tensor:
        self.left -= 1
        return self.loss(*args) * (torch.nan if self.left < 0 else 1)


@pytest.mark.parametrize("tick", [float("inf"), 0.0], ids=["at the end of the epoch", "as progress is printed"])
def test_a_loss_that_becomes_nan_names_the_batch_and_keeps_what_was_good(
    setting: TinyRun, whole: TinyRun, tick: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_fold, "TICK", tick)
    job = fit_fold.JobRun(setting.spec(), setting.data, setting.folds)
    order = job.batches
    order.epoch = 1
    bad = [setting.data.files[index] for _, index, _ in list(order)[2]]
    with monkeypatch.context() as patch:
        patch.setattr(ensemble.training.trainer, "task_loss", NanFrom(len(order) + 2))
        message = failed(setting)
    assert f"the loss became nan in epoch 2, first in batch 3 of {len(order)} ({', '.join(bad[:5])} and 11" in message
    assert "lower the learning rate of 'mask'" in message
    folder = setting.run.job_folder("mask", 0)
    assert sorted(p.name for p in folder.iterdir()) == ["history.csv", "job.json", "last.pt", "model.safetensors"]
    assert read_card(folder / "model.safetensors").epoch == 1
    assert job.job.status().state == "failed"
    trained(setting)
    assert history(setting) == history(whole), "it resumes from the last good epoch"


def test_weights_that_the_last_update_spoils_are_not_kept(setting: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    epoch = fit_fold.Trainer.epoch

    def spoil(self: Any, number: int, *args: Any) -> Any:
        found = epoch(self, number, *args)
        if number == 1:
            next(self.model.parameters()).data.fill_(torch.nan)
        return found

    monkeypatch.setattr(fit_fold.Trainer, "epoch", spoil)
    assert "after epoch 2 the model gives no finite logits: lower the learning rate of 'mask'" in failed(setting)
    assert [row["epoch"] for row in history(setting)] == ["1"]


def test_one_crashing_job_does_not_take_the_others_with_it_and_warnings_go_into_logs(
    short: TinyRun, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    create, epoch = fit_fold.create, fit_fold.Trainer.epoch

    def failing(task: object, **kwargs: Any) -> object:
        if getattr(task, "predicts", "") == "gender":
            raise RuntimeError("out of luck")
        return create(task, **kwargs)  # type: ignore[arg-type]

    def warning(self: Any, *args: Any) -> Any:
        warnings.warn("the rate has no effect", UserWarning, stacklevel=2)
        logging.getLogger("timm").warning("the model was renamed")
        return epoch(self, *args)

    monkeypatch.setattr(fit_fold, "create", failing)
    monkeypatch.setattr(fit_fold.Trainer, "epoch", warning)
    specs, view = [short.spec("gender"), short.spec("mask")], Silent()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        failures = train(specs, short.data, short.folds, specs, ONE, view)
    assert set(failures) == {0}
    assert failures[0].crashed
    assert "out of luck" in specs[0].job.error.read_text()
    assert [s.state for s in view.shown[-1]] == ["failed", "done"]
    log = specs[1].job.log
    assert "the rate has no effect" in log.read_text() and "timm: the model was renamed" in log.read_text()
    assert capfd.readouterr().err == ""
    assert specs[1].job.status().note.endswith(f"libraries warn: the rate has no effect (all in {log})")


def test_two_commands_never_train_the_same_job(short: TinyRun) -> None:
    mine, other = short.spec("mask"), short.spec("gender")
    with lock_jobs([mine]):
        with pytest.raises(MaskensError, match=rf"training mask fold 0 in \S+ \(process {os.getpid()} on \S+, since "):
            train([mine], short.data, short.folds, [mine], ONE, Silent())
        assert train([other], short.data, short.folds, [other], ONE, Silent()) == {}
    assert train([mine], short.data, short.folds, [mine], ONE, Silent()) == {}


# Initial weights from other trainings


def test_a_run_as_initial_weights_gives_each_fold_those_of_the_same_fold(short: TinyRun) -> None:
    """The learning rate is too small to move any weight far."""
    sources = [trained(short, fold=fold).model for fold in (0, 1)]
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
    assert in_recipe.weights == named.tasks["mask"].weights
    assert in_recipe.weights_sha256 == named.tasks["mask"].weights_sha256
    there = short.elsewhere("next")
    recipe = with_weights(start, [f"mask={short.run.folder}"], pretrained=True)
    there = dataclasses.replace(there, recipe=recipe, run=bind_recipe(there.run, recipe))
    refuse_leaking_weights([there.spec(fold=fold) for fold in (0, 1)], there.data, there.folds)
    before = [safetensors.torch.load_file(path)["layer1.0.conv1.weight"] for path in sources]
    for fold in (0, 1):
        after = safetensors.torch.load_file(trained(there, fold=fold).model)["layer1.0.conv1.weight"]
        assert torch.allclose(before[fold], after, atol=1e-6)
        assert not torch.allclose(before[1 - fold], after, atol=1e-6)


def test_initial_weights_that_were_trained_on_a_folds_people_are_refused_for_it(short: TinyRun, tmp_path: Path) -> None:
    file = tmp_path / "renamed.safetensors"
    shutil.copy(trained(short).model, file)
    there = dataclasses.replace(short, recipe=with_weights(short.recipe, [f"mask={file}"], pretrained=True))
    specs = [there.spec(fold=0), there.spec(fold=1)]
    refuse_leaking_weights([specs[0], there.spec("gender", 1)], there.data, there.folds)
    with pytest.raises(MaskensError, match=r"tasks\.mask: .*renamed\.safetensors was trained on 12 people of fold 1\n"):
        refuse_leaking_weights(specs, there.data, there.folds)
    # other folds of the same people, and the same people under other labels
    mixed = make_folds(short.data, 2, seed=5)
    with pytest.raises(MaskensError, match=r"people of fold 0, 1\n"):
        refuse_leaking_weights(specs, there.data, mixed)
    older = tuple(dataclasses.replace(p, age=p.age + 1) for p in short.data.people)
    with pytest.raises(MaskensError, match="people of fold 1"):
        refuse_leaking_weights(specs[1:], dataclasses.replace(short.data, people=older), there.folds)
    # a model that went through a second training has still seen the people of the first
    assert run_job(specs[0], short.data, mixed) is None
    card = read_card(specs[0].job.model)
    learned = {person_key(p) for p, fold in zip(short.data.people, short.folds, strict=True) if fold != 0}
    assert all(key in card.people for key in learned)
    # other people are nobody that it has seen
    others = tuple(dataclasses.replace(p, path=f"{p.path}x") for p in short.data.people)
    refuse_leaking_weights(specs[1:], dataclasses.replace(short.data, people=others), there.folds)
