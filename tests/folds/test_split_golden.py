"""People fall into the same folds as in earlier versions, so that their runs stay valid."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from folds.splits import split

GOLDEN = [
    (2, 0, 0, "86d443bd92551da5"),
    (2, 0, 42, "acf8b87fca3afe64"),
    (2, 0, 4294967295, "5dd30306db42a4c9"),
    (2, 40, 0, "3eb84bc798e95798"),
    (2, 40, 42, "b8045fc759ecab09"),
    (2, 40, 4294967295, "264a23b1ebd43495"),
    (5, 0, 0, "2feadd600e956fbc"),
    (5, 0, 42, "6f33e9ebbc44ccdb"),
    (5, 0, 4294967295, "497443f49c8dfd7c"),
    (5, 40, 0, "468492343f0e2ed6"),
    (5, 40, 42, "04e5ca0dd17bca14"),
    (5, 40, 4294967295, "4ea08d9c3fa9165a"),
    (20, 0, 42, "7436ef782cd0a0d2"),
    (20, 40, 42, "e2e426da6f4a0261"),
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
