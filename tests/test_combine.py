from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ensemble.combine import decide, head_log_probabilities, joint_log_probabilities, mean_logits
from ensemble.tasks import Predicts, Target

LOGITS = st.floats(-30, 30, width=32)
FOUR_KINDS: tuple[Predicts, ...] = ("mask", "gender", "male-age", "female-age")
FOUR = {kind: Target(kind) for kind in FOUR_KINDS}


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
    one = joint_log_probabilities({"heads": values}, {"heads": Target("heads")})
    split = {"mask": values[:, :3], "gender": values[:, 3:5], "age": values[:, 5:]}
    three = joint_log_probabilities(split, {"mask": Target("mask"), "gender": Target("gender"), "age": Target("age")})
    assert one == pytest.approx(three)


@given(logits(3, 18))
def test_eighteen_logits_decide_by_their_maximum(values: np.ndarray) -> None:
    joint = joint_log_probabilities({"class18": values}, {"class18": Target("class18")})
    assert np.take_along_axis(joint, decide(values)[:, None], 1)[:, 0] == pytest.approx(joint.max(axis=1))


def test_two_tasks_of_one_kind_are_averaged() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5, 18)).astype(np.float32)
    joint = joint_log_probabilities({"a": a, "b": b}, {"a": Target("class18"), "b": Target("class18")})
    assert np.array_equal(decide(joint), np.argmax(_log_softmax(a) + _log_softmax(b), axis=1))


def _log_softmax(values: np.ndarray) -> np.ndarray:
    return values - np.log(np.exp(values).sum(axis=1, keepdims=True))


def test_an_undetermined_part_is_an_error() -> None:
    with pytest.raises(ValueError, match="no task predicts gender, age"):
        joint_log_probabilities({"mask": np.zeros((1, 3))}, {"mask": Target("mask")})


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
    assert decide(found).tolist() == [4]


@pytest.mark.parametrize(
    ("kind", "columns"), [("mask", 3), ("gender", 2), ("male-age", 3), ("heads", 8), ("class18", 18)]
)
def test_heads_tile_the_logits(kind: Predicts, columns: int) -> None:
    covered = [i for h in Target(kind).heads for i in range(h.columns.start, h.columns.stop)]
    assert covered == list(range(columns)) == list(range(Target(kind).width))


@given(logits(5, 5))
def test_finer_age_bins_add_up_their_probabilities(values: np.ndarray) -> None:
    target = Target("age", (21, 30, 46, 58), (0, 0, 1, 1, 2))
    found = np.exp(head_log_probabilities(values, target.heads[0]))
    for n in range(5):
        p = softmax(values[n].tolist())
        assert found[n].tolist() == pytest.approx([p[0] + p[1], p[2] + p[3], p[4]], abs=1e-9)


@given(logits(3, 10))
def test_heads_with_finer_ages_decide_as_three_tasks_do(values: np.ndarray) -> None:
    cuts, merge = (21, 30, 46, 58), (0, 0, 1, 1, 2)
    one = joint_log_probabilities({"h": values}, {"h": Target("heads", cuts, merge)})
    split = {"mask": values[:, :3], "gender": values[:, 3:5], "age": values[:, 5:]}
    three = joint_log_probabilities(
        split, {"mask": Target("mask"), "gender": Target("gender"), "age": Target("age", cuts, merge)}
    )
    assert np.allclose(one, three)


def test_eighteen_classes_with_finer_ages_become_eighteen() -> None:
    target = Target("class18", (21, 30, 46, 58), (0, 0, 1, 1, 2))
    assert target.width == 30
    values = np.full((1, 30), -9.0)
    values[0, 5 * 5 + 3] = 9.0  # not wear, female, 46-57
    joint = joint_log_probabilities({"c": values}, {"c": target})
    assert joint.shape == (1, 18)
    assert decide(joint).tolist() == [2 * 6 + 1 * 3 + 1]
