"""Temperatures of logits and offsets of classes, fitted to labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp, softmax

from ensemble.decision.fitting import (
    OFFSET_LIMIT,
    TEMPERATURES,
    best_step,
    fit_offsets,
    fit_temperature,
    frequency_bias,
    temperature_of_mean,
    worth_scaling,
)
from ensemble.decision.joint import column_temperatures, mean_logits, most_probable
from ensemble.metrics.heads import head_log_probabilities
from ensemble.metrics.scores import macro_f1
from ensemble.recipes.tasks import AgeHead, OutputSpec, bands_of


def drawn(temperature: float, columns: int = 3, photos: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are `temperature` times too large for the labels drawn from them."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, (photos, columns))
    p = softmax(logits, axis=1)
    truth = (rng.random((photos, 1)) > p.cumsum(axis=1)).sum(axis=1)
    return logits * temperature, np.minimum(truth, columns - 1)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 3.0])
def test_the_temperature_that_labels_were_drawn_at_is_found(temperature: float) -> None:
    assert fit_temperature(*drawn(temperature)) == pytest.approx(temperature, rel=0.04)


def test_columns_that_count_for_one_label_are_added_up() -> None:
    """Labels drawn in five bins, known by their band only."""
    logits, bins = drawn(2.0, columns=5)
    head = OutputSpec("age", (21, 30, 46, 58), (0, 0, 1, 1, 2)).heads[0]
    assert fit_temperature(logits, np.array(head.bin_labels)[bins], head) == pytest.approx(2.0, rel=0.06)


@pytest.mark.parametrize(("kind", "temperature"), [("ordinal", 0.7), ("regression", 2.0)])
def test_the_temperature_of_other_heads_is_found_too(kind: AgeHead, temperature: float) -> None:
    """Bands drawn from a head's probabilities, whose logits are then taken to another temperature."""
    cuts = tuple(range(16, 81))
    target = OutputSpec("age", cuts, bands_of(cuts), kind)
    head, rng = target.heads[0], np.random.default_rng(0)
    middle = np.array([0.3, -1.0]) if kind == "regression" else np.full(head.width, 3.0)
    logits = rng.normal(middle, 0.5, (10_000, head.width))
    p = np.exp(head_log_probabilities(logits, head))
    bands = np.minimum((rng.random((len(p), 1)) > p.cumsum(axis=1)).sum(axis=1), 2)
    by = column_temperatures([temperature], target)
    assert fit_temperature(logits * by, bands, head) == pytest.approx(temperature, rel=0.1)
    again = head_log_probabilities(mean_logits((logits * by)[None, None], by), head)
    assert np.exp(again) == pytest.approx(p)


def test_a_temperature_leaves_the_middle_of_a_regression_and_widens_it() -> None:
    target = OutputSpec("age", (30, 45, 60), (0, 1, 1, 2), "regression")
    logits = np.array([[0.25, -1.5]])  # 45 years, the middle of band 1

    def band(temperature: float) -> np.ndarray:
        by = column_temperatures([temperature], target)
        return np.exp(head_log_probabilities(logits / by, target.heads[0]))[0]

    cold, plain, warm = band(0.5), band(1.0), band(2.0)
    assert cold[1] > plain[1] > warm[1]
    assert warm[0] == pytest.approx(warm[2])


def test_logits_that_are_always_right_are_not_scaled_to_certainty() -> None:
    truth = np.arange(300) % 3
    assert fit_temperature(2 * np.eye(3)[truth], truth) == pytest.approx(TEMPERATURES[0], rel=0.01)
    assert fit_temperature(np.empty((0, 3)), np.empty(0, dtype=np.int64)) == 1.0, "no photos"


def test_a_head_that_is_calibrated_keeps_its_logits() -> None:
    person, head = np.arange(1000) // 5, OutputSpec("mask").heads[0]
    stratum = np.arange(200) % 6
    for temperature, worth in ((1.0, False), (1.6, True)):
        logits, truth = drawn(temperature, photos=1000)
        assert worth_scaling(logits, truth, head, person, stratum) == worth


def models_of_one_truth(
    photos: int, models: int, noise: float, gain: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(logits of each model, labels): what the models see of the truth, each with a noise of its own."""
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 2.5, (photos, 3))
    labels = (rng.random((photos, 1)) > softmax(true, axis=1).cumsum(axis=1)).sum(axis=1)
    return gain * (true + rng.normal(0, noise, (models, photos, 3))), np.minimum(labels, 2)


def log_loss_and_ece(logits: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    p = softmax(logits, axis=1)
    sure, right = p.max(axis=1), p.argmax(axis=1) == truth
    bins = np.minimum((sure * 15).astype(int), 14)
    gap = np.abs(np.bincount(bins, sure - right, 15)).sum() / len(truth)
    return float(-np.log(p[np.arange(len(p)), truth]).mean()), float(gap)


@pytest.mark.parametrize(("noise", "gain"), [(0.5, 0.6), (1.5, 1.0), (2.5, 2.0)])
def test_the_mean_of_models_is_better_calibrated_with_a_temperature_of_its_own(noise: float, gain: float) -> None:
    """Fitted as by `tune`: labels are known of photos that one model saw, and the photos that all saw have none."""
    head = OutputSpec("mask").heads[0]
    (alone,), labels = models_of_one_truth(30_000, 1, noise, gain, 1)
    single = fit_temperature(alone, labels)
    new, _ = models_of_one_truth(10_000, 5, noise, gain, 2)
    measured, unmeasured = temperature_of_mean(single, head, new), temperature_of_mean(single, head, None)
    test, truth = models_of_one_truth(30_000, 5, noise, gain, 3)
    mean = test.mean(axis=0)
    best = fit_temperature(mean, truth)
    assert measured == pytest.approx(best, rel=0.04), "as if the labels of the photos that all saw had been known"
    untuned, before = log_loss_and_ece(mean, truth), log_loss_and_ece(mean / single, truth)
    found, careful = log_loss_and_ece(mean / measured, truth), log_loss_and_ece(mean / unmeasured, truth)
    assert found[0] <= min(untuned[0], before[0]) + 0.001
    assert found[1] <= min(untuned[1], before[1]) + 0.005
    assert careful[0] <= untuned[0] + 0.001
    assert careful[1] <= untuned[1] + 0.004


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
