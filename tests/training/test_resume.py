"""The state that an interrupted job goes on from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ensemble.jobs.job import Job
from ensemble.training.trainer import load_last, save_last
from folds.errors import MaskensError
from folds.run_folder import Run

IDENTITY = {"task": "mask", "fold": 0}


def test_a_flipped_bit_in_the_state_is_refused(tmp_path: Path) -> None:
    weights = torch.arange(1000.0)
    job = Job(Run(tmp_path, "data", "", "", 2, 0, ()), "mask", 0)
    save_last(job, IDENTITY, {"weights": weights}, [])
    found = load_last(job, IDENTITY)
    assert found is not None
    assert torch.equal(found["trained"]["weights"], weights)
    content = bytearray(job.last.read_bytes())
    content[content.index(weights.numpy().tobytes()) + 2000] ^= 1
    job.last.write_bytes(content)
    with pytest.raises(MaskensError, match=r"last\.pt is damaged .*--restart"):
        load_last(job, IDENTITY)
