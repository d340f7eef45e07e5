"""People fall into the same folds as in earlier versions, so that their runs stay valid."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from folds.splits import split

GOLDEN = [
    (2, 0, 0, "86d443bd92551da5"),
    (2, 0, 42, "acf8b87fca3afe64"),
    (2, 0, 4294967295, "5dd30306db42a4c9"),
    (2, 40, 0, "3eb84bc798e95798"),
    (2, 40, 42, "b8045fc759ecab09"),
    (2, 40, 4294967295, "264a23b1ebd43495"),
    (3, 0, 0, "2bb8006f6dbb7b7b"),
    (3, 0, 42, "e443556ba64ef859"),
    (3, 0, 4294967295, "a336169d1df22f6b"),
    (3, 40, 0, "c3b8acf27be96415"),
    (3, 40, 42, "6ba6e596771fe597"),
    (3, 40, 4294967295, "72f8ec4c78ef950d"),
    (5, 0, 0, "2feadd600e956fbc"),
    (5, 0, 42, "6f33e9ebbc44ccdb"),
    (5, 0, 4294967295, "497443f49c8dfd7c"),
    (5, 40, 0, "468492343f0e2ed6"),
    (5, 40, 42, "04e5ca0dd17bca14"),
    (5, 40, 4294967295, "4ea08d9c3fa9165a"),
    (10, 0, 0, "59325e2b93205dee"),
    (10, 0, 42, "53363f9621055f89"),
    (10, 0, 4294967295, "0ba1b142ea6ac111"),
    (10, 40, 0, "7c48b50f60da8574"),
    (10, 40, 42, "f7832626ab6ea0a4"),
    (10, 40, 4294967295, "37aa486212d91521"),
    (20, 0, 0, "40b621816f9b72b9"),
    (20, 0, 42, "7436ef782cd0a0d2"),
    (20, 0, 4294967295, "163435f473efcc8d"),
    (20, 40, 0, "5472de87f7cc27a9"),
    (20, 40, 42, "e2e426da6f4a0261"),
    (20, 40, 4294967295, "36dc9460ddf11a98"),
]
"""(k, ids on two folders, seed, first half of the folds' sha256), as maskens 0.4 split them."""


@pytest.mark.parametrize(("k", "twice", "seed", "digest"), GOLDEN)
def test_folds_are_those_of_earlier_versions(k: int, twice: int, seed: int, digest: str) -> None:
    rng = np.random.default_rng(k)
    labels = rng.choice(6, size=600, p=[0.2, 0.17, 0.03, 0.31, 0.25, 0.04])
    ids = [f"{n:06}" for n in rng.permutation(600)]
    ids[:twice] = ids[300 : 300 + twice]  # of another stratum, or of the same
    folds = split(ids, labels, k, seed)
    assert hashlib.sha256(folds.astype("<i8").tobytes()).hexdigest()[:16] == digest


@given(st.integers(2, 6), st.integers(0, 2**32 - 1), st.data())
def test_a_group_is_in_one_fold(k: int, seed: int, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, 30), min_size=8 * k, max_size=60))
    groups = [f"{n:02}" for n in [*range(k), *ids]]
    folds = split(groups, np.zeros(len(groups), dtype=np.int64) + np.arange(len(groups)) % 2, k, seed)
    assert set(folds.tolist()) <= set(range(k))
    assert all(len({f for f, g in zip(folds.tolist(), groups, strict=True) if g == name}) == 1 for name in groups)
