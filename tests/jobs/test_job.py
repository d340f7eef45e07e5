"""What a job.json says counts only where all of it can be read; else nobody vouches for the job's files, and that is
told."""

from __future__ import annotations

import dataclasses
import json

import pytest
from conftest import MakeData
from planned import plan_run

from ensemble.jobs.job import JOB_FILES, Job, JobStatus, unverified, write_status
from folds.layout import read_train
from folds.run_folder import Run


@pytest.fixture(scope="module")
def run(make_data: MakeData, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("status")
    return plan_run(folder / "run", read_train(make_data(folder / "data", people=12)), {})


DONE = JobStatus("mask", 0, "done", 1, 1, sha256=dict.fromkeys(JOB_FILES, "0"))


@pytest.mark.parametrize(
    "change",
    [{"sha256": "x"}, {"record": []}, {"state": "dona"}, {"epoch": "two"}, {"sha256": {"oof.npz": 1}}, {"more": 1}],
    ids=str,
)
def test_a_status_with_a_value_that_can_not_be_is_unreadable(run: Run, change: dict[str, object]) -> None:
    write_status(run, DONE)
    assert Job(run, "mask", 0).status() == DONE
    file = Job(run, "mask", 0).status_file
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert Job(run, "mask", 0).status() == JobStatus("mask", 0, "unreadable")


def test_a_status_nested_without_end_is_unreadable(run: Run) -> None:
    write_status(run, DONE)
    Job(run, "mask", 0).status_file.write_text('{"record": ' + "[" * 100_000)
    assert Job(run, "mask", 0).status() == JobStatus("mask", 0, "unreadable")


def test_a_job_without_the_checksum_of_one_of_its_files_is_told(run: Run) -> None:
    for sha256, told in ((DONE.sha256, False), ({}, False), ({"oof.npz": "0"}, True), ({"oof.npy": "0"}, True)):
        write_status(run, dataclasses.replace(DONE, sha256=sha256))
        assert bool(unverified(run, [Job(run, "mask", 0)])) == told, sha256
