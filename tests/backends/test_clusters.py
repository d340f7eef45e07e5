"""Jobs on real clusters: the same bytes as in this process, whatever dies meanwhile."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import psutil
import pytest
from conftest import MakeData
from local_clusters import ENVIRONMENT, Cluster, dask_cluster, ray_cluster
from tiny_runs import DEFAULTS, Silent, TinyRun, tiny_run

from ensemble.backends.choose import choose_hardware
from ensemble.jobs.hardware import BackendName, Hardware
from ensemble.jobs.job import JobStatus
from ensemble.training.queue import train
from folds.errors import MaskensError
from folds.files import read_json
from folds.layout import read_train

RECIPE = f"{DEFAULTS}[tasks.heads]\nepochs = 8  # so that both train for a while, one beside the other\n"


def test_a_temporary_folder_that_ray_can_not_use_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ensemble.backends.ray_backend import connected, temporary_folder

    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    assert Path(temporary_folder()).name != "ray", "which is of the user who started Ray first"
    (tmp_path / "taken").touch()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "taken"))
    with pytest.raises(MaskensError, match=r"Ray can't be started here.*/taken .*RAY_TMPDIR"), connected(None):
        pass


@pytest.fixture(scope="module")
def alone(make_data: MakeData, tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """A run whose jobs were trained in this process."""
    root = tmp_path_factory.mktemp("jobs")
    setting = tiny_run(root / "run", read_train(make_data(root / "data", people=24)), RECIPE)
    train_both(setting, Hardware("cpu", 0), Silent())
    return setting


def train_both(there: TinyRun, hardware: Hardware, display: Silent) -> None:
    specs = [there.spec("heads", fold) for fold in (0, 1)]
    assert train(specs, there.data, there.folds, specs, hardware, display, retries=2) == {}


class Killing(Silent):
    """Kills a worker of a cluster, once, while a job that has finished an epoch trains there."""

    def __init__(self, cluster: Cluster, there: TinyRun) -> None:
        super().__init__()
        self.cluster, self.locks, self.killed = cluster, there.run.folder / ".locks", False

    def update(self, statuses: list[JobStatus]) -> None:
        for status in statuses:
            if not self.killed and status.epoch and status.state == "training" and self._is_on_victim(status):
                self.cluster.kill()
                self.killed = True

    def _is_on_victim(self, status: JobStatus) -> bool:
        claim = read_json(self.locks / f"{status.task}-fold{status.fold}.process.json")
        try:
            parents = psutil.Process(claim["pid"]).parents()
        except psutil.NoSuchProcess:  # it has ended meanwhile
            return False
        return self.cluster.victim in [process.pid for process in parents]


def survives(alone: TinyRun, name: BackendName, cluster: Cluster) -> None:
    there = alone.elsewhere(name)
    display = Killing(cluster, there)
    train_both(there, Hardware("cpu", 0, 2, name, cluster.address, 1), display)
    assert display.killed
    logs = [there.run.job_folder("heads", fold) / "log.txt" for fold in (0, 1)]
    begun = [log.read_text().count(f"heads fold {fold} on ") for fold, log in enumerate(logs)]
    assert sorted(begun) == [1, 2], "one of them had two processes"
    for fold in (0, 1):
        for file in ("model.safetensors", "oof.npz"):
            theirs = alone.run.job_folder("heads", fold) / file
            assert (there.run.job_folder("heads", fold) / file).read_bytes() == theirs.read_bytes()


def test_a_dask_worker_that_dies_costs_no_job(alone: TinyRun, tmp_path: Path) -> None:
    with dask_cluster(tmp_path) as cluster:
        survives(alone, "dask", cluster)


def test_a_ray_node_that_dies_costs_no_job(alone: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with ray_cluster() as cluster:
        with pytest.raises(MaskensError, match=r"a job needs 3 CPUs, 1 for threads and 2 for loader processes"):
            choose_hardware("cpu", 2, 1, "ray", cluster.address)
        survives(alone, "ray", cluster)


def test_a_ray_head_that_is_gone_ends_the_command_and_not_ray_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from ensemble.backends import ray_backend

    monkeypatch.setattr(ray_backend, "LOOK", 0.01)
    monkeypatch.setattr(ray_backend, "RESTARTING", 0.1)
    backend = ray_backend.RayBackend(Hardware("cpu", 0, 2, "ray", "", 1))
    with socket.create_server(("127.0.0.1", 0)) as head:
        backend.head = f"127.0.0.1:{head.getsockname()[1]}"
        time.sleep(0.02)
        backend.look_at_head()
    time.sleep(0.02)
    for _ in range(2):
        with pytest.raises(MaskensError, match=r"the head of the Ray cluster at 127.0.0.1:\d+ is gone"):
            backend.look_at_head()
