from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from planned import CLASS18, plan_errors
from run_command import maskens

from ensemble.evaluation.compare import Comparison, compare
from ensemble.metrics.scores import macro_f1
from folds.corrections import read_fixes
from folds.errors import MaskensError
from folds.layout import read_train
from folds.people import TrainData
from folds.run_folder import Run

WRONG = 0.35  # share of photos that a run gets wrong


@pytest.fixture(scope="module")
def data(make_data: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> TrainData:
    return read_train(make_data(tmp_path_factory.mktemp("compare") / "data", people=36))


def found(*runs: Run, draws: int = 300) -> Comparison:
    return compare([r.folder for r in runs], None, "flip", "best", draws)


def test_a_large_difference_is_told_from_noise_and_a_small_one_is_not(data: TrainData, tmp_path: Path) -> None:
    runs = [
        plan_errors(tmp_path / n, data, s, errors=i) for i, (n, s) in enumerate([("a", 0.4), ("b", 0.1), ("c", 0.42)])
    ]
    (section,) = found(*runs).sections
    base, better, alike = section.scores
    assert base.gain["18 classes"].low == base.gain["18 classes"].high == 0
    assert better.gain["18 classes"].low > 0.1
    assert alike.gain["18 classes"].within_noise
    assert better.f1["18 classes"].value > base.f1["18 classes"].value
    assert better.f1["gender"].value == pytest.approx(1), "only the mask is wrong"
    printed = " ".join(maskens("compare", *(run.folder for run in runs)).out.split())
    assert "better on these people, one seed each" in printed
    assert "within noise on these" not in printed


def test_the_scores_are_those_of_scikit_learn(data: TrainData, tmp_path: Path) -> None:
    run = plan_errors(tmp_path / "a", data, WRONG)
    (section,) = found(run, plan_errors(tmp_path / "b", data, 0.0)).sections
    rng = np.random.default_rng(0)
    predicted = np.where(rng.random(len(data.files)) < WRONG, (data.classes + 6) % 18, data.classes)
    first, perfect = section.scores
    assert first.f1["18 classes"].value == pytest.approx(macro_f1(data.classes, predicted, 18), abs=1e-6)
    assert [c.value for c in perfect.per_class] == [1.0] * 18
    assert first.f1["18 classes"].low < first.f1["18 classes"].value < first.f1["18 classes"].high


def test_only_what_differs_in_the_recipes_is_shown(data: TrainData, tmp_path: Path) -> None:
    a = plan_errors(tmp_path / "a", data, 0.1)
    b = plan_errors(tmp_path / "b", data, 0.1, recipe=CLASS18 + "epochs = 7\n[tasks.class18.loss]\nfocal = 1.0\n")
    assert found(a, b).differences == [
        ("tasks.class18.epochs", ["3", "7"]),
        ("tasks.class18.loss.focal", ["0.0", "1.0"]),
    ]
    assert [note.split(",")[0] for note in found(a, b).notes] == ["epochs differ"]


def test_another_deal_of_the_people_is_told(data: TrainData, tmp_path: Path) -> None:
    a, b = plan_errors(tmp_path / "a", data, 0.1), plan_errors(tmp_path / "b", data, 0.1, split_seed=2)
    comparison = found(a, b)
    assert [key for key, _ in comparison.differences] == ["seed", "folds"]
    assert "the people were split into other folds" in comparison.notes[0]
    assert str(a.folds_file) in comparison.notes[0]


def test_runs_with_other_label_fixes_are_scored_on_both_sets_of_labels(data: TrainData, tmp_path: Path) -> None:
    """The second run predicts what the fixed labels say."""
    person = data.people[1]
    lines = ["path,photo,field,old,new,reason", f"{person.path},,age,{person.age},{88 if person.age < 60 else 22},"]
    (tmp_path / "fixes.csv").write_text("\n".join(lines) + "\n")
    mended = read_train(data.root, read_fixes([str(tmp_path / "fixes.csv")]))
    given, fixed = plan_errors(tmp_path / "a", data, 0.0), plan_errors(tmp_path / "b", mended, 0.0)
    comparison = found(given, fixed)
    assert ("labels", ["as given", "1 labels of 1 people (1 age) from fixes.csv (HASH)"]) in [
        (key, [re.sub(r"\(\w{6}\)$", "(HASH)", v.replace(f"{tmp_path}/", "")) for v in values])
        for key, values in comparison.differences
    ]
    as_given, as_fixed = comparison.sections
    assert "as given" in as_given.labels
    assert as_given.scores[0].f1["18 classes"].value == 1 > as_given.scores[1].f1["18 classes"].value
    assert as_fixed.scores[1].f1["18 classes"].value == 1 > as_fixed.scores[0].f1["18 classes"].value


def test_only_photos_that_every_run_predicted_count(data: TrainData, tmp_path: Path) -> None:
    a, b = plan_errors(tmp_path / "a", data, 0.1), plan_errors(tmp_path / "b", data, 0.1)
    (b.job_folder("class18", 0) / "oof.npz").unlink()
    comparison = found(a, b)
    assert comparison.photos == 36 * 7 // 2
    assert comparison.notes[0] == f"{b.folder}: folds that count: 1 of 0..1; not trained: class18 fold 0"
    (a.job_folder("class18", 1) / "oof.npz").unlink()
    with pytest.raises(MaskensError, match="no photo in common"):
        found(a, b)


def test_what_can_not_be_compared_is_refused(data: TrainData, tmp_path: Path, make_data: Callable[..., Path]) -> None:
    a = plan_errors(tmp_path / "a", data, 0.1)
    with pytest.raises(MaskensError, match="name two runs or more"):
        found(a)
    with pytest.raises(MaskensError, match="name two runs or more"):
        found(a, dataclasses.replace(a, folder=a.folder / ".." / "a"))
    other = plan_errors(tmp_path / "b", read_train(make_data(tmp_path / "other", people=24)), 0.1)
    with pytest.raises(MaskensError, match=r"b was made from other photos than .*a"):
        found(a, other)
    assert json.loads((a.folder / "run.json").read_text())["k"] == 2
