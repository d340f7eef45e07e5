"""A student is trained on the predictions of an ensemble, fold by fold."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeData
from edits import edit_arrays
from planned import SMALL, plan_run
from run_command import maskens, ran, refused
from scipy.special import log_softmax, softmax

import ensemble
from ensemble.commands.distil import DistilPlan, begin_student, plan_distillation
from ensemble.commands.infer import Inferred
from ensemble.commands.train import plan_training, reuse_finished
from ensemble.commands.training import TrainingPlan
from ensemble.data.cache import open_photos
from ensemble.data.drawn_masks import DrawMasks
from ensemble.jobs.job import Job
from ensemble.jobs.oof import load_job_oof
from ensemble.jobs.soft_targets import (
    FoldTargets,
    SoftTargets,
    read_soft_targets,
    save_fold_targets,
    soft_target_rows,
    soft_with_mask,
)
from ensemble.jobs.spec import training_rows
from ensemble.models.build import load_checkpoint, to_input
from ensemble.recipes.schema import TaskRecipe
from ensemble.training.fit_fold import training_set
from ensemble.training.losses import class_table
from folds.corrections import read_fixes
from folds.errors import MaskensError
from folds.labels import CLASSES, GENDERS, decode
from folds.layout import read_train
from folds.people import TrainData
from folds.run_folder import Run, load_run
from folds.splits import read_folds

LEARNING = f"{SMALL}batch_size = 16\noptimizer = {{ lr = 1e-2 }}\n"
STUDENT, TEACHER = f"{LEARNING}epochs = 6\n[tasks.heads]\n", f"{LEARNING}epochs = 1\n[tasks.class18]\n"
CPU: dict[str, Any] = {"device": "cpu", "workers": 0}
SOFT = SoftTargets(("t",), ("r",), "flip", "", 1, 1.0, 0.5)


@pytest.fixture(scope="module")
def root(make_data: MakeData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder, a student's recipe, and two teachers of one model a fold; to be read only."""
    folder = tmp_path_factory.mktemp("distil")
    make_data(folder / "data", people=24)
    (folder / "student.toml").write_text(STUDENT)
    (folder / "teacher.toml").write_text(TEACHER)
    ensemble.folds(folder / "data", run=folder / "teacher", k=2, seed=1)
    ensemble.folds(folder / "data", run=folder / "second", folds_file=folder / "teacher" / "folds.csv", seed=2)
    for name in ("teacher", "second"):
        ensemble.train(folder / name, recipe=folder / "teacher.toml", **CPU)
    return folder


@pytest.fixture(scope="module")
def student(root: Path) -> Path:
    """Both folds, of the teacher alone; to be read only."""
    done = ensemble.distil(root / "teacher", out=root / "student", alpha=1, **student_options(root))
    assert (done.trained, done.failed) == (2, {})
    return root / "student"


def student_options(root: Path) -> dict[str, Any]:
    return CPU | {"recipe": root / "student.toml"}


def planned(root: Path, out: Path, *teachers: Path, **more: object) -> DistilPlan:
    options = student_options(root) | {"out": out} | more
    return plan_distillation(ensemble.distil.parse(teachers or root / "teacher", **options))


def predicted(run: Run, data: TrainData, fold: int) -> np.ndarray:
    """Log probabilities of every photo by the run's model of one fold, in two views, made with torch and timm alone."""
    model, card = load_checkpoint(run.job_folder("class18", fold) / "model.safetensors", torch.device("cpu"))
    photos = open_photos(data.photos, [card.preprocessing], None, 1)
    x = to_input(
        torch.from_numpy(np.stack([photos[n][0] for n in range(len(data.files))])),
        card.mean,
        card.std,
        torch.device("cpu"),
    )
    with torch.inference_mode():
        logits = (model.eval()(x) + model(x.flip(3))) / 2
    return np.asarray(log_softmax(logits.double().numpy(), axis=1))


# What is learned


def test_a_fold_is_trained_on_the_teachers_model_of_that_fold_mixed_with_the_label(root: Path, tmp_path: Path) -> None:
    training = begin_student(planned(root, tmp_path / "s", alpha=0.3, temperature=2.0))
    data, folds = training.data, training.folds
    for fold in range(2):
        targets = training_set(training.jobs[fold], data, folds).targets
        rows = training_rows(training.jobs[fold], data, folds)
        said = predicted(load_run(root / "teacher"), data, fold)
        expected = 0.7 * np.eye(18)[data.classes] + 0.3 * softmax(said / 2, axis=1)
        np.testing.assert_allclose(targets[rows], expected[rows], atol=1e-5)
        held_out = folds[data.photo_person] == fold
        assert not held_out[rows].any()
        assert np.isnan(targets[held_out]).all(), "a target that is shown all the same makes the loss NaN"


def test_labels_of_the_people_that_a_student_is_scored_on_change_nothing_in_it(root: Path, tmp_path: Path) -> None:
    """Two teachers and their students, all alike but for the labels of the people of fold 0."""
    data = read_train(root / "data")
    folds = read_folds(root / "teacher" / "folds.csv", data)[0]
    rows = ["path,photo,field,old,new,reason"]
    for person in (p for p, fold in zip(data.people, folds, strict=True) if fold == 0):
        rows.append(f"{person.path},,gender,{GENDERS[person.gender]},{GENDERS[1 - person.gender]},")
    (tmp_path / "fixes.csv").write_text("\n".join(rows) + "\n")
    found = []
    for name, fixes in (("as-given", []), ("changed", [str(tmp_path / "fixes.csv")])):
        teacher = tmp_path / name
        file = root / "teacher" / "folds.csv"
        ensemble.folds(root / "data", run=teacher, folds_file=file, seed=1, fixes=fixes)
        assert ensemble.train(teacher, recipe=root / "teacher.toml", fold=0, **CPU).trained == 1
        out = tmp_path / f"{name}-student"
        done = ensemble.distil(teacher, out=out, fold=0, change="tasks.heads.epochs=1", **student_options(root))
        assert done.trained == 1, "a teacher needs no other fold"
        soft = read_soft_targets(load_run(out))
        assert soft and list(soft.folds) == [0]
        labels = read_train(root / "data", read_fixes(fixes) if fixes else ()).classes
        oof = load_job_oof(out / "heads" / "fold0" / "oof.npz", {})
        found.append((labels, soft.folds[0].files, soft.folds[0].log_probabilities, oof.at("last")))
    (labels, *ours), (other_labels, *theirs) = found
    assert not np.array_equal(labels, other_labels)
    for mine, its in zip(ours, theirs, strict=True):
        assert np.array_equal(mine, its)


@pytest.mark.parametrize("predicts", ["mask", "gender", "age", "heads", "class18", "male-age", "female-age"])
def test_every_task_is_trained_on_its_part_of_the_18_probabilities(predicts: str, root: Path) -> None:
    data = read_train(root / "data")
    log_p = log_softmax(np.random.default_rng(0).normal(size=(len(data.files), CLASSES)) * 3, axis=1)
    taught = FoldTargets(("",), tuple(data.files), log_p.astype(np.float32))
    soft = dataclasses.replace(SOFT, alpha=1.0, folds={0: taught})
    task = TaskRecipe.model_validate({"predicts": predicts, "model": "m"})
    found = soft.of(0, task.predicts, data) @ class_table(task.output_spec).double().numpy()
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


def test_a_student_predicts_what_its_teacher_does(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher that takes every mask for the next."""
    data = read_train(root / "data")

    def wrong(plan: DistilPlan, training: TrainingPlan, fold: int, *_: object) -> FoldTargets:
        rows = soft_target_rows(data, training.folds, fold)
        log_p = log_softmax(np.eye(18)[(data.classes[rows] + 6) % 18] * 6, axis=1)
        return FoldTargets(("",), tuple(data.files[row] for row in rows), log_p.astype(np.float32))

    monkeypatch.setattr("ensemble.commands.distil._predicted_targets", wrong)
    run = tmp_path / "student"
    ensemble.distil(root / "teacher", out=run, alpha=1, fold=0, **student_options(root))
    oof = load_job_oof(run / "heads" / "fold0" / "oof.npz", {})
    rows = [data.files.index(file) for file in oof.files]
    logits = oof.at("last").mean(axis=0)  # the best epoch is that of the true labels
    mask, gender, _ = (labels[rows] for labels in data.labels)
    predicted = logits[:, :3].argmax(axis=1)
    assert np.mean(predicted == (mask + 1) % 3) > 0.6
    assert np.mean(predicted == mask) < 0.3
    assert np.mean(logits[:, 3:5].argmax(axis=1) == gender) > 0.8


def test_several_runs_teach_together(root: Path, tmp_path: Path) -> None:
    runs = [root / "teacher", root / "second"]
    plan = planned(root, tmp_path / "s", *runs, fold=1)
    soft = begin_student(plan).soft
    assert soft and soft.passes == 2 * 2 * 2 and list(soft.folds) == [1]
    data = plan.training.data
    mean = log_softmax(np.mean([predicted(load_run(run), data, 1) for run in runs], axis=0), axis=1)
    rows = soft_target_rows(data, plan.training.folds, 1)
    np.testing.assert_allclose(soft.folds[1].log_probabilities, mean[rows], atol=1e-4)


def test_photos_that_became_unreadable_are_skipped_where_that_is_asked_for(root: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "student"
    shutil.copytree(root / "data", data)
    damaged = min((data / "train" / "images").glob("*/mask1.jpg"))
    damaged.write_bytes(bytes(damaged.stat().st_size))
    call = ["distil", "--run", root / "teacher", "--recipe", root / "student.toml", "--out", out, "--data", data]
    call += ["--workers", 0, "--device", "cpu", "--cache", "none", "--set", "tasks.heads.epochs=1"]
    refused(maskens(*call, "--fold", 0), "mask1.jpg", "--skip-bad-photos")
    ran(*call, "--fold", 0, "--skip-bad-photos")
    assert "mask1.jpg" in (out / "skipped.csv").read_text()
    done = ensemble.distil(root / "teacher", out=out, data=data, cache="none", skip_bad_photos=True, **CPU)
    assert (done.trained, done.failed) == (1, {})
    ran("score", "--run", out, "--data", data)


def test_soft_f1_is_warned_of_where_probabilities_are_what_is_learned(root: Path, tmp_path: Path) -> None:
    assert planned(root, tmp_path / "s").training.warnings == ()
    change = "tasks.heads.loss={ce=0.3, heads={age={f1=0.7}}}"
    (warning,) = planned(root, tmp_path / "s", change=change).training.warnings
    assert "loss.f1 of heads" in warning
    assert "the student is surer" in warning
    ensemble.folds(root / "data", run=tmp_path / "f1", k=2)
    change = "tasks.class18.loss={ce=0.3, f1=0.7}"
    ensemble.train(tmp_path / "f1", recipe=root / "teacher.toml", fold=0, change=change, **CPU)
    (warning,) = planned(root, tmp_path / "s", tmp_path / "f1", fold=0).training.warnings
    assert "loss.f1 of class18" in warning
    assert "the ensemble is less sure" in warning


# What belongs together


def test_a_student_is_a_run_like_any(root: Path, student: Path) -> None:
    teacher, run = load_run(root / "teacher"), load_run(student)
    assert (run.folds_hash, run.seed, run.fingerprint) == (teacher.folds_hash, teacher.seed, teacher.fingerprint)
    data = read_train(root / "data")
    assert np.array_equal(read_folds(run.folds_file, data)[0], read_folds(teacher.folds_file, data)[0])
    kept = read_soft_targets(run)
    assert kept and Job(run, "heads", 0).status().record["soft_targets"] == kept.fold_hash(0)
    assert "2 of 2 jobs are finished already" in maskens("train", "--run", student).out
    ran("verify", "--run", student)
    assert kept.hash[:6] in maskens("compare", root / "teacher", student).out
    ensemble.infer(student, device="cpu", workers=0)


def test_one_fold_is_a_model_and_the_others_may_follow(root: Path, student: Path, tmp_path: Path) -> None:
    out = tmp_path / "one"
    call = ["--run", root / "teacher", "--recipe", root / "student.toml", "--out", out, "--workers", 0]
    outcome = ran("distil", *call, "--device", "cpu", "--fold", 0, "--alpha", 1)
    assert f"maskens infer --run {out} --allow-missing --tta none" in outcome.out
    assert "forward passes per photo: 1, of the ensemble 4" in outcome.out
    again = [load_job_oof(run / "heads" / "fold0" / "oof.npz", {}).at("best") for run in (student, out)]
    assert np.array_equal(*again)
    predicted = ensemble.infer(out, tta="none", allow_missing=True, device="cpu", workers=0)
    assert isinstance(predicted, Inferred)
    assert len(predicted.classes)
    refused(maskens("train", "--run", out), "no soft targets of fold 1 yet", f"--out {out} --fold 1", "--alpha 1")
    plan = planned(root, out, alpha=1.0)
    assert ([spec.fold for spec in plan.training.todo], list(plan.missing)) == ([1], [1])
    kept, whole = (read_soft_targets(load_run(run)) for run in (out, student))
    assert kept and whole and kept.fold_hash(0) == whole.fold_hash(0)
    begin_student(plan)
    assert [spec.fold for spec in plan_training(ensemble.train.parse(out, **CPU)).todo] == [1]


def test_a_fold_whose_teacher_was_trained_again_since_is_taught_again_or_refused(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "student"
    soft = begin_student(planned(root, out)).soft
    assert soft and not planned(root, out).missing
    earlier = dataclasses.replace(soft, folds={0: dataclasses.replace(soft.folds[0], models=("another model",))})
    save_fold_targets(load_run(out), earlier, 0)
    assert list(planned(root, out).missing) == [0]
    job = load_run(out).job_folder("heads", 0) / "job.json"
    job.parent.mkdir(parents=True)
    job.touch()
    with pytest.raises(MaskensError, match=r"heads fold 0 .* trained again"):
        planned(root, out)


def test_jobs_that_learned_otherwise_do_not_mix(root: Path, student: Path, tmp_path: Path) -> None:
    call = ("distil", "--run", root / "teacher", "--recipe", root / "student.toml", "--out")
    refused(maskens(*call, student), "trained on other soft targets", "alpha 1; now", "alpha 0.5")
    refused(maskens(*call, student, "--alpha", 1, "--temperature", 2), "trained on other soft targets")
    plain = ensemble.folds(
        data=root / "data", run=tmp_path / "plain", folds_file=root / "teacher" / "folds.csv", seed=1
    )
    training = student_options(root) | {"change": "tasks.heads.epochs=1", "reuse": student}
    plan, copied = reuse_finished(plan_training(ensemble.train.parse(plain.run.folder, **training)), load_run(student))
    assert (copied, len(plan.todo)) == (0, 2)
    (plain.run.job_folder("heads", 0)).mkdir(parents=True)
    (plain.run.job_folder("heads", 0) / "job.json").touch()
    refused(maskens(*call, plain.run.folder), "trained on labels alone")
    refused(maskens("train", "--run", student, "--pseudo", root / "teacher"), "--pseudo", "soft targets")
    refused(maskens("train", "--run", student, "--fold", "full"), "--fold full: soft targets exist for single folds")


def test_soft_targets_that_are_edited_or_gone_are_refused(root: Path, student: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(student, copy)
    record, arrays = copy / "soft_targets.json", copy / "soft_targets" / "fold0.npz"
    text = record.read_text()
    record.write_text(text.replace('"alpha": 1.0', '"alpha": 0.9'))
    refused(maskens("train", "--run", copy), "edited or damaged after it was made")
    assert maskens("verify", "--run", copy).code == 1
    record.write_text(text)
    edit_arrays(arrays, log_probabilities=lambda a: a * 2)
    refused(maskens("train", "--run", copy), "fold0.npz was edited")
    arrays.write_bytes(arrays.read_bytes()[:500])
    refused(maskens("train", "--run", copy), "fold0.npz can't be read")
    arrays.unlink()
    refused(maskens("train", "--run", copy), "fold0.npz is missing; heads fold 0 was trained with it")
    record.unlink()
    refused(maskens("train", "--run", copy), "soft_targets.json can't be used")
    shutil.rmtree(copy / "soft_targets")
    refused(maskens("train", "--run", copy), "fold0.npz is missing; heads fold 0 was trained with it")
    again = maskens("distil", "--run", root / "teacher", "--out", copy, "--recipe", root / "student.toml")
    refused(again, "is missing; heads fold 0 was trained with it")
    assert maskens("verify", "--run", copy).code == 1


def test_what_can_not_teach_or_learn_is_refused_before_anything_is_written(root: Path, tmp_path: Path) -> None:
    data, out = read_train(root / "data"), tmp_path / "out"
    call = ("distil", "--recipe", root / "student.toml", "--out", out, "--run")
    half = plan_run(tmp_path / "half", data, np.eye(18)[data.classes], k=4, trained=[0, 2])
    refused(maskens(*call, half.folder, "--fold", "1..3"), "class18 fold 1", f"train --run {half.folder} --fold 1,3")
    refused(maskens(*call, tmp_path / "gone"), "there is no run")
    refused(maskens(*call, root / "teacher", "--alpha", 0), "--alpha 0")
    refused(maskens(*call, root / "teacher", "--alpha", 1.5), "--alpha 1.5")
    refused(maskens(*call, root / "teacher", "--temperature", 0), "--temperature 0")
    refused(maskens(*call, root / "teacher", "--tta", "crop"), "--tta crop")
    refused(maskens(*call, root / "teacher", "--set", "tasks.heads.ages.sigma=2"), "soft targets", "other bins")
    refused(maskens(*call, root / "teacher", "--out", root / "teacher"), "that is the teacher itself")
    refused(maskens(*call, root / "teacher", "--out", root / "data"), "not a run folder", "--out DIR")
    others = plan_run(tmp_path / "others", data, np.eye(18)[data.classes], split_seed=8)
    refused(maskens(*call, root / "teacher", "--out", others.folder), "with other folds and seed than")
    refused(maskens(*call, root / "teacher", "--run", others.folder), "folds")
    shutil.copytree(root / "teacher", tmp_path / "student", ignore=shutil.ignore_patterns("class18"))
    (tmp_path / "student" / "pseudo.json").touch()
    with pytest.raises(MaskensError, match=r"keeps pseudo-labels.*--out"):
        planned(root, tmp_path / "student")
    outcome = ran(*call, root / "teacher", "--dry-run", "--workers", 0)
    assert "2 jobs, 1 at a time" in outcome.out, outcome
    assert not out.exists()


def test_label_fixes_and_recipe_are_the_teachers(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixes = tmp_path / "fixes.csv"
    path = read_train(root / "data").people[0].path
    fixes.write_text(f"path,photo,field,old,new,reason\n{path},,age,{path.rsplit('_', 1)[1]},45,\n")
    ensemble.folds(root / "data", run=tmp_path / "fixed", k=2, fixes=[str(fixes)])
    ensemble.train(tmp_path / "fixed", recipe=root / "teacher.toml", **CPU)
    teacher = load_run(tmp_path / "fixed")
    assert teacher.fixes_hash
    monkeypatch.chdir(teacher.folder)
    plan = plan_distillation(ensemble.distil.parse(".", data=root / "data", **CPU))
    assert plan.training.run.folder.resolve() == (tmp_path / "fixed-student").resolve()
    assert plan.training.recipe.tasks.keys() == {"class18"}
    begin_student(plan)
    again = plan_training(ensemble.train.parse(plan.training.run.folder, **student_options(root)))
    assert again.run.fixes_hash == teacher.fixes_hash
    assert again.soft and again.soft.hash == plan.soft.hash
