"""Files of a job count only as they were written: misshapen logits are refused, not broadcast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeData
from edits import edit_arrays, edit_record
from planned import plan_run

from ensemble.decision.oof_ensemble import load_oof_ensemble
from ensemble.jobs.job import JOB_FILES, Job, JobStatus, unverified, write_status
from ensemble.jobs.oof import load_job_oof
from folds.errors import MaskensError
from folds.layout import read_train
from folds.run_folder import Run


@pytest.fixture
def run(make_data: MakeData, tmp_path: Path) -> Run:
    return plan_run(tmp_path / "run", read_train(make_data(tmp_path / "data", people=12)), np.zeros((84, 18)))


CHANGES: dict[str, tuple[str, Any]] = {
    "two dimensions": ("logits", lambda a: a[0]),
    "a view less": ("logits", lambda a: a[:, :1]),
    "a photo less": ("logits", lambda a: a[:, :, 1:]),
    "whole numbers": ("logits", lambda a: a.astype(np.int32)),
    "text": ("logits", lambda a: a.astype("U8")),
    "an epoch that is not there": ("half_epochs", np.array([0, 1])),
    "three halves": ("half", lambda a: a + 1),
    "a half of other photos": ("half", lambda a: a[1:]),
    "a view twice": ("views", np.array(["identity", "identity"])),
    "files in a square": ("files", lambda a: a[None]),
    "a record that is a list": ("record", "[1]"),
    "a record nested without end": ("record", "[" * 100_000),
}


@pytest.mark.parametrize(("name", "change"), CHANGES.values(), ids=CHANGES)
def test_misshapen_logits_are_refused(run: Run, name: str, change: Any) -> None:
    file = run.job_folder("class18", 0) / "oof.npz"
    edit_arrays(file, **{name: change})
    with pytest.raises(MaskensError, match=r"oof\.npz is damaged"):
        load_job_oof(file, {})


def test_logits_of_another_width_are_refused(run: Run) -> None:
    edit_arrays(run.job_folder("class18", 0) / "oof.npz", logits=lambda a: a[..., :8])
    with pytest.raises(MaskensError, match="logits of another width than those of 'class18'"):
        load_oof_ensemble([run], None, "best")


DONE = JobStatus("mask", 0, "done", 1, 1, checksums=dict.fromkeys(JOB_FILES, "0"))


@pytest.mark.parametrize(
    "change",
    [{"checksums": "x"}, {"record": []}, {"state": "dona"}, {"epoch": "two"}, {"checksums": {"oof.npz": 1}}, {"m": 1}],
    ids=str,
)
def test_a_status_with_impossible_values_is_unreadable(run: Run, change: dict[str, object]) -> None:
    job = Job(run, "mask", 0)
    write_status(run, DONE)
    assert job.status() == DONE
    assert unverified(run, [job]) == []
    edit_record(job.status_file, **change)
    assert job.status() == JobStatus("mask", 0, "unreadable")
    assert "job.json of mask fold 0" in unverified(run, [job])[0]

    for old, new in (('"epochs": 1', '"epochs": 2'), ('"record": {', '"record": ' + "[" * 100_000)):
        write_status(run, DONE)
        job.status_file.write_text(job.status_file.read_text().replace(old, new))
        assert job.status() == JobStatus("mask", 0, "unreadable"), "edited or damaged"
