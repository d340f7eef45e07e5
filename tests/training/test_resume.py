"""The state that an interrupted job goes on from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ensemble.training.trainer import load_last, save_last
from folds.errors import MaskensError

IDENTITY = {"task": "mask", "fold": 0}


def test_a_flipped_bit_in_the_state_is_refused(tmp_path: Path) -> None:
    weights = torch.arange(1000.0)
    save_last(tmp_path, IDENTITY, {"weights": weights}, [])
    file = tmp_path / "last.pt"
    found = load_last(tmp_path, IDENTITY)
    assert found is not None
    assert torch.equal(found["trained"]["weights"], weights)
    content = bytearray(file.read_bytes())
    content[content.index(weights.numpy().tobytes()) + 2000] ^= 1
    file.write_bytes(content)
    with pytest.raises(MaskensError, match=r"last\.pt is damaged .*--restart"):
        load_last(tmp_path, IDENTITY)
