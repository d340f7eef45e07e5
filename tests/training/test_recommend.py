"""The choice of a recipe for a time budget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import ensemble.training.recommend
from ensemble.jobs.hardware import Hardware
from ensemble.recipes.recipe_file import parse_recipe
from ensemble.recipes.schema import TaskRecipe
from ensemble.training.cost import Cost
from ensemble.training.recommend import CANDIDATES, Candidate, Choice, choose, measure, recipe_text, training_seconds
from folds.errors import MaskensError
from folds.layout import read_train
from folds.people import TrainData


def cost(train: float, predict: float = 0.0, start: float = 0.0) -> Cost:
    return Cost(decode=0.0, train=train, predict=predict, start=start, weights=1, memory=1)


@pytest.mark.parametrize(
    ("budget", "expected"),  # 700 photos in 5 folds: an epoch of the small one takes 2,800 s
    [
        (1e6, ("large", 4, 5, 7)),
        (14_000, ("large", 2, 5, 7)),
        (11_199, ("small", 3, 5, 7)),
        (5_600, ("small", 2, 5, 7)),
        (5_599, ("small", 3, 3, 7)),
        (2_800, ("small", 2, 3, 7)),
        (2_000, ("small", 1, 3, 7)),
        (1_001, ("small", 1, 3, 5)),
        (399, ("small", 1, 3, 1)),
        (10, ("small", 1, 3, 1)),
    ],
)
def test_time_goes_into_epochs_then_a_larger_model_and_is_saved_on_folds_then_photos(
    budget: float, expected: tuple[str, int, int, int]
) -> None:
    measured = [(Candidate("large", (224, 168)), cost(2.0)), (Candidate("small", (96, 72)), cost(1.0))]
    choice = choose(measured, 700, 5, budget)
    assert (choice.candidate.model, choice.epochs, choice.k, choice.photos_per_person) == expected
    assert choice.fits == (choice.seconds <= budget) == (budget > 10)
    used = dict(measured)[choice.candidate]
    assert choice.seconds == training_seconds(used, 700, choice.k, choice.epochs, choice.photos_per_person)


@pytest.fixture(scope="module")
def data(make_data: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> TrainData:
    return read_train(make_data(tmp_path_factory.mktemp("recommend") / "data", people=12))


def test_what_is_larger_than_the_first_that_is_too_slow_is_not_timed(
    data: TrainData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[int] = []

    def probe(recipe: TaskRecipe, *_: object) -> Cost:
        timed.append(recipe.resize[0])
        return cost(train=recipe.resize[0] / 1000)

    monkeypatch.setattr(ensemble.training.recommend, "probe", probe)
    found = measure(data, Hardware("cpu", 0), 2, 84 * 2 * 0.13, tmp_path)
    assert timed == [96, 128, 160]
    assert [candidate.size[0] for candidate, _ in found] == [160, 128, 96]


def test_a_gpu_without_the_memory_for_a_model_gets_a_smaller_one(
    data: TrainData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def probe(recipe: TaskRecipe, *_: object) -> Cost:
        if recipe.resize[0] > limit:
            raise torch.OutOfMemoryError
        return cost(train=1e-6)

    monkeypatch.setattr(ensemble.training.recommend, "probe", probe)
    limit = 400
    found = measure(data, Hardware("cuda", 0), 2, 3600, tmp_path)
    assert [candidate for candidate, _ in found] == list(CANDIDATES["cuda"][-2:])
    limit = 100
    with pytest.raises(MaskensError, match="out of GPU memory for tf_efficientnet_b0"):
        measure(data, Hardware("cuda", 0), 2, 3600, tmp_path)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_each_candidate_makes_a_recipe_that_can_be_used(device: str) -> None:
    for candidate in CANDIDATES[device]:
        text = recipe_text(device, candidate, Choice(candidate, 1, 3, 2, 1.0, True))
        task = parse_recipe(text, "recommended").tasks["heads"]
        assert (task.model, task.resize, task.epochs) == (candidate.model, candidate.size, 1)
        assert task.sampler.photos_per_person == 2
        if device == "cuda":
            assert task.input_size[0] / task.resize[0] == pytest.approx(380 / 512, abs=0.01)
