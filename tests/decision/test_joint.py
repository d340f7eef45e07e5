from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ensemble.decision.decide import decide_hard, most_probable, vote
from ensemble.decision.joint import blend, column_temperatures, joint_log_probabilities, mean_logits
from ensemble.jobs.oof import select_views
from ensemble.metrics.heads import head_log_probabilities
from ensemble.recipes.tasks import OutputSpec, Predicts
from folds.errors import MaskensError

LOGITS = st.floats(-30, 30, width=32)
FOUR_KINDS: tuple[Predicts, ...] = ("mask", "gender", "male-age", "female-age")
FOUR = {kind: OutputSpec(kind) for kind in FOUR_KINDS}


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    powers = [math.exp(v - top) for v in row]
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


@given(logits(3, 8))
def test_one_model_with_eight_outputs_decides_as_three_models_would(values: np.ndarray) -> None:
    one = joint_log_probabilities({"heads": values}, {"heads": OutputSpec("heads")})
    split = {"mask": values[:, :3], "gender": values[:, 3:5], "age": values[:, 5:]}
    three = joint_log_probabilities(
        split, {"mask": OutputSpec("mask"), "gender": OutputSpec("gender"), "age": OutputSpec("age")}
    )
    assert one == pytest.approx(three)


@given(logits(3, 18))
def test_eighteen_logits_decide_by_their_maximum(values: np.ndarray) -> None:
    joint = joint_log_probabilities({"class18": values}, {"class18": OutputSpec("class18")})
    assert np.take_along_axis(joint, most_probable(values)[:, None], 1)[:, 0] == pytest.approx(joint.max(axis=1))


def test_two_tasks_of_one_kind_are_averaged() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5, 18)).astype(np.float32)
    joint = joint_log_probabilities({"a": a, "b": b}, {"a": OutputSpec("class18"), "b": OutputSpec("class18")})
    assert np.array_equal(most_probable(joint), np.argmax(_log_softmax(a) + _log_softmax(b), axis=1))


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


def test_the_joint_decision_can_differ_from_routing_by_gender() -> None:
    """A slightly likelier gender with a spread-out age loses to the other with a certain age."""
    found = joint_log_probabilities(
        {
            "mask": np.array([[9.0, 0, 0]]),
            "gender": np.log([[0.55, 0.45]]),
            "male-age": np.log([[0.34, 0.33, 0.33]]),
            "female-age": np.log([[0.01, 0.98, 0.01]]),
        },
        FOUR,
    )
    assert most_probable(found).tolist() == [4]


@pytest.mark.parametrize(
    ("kind", "columns"), [("mask", 3), ("gender", 2), ("male-age", 3), ("heads", 8), ("class18", 18)]
)
def test_heads_tile_the_logits(kind: Predicts, columns: int) -> None:
    covered = [i for h in OutputSpec(kind).heads for i in range(h.columns.start, h.columns.stop)]
    assert covered == list(range(columns)) == list(range(OutputSpec(kind).width))


@given(logits(5, 5))
def test_finer_age_bins_add_up_their_probabilities(values: np.ndarray) -> None:
    target = OutputSpec("age", (21, 30, 46, 58), (0, 0, 1, 1, 2))
    found = np.exp(head_log_probabilities(values, target.heads[0]))
    for n in range(5):
        p = softmax(values[n].tolist())
        assert found[n].tolist() == pytest.approx([p[0] + p[1], p[2] + p[3], p[4]], abs=1e-9)


@given(logits(3, 10))
def test_heads_with_finer_ages_decide_as_three_tasks_do(values: np.ndarray) -> None:
    cuts, merge = (21, 30, 46, 58), (0, 0, 1, 1, 2)
    one = joint_log_probabilities({"h": values}, {"h": OutputSpec("heads", cuts, merge)})
    split = {"mask": values[:, :3], "gender": values[:, 3:5], "age": values[:, 5:]}
    three = joint_log_probabilities(
        split, {"mask": OutputSpec("mask"), "gender": OutputSpec("gender"), "age": OutputSpec("age", cuts, merge)}
    )
    assert np.allclose(one, three)


def test_eighteen_classes_with_finer_ages_become_eighteen() -> None:
    target = OutputSpec("class18", (21, 30, 46, 58), (0, 0, 1, 1, 2))
    assert target.width == 30
    values = np.full((1, 30), -9.0)
    values[0, 5 * 5 + 3] = 9.0  # not wear, female, 46-57
    joint = joint_log_probabilities({"c": values}, {"c": target})
    assert joint.shape == (1, 18)
    assert most_probable(joint).tolist() == [2 * 6 + 1 * 3 + 1]


@given(logits(4, 8), st.lists(st.floats(0.1, 10), min_size=3, max_size=3))
def test_the_mean_of_the_folds_is_divided_by_the_temperature_of_each_head(
    values: np.ndarray, temperatures: list[float]
) -> None:
    both = np.stack([values, values[::-1]])[:, None]
    found = mean_logits(both, column_temperatures(temperatures, OutputSpec("heads")))
    for photo in range(4):
        for column in range(8):
            head = 0 if column < 3 else 1 if column < 5 else 2
            plain = (values[photo, column] + values[3 - photo, column]) / 2 / temperatures[head]
            assert found[photo, column] == pytest.approx(plain, rel=1e-5, abs=1e-5)


@given(st.lists(logits(3, 18), min_size=1, max_size=3), st.integers(0, 100))
def test_a_blend_is_the_weighted_mean_of_log_probabilities_and_sums_to_one(runs: list[np.ndarray], seed: int) -> None:
    weights = np.random.default_rng(seed).random(len(runs)) + 0.1
    found = blend(np.stack(runs), weights)
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
    assert vote(votes).tolist() == [2, 1, 7, 0], "the first voter's class among those tied"
    assert vote(votes[[2, 1, 0]]).tolist() == [2, 1, 9, 2]
    log_p = np.full((4, 18), -9.0)
    log_p[0, 1] = log_p[1, 5] = log_p[2, 8] = log_p[3, 2] = -0.1
    assert vote(votes, log_p).tolist() == [2, 1, 8, 2], "the most probable of those tied; the majority else"


def test_views_are_selected_by_name_not_by_place() -> None:
    logits = np.arange(3, dtype=np.float32)[:, None, None] * np.ones((3, 4, 2), np.float32)
    there = ("identity", "hflip", "scale")
    assert select_views(logits, there, ("scale", "identity"))[:, 0, 0].tolist() == [2, 0], "a set that is no prefix"
    with pytest.raises(MaskensError, match="have no view darker, only identity, hflip, scale: choose another --tta"):
        select_views(logits, there, ("identity", "darker"))
