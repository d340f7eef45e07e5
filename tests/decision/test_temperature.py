from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from ensemble.decision.fitting import TEMPERATURES, fit_temperature
from ensemble.decision.joint import column_temperatures, mean_logits
from ensemble.metrics.heads import head_log_probabilities
from ensemble.recipes.tasks import AgeHead, OutputSpec, merge_of


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
    assert fit_temperature(logits, np.array(head.merge)[bins], head) == pytest.approx(2.0, rel=0.06)


@pytest.mark.parametrize(("kind", "temperature"), [("ordinal", 0.7), ("regression", 2.0)])
def test_the_temperature_of_other_heads_is_found_too(kind: AgeHead, temperature: float) -> None:
    """Bands drawn from a head's probabilities, whose logits are then taken to another temperature."""
    cuts = tuple(range(16, 81))
    target = OutputSpec("age", cuts, merge_of(cuts), kind)
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
    assert fit_temperature(np.empty((0, 3)), np.empty(0, dtype=np.int64)) == 1.0, "there is nobody to learn from"
