from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ensemble.decision.joint import (
    decide_hard,
    joint_log_probabilities,
    mean_logits,
    mean_of_runs,
    most_probable,
    vote,
)
from ensemble.jobs.oof import select_views
from ensemble.recipes.tasks import OutputSpec, Predicts
from folds.errors import MaskensError

LOGITS = st.floats(-30, 30, width=32)
FOUR_KINDS: tuple[Predicts, ...] = ("mask", "gender", "male-age", "female-age")
FOUR = {kind: OutputSpec(kind) for kind in FOUR_KINDS}


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(v - max(row)) for v in row]
    return [p / sum(powers) for p in powers]


def logits(photos: int, columns: int) -> st.SearchStrategy[np.ndarray]:
    return arrays.arrays(np.float32, (photos, columns), elements=LOGITS)


@given(arrays.arrays(np.float32, st.tuples(*[st.integers(1, 4)] * 4), elements=LOGITS))
def test_mean_logits_is_the_plain_mean_over_folds_and_views(values: np.ndarray) -> None:
    folds, views, photos, columns = values.shape
    found = mean_logits(values)
    for n in range(photos):
        for c in range(columns):
            plain = sum(float(values[f, v, n, c]) for f in range(folds) for v in range(views)) / (folds * views)
            assert found[n, c] == pytest.approx(plain, abs=1e-5)


@given(logits(4, 3), logits(4, 2), logits(4, 3), logits(4, 3))
def test_joint_probability_is_the_product_of_the_parts(
    mask: np.ndarray, gender: np.ndarray, male: np.ndarray, female: np.ndarray
) -> None:
    found = joint_log_probabilities({"mask": mask, "gender": gender, "male-age": male, "female-age": female}, FOUR)
    assert found.shape == (4, 18)
    for n in range(4):
        p_mask, p_gender = softmax(mask[n].tolist()), softmax(gender[n].tolist())
        p_age = [softmax(male[n].tolist()), softmax(female[n].tolist())]
        for m in range(3):
            for g in range(2):
                for a in range(3):
                    plain = p_mask[m] * p_gender[g] * p_age[g][a]
                    assert math.exp(found[n, m * 6 + g * 3 + a]) == pytest.approx(plain, rel=1e-4, abs=1e-12)
    assert np.exp(found).sum(axis=1) == pytest.approx(np.ones(4))


COLUMNS = {"mask": slice(0, 3), "gender": slice(3, 5)}  # of the logits of `heads`


@given(
    st.lists(st.sampled_from(["mask", "gender", "age", "male-age", "female-age", "heads"]), min_size=1, max_size=7),
    st.booleans(),
    st.integers(0, 10_000),
    st.sampled_from([0.1, 1.0, 8.0]),
)
def test_mask_and_gender_are_as_probable_as_their_own_models_say_whatever_tasks_there_are(
    kinds: list[Predicts], whole: bool, seed: int, spread: float
) -> None:
    """Tasks that disagree about the ages of one gender must not move p(gender)."""
    rng = np.random.default_rng(seed)
    named = dict(enumerate([*kinds, *FOUR_KINDS]))
    targets = {str(n): OutputSpec(kind) for n, kind in named.items()}
    values = {n: rng.normal(0, spread, (4, target.width)) for n, target in targets.items()}
    joint = joint_log_probabilities(values, targets)
    p = np.exp(joint).reshape(-1, 3, 2, 3)
    for part, found in (("mask", p.sum(axis=(2, 3))), ("gender", p.sum(axis=(1, 3)))):
        own = [
            values[n] if t.predicts == part else values[n][:, COLUMNS[part]]
            for n, t in targets.items()
            if t.predicts in (part, "heads")
        ]
        assert found == pytest.approx(np.exp(_log_softmax(np.mean(own, axis=0))))
    if whole:
        eighteen = rng.normal(0, spread, (4, 18))
        both = joint_log_probabilities(values | {"c": eighteen}, targets | {"c": OutputSpec("class18")})
        assert both == pytest.approx(_log_softmax((_log_softmax(eighteen) + joint) / 2)), "each has the same say"


def _log_softmax(values: np.ndarray) -> np.ndarray:
    return values - np.log(np.exp(values).sum(axis=1, keepdims=True))


def test_an_undetermined_part_is_an_error() -> None:
    with pytest.raises(ValueError, match="no task predicts gender, age"):
        joint_log_probabilities({"mask": np.zeros((1, 3))}, {"mask": OutputSpec("mask")})


def test_eighteen_classes_with_finer_ages_become_eighteen() -> None:
    target = OutputSpec("class18", (21, 30, 46, 58), (0, 0, 1, 1, 2))
    assert target.width == 30
    values = np.full((1, 30), -9.0)
    values[0, 5 * 5 + 3] = 9.0  # not wear, female, 46-57
    joint = joint_log_probabilities({"c": values}, {"c": target})
    assert joint.shape == (1, 18)
    assert most_probable(joint).tolist() == [2 * 6 + 1 * 3 + 1]


@given(st.lists(logits(3, 18), min_size=1, max_size=3), st.integers(0, 100))
def test_a_blend_is_the_weighted_mean_of_log_probabilities_and_sums_to_one(runs: list[np.ndarray], seed: int) -> None:
    weights = np.random.default_rng(seed).random(len(runs)) + 0.1
    found = mean_of_runs(np.stack(runs), weights)
    assert np.exp(found).sum(axis=1) == pytest.approx(np.ones(3))
    plain = sum(w * r.astype(float) for w, r in zip(weights, runs, strict=True)) / weights.sum()
    assert found - found[:, :1] == pytest.approx(plain - plain[:, :1], abs=1e-4)


@given(logits(5, 3), logits(5, 2), logits(5, 3), logits(5, 3))
def test_the_hard_decision_is_the_routing_of_separate_models(
    mask: np.ndarray, gender: np.ndarray, male: np.ndarray, female: np.ndarray
) -> None:
    joint = joint_log_probabilities({"mask": mask, "gender": gender, "male-age": male, "female-age": female}, FOUR)
    for n, found in enumerate(decide_hard(joint)):
        p_mask, p_gender = softmax(mask[n].tolist()), softmax(gender[n].tolist())
        p_age = softmax((male, female)[found // 3 % 2][n].tolist())
        assert p_mask[found // 6] == pytest.approx(max(p_mask), rel=1e-6)
        assert p_gender[found // 3 % 2] == pytest.approx(max(p_gender), rel=1e-6)
        assert p_age[found % 3] == pytest.approx(max(p_age), rel=1e-6)


def test_an_uncertain_gender_may_be_decided_otherwise_together_than_part_by_part() -> None:
    mask, gender = np.array([[9.0, 0, 0]]), np.log([[0.55, 0.45]])
    ages = np.log([[0.34, 0.33, 0.33]]), np.log([[0.01, 0.01, 0.98]])
    joint = joint_log_probabilities({"mask": mask, "gender": gender, "male-age": ages[0], "female-age": ages[1]}, FOUR)
    assert (most_probable(joint)[0], decide_hard(joint)[0]) == (5, 0)


def test_votes_are_counted_and_ties_have_a_winner() -> None:
    votes = np.array([[1, 1, 7, 0], [2, 2, 8, 1], [2, 1, 9, 2]])
    log_p = np.full((4, 18), -9.0)
    log_p[0, 1] = log_p[1, 5] = log_p[2, 8] = log_p[3, 2] = -0.1
    assert vote(votes, log_p).tolist() == [2, 1, 8, 2], "the most probable of those tied; the majority else"


def test_views_are_selected_by_name_not_by_place() -> None:
    logits = np.arange(3, dtype=np.float32)[:, None, None] * np.ones((3, 4, 2), np.float32)
    there = ("identity", "hflip", "scale")
    assert select_views(logits, there, ("scale", "identity"))[:, 0, 0].tolist() == [2, 0], "a set that is no prefix"
    with pytest.raises(MaskensError, match="have no view darker, only identity, hflip, scale: choose another --tta"):
        select_views(logits, there, ("identity", "darker"))


@given(st.integers(0, 99), st.booleans(), st.booleans())
def test_a_mean_leaves_out_what_was_not_shown(seed: int, scaled: bool, weighed: bool) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(3, 2, 5, 4))
    temperatures = rng.uniform(0.5, 2, 4) if scaled else None
    weights = (0.3, 0.7) if weighed else ()
    partly = logits.copy()
    partly[2, :, 0] = np.nan  # a fold
    partly[:, 1, 1] = np.nan  # a view
    partly[:, :, 2] = np.nan  # the photo
    found = mean_logits(partly, temperatures, weights)
    without = mean_logits(logits[:2, :, :1], temperatures, weights)
    assert found[0] == pytest.approx(without[0])
    assert found[1] == pytest.approx(mean_logits(logits[:, :1, 1:2], temperatures)[0])
    assert np.isnan(found[2]).all()
    assert found[3:] == pytest.approx(mean_logits(logits, temperatures, weights)[3:])
