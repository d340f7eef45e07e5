"""Pseudo-labels: photos of eval/ are trained on, and no score sees them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeData
from edits import edit_arrays, edit_record
from planned import SMALL
from run_command import maskens, ran, refused
from scipy.special import log_softmax, softmax

import ensemble
from ensemble.commands.train import plan_training, reuse_finished
from ensemble.commands.training import TrainingPlan
from ensemble.data.loader import epoch_photos
from ensemble.jobs.job import Job
from ensemble.jobs.oof import load_job_oof
from ensemble.jobs.soft_targets import NOT_TAKEN, PseudoLabels, load_pseudo_labels
from ensemble.recipes.recipe_file import load_recipe
from ensemble.recipes.schema import Sampler, TaskRecipe
from ensemble.recipes.tasks import class_labels
from folds.errors import MaskensError
from folds.labels import CLASSES
from folds.layout import read_train
from folds.ranges import FULL
from folds.run_folder import load_run

EVAL = tuple(f"e{n:02d}.jpg" for n in range(18))
HEADS = f"{SMALL}batch_size = 16\nepochs = 8\noptimizer = {{ lr = 1e-2 }}\n[tasks.heads]\n"


@pytest.fixture(scope="module")
def source(make_data: MakeData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is trained and has predicted; to be read only."""
    root = tmp_path_factory.mktemp("pseudo")
    make_data(root / "data", people=24, eval_ids=EVAL)
    (root / "heads.toml").write_text(HEADS)
    ensemble.folds(root / "data", run=root / "source", k=2)
    assert not ensemble.train(root / "source", recipe=root / "heads.toml", device="cpu", workers=0).failed
    ensemble.infer(root / "source", device="cpu", workers=0)
    return root / "source"


def new_run(source: Path, folder: Path, seed: int = 0) -> Path:
    if seed:
        ensemble.folds(source.parent / "data", run=folder, k=2, seed=seed)
    else:
        ensemble.folds(
            data=source.parent / "data", run=folder, folds_file=source / "folds.csv", seed=load_run(source).seed
        )
    return folder


def options(source: Path, **more: object) -> dict[str, Any]:
    named = {"recipe": source.parent / "heads.toml", "change": "tasks.heads.epochs=1", "device": "cpu", "workers": 0}
    return named | more


def planned(run: Path, source: Path, min_p: float = 0.51, **more: object) -> TrainingPlan:
    return plan_training(ensemble.train.parse(run, **options(source, pseudo=source, pseudo_min_p=min_p, **more)))


@pytest.fixture(scope="module")
def learned(source: Path) -> Path:
    """A run that was trained with pseudo-labels; to be read only."""
    run = new_run(source, source.parent / "learned")
    assert not ensemble.train(run, **options(source, pseudo=source, pseudo_min_p=0.51)).failed
    return run


def test_a_fold_is_trained_on_what_its_own_models_are_sure_of(source: Path, tmp_path: Path) -> None:
    with np.load(source / "eval.npz") as file:
        logits = file["logits/heads"].mean(axis=1)
    found = planned(new_run(source, tmp_path / "run"), source).pseudo
    assert found is not None
    place = {file: n for n, file in enumerate(f"eval/images/{i}" for i in EVAL)}
    rows = [place[file] for file in found.photos.files]
    sure = np.zeros((2, len(EVAL)), bool)
    for fold in range(2):
        mask, gender, age = (
            log_softmax(logits[fold][:, part], axis=1) for part in (slice(3), slice(3, 5), slice(5, 8))
        )
        joint = (mask[:, :, None, None] + gender[:, None, :, None] + age[:, None, None, :]).reshape(-1, CLASSES)
        sure[fold] = softmax(joint, axis=1).max(axis=1) >= 0.51
        expected = np.where(sure[fold], joint.argmax(axis=1), NOT_TAKEN)
        assert found.classes[fold].tolist() == expected[rows].tolist()
    assert sorted(rows) == np.flatnonzero(sure.any(axis=0)).tolist(), "photos that no fold is sure of are skipped"


def test_the_photos_count_in_training_and_in_nothing_else(source: Path, learned: Path) -> None:
    data, run = read_train(source.parent / "data"), load_run(learned)
    kept = load_pseudo_labels(run, data.root)
    assert kept is not None
    for fold in range(2):
        oof = load_job_oof(run.job_folder("heads", fold) / "oof.npz", {})
        assert set(oof.files.tolist()) < set(data.files)
        assert Job(run, "heads", fold).status().record["pseudo"] == kept.hash
    scored = ensemble.score(learned)
    assert len(scored.evaluation.decision.classes) == len(data.files)
    outcome = maskens("compare", source, learned)
    assert "pseudo-labels" in outcome.out and kept.hash[:6] in outcome.out


def test_they_change_what_is_learned(source: Path, learned: Path, tmp_path: Path) -> None:
    plain = new_run(source, tmp_path / "plain")
    assert not ensemble.train(plain, **options(source, fold=0)).failed
    oofs = [load_job_oof(run / "heads" / "fold0" / "oof.npz", {}).at("last") for run in (plain, learned)]
    assert not np.allclose(*oofs)


def test_each_is_a_person_of_its_own_beside_the_data(source: Path) -> None:
    data = read_train(source.parent / "data")
    more = np.array([3, 5]), np.array([4, 17])
    found = epoch_photos(Sampler.model_validate({"balance": "class"}), (30, 60), data, np.arange(14), more)
    assert found.rows.tolist()[-2:] == [len(data.files) + 3, len(data.files) + 5]
    assert len(set(found.person.tolist())) == 2 + 2
    assert found.group.tolist()[-2:] == [4, 17]
    for balance, groups in {"mask": [0, 2], "age": [1, 2]}.items():
        sampler = Sampler.model_validate({"balance": balance})
        assert epoch_photos(sampler, (30, 60), data, np.arange(14), more).group.tolist()[-2:] == groups


@pytest.mark.parametrize(
    ("predicts", "labels"), [("heads", [[1, 1, 2]]), ("class18", [[11]]), ("mask", [[1]]), ("female-age", [[2]])]
)
def test_a_class_gives_all_labels_of_a_task(predicts: str, labels: list[list[int]]) -> None:
    task = TaskRecipe.model_validate({"predicts": predicts, "model": "m"})
    assert class_labels(task.output_spec, np.array([11])).tolist() == labels


def test_an_age_model_of_one_gender_is_trained_on_that_gender() -> None:
    found = PseudoLabels("", 0.9, "", {"a": (0,), "b": (3,), "c": (NOT_TAKEN,)})
    male = load_recipe("original").tasks["male-age"]
    assert [part.tolist() for part in found.of(0, male)] == [[0], [0]]
    assert [part.tolist() for part in found.of(0, load_recipe("original").tasks["mask"])] == [[0, 1], [0, 3]]


# What belongs together


def test_a_run_resumes_with_its_own(learned: Path) -> None:
    ran("verify", "--run", learned)
    assert maskens("train", "--run", learned).out.startswith("2 of 2 jobs are finished already")


def test_others_are_refused_once_there_are_models(source: Path, learned: Path, tmp_path: Path) -> None:
    found = {p: planned(new_run(source, tmp_path / f"{p}"), source, p).pseudo for p in (0.51, 0.6, 0.7, 0.8, 0.9)}
    hashes = {p: labels.hash for p, labels in found.items() if labels}
    stricter = next(p for p, labels in hashes.items() if labels != hashes[0.51])
    outcome = maskens("train", "--run", learned, "--pseudo", source, "--pseudo-min-p", stricter)
    refused(outcome, "trained with other pseudo-labels")
    refused(maskens("train", "--run", source, "--pseudo", learned), "--pseudo")


def test_jobs_with_and_without_are_not_taken_over_for_each_other(source: Path, learned: Path, tmp_path: Path) -> None:
    plain = new_run(source, tmp_path / "plain")
    plan = plan_training(ensemble.train.parse(plain, **options(source, reuse=learned)))
    plan, copied = reuse_finished(plan, load_run(learned))
    assert (copied, len(plan.todo)) == (0, 2)
    again = new_run(source, tmp_path / "again")
    assert reuse_finished(planned(again, source, reuse=learned), load_run(learned))[1] == 2


def test_an_edited_list_or_other_photos_are_refused(source: Path, learned: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(learned, copy)
    record = copy / "pseudo.json"
    text = record.read_text()
    record.write_text(text.replace('"min_p": 0.51', '"min_p": 0.52'))
    refused(maskens("train", "--run", copy), "pseudo.json can't be used: it was edited or damaged")
    record.write_text(text)
    for labels in ({"eval/images/f": (1, 2)}, {"eval/images/e0": (1,)}):
        record.write_text(text)
        edit_record(record, labels=json.loads(text)["labels"] | labels)
        refused(maskens("train", "--run", copy), "not those of the run's pseudo-labels")
    record.unlink()
    refused(maskens("train", "--run", copy), "pseudo.json is missing; heads fold 0 was trained with it")
    verified = maskens("verify", "--run", copy)
    assert verified.code == 1 and "pseudo None" in verified.out
    shutil.copytree(source.parent / "data", tmp_path / "data")
    info = tmp_path / "data" / "eval" / "info.csv"
    info.write_text("\n".join(info.read_text().splitlines()[:-1]) + "\n")
    refused(maskens("train", "--run", learned, "--data", tmp_path / "data"), "not those of the run's pseudo-labels")


def test_what_can_not_label_is_refused(source: Path, tmp_path: Path) -> None:
    run = new_run(source, tmp_path / "run")
    call = ("train", "--run", run, "--recipe", source.parent / "heads.toml", "--pseudo")
    refused(maskens(*call, run), "that is this run itself")
    refused(maskens(*call, tmp_path / "gone"), "there is no run")
    refused(maskens(*call, source, "--pseudo-min-p", 0.3), "--pseudo-min-p 0.3")
    refused(maskens(*call, source, "--pseudo-min-p", 1), "is not that sure of any photo; its surest")
    refused(maskens(*call, source, "--pseudo-min-p", 0.51, "--set", "tasks.heads.ages.sigma=2"), "other bins")
    refused(maskens(*call[:-1], "--pseudo-min-p", 0.9), "needs --pseudo")
    refused(
        maskens("train", "--run", new_run(source, tmp_path / "other", seed=5), "--pseudo", source), "it has other folds"
    )
    assert not (run / "pseudo.json").exists()
    assert not (run / "recipe.toml").exists(), "nothing is bound by a refusal"


def test_logits_of_models_that_are_gone_are_refused(source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "source"
    shutil.copytree(source, copy)
    run = new_run(source, tmp_path / "run")
    call = ("train", "--run", run, "--recipe", source.parent / "heads.toml", "--pseudo", copy)
    oof = copy / "heads" / "fold0" / "oof.npz"
    edit_arrays(oof, logits=lambda a: a + 1)
    edit_record(oof.with_name("job.json"), checksums={})  # as if the job had been trained anew
    refused(maskens(*call), "predicted by other models", "maskens infer --run")
    (copy / "eval.npz").unlink()
    refused(maskens(*call), "it has predicted no photos", "maskens infer --run")


def test_a_model_on_everybody_gives_and_takes_none(source: Path, tmp_path: Path) -> None:
    copy, run = tmp_path / "source", new_run(source, tmp_path / "run")
    shutil.copytree(source, copy)
    with np.load(copy / "eval.npz") as file:
        record = json.loads(str(file["record"]))
    record["folds"]["heads"].append(FULL)
    changes = {"record": json.dumps(record), "logits/heads": lambda a: np.concatenate([a, -a[:1]])}
    edit_arrays(copy / "eval.npz", **changes)
    found = planned(run, copy, recipe=source.parent / "heads.toml").pseudo
    assert found and found.labels == planned(run, source).pseudo.labels
    with pytest.raises(MaskensError, match="--fold full: pseudo-labels exist for single folds"):
        planned(run, source, fold="full")


def test_the_dry_run_counts_them_and_writes_nothing(source: Path, tmp_path: Path) -> None:
    run = new_run(source, tmp_path / "run")
    call = ("train", "--run", run, "--recipe", source.parent / "heads.toml", "--pseudo", source, "--pseudo-min-p", 0.51)
    outcome = ran(*call, "--dry-run", "--workers", 0)
    assert "pseudo-labelled photos" in outcome.out, outcome
    assert sorted(p.name for p in run.iterdir()) == ["folds.csv", "run.json"]


def test_soft_f1_is_warned_of_with_pseudo_labels(source: Path, tmp_path: Path) -> None:
    run = new_run(source, tmp_path / "run")
    assert not any("loss.f1" in w for w in planned(run, source).warnings)
    changes = ["tasks.heads.epochs=1", "tasks.heads.loss={ce=0.3, f1=0.7}"]
    found = planned(run, source, change=changes).warnings
    assert any("loss.f1 of heads" in w and "pseudo-labels" in w for w in found)
