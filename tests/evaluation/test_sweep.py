"""Recipes compared over seeds and people."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from planned import plan_errors

from ensemble.evaluation.compare import SweepComparison, compare, compare_recipes, shared_part
from folds.layout import read_train
from folds.people import TrainData
from folds.run_folder import Run


@pytest.fixture(scope="module")
def data(make_data: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> TrainData:
    return read_train(make_data(tmp_path_factory.mktemp("recipes") / "data", people=36))


def planned(folder: Path, data: TrainData, shares: dict[str, list[float]]) -> dict[tuple[str, int], Run]:
    """A run for each recipe and seed that gets this share of the photos wrong."""
    return {
        (recipe, seed): plan_errors(folder / f"{recipe}-seed{seed}", data, share, errors=len(recipe) * 100 + seed)
        for recipe, of_seed in shares.items()
        for seed, share in enumerate(of_seed)
    }


def found(runs: dict[tuple[str, int], Run]) -> SweepComparison:
    comparison = compare_recipes(runs, draws=300)
    assert comparison
    return comparison


def test_of_one_seed_it_is_what_compare_says(data: TrainData, tmp_path: Path) -> None:
    runs = planned(tmp_path, data, {"a": [0.4], "bb": [0.3]})
    (section,) = compare([run.folder for run in runs.values()], None, "flip", "best", 300).sections
    for mine, theirs in zip(found(runs).scores, section.scores, strict=True):
        assert {part: of.mean for part, of in mine.f1.items()} == theirs.f1
        assert {part: of.mean for part, of in mine.gain.items()} == theirs.gain
        assert mine.f1["18 classes"].deviation is None


def test_a_difference_that_depends_on_the_seed_is_noise(data: TrainData, tmp_path: Path) -> None:
    steady, moody = (
        found(planned(tmp_path / name, data, {"a": [0.4, 0.4, 0.4], "bb": shares})).scores[1].gain["18 classes"]
        for name, shares in (("steady", [0.2, 0.2, 0.2]), ("moody", [0.0, 0.45, 0.45]))
    )
    assert steady.mean.significance == "better"
    assert moody.mean.value > 0
    assert moody.mean.significance == "within noise"
    assert moody.mean.value == pytest.approx(sum(moody.seeds) / 3)


def test_only_folds_and_seeds_that_all_have_count(data: TrainData, tmp_path: Path) -> None:
    runs = planned(tmp_path, data, {"a": [0.4, 0.4], "bb": [0.3, 0.3]})
    (runs["bb", 1].job_folder("class18", 1) / "oof.npz").unlink()
    part = found(runs)
    assert (part.seeds, part.folds, part.photos) == ((0,), (0, 1), 36 * 7)
    for fold in (0, 1):
        (runs["bb", 0].job_folder("class18", fold) / "oof.npz").unlink()
    part = found(runs)
    assert (part.seeds, part.folds) == ((1,), (0,))
    (runs["bb", 1].job_folder("class18", 0) / "oof.npz").unlink()
    assert [s.recipe for s in found(runs).scores] == ["a"]
    assert found(runs).notes == ("bb is left out: it has finished no fold",)


@pytest.mark.parametrize(
    ("finished", "seeds", "folds"),
    [
        ({}, (), ()),
        ({("a", 0): [0, 1], ("b", 0): [1]}, (0,), (1,)),
        ({("a", 0): [0, 1, 2], ("a", 1): [0]}, (0,), (0, 1, 2)),
        ({("a", 0): [0, 1], ("a", 1): [0], ("a", 2): [0]}, (0, 1, 2), (0,)),
        ({("a", 0): [0], ("b", 0): [1]}, (0,), ()),
        ({("a", 0): [0], ("b", 1): [0]}, (0, 1), ()),
    ],
)
def test_the_most_of_what_is_finished_is_compared(
    finished: dict[tuple[str, int], list[int]], seeds: tuple[int, ...], folds: tuple[int, ...]
) -> None:
    assert shared_part(finished) == (seeds, folds)
