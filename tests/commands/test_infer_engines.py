"""maskens infer by other engines."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from run_command import maskens

RUN = Path("runs/default")
INFER = ("infer", "--allow-missing", "--no-tuning", "--tta", "none", "--no-early-exit")


def logits() -> dict[str, np.ndarray]:
    with np.load(RUN / "eval.npz") as z:
        return {name: z[name] for name in z if name.startswith("logits/")}


def test_another_engine_predicts_the_same(copy: Path) -> None:
    for fold in (1, 2):  # each model takes its time
        for folder in RUN.glob(f"*/fold{fold}"):
            shutil.rmtree(folder)
    assert maskens(*INFER).code == 0
    exact, classes = logits(), (RUN / "submission.csv").read_text()
    told = maskens(*INFER, "--engine", "openvino")
    assert "openvino in fp32 for 4 of 4 models" in told.out
    assert all(np.allclose(values, exact[name], atol=1e-4) for name, values in logits().items())
    assert (RUN / "submission.csv").read_text() == classes
    assert maskens("verify").code == 0
