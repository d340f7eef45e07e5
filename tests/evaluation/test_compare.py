from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from planned import CLASS18, plan_errors
from run_command import maskens

from ensemble.evaluation.compare import Comparison, compare_recipes, compare_runs
from folds.corrections import read_fixes
from folds.errors import MaskensError
from folds.layout import read_train
from folds.people import TrainData
from folds.run_folder import Run


@pytest.fixture(scope="module")
def data(make_data: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> TrainData:
    return read_train(make_data(tmp_path_factory.mktemp("compare") / "data", people=36))


def found(*runs: Run) -> Comparison:
    return compare_runs([r.folder for r in runs], None, "flip", "best")


def test_a_small_difference_is_within_noise_and_a_large_one_is_not(data: TrainData, tmp_path: Path) -> None:
    runs = [
        plan_errors(tmp_path / n, data, s, errors=i) for i, (n, s) in enumerate([("a", 0.4), ("b", 0.1), ("c", 0.42)])
    ]
    base, better, alike = found(*runs).scores
    assert base.gain["18 classes"].mean.low == base.gain["18 classes"].mean.high == 0
    assert better.gain["18 classes"].mean.low > 0.1
    assert alike.gain["18 classes"].mean.within_noise
    assert better.f1["18 classes"].mean.value > base.f1["18 classes"].mean.value
    assert better.f1["gender"].mean.value == pytest.approx(1), "only the mask is wrong"
    assert base.f1["18 classes"].deviation is None
    printed = " ".join(maskens("compare", *(run.folder for run in runs)).out.split())
    assert "better on these people, one seed each" in printed
    assert "within noise on these" not in printed


def test_only_what_differs_in_the_recipes_is_shown(data: TrainData, tmp_path: Path) -> None:
    a = plan_errors(tmp_path / "a", data, 0.1)
    b = plan_errors(tmp_path / "b", data, 0.1, recipe=CLASS18 + "epochs = 7\n[tasks.class18.loss]\nfocal = 1.0\n")
    assert found(a, b).differences == [
        ("tasks.class18.epochs", ["3", "7"]),
        ("tasks.class18.loss.focal", ["0.0", "1.0"]),
    ]
    assert found(a, b).notes[-1].startswith("epochs differ")


def test_other_folds_of_the_same_people_are_reported(data: TrainData, tmp_path: Path) -> None:
    a, b = plan_errors(tmp_path / "a", data, 0.1), plan_errors(tmp_path / "b", data, 0.1, split_seed=2)
    comparison = found(a, b)
    assert [key for key, _ in comparison.differences] == ["seed", "folds"]
    assert "the people were split into other folds" in comparison.notes[-1]
    assert str(a.folds_file) in comparison.notes[-1]


def test_runs_with_other_label_fixes_are_scored_on_the_labels_of_the_first(data: TrainData, tmp_path: Path) -> None:
    """The second run predicts what the fixed labels say."""
    person = data.people[1]
    lines = ["path,photo,field,old,new,reason", f"{person.path},,age,{person.age},{88 if person.age < 60 else 22},"]
    (tmp_path / "fixes.csv").write_text("\n".join(lines) + "\n")
    mended = read_train(data.root, read_fixes([str(tmp_path / "fixes.csv")]))
    given, fixed = plan_errors(tmp_path / "a", data, 0.0), plan_errors(tmp_path / "b", mended, 0.0)
    for runs in ([given, fixed], [fixed, given]):
        comparison = found(*runs)
        assert comparison.differences[-1][0] == "labels"
        assert any(f"scored on the labels of {runs[0].folder}" in note for note in comparison.notes)
        first, second = (scores.f1["18 classes"].mean.value for scores in comparison.scores)
        assert first == 1 > second


def test_only_photos_that_every_run_predicted_count(data: TrainData, tmp_path: Path) -> None:
    a, b = plan_errors(tmp_path / "a", data, 0.1), plan_errors(tmp_path / "b", data, 0.1)
    (b.job_folder("class18", 0) / "oof.npz").unlink()
    comparison = found(a, b)
    assert comparison.photos == 36 * 7 // 2
    assert f"{b.folder}: folds that count: 1 of 0..1; not trained: class18 fold 0" in comparison.notes
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


def planned(folder: Path, data: TrainData, shares: dict[str, list[float]]) -> dict[tuple[str, int], Run]:
    """A run for each recipe and seed that gets this share of the photos wrong."""
    return {
        (recipe, seed): plan_errors(folder / f"{recipe}-seed{seed}", data, share, errors=len(recipe) * 100 + seed)
        for recipe, of_seed in shares.items()
        for seed, share in enumerate(of_seed)
    }


def of_recipes(runs: dict[tuple[str, int], Run]) -> Comparison:
    comparison = compare_recipes(runs)
    assert comparison
    return comparison


def test_a_difference_that_depends_on_the_seed_is_noise(data: TrainData, tmp_path: Path) -> None:
    steady, moody = (
        of_recipes(planned(tmp_path / str(shares[0]), data, {"a": [0.4, 0.4, 0.4], "bb": shares}))
        .scores[1]
        .gain["18 classes"]
        for shares in ([0.2, 0.2, 0.2], [0.0, 0.45, 0.45])
    )
    assert steady.mean.significance == "better"
    assert moody.mean.value > 0
    assert moody.mean.significance == "within noise"
    assert moody.mean.value == pytest.approx(sum(moody.seeds) / 3)


def test_only_folds_and_seeds_that_all_have_count(data: TrainData, tmp_path: Path) -> None:
    runs = planned(tmp_path, data, {"a": [0.4, 0.4], "bb": [0.3, 0.3]})
    (runs["bb", 1].job_folder("class18", 1) / "oof.npz").unlink()
    part = of_recipes(runs)
    assert (part.seeds, part.folds, part.photos) == ((0,), (0, 1), 36 * 7)
    for fold in (0, 1):
        (runs["bb", 0].job_folder("class18", fold) / "oof.npz").unlink()
    part = of_recipes(runs)
    assert (part.seeds, part.folds) == ((1,), (0,))
    (runs["bb", 1].job_folder("class18", 0) / "oof.npz").unlink()
    assert [s.name for s in of_recipes(runs).scores] == ["a"]
    assert of_recipes(runs).notes[0] == "bb is not compared: it has finished no fold"
