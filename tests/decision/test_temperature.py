from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from ensemble.decision.temperature import fit_temperature, scaled
from ensemble.recipes.tasks import Target


def drawn(temperature: float, columns: int = 3, photos: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are `temperature` times too large for the labels drawn from them."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, (photos, columns))
    p = softmax(logits, axis=1)
    truth = (rng.random((photos, 1)) > p.cumsum(axis=1)).sum(axis=1)
    return logits * temperature, np.minimum(truth, columns - 1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_labels_were_drawn_at_is_found(temperature: float) -> None:
    assert fit_temperature(*drawn(temperature)) == pytest.approx(temperature, rel=0.04)


def test_columns_that_count_for_one_label_are_added_up() -> None:
    """Labels drawn in five bins, known by their band only."""
    logits, bins = drawn(2.0, columns=5)
    head = Target("age", (21, 30, 46, 58), (0, 0, 1, 1, 2)).heads[0]
    assert fit_temperature(logits, np.array(head.merge)[bins], head) == pytest.approx(2.0, rel=0.06)


@given(st.floats(0.1, 10))
def test_a_temperature_changes_no_decision_and_keeps_the_sum(temperature: float) -> None:
    logits, _ = drawn(1.0, photos=50)
    found = scaled(logits, temperature)
    assert np.exp(found).sum(axis=1) == pytest.approx(np.ones(50))
    assert found.argmax(axis=1).tolist() == logits.argmax(axis=1).tolist()


def test_nobody_to_learn_from_leaves_the_logits_as_they_are() -> None:
    assert fit_temperature(np.empty((0, 3)), np.empty(0, dtype=np.int64)) == 1.0
