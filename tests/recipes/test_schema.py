"""Each part of a recipe reaches the training of a real job."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from planned import SMALL

import ensemble.jobs.finished
import ensemble.models.engine
from ensemble.decision.oof_ensemble import load_oof_ensemble
from ensemble.decision.tuning import apply_tuning
from ensemble.evaluation.evaluate import evaluate
from ensemble.jobs.card import read_card
from ensemble.jobs.finished import is_done, reuse_jobs
from ensemble.jobs.hardware import Hardware
from ensemble.jobs.job import Job
from ensemble.jobs.locks import lock_jobs
from ensemble.jobs.oof import load_job_oof
from ensemble.jobs.spec import JobSpec, plan, refuse_jobs_without_photos
from ensemble.metrics.scores import task_scores
from ensemble.recipes.recipe_file import bind_recipe, parse_recipe
from ensemble.training.fit_fold import JobRun
from ensemble.training.queue import run_job
from folds.errors import MaskensError
from folds.labels import IntArray
from folds.layout import read_train
from folds.people import TrainData
from folds.run_folder import Run, library_versions, start_run
from folds.splits import make_folds

BASE = f"{SMALL}batch_size = 8\nepochs = 1\n[tasks.mask]\n[tasks.gender]\n[tasks.age]\n"
PARTS = {  # one key of each: loss, sampler and others are passed on whole, and their tests have the other keys
    "perspective": 'augment=[{name="Perspective", args={p=1}}]',
    "drawn masks": "masks={prob=1.0}",
    "mixup": "mix={mixup=1.0}",
    "focal": "loss={ce=0, focal=1}",
    "class balance": 'sampler.balance="class"',
    "five bins": "ages.cuts=[21, 30, 46, 58]",
    "spread targets": "ages.sigma=3",
    "last batch kept": "drop_last=false",
    "optimizer": 'optimizer.name="momentum"',
    "schedule": 'schedule.name="constant"',
    "crop": "crop=[24, 24]",
    "a draw of transforms": "augment=camera",
}


@dataclasses.dataclass(frozen=True)
class Setting:
    data: TrainData
    folds: IntArray
    run: Run

    def spec(self, name: str, *changes: str, task: str = "age") -> JobSpec:
        recipe = parse_recipe(BASE, name, changes=changes)
        run = bind_recipe(dataclasses.replace(self.run, folder=self.run.folder / name.replace(" ", "-")), recipe)
        shutil.copy(self.run.folds_file, run.folds_file)
        return JobSpec(run, recipe, task, 0, "cpu", 0, 1, self.run.folder / "cache")

    def trained(self, name: str, *changes: str, task: str = "age") -> JobSpec:
        spec = self.spec(name, *changes, task=task)
        assert run_job(spec, self.data, self.folds) is None
        return spec


@pytest.fixture(scope="module")
def setting(make_data: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Setting:
    root = tmp_path_factory.mktemp("keys")
    data = read_train(make_data(root / "data", people=24))
    folds = make_folds(data, 2, seed=1)
    return Setting(data, folds, start_run(root / "runs", data, folds, 2, seed=1)[0])


def logits(spec: JobSpec) -> np.ndarray:
    return load_job_oof(spec.run.job_folder(spec.task, spec.fold) / "oof.npz", {}).at("last")


@pytest.fixture(scope="module")
def plain(setting: Setting) -> np.ndarray:
    found = logits(setting.trained("plain"))
    assert np.array_equal(logits(setting.trained("again")), found)
    return found


@pytest.mark.parametrize("part", PARTS)
def test_each_part_changes_the_model(setting: Setting, plain: np.ndarray, part: str) -> None:
    spec = setting.trained(part, f"tasks.age.{PARTS[part]}")
    found = logits(spec)
    assert np.isfinite(found).all()
    assert found.shape != plain.shape or not np.allclose(found, plain, atol=1e-5)
    assert Job(spec.run, "age", 0).status().note == ""


def test_ages_left_out_are_not_trained_on_but_predicted_and_scored(setting: Setting) -> None:
    spec = setting.spec("some left out", "tasks.age.ages.leave_out=[30, 31, 60]")
    job = JobRun(spec, setting.data, setting.folds)
    assert not np.isin(setting.data.years[job.batches.photos.rows], [30, 31, 60]).any()
    assert np.isin(setting.data.years[job.valid_rows], [30, 31, 60]).any()
    everybody = setting.folds[setting.data.photo_person] == 0
    assert np.array_equal(job.valid_rows, np.flatnonzero(everybody))


def test_what_counts_photos_knows_the_five_masks_to_each_other_state(setting: Setting) -> None:
    plain = logits(setting.trained("masks", task="mask"))
    for key in ("logit_adjustment=1", "class_balanced=0.9"):
        found = logits(setting.trained(f"masks {key}", f"tasks.mask.loss.{key}", task="mask"))
        assert (found - plain)[..., 1:].mean() > (found - plain)[..., 0].mean() + 1e-3


def test_other_age_bins_are_scored_on_the_true_labels(setting: Setting) -> None:
    tasks = ("age", "mask", "gender")
    spec, *_ = [setting.trained("cuts", "tasks.age.ages.cuts=[21, 30, 46, 58]", task=task) for task in tasks]
    job = JobRun(spec, setting.data, setting.folds)
    assert job.training_set.labels.max() == 4
    assert np.array_equal(job.truth[:, 0], setting.data.labels[2])
    run = spec.run
    found = evaluate(load_oof_ensemble([run], None, "last"), apply_tuning([run], "none", tuned=False))
    truth = setting.data.classes[setting.folds[setting.data.photo_person] == 0]
    assert np.array_equal(found.score.support, np.bincount(truth, minlength=18))


@pytest.mark.parametrize("head", ["softmax", "ordinal", "regression"])
def test_ages_in_years_are_scored_in_bands_by_any_head(setting: Setting, head: str) -> None:
    """With spread targets and mixed photos; its card says what its logits mean."""
    ages = f"tasks.age.ages={{cuts='years', head='{head}', sigma=2}}"
    spec = setting.trained(f"years {head}", ages, "tasks.age.mix.cutmix=1")
    assert logits(spec).shape[2] == {"softmax": 66, "ordinal": 65, "regression": 2}[head]
    assert np.isfinite(logits(spec)).all()
    job = JobRun(spec, setting.data, setting.folds)
    card = read_card(spec.run.job_folder("age", 0) / "model.safetensors")
    assert card.output_spec == job.output_spec
    f1, accuracy = task_scores(card.output_spec, logits(spec)[0], job.truth[job.oof_rows])
    assert 0 <= f1 <= 1
    assert 0 <= accuracy <= 1


def test_a_precision_that_falls_back_is_reported(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ensemble.models.engine.TOLERANCES, "fp16", -1.0)
    spec = setting.trained("fp16", "tasks.age.precision=fp16")
    note = Job(spec.run, "age", 0).status().note
    assert note.startswith("precision fp16 falls back to fp32: its logits differ by")


@pytest.mark.parametrize("model", ["test_efficientnet", "test_convnext", "test_vit"])
def test_any_architecture_serves_any_task(setting: Setting, model: str) -> None:
    changes = [f"tasks.age.model={model}", "tasks.age.predicts=heads", "tasks.age.resize=[32, 32]"]
    if model == "test_vit":
        changes.append("tasks.age.model_args={dynamic_img_size=true}")
    spec = setting.trained(model, *changes)
    assert logits(spec).shape == (2, 84, 8)


def test_finished_jobs_of_an_equal_recipe_are_reused(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    source = setting.trained("source", task="mask")
    setting.trained("source", task="gender")
    mine = setting.spec("mine", "tasks.gender.epochs=2")
    specs = plan(mine.run, mine.recipe, list(mine.recipe.tasks), [0, 1], Hardware("cpu", workers=0), None)
    monkeypatch.setattr(ensemble.jobs.finished, "library_versions", lambda: library_versions() | {"torch": "0.1"})
    assert reuse_jobs(specs, source.run) == 0, "made with another torch"
    monkeypatch.undo()
    with lock_jobs(specs[:1]), pytest.raises(MaskensError, match="another maskens is training mask fold 0"):
        reuse_jobs(specs, source.run)
    assert reuse_jobs(specs, source.run) == 1
    assert [s.task for s in specs if is_done(s)] == ["mask"]
    taken, original = (s.run.job_folder("mask", 0) / "model.safetensors" for s in (specs[0], source))
    assert taken.read_bytes() == original.read_bytes()
    assert reuse_jobs(specs, source.run) == 0, "what is there stays"


def test_jobs_of_an_unlike_run_are_not_taken_over(setting: Setting, tmp_path: Path) -> None:
    spec = setting.trained("plain")
    with pytest.raises(MaskensError, match="that is this run itself"):
        reuse_jobs([spec], spec.run)
    other, _ = start_run(tmp_path / "other", setting.data, make_folds(setting.data, 2, seed=2), 2, seed=2)
    with pytest.raises(MaskensError, match=r"it has other folds and seed than"):
        reuse_jobs([spec], other)


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (60, r"age fold 0: age >=60\n"),
        (1, r"no training photos of:\n  - age fold 0: age <30, .*\n  - age fold 1: age <30"),
    ],
)
def test_jobs_without_training_photos_of_a_class_are_refused(setting: Setting, first: int, message: str) -> None:
    recipe = parse_recipe(BASE, "few", changes=[f"tasks.age.ages.leave_out={list(range(first, 100))}"])
    specs = plan(setting.run, recipe, ["mask", "age"], [0, 1], Hardware("cpu", workers=0), None)
    with pytest.raises(MaskensError, match=message):
        refuse_jobs_without_photos(specs, setting.data, setting.folds)
