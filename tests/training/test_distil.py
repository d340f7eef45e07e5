"""A student that learns what an ensemble says of people whom its models never saw."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MakeData
from planned import HEADS, SOFT_F1, plan_run
from run_command import maskens, refused
from scipy.special import log_softmax, softmax

import ensemble
from ensemble.data.masks import DrawMasks
from ensemble.jobs.oof import load_job_oof
from ensemble.jobs.soft_targets import SoftTargets, load_soft_targets, read_soft_targets, soft_with_mask
from ensemble.jobs.status import read_status
from ensemble.pipeline.distil import DistilPlan, begin_student, plan_distillation
from ensemble.pipeline.train import plan_training, reuse_finished
from ensemble.recipes.schema import TaskRecipe
from ensemble.training.learning_set import LearningSet, learning_set
from ensemble.training.targets import class_table
from folds.data.labels import CLASSES, decode
from folds.data.layout import read_train
from folds.data.people import TrainData
from folds.errors import MaskensError
from folds.run import Run, load_run
from folds.splitting.split import read_folds

STUDENT = """
[tasks.heads]
predicts = "heads"
model = "test_resnet.r160_in1k"
pretrained = false
resize = [32, 24]
batch_size = 16
epochs = 6
optimizer = { lr = 1e-2 }
"""
TRAIN = ensemble.TrainOptions(device="cpu", workers=0)


@pytest.fixture(scope="module")
def root(make_data: MakeData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder, a student's recipe, and a teacher that takes every mask for the next; to be read only."""
    folder = tmp_path_factory.mktemp("distil")
    make_data(folder / "data", people=24)
    (folder / "student.toml").write_text(STUDENT)
    data = read_train(folder / "data")
    plan_run(folder / "teacher", data, np.eye(18)[(data.classes + 6) % 18] * 6)
    plan_run(folder / "unsure", data, np.random.default_rng(3).normal(size=(2, len(data.files), CLASSES)))
    return folder


@pytest.fixture(scope="module")
def student(root: Path) -> Path:
    """Both folds, of the teacher alone; to be read only."""
    done = ensemble.distil(root / "teacher", options(root, root / "student", alpha=1.0))
    assert (done.trained, done.failed) == (2, {})
    return root / "student"


def options(root: Path, out: Path, **more: object) -> ensemble.DistilOptions:
    training = dataclasses.replace(TRAIN, recipe=str(root / "student.toml"))
    return dataclasses.replace(ensemble.DistilOptions(out, train=training), **more)  # type: ignore[arg-type]


def planned(root: Path, out: Path, teacher: str = "unsure", **more: object) -> DistilPlan:
    return plan_distillation(root / teacher, options(root, out, **more))


def lessons(plan: DistilPlan, fold: int) -> LearningSet:
    training = plan.training
    return learning_set(training.jobs[fold], training.data, training.folds)


def said(run: Run, data: TrainData) -> np.ndarray:
    """Log probabilities of a planned run of class18: the mean of its views' logits, each fold's of its own people."""
    found = np.full((len(data.files), CLASSES), np.nan)
    place = {file: n for n, file in enumerate(data.files)}
    for fold in range(run.k):
        oof = load_job_oof(run.job_folder("class18", fold) / "oof.npz", {})
        found[[place[f] for f in oof.files]] = log_softmax(oof.best.mean(axis=0, dtype=np.float64), axis=1)
    return found


# What is learned


def test_targets_are_the_out_of_fold_probabilities_mixed_with_the_label(root: Path, tmp_path: Path) -> None:
    plan = planned(root, tmp_path / "s", alpha=0.3, temperature=2.0)
    data = plan.training.data
    expected = 0.7 * np.eye(18)[data.classes] + 0.3 * softmax(said(load_run(root / "unsure"), data) / 2, axis=1)
    for fold in range(2):
        found = lessons(plan, fold)
        np.testing.assert_allclose(found.taught[found.rows], expected[found.rows], atol=1e-6)


def test_a_fold_is_taught_nothing_of_its_own_people(root: Path, tmp_path: Path) -> None:
    plan = planned(root, tmp_path / "s")
    data, folds = plan.training.data, plan.training.folds
    for fold in range(2):
        found = lessons(plan, fold)
        held_out = folds[data.photo_person] == fold
        assert not held_out[found.rows].any()
        assert np.isnan(found.taught[held_out]).all(), "a target that is shown all the same makes the loss NaN"
    copy = tmp_path / "other"
    shutil.copytree(root / "unsure", copy)
    path = copy / "class18" / "fold0" / "oof.npz"
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **arrays | {"best": arrays["best"][..., ::-1]})
    other = plan_distillation(copy, options(root, tmp_path / "s"))
    assert np.array_equal(lessons(other, 0).taught, lessons(plan, 0).taught, equal_nan=True)
    assert not np.array_equal(lessons(other, 1).taught, lessons(plan, 1).taught, equal_nan=True)


@pytest.mark.parametrize("predicts", ["mask", "gender", "age", "heads", "class18", "male-age", "female-age"])
def test_every_task_learns_its_part_of_the_18_probabilities(predicts: str, root: Path) -> None:
    data = read_train(root / "data")
    log_p = log_softmax(np.random.default_rng(0).normal(size=(len(data.files), CLASSES)) * 3, axis=1)
    soft = SoftTargets(("t",), "", ("",), 1, tuple(data.files), log_p.astype(np.float32), 1.0, 1.0)
    task = TaskRecipe.model_validate({"predicts": predicts, "model": "m"})
    found = soft.of(task.predicts, data) @ class_table(task.target).double().numpy()
    cube = np.exp(log_p).reshape(-1, 3, 2, 3)
    given = {g: cube[:, :, n].sum(axis=1) / cube[:, :, n].sum(axis=(1, 2))[:, None] for n, g in enumerate("mf")}
    mask, gender, age = cube.sum(axis=(2, 3)), cube.sum(axis=(1, 3)), cube.sum(axis=(1, 2))
    known = {"mask": mask, "gender": gender, "age": age, "heads": np.hstack([mask, gender, age])}
    known |= {"class18": np.exp(log_p), "male-age": given["m"], "female-age": given["f"]}
    np.testing.assert_allclose(found, known[predicts], atol=1e-6)


def test_a_drawn_mask_is_known_and_leaves_gender_and_age_as_taught() -> None:
    target = softmax(np.random.default_rng(0).normal(size=18)).astype(np.float32)
    found = soft_with_mask(target, 1)
    mask, gender, age = decode(np.arange(18))
    assert found[mask == 1].sum() == pytest.approx(1)
    for part in (gender, age):
        np.testing.assert_allclose(np.bincount(part, found), np.bincount(part, target), atol=1e-6)
    task = TaskRecipe.model_validate({"predicts": "heads", "model": "m", "masks": {"prob": 1.0}})
    photo = np.full((64, 48, 3), 200, np.uint8)
    drawn, changed = DrawMasks(task, np.array([2]), soft=True)(photo, target, 0, (1,))
    assert not np.array_equal(drawn, photo)
    assert any(np.array_equal(changed, soft_with_mask(target, state)) for state in (0, 1))


def test_a_student_says_what_its_teacher_says(root: Path, student: Path) -> None:
    data = read_train(root / "data")
    place = {file: n for n, file in enumerate(data.files)}
    oofs = [load_job_oof(student / "heads" / f"fold{fold}" / "oof.npz", {}) for fold in range(2)]
    rows = np.array([place[f] for oof in oofs for f in oof.files.tolist()])
    logits = np.concatenate([oof.last.mean(axis=0) for oof in oofs])  # the best epoch is that of the true labels
    mask, gender, _ = (labels[rows] for labels in data.labels)
    says = logits[:, :3].argmax(axis=1)
    assert np.mean(says == (mask + 1) % 3) > 0.6
    assert np.mean(says == mask) < 0.3
    assert np.mean(logits[:, 3:5].argmax(axis=1) == gender) > 0.8


def test_a_tuned_ensemble_teaches_each_person_by_a_tuning_of_others(root: Path, tmp_path: Path) -> None:
    data = read_train(root / "data")
    wrong = np.random.default_rng(0).random(len(data.files)) < 0.4
    logits = np.eye(18)[np.where(wrong, (data.classes + 6) % 18, data.classes)] * 30
    run = plan_run(tmp_path / "run", data, logits)
    assert "temperatures" in ensemble.tune(run.folder).tuning.kept
    kept = ensemble.score(run.folder).evaluation.decision.log_probabilities
    tuned = plan_distillation(run.folder, options(root, tmp_path / "s")).soft
    np.testing.assert_allclose(tuned.log_probabilities, kept, atol=1e-5)
    assert "tuned: temperatures" in tuned.used
    plain = plan_distillation(run.folder, options(root, tmp_path / "s", tuned=False)).soft
    np.testing.assert_allclose(plain.log_probabilities, log_softmax(logits, axis=1), atol=1e-4)


def test_several_runs_teach_together(root: Path, tmp_path: Path) -> None:
    runs = [root / "teacher", root / "unsure"]
    soft = plan_distillation(runs, options(root, tmp_path / "s")).soft
    data = read_train(root / "data")
    mean = log_softmax(np.mean([said(load_run(run), data) for run in runs], axis=0), axis=1)
    np.testing.assert_allclose(soft.log_probabilities, mean, atol=1e-4)
    assert soft.passes == 2 * 2 * 2


def test_soft_f1_is_warned_of_where_probabilities_are_what_is_learned(root: Path, tmp_path: Path) -> None:
    assert planned(root, tmp_path / "s").training.warnings == ()
    training = dataclasses.replace(
        TRAIN, recipe=str(root / "student.toml"), changes=["tasks.heads.loss={ce=0.3, heads={age={f1=0.7}}}"]
    )
    (warning,) = plan_distillation(root / "unsure", options(root, tmp_path / "s", train=training)).training.warnings
    assert "loss.f1 of heads" in warning
    assert "the student is surer" in warning
    data = read_train(root / "data")
    plan_run(tmp_path / "f1", data, said(load_run(root / "unsure"), data), recipe=SOFT_F1)
    (warning,) = plan_distillation(tmp_path / "f1", options(root, tmp_path / "s")).training.warnings
    assert "loss.f1 of class18" in warning
    assert "the ensemble is less sure" in warning


# What belongs together


def test_a_student_is_a_run_like_any(root: Path, student: Path) -> None:
    teacher, run = load_run(root / "teacher"), load_run(student)
    assert (run.folds_hash, run.seed, run.fingerprint) == (teacher.folds_hash, teacher.seed, teacher.fingerprint)
    data = read_train(root / "data")
    assert np.array_equal(read_folds(run.folds_file, data)[0], read_folds(teacher.folds_file, data)[0])
    kept = read_soft_targets(run)
    assert kept and read_status(run, "heads", 0).record["soft_targets"] == kept.hash
    assert "2 of 2 jobs are finished already" in maskens("train", "--run", student).out
    assert maskens("verify", "--run", student).code == 0
    assert kept.hash[:6] in maskens("compare", root / "teacher", student).out
    ensemble.infer(student, ensemble.InferOptions(device="cpu", workers=0))


def test_one_fold_is_a_model_and_the_others_may_follow(root: Path, student: Path, tmp_path: Path) -> None:
    out = tmp_path / "one"
    call = (
        "--run",
        root / "teacher",
        "--recipe",
        root / "student.toml",
        "--out",
        out,
        "--workers",
        0,
        "--device",
        "cpu",
    )
    outcome = maskens("distil", *call, "--fold", 0, "--alpha", 1)
    assert outcome.code == 0, outcome
    assert f"maskens infer --run {out} --allow-missing --tta none" in outcome.out
    assert "1 pass a photo, the ensemble makes 4" in outcome.out
    again = [load_job_oof(run / "heads" / "fold0" / "oof.npz", {}).best for run in (student, out)]
    assert np.array_equal(*again)
    predicted = ensemble.infer(out, ensemble.InferOptions(tta="none", allow_missing=True, device="cpu", workers=0))
    assert len(predicted.classes)
    plan = plan_training(out, TRAIN)
    assert [spec.fold for spec in plan.todo] == [1]
    assert plan.soft and plan.soft.hash == load_soft_targets(load_run(student), plan.data).hash  # type: ignore[union-attr]


def test_jobs_that_learned_otherwise_do_not_mix(root: Path, student: Path, tmp_path: Path) -> None:
    call = ("distil", "--run", root / "teacher", "--recipe", root / "student.toml", "--out")
    refused(maskens(*call, student), "learn from other soft targets", "alpha 1; now", "alpha 0.5")
    refused(maskens(*call, student, "--alpha", 1, "--temperature", 2), "learn from other soft targets")
    plain = ensemble.make_folds(root / "data", tmp_path / "plain", folds_file=root / "teacher" / "folds.csv", seed=1)
    training = dataclasses.replace(TRAIN, recipe=str(root / "student.toml"), changes=["tasks.heads.epochs=1"])
    plan, copied = reuse_finished(plan_training(plain.run.folder, dataclasses.replace(training, reuse=student)))
    assert (copied, len(plan.todo)) == (0, 2)
    (plain.run.job_folder("heads", 0)).mkdir(parents=True)
    (plain.run.job_folder("heads", 0) / "job.json").touch()
    refused(maskens(*call, plain.run.folder), "learn from labels alone")
    refused(maskens("train", "--run", student, "--pseudo", root / "teacher"), "learns from soft targets")


def test_soft_targets_that_are_edited_or_gone_are_refused(root: Path, student: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(student, copy)
    record, arrays = copy / "soft_targets.json", copy / "soft_targets.npz"
    text = record.read_text()
    record.write_text(text.replace('"alpha": 1.0', '"alpha": 0.9'))
    refused(maskens("train", "--run", copy), "edited or damaged after it was made")
    assert maskens("verify", "--run", copy).code == 1
    record.write_text(text)
    with np.load(arrays) as file:
        np.savez(arrays, files=file["files"], log_probabilities=file["log_probabilities"] * 2)
    refused(maskens("train", "--run", copy), "soft_targets.npz was edited")
    arrays.write_bytes(arrays.read_bytes()[:500])
    refused(maskens("train", "--run", copy), "can't be read")
    arrays.unlink()
    refused(maskens("train", "--run", copy), "can't be read")
    record.unlink()
    refused(maskens("train", "--run", copy), "is missing, from which heads fold 0 has learned")
    again = maskens("distil", "--run", root / "teacher", "--out", copy, "--recipe", root / "student.toml")
    refused(again, "is missing, from which heads fold 0 has learned")
    assert maskens("verify", "--run", copy).code == 1


def test_a_student_lies_beside_its_teacher_however_that_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = ensemble.TrainOptions(recipe=str(root / "student.toml"), device="cpu", data=root / "data")
    for inside, name in (("teacher", "."), ("data/eval", "../../teacher"), ("data", "../teacher/")):
        monkeypatch.chdir(root / inside)
        plan = plan_distillation(name, ensemble.DistilOptions(train=recipe))
        assert plan.training.run.folder.resolve() == (root / "teacher-student").resolve()


def test_a_run_with_pseudo_labels_is_no_student(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensemble.pipeline.train.choose_pseudo_labels", lambda *_: object())
    with pytest.raises(MaskensError, match=r"keeps pseudo-labels, and a student has none\. Name a new folder: --out"):
        planned(root, tmp_path / "student")


def test_what_can_not_teach_or_learn_is_refused_before_anything_is_written(root: Path, tmp_path: Path) -> None:
    data, out = read_train(root / "data"), tmp_path / "out"
    call = ("distil", "--recipe", root / "student.toml", "--out", out, "--run")
    half = plan_run(tmp_path / "half", data, np.eye(18)[data.classes], k=4, trained=[0, 2])
    refused(maskens(*call, half.folder), "class18 fold 1, class18 fold 3", f"train --run {half.folder} --fold 1,3")
    refused(maskens(*call, tmp_path / "gone"), "there is no run")
    refused(maskens(*call, root / "teacher", "--alpha", 0), "--alpha 0")
    refused(maskens(*call, root / "teacher", "--alpha", 1.5), "--alpha 1.5")
    refused(maskens(*call, root / "teacher", "--temperature", 0), "--temperature 0")
    refused(maskens(*call, root / "teacher", "--tta", "crops"), "have no view")
    refused(maskens(*call, root / "teacher", "--set", "tasks.heads.ages.sigma=2"), "soft targets", "other bins")
    refused(maskens(*call, root / "teacher", "--out", root / "teacher"), "that is the teacher itself")
    refused(maskens(*call, root / "teacher", "--out", root / "data"), "not a run folder", "--out DIR")
    others = plan_run(tmp_path / "others", data, np.eye(18)[data.classes], split_seed=8)
    refused(maskens(*call, root / "teacher", "--out", others.folder), "with other folds and seed than")
    refused(maskens(*call, root / "teacher", "--run", others.folder), "folds")
    assert not out.exists()


def test_the_dry_run_writes_nothing(root: Path, tmp_path: Path) -> None:
    call = ("distil", "--run", root / "teacher", "--recipe", root / "student.toml", "--out", tmp_path / "out")
    outcome = maskens(*call, "--dry-run", "--workers", 0)
    assert outcome.code == 0, outcome
    assert "2 jobs, 1 at a time" in outcome.out
    assert not (tmp_path / "out").exists()


def test_label_fixes_and_recipe_of_the_teacher_are_the_students(root: Path, tmp_path: Path) -> None:
    fixes = tmp_path / "fixes.csv"
    path = read_train(root / "data").people[0].path
    fixes.write_text(f"path,photo,field,old,new,reason\n{path},,age,{path.rsplit('_', 1)[1]},45,\n")
    data = ensemble.make_folds(root / "data", tmp_path / "fixed", k=2, fixes=[str(fixes)]).data
    teacher = plan_run(tmp_path / "fixed", data, {"heads": np.zeros((len(data.files), 8))}, recipe=HEADS)
    assert teacher.fixes.hash
    plan = plan_distillation(teacher.folder, ensemble.DistilOptions(train=TRAIN))
    assert plan.training.run.folder == tmp_path / "fixed-student"
    assert plan.training.recipe.tasks.keys() == {"heads"}
    begin_student(plan)
    again = plan_training(plan.training.run.folder, dataclasses.replace(TRAIN, recipe=str(root / "student.toml")))
    assert again.run.fixes.hash == teacher.fixes.hash
    assert again.soft and again.soft.hash == plan.soft.hash


def test_class_probabilities_become_targets_in_training() -> None:
    task = TaskRecipe.model_validate({"predicts": "heads", "model": "m"})
    one_hot = torch.eye(18) @ class_table(task.target)
    assert one_hot[8].tolist() == [0, 1, 0, 1, 0, 0, 0, 1], "class 8: incorrect, male, >=60"
