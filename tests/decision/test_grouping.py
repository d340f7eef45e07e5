"""Which photos show one person, by their embeddings."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import pair_confusion_matrix

from ensemble.decision.grouping import fit_grouping, group_photos, pair_score


def faces(people: int, spread: float, seed: int = 0, photos: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """(embeddings of length 1, person): each person's photos around a direction of its own."""
    rng = np.random.default_rng(seed)
    person = rng.permutation(np.repeat(np.arange(people), photos))
    found = rng.normal(size=(people, 16))[person] + spread * rng.normal(size=(len(person), 16))
    return found / np.linalg.norm(found, axis=1, keepdims=True), person


@given(st.integers(0, 50), st.floats(0.01, 1.5))
def test_the_groups_are_those_of_scikit_learn(seed: int, threshold: float) -> None:
    x, _ = faces(6, 0.5, seed)
    sklearn = AgglomerativeClustering(None, metric="cosine", linkage="average", distance_threshold=threshold)
    theirs, ours = sklearn.fit_predict(x), group_photos(x, threshold)
    assert pair_confusion_matrix(theirs, ours)[0, 1] == pair_confusion_matrix(theirs, ours)[1, 0] == 0
    assert ours.min() == 0


LABELS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=9)


@given(LABELS, st.floats(0.5, 20), st.integers(0, 2))
def test_pairs_are_counted(labels: list[tuple[int, int]], scale: float, unseen: int) -> None:
    person, group = np.array(labels).T
    pairs = [(a, b) for a in range(len(labels)) for b in range(a)]
    right = sum(person[a] == person[b] and group[a] == group[b] for a, b in pairs)
    wrong = sum(person[a] != person[b] and group[a] == group[b] for a, b in pairs)
    same = sum(person[a] == person[b] for a, b in pairs)
    found = pair_score(person, group, scale, unseen)
    wrong += unseen
    assert found.precision == pytest.approx(right / (right + scale * wrong) if right + wrong else 1)
    assert found.recall == pytest.approx(right / same if same else 0)


def test_people_who_can_be_told_apart_are_grouped() -> None:
    found = fit_grouping(*faces(60, 0.1), photos=420)
    assert found.worth_it
    assert (found.score.precision, found.score.recall) == pytest.approx((1, 1), abs=0.1)
    assert found.people == 30
    x, person = faces(40, 0.1, seed=1)
    assert pair_score(person, group_photos(x, found.threshold)).recall > 0.9
    assert re.match(r"of pairs put together (9\d|100)% show one person", found.words)


def test_people_who_all_look_alike_are_not() -> None:
    found = fit_grouping(*faces(60, 20), photos=420)
    assert not found.worth_it
    assert found.words.startswith("photos are not grouped")


def test_more_photos_have_more_false_pairs_and_ask_for_more_caution() -> None:
    known = faces(200, 0.4)
    few, many = fit_grouping(*known, photos=420), fit_grouping(*known, photos=42_000)
    assert many.threshold < few.threshold
    assert many.score.recall < few.score.recall
    x, person = faces(400, 0.4, seed=2)
    some = fit_grouping(*known, photos=len(x))
    true = pair_score(person, group_photos(x, some.threshold))
    assert true.precision == pytest.approx(some.score.precision, abs=0.1), "what it said of so many photos"


def test_few_known_people_say_nothing_of_many_photos() -> None:
    known = faces(20, 0.1)
    assert fit_grouping(*known, photos=140).worth_it
    assert not fit_grouping(*known, photos=12_600).worth_it


def test_one_photo_or_photos_without_any_feature_are_no_problem() -> None:
    assert group_photos(np.ones((1, 4)) / 2, 0.1).tolist() == [0]
    assert len(set(group_photos(np.zeros((3, 4)), 0.5).tolist())) == 3
