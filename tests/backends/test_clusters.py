"""Jobs on real clusters: the same bytes as in this process, whatever dies meanwhile."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from clusters import dask_cluster, ray_cluster
from tiny_runs import DEFAULTS, Silent, TinyRun, tiny_run

from ensemble.jobs.hardware import BackendName, Hardware
from ensemble.jobs.spec import JobSpec
from ensemble.jobs.status import JobStatus
from ensemble.training.jobs import train
from folds.data.layout import read_train

RECIPE = f"{DEFAULTS}[tasks.heads]\n"


@pytest.fixture(scope="module")
def setting(make_data: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    root = tmp_path_factory.mktemp("jobs")
    return tiny_run(root / "run", read_train(make_data(root / "data", people=24)), RECIPE)


def trained(setting: TinyRun, name: str, hardware: Hardware, display: Silent, retries: int = 0) -> list[bytes]:
    """What both jobs of a run of this name leave."""
    there = setting.elsewhere(name)
    specs = [there.spec("heads", fold) for fold in (0, 1)]
    assert train(specs, there.data, there.folds, specs, hardware, display, retries=retries) == {}
    return left_by(specs)


def left_by(specs: Sequence[JobSpec]) -> list[bytes]:
    folders = [s.run.job_folder(s.task, s.fold) for s in specs]
    return [(folder / name).read_bytes() for folder in folders for name in ("model.safetensors", "oof.npz")]


@pytest.fixture(scope="module")
def expected(setting: TinyRun) -> list[bytes]:
    return trained(setting, "alone", Hardware("cpu", 0), Silent())


class Killing(Silent):
    """Kills a node, once, when a job has finished an epoch."""

    def __init__(self, kill: Callable[[], object]) -> None:
        super().__init__()
        self.kill, self.killed = kill, False

    def update(self, statuses: list[JobStatus]) -> None:
        super().update(statuses)
        if not self.killed and any(status.epoch for status in statuses):
            self.killed = True
            self.kill()

    @property
    def notes(self) -> set[str]:
        return {status.note for shown in self.shown for status in shown}


def on_cluster(backend: BackendName, address: str) -> Hardware:
    return Hardware("cpu", 0, 2, backend, address, 1)


def test_a_dask_worker_that_dies_costs_no_job(setting: TinyRun, expected: list[bytes], tmp_path: Path) -> None:
    with dask_cluster(tmp_path) as (address, workers):
        display = Killing(workers[0].kill)
        assert trained(setting, "dask", on_cluster("dask", address), display, retries=2) == expected
        assert workers[0].wait() == -signal.SIGKILL
    assert any("the worker that had it is gone; goes on, attempt 2 of 3" in note for note in display.notes)


def test_a_ray_node_that_dies_costs_no_job(setting: TinyRun, expected: list[bytes]) -> None:
    with ray_cluster() as (address, kill):
        display = Killing(kill)
        assert trained(setting, "ray", on_cluster("ray", address), display, retries=2) == expected
    assert any("the worker that had it is gone" in note and "attempt 2 of 3" in note for note in display.notes)
