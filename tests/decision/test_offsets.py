from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.decision.fitting import OFFSET_LIMIT, best_step, fit_offsets
from ensemble.decision.joint import most_probable
from ensemble.metrics.scores import macro_f1


def photos(seed: int, count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 18, count)
    scores = rng.normal(0, 1, (count, 18)) + 1.5 * np.eye(18)[truth]
    return scores, truth


def raised(scores: np.ndarray, label: int, by: float) -> np.ndarray:
    moved = scores.copy()
    moved[:, label] += by
    return most_probable(moved)


@given(st.integers(0, 10_000), st.integers(0, 17))
def test_no_raise_on_a_fine_grid_is_better_than_the_one_found(seed: int, label: int) -> None:
    scores, truth = photos(seed)
    by, f1 = best_step(scores, truth, np.ones(len(truth)), label, (-OFFSET_LIMIT, OFFSET_LIMIT))
    assert -OFFSET_LIMIT <= by <= OFFSET_LIMIT
    assert f1 == pytest.approx(macro_f1(truth, raised(scores, label, by), 18), abs=1e-9)
    decided = np.unique([raised(scores, label, step) for step in np.linspace(-OFFSET_LIMIT, OFFSET_LIMIT, 41)], axis=0)
    assert f1 >= max(macro_f1(truth, d, 18) for d in decided) - 1e-9


@given(st.integers(0, 10_000))
def test_a_photo_that_counts_twice_is_two_photos(seed: int) -> None:
    scores, truth = photos(seed)
    counts = np.random.default_rng(seed).integers(1, 3, len(truth))
    twice = np.repeat(np.arange(len(truth)), counts)
    limits = (-OFFSET_LIMIT, OFFSET_LIMIT)
    once = best_step(scores[twice], truth[twice], np.ones(len(twice)), 4, limits)
    assert best_step(scores, truth, counts, 4, limits) == pytest.approx(once)


def test_a_class_that_is_always_underrated_is_raised_on_other_people_too() -> None:
    rng = np.random.default_rng(1)
    person = np.repeat(np.arange(360), 7)
    truth = (person % 18).astype(np.int64)
    scores = rng.normal(0, 1, (len(truth), 18)) + 3 * np.eye(18)[truth]
    scores[:, 5] -= 2
    fitted, others = person < 180, person >= 180
    offsets = fit_offsets(scores[fitted], truth[fitted], person[fitted], np.arange(180) % 18)
    assert offsets.argmax() == 5
    assert offsets.mean() == pytest.approx(0)
    assert np.ptp(offsets) <= 2 * OFFSET_LIMIT
    before, after = (macro_f1(truth[others], most_probable(scores[others] + o), 18) for o in (0, offsets))
    assert after > before + 0.02
