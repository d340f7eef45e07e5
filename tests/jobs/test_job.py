"""A job.json counts only as it was written; an unreadable one is a state of the job."""

from __future__ import annotations

import pytest
from conftest import MakeData
from edits import edit_record
from planned import plan_run

from ensemble.jobs.job import JOB_FILES, Job, JobStatus, unverified, write_status
from folds.layout import read_train
from folds.run_folder import Run


@pytest.fixture(scope="module")
def run(make_data: MakeData, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("status")
    return plan_run(folder / "run", read_train(make_data(folder / "data", people=12)), {})


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
