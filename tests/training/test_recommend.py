"""The choice of a recipe for a time budget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import ensemble.training.recommend
from ensemble.jobs.hardware import Hardware
from ensemble.recipes.recipe_file import load_recipe, parse_recipe
from ensemble.training.cost import Cost
from ensemble.training.recommend import (
    CANDIDATES,
    TASK,
    Candidate,
    Choice,
    PhotoCounts,
    choose,
    measure,
    recipe_text,
    training_seconds,
)
from folds.errors import MaskensError
from folds.layout import read_train


def cost(train: float, predict: float = 0.0, start: float = 0.0) -> Cost:
    return Cost(decode=0.0, train=train, predict=predict, start=start, weights=1, memory=1)


@pytest.mark.parametrize(
    ("budget", "expected"),  # 700 photos in 5 folds: an epoch of the small one takes 2,800 s
    [
        (11_200, ("large", 2, 5, 1.0)),
        (11_199, ("small", 3, 5, 1.0)),
        (8_399, ("large", 2, 3, 1.0)),
        (5_599, ("small", 3, 3, 1.0)),
        (4_199, ("small", 1, 3, 1.0)),
        (1_399, ("small", 1, 3, 0.9)),
        (399, ("small", 1, 3, 0.2)),
        (10, ("small", 1, 3, 0.1)),
    ],
)
def test_the_best_that_fits_else_fewer_folds_then_photos(budget: float, expected: tuple[str, int, int, float]) -> None:
    costs = {
        Candidate("large", (224, 168), 2, "best"): cost(2.0),
        Candidate("small", (96, 72), 3, "quick"): cost(1.0),
    }
    choice = choose(list(costs), costs.__getitem__, PhotoCounts(700), 5, budget)
    assert (choice.candidate.model, choice.epochs, choice.k, choice.fraction) == expected
    assert choice.fits == (choice.seconds <= budget) == (budget > 10)
    used = costs[choice.candidate]
    assert choice.seconds == training_seconds(used, PhotoCounts(700), choice.k, choice.epochs, choice.fraction)


def test_extra_photos_are_trained_on_in_every_fold_and_never_predicted() -> None:
    by_train, by_predict = cost(1.0), cost(0.0, predict=1.0)
    plain, more = PhotoCounts(90), PhotoCounts(90, 10)
    assert training_seconds(by_train, more, 3, 1) - training_seconds(by_train, plain, 3, 1) == pytest.approx(3 * 10)
    assert training_seconds(by_predict, more, 3, 1) == training_seconds(by_predict, plain, 3, 1)


def test_networks_are_timed_in_order_up_to_one_that_fits() -> None:
    candidates = [Candidate("m", (size, size), 2, "best") for size in (128, 96, 64)]
    timed: list[Candidate] = []

    def cost_of(candidate: Candidate) -> Cost | None:
        timed.append(candidate)
        return cost(candidate.size[0]) if candidate.size[0] < 128 else None  # the largest is out of memory

    assert choose(candidates, cost_of, PhotoCounts(700), 5, 1e9).candidate == candidates[1]
    assert timed == candidates[:2]
    with pytest.raises(MaskensError, match=r"out of memory for .*m on 64x64"):
        choose(candidates, lambda _: None, PhotoCounts(700), 5, 1e9)


def test_a_network_that_does_not_fit_into_memory_has_no_cost(
    make_data: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def probe(*_: object) -> Cost:
        raise torch.OutOfMemoryError

    data = read_train(make_data(tmp_path / "data", people=12))
    monkeypatch.setattr(ensemble.training.recommend, "probe", probe)
    assert measure(CANDIDATES["cuda"][0], data, Hardware("cuda", 0), tmp_path) is None


def test_what_is_measured_comes_first_and_the_shipped_recipes_are_among_it() -> None:
    candidates = CANDIDATES["cpu"]
    measured = [candidate.f1.value if candidate.f1 else 0.0 for candidate in candidates]
    assert measured == sorted(measured, reverse=True)
    for name in ("quick", "best"):
        task = load_recipe(name).tasks[TASK]
        shipped = (task.model, task.resize, task.epochs, name)
        assert [c for c in candidates if c.f1 and (c.model, c.size, c.epochs, c.recipe) == shipped]
    assert all(candidate.f1 is None for candidate in CANDIDATES["cuda"]), "no GPU has trained them"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_each_candidate_makes_a_recipe_that_can_be_used(device: str) -> None:
    for candidate in CANDIDATES[device]:
        text = recipe_text(candidate, Choice(candidate, 1, 3, 0.3, 1.0, True))
        task = parse_recipe(text, "recommended").tasks["heads"]
        assert (task.model, task.resize, task.epochs) == (candidate.model, candidate.size, 1)
        assert task.sampler.fraction == 0.3
        if device == "cuda":
            assert task.input_size[0] / task.resize[0] == pytest.approx(380 / 512, abs=0.01)
