from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from ensemble.metrics.scores import Draws, Interval, draw_people, drawn_f1, interval, score, task_scores
from ensemble.recipes.tasks import OutputSpec
from folds.labels import encode

CLASSES = np.arange(18)


def photos(seed: int, people: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(people), 7)
    truth = rng.integers(0, 18, len(person))
    wrong = rng.random(len(person)) < 0.4
    return truth, np.where(wrong, rng.integers(0, 18, len(person)), truth), person


@given(st.integers(0, 10_000))
def test_each_draw_scores_as_scikit_learn_does_on_the_photos_drawn(seed: int) -> None:
    truth, predicted, person = photos(seed)
    weights = draw_people(np.arange(12) % 3, draws=3)
    found = drawn_f1(weights, truth, predicted, person, 18)
    for row, counts in zip(found, weights.astype(int), strict=True):
        rows = np.repeat(np.arange(len(person)), counts[person])
        plain = f1_score(truth[rows], predicted[rows], labels=CLASSES, average=None, zero_division=0)
        assert row == pytest.approx(plain, abs=1e-6)


def test_people_are_drawn_within_their_stratum_and_always_alike() -> None:
    stratum = np.array([0] * 5 + [1] * 20 + [2])
    weights = draw_people(stratum, draws=50)
    assert weights[0].tolist() == [1] * 26
    for number, size in ((0, 5), (1, 20), (2, 1)):
        assert set(weights[:, stratum == number].sum(axis=1)) == {size}
    assert np.array_equal(weights, draw_people(stratum, draws=50))
    assert len(np.unique(weights, axis=0)) > 40


def test_the_interval_of_a_mean_is_that_of_the_textbook() -> None:
    """200 people, each right or wrong on one photo of class 0 or 1: the F1 interval nears +-1.96 standard errors."""
    rng = np.random.default_rng(4)
    truth = np.repeat([0, 1], 100)
    predicted = np.where(rng.random(200) < 0.25, 1 - truth, truth)
    weights = draw_people(truth, draws=2000)
    accuracy = weights @ (truth == predicted).astype(np.float32) / 200
    drawn = interval(accuracy.astype(np.float64))
    error = 1.96 * np.sqrt(0.25 * 0.75 / 200)
    assert drawn.high - drawn.low == pytest.approx(2 * error, rel=0.12)
    assert drawn.low < drawn.value < drawn.high


@pytest.mark.parametrize(
    ("value", "low", "high", "found"),
    [(0.01, -0.01, 0.03, "within noise"), (0.02, 0.01, 0.03, "better"), (-0.02, -0.03, -0.01, "worse")],
)
def test_a_difference_is_noise_where_its_interval_holds_0(value: float, low: float, high: float, found: str) -> None:
    assert Interval(value, low, high).significance == found


def test_of_a_person_alone_no_interval_says_better() -> None:
    """Every draw of it is the same."""
    alone = np.arange(6)
    assert draw_people(alone, draws=9).min() == 1
    assert interval(np.full(10, 0.1)).significance == "too few people"
    assert interval(np.zeros(10)).significance == "equal"


def test_macro_f1_is_the_plain_mean_over_eighteen_fixed_labels() -> None:
    truth, predicted = np.array([0, 0, 1, 5, 17]), np.array([0, 1, 1, 5, 4])
    found = score(truth, predicted)
    per_class = [2 / 3, 2 / 3, 0, 0, 0, 1, *[0] * 12]
    assert found.per_class[:, 2] == pytest.approx(per_class)
    assert found.f1 == pytest.approx(sum(per_class) / 18)
    assert found.accuracy == pytest.approx(3 / 5)
    assert found.support.sum() == found.predicted.sum() == 5 == found.photos
    assert found.f1_present == pytest.approx((2 / 3 + 2 / 3 + 1) / 4)


def test_parts_are_scored_on_their_own() -> None:
    truth, predicted = encode([0, 1, 2], [0, 1, 0], [0, 1, 2]), encode([0, 1, 2], [0, 0, 0], [0, 1, 0])
    parts = score(truth, predicted).parts
    assert parts["mask"] == (1.0, 1.0)
    assert parts["gender"][1] == parts["age"][1] == pytest.approx(2 / 3)
    drawn = Draws(truth, np.arange(3), np.zeros(3, dtype=np.int64)).parts(predicted)
    assert {part: f1[0].mean() for part, f1 in drawn.items() if part in parts} == pytest.approx(
        {part: f1 for part, (f1, _) in parts.items()}
    )


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
