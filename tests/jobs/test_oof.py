"""Out-of-fold logits of another shape than their photos and views are refused, not broadcast."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeData
from planned import plan_run

from ensemble.decision.oof_ensemble import load_oof_ensemble
from ensemble.jobs.oof import load_job_oof
from folds.errors import MaskensError
from folds.layout import read_train
from folds.run_folder import Run

Arrays = dict[str, Any]


@pytest.fixture
def run(make_data: MakeData, tmp_path: Path) -> Run:
    return plan_run(tmp_path / "run", read_train(make_data(tmp_path / "data", people=12)), np.zeros((84, 18)))


def respoil(file: Path, change: Callable[[Arrays], Arrays]) -> None:
    with np.load(file) as kept:
        arrays = dict(kept)
    np.savez(file, **arrays | change(arrays))


CHANGES: dict[str, Callable[[Arrays], Arrays]] = {
    "two dimensions": lambda a: {"logits": a["logits"][0]},
    "a view less": lambda a: {"logits": a["logits"][:, :1]},
    "a photo less": lambda a: {"logits": a["logits"][:, :, 1:]},
    "whole numbers": lambda a: {"logits": a["logits"].astype(np.int32)},
    "text": lambda a: {"logits": a["logits"].astype("U8")},
    "an epoch that is not there": lambda a: {"half_epochs": np.array([0, 1])},
    "three halves": lambda a: {"half": a["half"] + 1},
    "a half of other photos": lambda a: {"half": a["half"][1:]},
    "a view twice": lambda a: {"views": np.array(["identity", "identity"])},
    "files in a square": lambda a: {"files": a["files"][None]},
    "a record that is a list": lambda a: {"record": "[1]"},
    "a record nested without end": lambda a: {"record": "[" * 100_000},
}


@pytest.mark.parametrize("what", CHANGES)
def test_misshapen_logits_are_refused(run: Run, what: str) -> None:
    file = run.job_folder("class18", 0) / "oof.npz"
    respoil(file, CHANGES[what])
    with pytest.raises(MaskensError, match=r"oof\.npz is damaged"):
        load_job_oof(file, {})


def test_logits_of_another_width_are_refused(run: Run) -> None:
    respoil(run.job_folder("class18", 0) / "oof.npz", lambda a: {"logits": a["logits"][..., :8]})
    with pytest.raises(MaskensError, match="logits of another width than those of 'class18'"):
        load_oof_ensemble([run], None, "best")
