from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.metrics.scores import macro_f1, score, task_scores
from ensemble.recipes.tasks import Target
from folds.data.labels import encode

CLASSES = st.lists(st.tuples(st.integers(0, 17), st.integers(0, 17)), min_size=1, max_size=60)


def plain_f1(pairs: list[tuple[int, int]], label: int) -> float:
    tp = sum(t == p == label for t, p in pairs)
    wrong = sum((t == label) != (p == label) for t, p in pairs)
    return 2 * tp / (2 * tp + wrong) if 2 * tp + wrong else 0.0


@given(CLASSES)
def test_macro_f1_is_the_plain_mean_over_eighteen_fixed_labels(pairs: list[tuple[int, int]]) -> None:
    truth, predicted = np.array(pairs).T
    found = score(truth, predicted)
    per_class = [plain_f1(pairs, c) for c in range(18)]
    assert found.f1 == pytest.approx(sum(per_class) / 18)
    assert found.per_class[:, 2] == pytest.approx(per_class)
    assert found.accuracy == pytest.approx(sum(t == p for t, p in pairs) / len(pairs))
    assert found.support.sum() == found.predicted.sum() == len(pairs) == found.photos


def test_a_class_that_never_occurs_lowers_the_score() -> None:
    """Labels are fixed: leaving absent ones out would flatter."""
    truth = np.zeros(4, dtype=np.int64)
    assert macro_f1(truth, truth, 18) == pytest.approx(1 / 18)


def test_parts_are_scored_on_their_own() -> None:
    truth, predicted = encode([0, 1, 2], [0, 1, 0], [0, 1, 2]), encode([0, 1, 2], [0, 0, 0], [0, 1, 0])
    parts = score(truth, predicted).parts
    assert parts["mask"] == (1.0, 1.0)
    assert parts["gender"][1] == parts["age"][1] == pytest.approx(2 / 3)


def test_a_tasks_score_is_the_mean_over_its_heads() -> None:
    labels = np.array([[0, 0, 0], [1, 1, 1], [2, 0, 2]])
    logits = np.zeros((3, 8), dtype=np.float32)
    logits[[0, 1, 2], labels[:, 0]] = 1
    logits[[0, 1, 2], 3 + labels[:, 1]] = 1
    logits[[0, 1, 2], 5 + (labels[:, 2] + 1) % 3] = 1  # age always wrong
    assert task_scores(Target("heads"), logits, labels) == pytest.approx((2 / 3, 2 / 3))
