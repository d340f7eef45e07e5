"""The coding of the 18 classes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from folds.labels import CLASS_NAMES, CLASSES, SHOT_MASK, SHOTS, age_band, decode, encode


def test_every_class_has_its_number_both_ways() -> None:
    table = np.array([(m, g, a) for m in range(3) for g in range(2) for a in range(3)])
    classes = encode(*table.T.reshape(3, 2, 9))
    np.testing.assert_array_equal(classes, np.arange(18).reshape(2, 9))
    np.testing.assert_array_equal(decode(classes), table.T.reshape(3, 2, 9))
    assert encode(2, 1, 0) == 15
    assert (CLASSES, CLASS_NAMES[15]) == (len(CLASS_NAMES), "not wear, female, <30")
    assert [SHOT_MASK[s] for s in SHOTS] == [0, 0, 0, 0, 0, 1, 2]


@pytest.mark.parametrize("wrong", [-1, 18])
def test_a_class_out_of_range_is_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match="out of bounds"):
        decode([3, wrong])


@pytest.mark.parametrize("labels", [(3, 0, 0), (0, -1, 0), (0, 0, 3)])
def test_a_label_out_of_range_is_refused(labels: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="invalid entry"):
        encode(*([0, label] for label in labels))


@given(st.lists(st.integers(0, 120), max_size=30), st.tuples(st.integers(1, 60), st.integers(61, 119)))
def test_age_bands_equal_a_plain_formula(years: list[int], cuts: tuple[int, int]) -> None:
    assert age_band(years).tolist() == [0 if y < 30 else 1 if y < 60 else 2 for y in years]
    assert age_band(years, cuts).tolist() == [0 if y < cuts[0] else 1 if y < cuts[1] else 2 for y in years]
