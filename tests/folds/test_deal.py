"""Dealing to folds: the same, person by person, as scikit-learn deals, so that runs of earlier versions stay valid."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from folds.data.labels import IntArray
from folds.splitting.split import deal

seeds = st.integers(0, 2**32 - 1)


def scikit_learn(groups: Sequence[str], labels: IntArray, k: int, seed: int) -> IntArray:
    folds = np.full(len(groups), -1, dtype=np.int64)
    splitter = StratifiedGroupKFold(n_splits=k, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a label that is rarer than the folds
        for fold, (_, held_out) in enumerate(splitter.split(np.zeros(len(groups)), labels, groups)):
            folds[held_out] = fold
    return folds


@st.composite
def rows(draw: st.DrawFn) -> tuple[list[str], IntArray, int]:
    """(ids, strata, k): people with one folder or more, whose folders may be of several strata."""
    k = draw(st.integers(2, 9))
    people = draw(st.integers(k, 80))
    of_person = draw(st.lists(st.integers(0, 5), min_size=people, max_size=people))
    ids, labels = [f"{n:04}" for n in range(people)], list(of_person)
    again = st.tuples(st.integers(0, people - 1), st.none() | st.integers(0, 5))
    for person, other in draw(st.lists(again, max_size=20)):
        ids.append(ids[person])
        labels.append(of_person[person] if other is None else other)
    order = draw(st.permutations(range(len(ids))))
    return [ids[n] for n in order], np.array(labels, dtype=np.int64)[order], k


@given(rows(), seeds)
def test_random_people_are_dealt_as_by_scikit_learn(case: tuple[list[str], IntArray, int], seed: int) -> None:
    ids, labels, k = case
    assume(np.bincount(labels).max() >= k and len(set(labels.tolist())) > 1)  # scikit-learn refuses the rest
    np.testing.assert_array_equal(deal(ids, labels, k, seed), scikit_learn(ids, labels, k, seed))


@pytest.mark.parametrize("k", [2, 3, 5, 10, 20])
@pytest.mark.parametrize("twice", [0, 40])
def test_as_many_people_as_data_have_are_dealt_as_by_scikit_learn(k: int, twice: int) -> None:
    rng = np.random.default_rng(k)
    labels = rng.choice(6, size=600, p=[0.2, 0.17, 0.03, 0.31, 0.25, 0.04])
    ids = [f"{n:06}" for n in rng.permutation(600)]
    ids[:twice] = ids[300 : 300 + twice]  # of another stratum, or of the same
    for seed in (0, 42, 2**32 - 1):
        np.testing.assert_array_equal(deal(ids, labels, k, seed), scikit_learn(ids, labels, k, seed))
