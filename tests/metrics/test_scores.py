from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.metrics.scores import score, task_scores
from ensemble.recipes.tasks import OutputSpec
from folds.labels import encode

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


def test_parts_are_scored_on_their_own() -> None:
    truth, predicted = encode([0, 1, 2], [0, 1, 0], [0, 1, 2]), encode([0, 1, 2], [0, 0, 0], [0, 1, 0])
    parts = score(truth, predicted).parts
    assert parts["mask"] == (1.0, 1.0)
    assert parts["gender"][1] == parts["age"][1] == pytest.approx(2 / 3)


def test_a_task_with_three_heads_is_scored_by_the_18_classes() -> None:
    """Two models that are as good head by head: what counts is whether all three heads of a photo are right."""
    labels = np.array([[0, 0, 0], [1, 1, 1], [2, 0, 2]])
    same, spread = labels.copy(), labels.copy()
    same[0] = [1, 1, 1]  # all three wrong on one photo
    spread[[0, 1, 2], [0, 1, 2]] = [1, 0, 0]  # one wrong on each
    found = {}
    for name, decided in (("same", same), ("spread", spread)):
        logits = np.zeros((3, 8), dtype=np.float32)
        for column, head in enumerate(OutputSpec("heads").heads):
            logits[[0, 1, 2], head.columns.start + decided[:, column]] = 1
        found[name] = task_scores(OutputSpec("heads"), logits, labels)
        whole = score(encode(*labels.T), encode(*decided.T))
        assert found[name] == pytest.approx((whole.f1, whole.accuracy))
    assert found["same"] == pytest.approx(((2 / 3 + 1) / 18, 2 / 3))
    assert found["spread"] == (0, 0)


def test_a_task_with_one_head_is_scored_by_its_own_labels() -> None:
    logits = np.eye(3, dtype=np.float32)
    assert task_scores(OutputSpec("mask"), logits, np.array([[0], [1], [0]])) == pytest.approx(((2 / 3 + 1) / 3, 2 / 3))
