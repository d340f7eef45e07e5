"""maskens infer by other engines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from run_command import maskens
from tiny_runs import DEFAULTS

RUN = Path("runs/default")
INFER = ("infer", "--allow-missing", "--no-tuning", "--tta", "none", "--no-early-exit")


def logits() -> np.ndarray:
    with np.load(RUN / "eval.npz") as arrays:
        return np.asarray(arrays["logits/heads"])


def test_another_engine_predicts_the_same(data: Path) -> None:
    Path("mine.toml").write_text(f"{DEFAULTS}[tasks.heads]\n")
    assert maskens("folds", "--k", "2").code == 0
    assert maskens("train", "--recipe", "mine.toml", "--fold", "0").code == 0
    assert maskens(*INFER).code == 0
    exact, classes = logits(), (RUN / "submission.csv").read_text()
    outcome = maskens(*INFER, "--engine", "openvino")
    assert "openvino in fp32 for 1 of 1 models" in outcome.out
    np.testing.assert_allclose(logits(), exact, atol=1e-4)
    assert (RUN / "submission.csv").read_text() == classes
    assert maskens("verify").code == 0
