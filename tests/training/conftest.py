"""Data, and a run of tiny models, that the tests of training share."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import MakeData
from tiny_runs import TINY, TinyRun, tiny_run

from ensemble.training.queue import run_job
from folds.layout import read_train
from folds.people import TrainData


@pytest.fixture(scope="session")
def data(make_data: MakeData, tmp_path_factory: pytest.TempPathFactory) -> TrainData:
    """24 people; to be read only."""
    return read_train(make_data(tmp_path_factory.mktemp("training") / "data", people=24))


@pytest.fixture
def setting(data: TrainData, tmp_path: Path) -> TinyRun:
    return tiny_run(tmp_path / "run", data, TINY)


@pytest.fixture(scope="session")
def whole(data: TrainData, tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """The same run, its first job trained without anything special; to be read only."""
    there = tiny_run(tmp_path_factory.mktemp("whole") / "run", data, TINY)
    assert run_job(there.spec(), data, there.folds) is None
    return there
