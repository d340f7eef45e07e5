from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp

from ensemble.decision.fitting import OFFSET_LIMIT, best_step, fit_offsets, frequency_bias
from ensemble.decision.joint import most_probable
from ensemble.metrics.scores import macro_f1


def photos(seed: int, count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 18, count)
    scores = rng.normal(0, 1, (count, 18)) + 1.5 * np.eye(18)[truth]
    return scores, truth


def calibrated(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities in which some classes are fifty times as frequent as others, and labels drawn by them."""
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 1.5, (count, 18)) + np.log(np.geomspace(1, 50, 18))
    p = np.exp(scores - logsumexp(scores, axis=1, keepdims=True))
    return p, (p.cumsum(axis=1) < rng.random((count, 1))).sum(axis=1).clip(max=17)


def raised(scores: np.ndarray, label: int, by: float) -> np.ndarray:
    moved = scores.copy()
    moved[:, label] += by
    return most_probable(moved)


@given(st.integers(0, 10_000), st.integers(0, 17))
def test_no_raise_on_a_fine_grid_is_better_than_the_one_found(seed: int, label: int) -> None:
    scores, truth = photos(seed)
    by, f1 = best_step(scores, np.eye(18)[truth], label, (-OFFSET_LIMIT, OFFSET_LIMIT))
    assert -OFFSET_LIMIT <= by <= OFFSET_LIMIT
    assert f1 == pytest.approx(macro_f1(truth, raised(scores, label, by), 18), abs=1e-9)
    decided = np.unique([raised(scores, label, step) for step in np.linspace(-OFFSET_LIMIT, OFFSET_LIMIT, 41)], axis=0)
    assert f1 >= max(macro_f1(truth, d, 18) for d in decided) - 1e-9


def test_calibrated_probabilities_expect_the_macro_f1_that_they_get() -> None:
    p, truth = calibrated(20_000)
    by, f1 = best_step(np.log(p), p, 0, (-OFFSET_LIMIT, OFFSET_LIMIT))
    assert f1 == pytest.approx(macro_f1(truth, raised(np.log(p), 0, by), 18), abs=0.01)


def test_offsets_raise_the_macro_f1_of_other_photos_where_probabilities_are_calibrated() -> None:
    p, truth = calibrated(8000)
    offsets = fit_offsets(np.log(p[:4000]), truth[:4000])
    assert offsets.mean() == pytest.approx(0)
    before, after = (macro_f1(truth[4000:], most_probable(np.log(p[4000:]) + o), 18) for o in (0, offsets))
    assert after > before + 0.02


def test_a_class_that_is_underrated_is_raised() -> None:
    p, truth = calibrated(4000)
    less = np.log(p) - 2 * np.eye(18)[5]
    less -= logsumexp(less, axis=1, keepdims=True)
    assert frequency_bias(less, truth)[5] == pytest.approx(2, abs=0.4)
    decided = [most_probable(scores + fit_offsets(scores, truth)) for scores in (less, np.log(p))]
    assert np.mean(decided[0] == decided[1]) > 0.97
