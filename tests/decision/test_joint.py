"""From logits to the 18 classes; a person's photos together; views merged."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.special import log_softmax, logsumexp, softmax

from ensemble.decision.joint import (
    decide,
    decide_hard,
    joint_log_probabilities,
    mean_logits,
    mean_of_runs,
    merged_log_probabilities,
    most_probable,
    share_gender_and_age,
    vote,
)
from ensemble.jobs.oof import select_views
from ensemble.metrics.heads import head_log_probabilities
from ensemble.recipes.tasks import OutputSpec, Predicts
from ensemble.recipes.views import TtaMerge, TtaSet
from folds.errors import MaskensError

FOUR: tuple[Predicts, ...] = ("mask", "gender", "male-age", "female-age")
TARGETS = {kind: OutputSpec(kind) for kind in FOUR}
COLUMNS = {"mask": slice(0, 3), "gender": slice(3, 5)}  # of the logits of `heads`


def joint_of(logits: Mapping[str, np.ndarray], output_specs: Mapping[str, OutputSpec]) -> np.ndarray:
    """Of logits (photos, width): one fold, one view."""
    return joint_log_probabilities({task: values[None, None] for task, values in logits.items()}, output_specs)


def four_models(photos: int, seed: int, spread: float = 5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {kind: rng.normal(0, spread, (photos, output_spec.width)) for kind, output_spec in TARGETS.items()}


@given(st.integers(0, 999), st.booleans(), st.booleans())
def test_logits_are_averaged_over_the_folds_and_views_of_a_photo(seed: int, scaled: bool, weighed: bool) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(3, 2, 5, 4))
    temperatures = rng.uniform(0.5, 2, 4) if scaled else None
    weights = (0.3, 0.7) if weighed else ()
    partly = logits.copy()
    partly[2, :, 0] = np.nan  # a fold
    partly[:, 1, 1] = np.nan  # a view
    partly[:, :, 2] = np.nan  # the photo
    found = mean_logits(partly, temperatures, weights)
    by = np.ones(4) if temperatures is None else temperatures
    over_views = np.average(logits, axis=1, weights=weights or None)  # (folds, photos, columns)
    assert found[0] == pytest.approx(over_views[:2, 0].mean(axis=0) / by)
    assert found[1] == pytest.approx(logits[:, 0, 1].mean(axis=0) / by)
    assert np.isnan(found[2]).all()
    assert found[3:] == pytest.approx(over_views[:, 3:].mean(axis=0) / by)


def test_joint_probability_is_the_product_of_the_parts() -> None:
    logits = four_models(50, 0)
    p = {kind: softmax(values, axis=1) for kind, values in logits.items()}
    ages = np.stack([p["male-age"], p["female-age"]], axis=1)
    product = p["mask"][:, :, None, None] * (p["gender"][:, :, None] * ages)[:, None]
    assert np.exp(joint_of(logits, TARGETS)) == pytest.approx(product.reshape(-1, 18))


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
    output_specs = {str(n): OutputSpec(kind) for n, kind in enumerate([*kinds, *FOUR])}
    values = {n: rng.normal(0, spread, (4, output_spec.width)) for n, output_spec in output_specs.items()}
    joint = joint_of(values, output_specs)
    p = np.exp(joint).reshape(-1, 3, 2, 3)
    for part, found in (("mask", p.sum(axis=(2, 3))), ("gender", p.sum(axis=(1, 3)))):
        own = [
            values[n] if t.predicts == part else values[n][:, COLUMNS[part]]
            for n, t in output_specs.items()
            if t.predicts in (part, "heads")
        ]
        assert found == pytest.approx(softmax(np.mean(own, axis=0), axis=1))
    if whole:
        eighteen = rng.normal(0, spread, (4, 18))
        both = joint_of(values | {"c": eighteen}, output_specs | {"c": OutputSpec("class18")})
        assert both == pytest.approx(log_softmax((log_softmax(eighteen, axis=1) + joint) / 2, axis=1))


def test_an_undetermined_part_is_an_error() -> None:
    with pytest.raises(ValueError, match="no task predicts gender, age"):
        joint_of({"mask": np.zeros((1, 3))}, TARGETS)


def test_eighteen_classes_with_finer_ages_become_eighteen() -> None:
    output_spec = OutputSpec("class18", (21, 30, 46, 58), (0, 0, 1, 1, 2))
    assert output_spec.width == 30
    values = np.full((1, 30), -9.0)
    values[0, 5 * 5 + 3] = 9.0  # not wear, female, 46-57
    assert most_probable(joint_of({"c": values}, {"c": output_spec})).tolist() == [2 * 6 + 1 * 3 + 1]


def test_an_ensemble_of_runs_is_the_weighted_mean_of_log_probabilities_and_sums_to_one() -> None:
    runs, weights = np.random.default_rng(0).normal(0, 9, (3, 20, 18)), [0.2, 0.5, 1.0]
    found = mean_of_runs(runs, weights)
    assert np.exp(found).sum(axis=1) == pytest.approx(np.ones(20))
    plain = np.average(runs, axis=0, weights=weights)
    assert found - found[:, :1] == pytest.approx(plain - plain[:, :1])


def test_the_hard_decision_is_the_routing_of_separate_models() -> None:
    logits = four_models(200, 1, 1)
    found = decide_hard(joint_of(logits, TARGETS))
    gender = logits["gender"].argmax(axis=1)
    age = np.where(gender == 0, logits["male-age"].argmax(axis=1), logits["female-age"].argmax(axis=1))
    assert found.tolist() == (logits["mask"].argmax(axis=1) * 6 + gender * 3 + age).tolist()
    uncertain = {
        "mask": np.array([[9.0, 0, 0]]),
        "gender": np.log([[0.55, 0.45]]),
        "male-age": np.log([[0.34, 0.33, 0.33]]),
        "female-age": np.log([[0.01, 0.01, 0.98]]),
    }
    joint = joint_of(uncertain, TARGETS)
    assert (most_probable(joint)[0], decide_hard(joint)[0]) == (5, 0), "together it may be decided otherwise"


def test_votes_are_counted_and_ties_go_to_the_most_probable_class() -> None:
    votes = np.array([[1, 1, 7, 0], [2, 2, 8, 1], [2, 1, 9, 2]])
    log_p = np.full((4, 18), -9.0)
    log_p[0, 1] = log_p[1, 5] = log_p[2, 8] = log_p[3, 2] = -0.1
    assert vote(votes, log_p).tolist() == [2, 1, 8, 2]
    two = np.log(np.full((2, 2, 18), 0.02) + 0.64 * np.eye(18)[0])  # two runs that predict 0 for two photos
    seen, other = np.array([True, False]), np.array([5, 5])
    assert decide(two, rule="vote", votes=[other], seen=seen).classes.tolist() == [0, 5], "no vote on what was not seen"
    assert decide(two, rule="vote", seen=seen).classes.tolist() == [0, 0], "there is nobody else"


def test_views_are_selected_by_name_not_by_place() -> None:
    logits = np.arange(3, dtype=np.float32)[:, None, None] * np.ones((3, 4, 2), np.float32)
    there = ("identity", "hflip", "scale")
    assert select_views(logits, there, ("scale", "identity"))[:, 0, 0].tolist() == [2, 0], "a set that is no prefix"
    with pytest.raises(MaskensError, match="have no view darker, only identity, hflip, scale: choose another --tta"):
        select_views(logits, there, ("identity", "darker"))


def merged(logits: np.ndarray, merge: TtaMerge, output_spec: OutputSpec) -> np.ndarray:
    return merged_log_probabilities(logits, output_spec.heads[0], TtaSet(views=("identity", "hflip"), merge=merge))


def test_gmean_is_of_probabilities_and_never_nan() -> None:
    logits = np.random.default_rng(0).normal(0, 5, (2, 7, 3))  # below 0, too
    p = softmax(logits, axis=2)
    geometric = np.sqrt(p[0] * p[1])
    found = np.exp(merged(logits, "gmean", OutputSpec("mask")))
    assert found == pytest.approx(geometric / geometric.sum(axis=1, keepdims=True))
    finer = OutputSpec("age", (21, 30, 46, 58), (0, 0, 1, 1, 2))
    bins = np.random.default_rng(1).normal(0, 5, (2, 7, 5))
    assert merged(bins, "gmean", finer) != pytest.approx(head_log_probabilities(bins.mean(axis=0), finer.heads[0]))


def test_max_takes_the_largest_probability_whatever_constant_a_models_logits_have() -> None:
    logits = np.random.default_rng(0).normal(0, 2, (2, 7, 3))
    found = merged(logits, "max", OutputSpec("mask"))
    largest = softmax(logits, axis=2).max(axis=0)
    assert np.exp(found) == pytest.approx(largest / largest.sum(axis=1, keepdims=True))
    assert merged(logits + np.array([100, 0])[:, None, None], "max", OutputSpec("mask")) == pytest.approx(found)


def mask_part(log_p: np.ndarray) -> np.ndarray:
    return np.asarray(logsumexp(log_p.reshape(-1, 3, 6), axis=2))


def traits(log_p: np.ndarray) -> np.ndarray:
    return np.asarray(logsumexp(log_p.reshape(-1, 3, 6), axis=1))


@given(
    st.integers(1, 12).flatmap(
        lambda n: st.tuples(
            arrays.arrays(np.float64, (n, 18), elements=st.floats(-20, 20)).map(lambda a: log_softmax(a, axis=1)),
            arrays.arrays(np.int64, n, elements=st.integers(0, 4)),
            arrays.arrays(np.bool_, n),
        )
    )
)
def test_a_photo_keeps_its_mask_and_takes_gender_and_age_of_the_person_s_photos_that_were_seen(
    found: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    log_p, person, seen = found
    together = share_gender_and_age(log_p, person, seen)
    assert np.exp(together).sum(axis=1) == pytest.approx(np.ones(len(log_p)))
    assert mask_part(together) == pytest.approx(mask_part(log_p), abs=1e-9)
    for row in range(len(log_p)):
        theirs = np.flatnonzero(seen & (person == person[row]))
        if theirs.tolist() in ([], [row]):
            assert np.array_equal(together[row], log_p[row]), "it is alone"
        else:
            wanted = log_softmax(traits(log_p)[theirs].mean(axis=0))
            assert traits(together)[row] == pytest.approx(wanted, abs=1e-9)
    assert np.array_equal(
        share_gender_and_age(log_p, person), share_gender_and_age(log_p, person, np.ones(len(seen), bool))
    )


def test_one_sure_photo_outweighs_two_that_hesitate_and_offsets_come_after() -> None:
    p = np.full((3, 18), 0.001)
    p[0, 4], p[1, 7], p[2, 13] = 0.98, 0.4, 0.4  # female 30-59; twice hesitantly male 30-59
    p[1, 10], p[2, 16] = 0.35, 0.35
    log_p = np.log(p / p.sum(axis=1, keepdims=True))
    person = np.zeros(3, dtype=np.int64)
    assert most_probable(log_p).tolist() == [4, 7, 13]
    assert decide(log_p[None], person=person).classes.tolist() == [4, 10, 16]
    offsets = [30.0 if c == 17 else 0.0 for c in range(18)]
    assert decide(log_p[None], offsets=offsets, person=person).classes.tolist() == [17] * 3
