"""The coding of the 18 classes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from folds.labels import AGE_CUTS, CLASS_NAMES, CLASSES, SHOT_MASK, SHOTS, age_band, decode, encode

LABELS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 2)), max_size=30)


def test_every_class_has_its_number() -> None:
    table = [(m, g, a) for m in range(3) for g in range(2) for a in range(3)]
    assert encode(*zip(*table, strict=True)).tolist() == list(range(18))
    assert encode(2, 1, 0) == 15  # not wear, female, < 30
    assert CLASSES == len(CLASS_NAMES) == 18
    assert CLASS_NAMES[15] == "not wear, female, <30"


def test_five_shots_wear_the_mask_one_wears_it_wrongly_and_one_not_at_all() -> None:
    assert [SHOT_MASK[s] for s in SHOTS] == [0, 0, 0, 0, 0, 1, 2]


@given(LABELS)
def test_decoding_undoes_encoding(labels: list[tuple[int, int, int]]) -> None:
    columns = np.array(labels, dtype=np.int64).reshape(-1, 3).T
    classes = encode(*columns)
    assert classes.dtype == np.int64
    assert classes.tolist() == [m * 6 + g * 3 + a for m, g, a in labels]
    np.testing.assert_array_equal(np.stack(decode(classes)), columns)


def test_any_shape_is_kept() -> None:
    grid = np.arange(18).reshape(2, 9)
    assert all(part.shape == (2, 9) for part in decode(grid))
    np.testing.assert_array_equal(encode(*decode(grid)), grid)


@given(st.integers().filter(lambda c: not 0 <= c <= 17).filter(lambda c: abs(c) < 2**62))
def test_a_class_out_of_range_is_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match=r"class out of range 0\.\.17"):
        decode([3, wrong])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ((3, 0, 0), r"mask label out of range 0\.\.2"),
        ((-1, 0, 0), r"mask label out of range 0\.\.2"),
        ((0, 2, 0), r"gender label out of range 0\.\.1"),
        ((0, -1, 0), r"gender label out of range 0\.\.1"),
        ((0, 0, 3), r"age label out of range 0\.\.2"),
        ((0, 0, -1), r"age label out of range 0\.\.2"),
    ],
)
def test_a_label_out_of_range_is_refused(labels: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode(*([0, label] for label in labels))


@given(st.lists(st.integers(0, 120), max_size=30), st.tuples(st.integers(1, 60), st.integers(61, 119)))
def test_age_bands_equal_a_plain_formula(years: list[int], cuts: tuple[int, int]) -> None:
    assert age_band(years).tolist() == [0 if y < 30 else 1 if y < 60 else 2 for y in years]
    assert age_band(years, cuts).tolist() == [0 if y < cuts[0] else 1 if y < cuts[1] else 2 for y in years]
    assert AGE_CUTS == (30, 60)
