"""Jobs on real clusters: the same bytes as in this process, whatever dies meanwhile."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest
from local_clusters import ENVIRONMENT, DaskCluster, RayCluster
from tiny_runs import DEFAULTS, Silent, TinyRun, tiny_run

from ensemble.backends.choose import choose_hardware
from ensemble.jobs.hardware import BackendName, Hardware
from ensemble.jobs.job import JobStatus
from ensemble.jobs.spec import JobSpec
from ensemble.training.queue import train
from folds.errors import MaskensError
from folds.files import read_json
from folds.layout import read_train


def test_a_temporary_folder_that_ray_can_not_use_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ensemble.backends.ray_backend import connected, temporary_folder

    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    assert Path(temporary_folder()).name != "ray", "which is of the user who started Ray first"
    (tmp_path / "taken").touch()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "taken"))
    with pytest.raises(MaskensError, match=r"Ray can't be started here.*/taken .*RAY_TMPDIR"), connected(None):
        pass


RECIPE = f"{DEFAULTS}[tasks.heads]\nepochs = 8  # so that both train for a while, one beside the other\n"


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
    """Kills a part of a cluster, once, while a job that has finished an epoch trains there."""

    def __init__(self, cluster: DaskCluster | RayCluster, there: TinyRun) -> None:
        super().__init__()
        self.cluster, self.locks, self.killed = cluster, there.run.folder / ".locks", False

    def update(self, statuses: list[JobStatus]) -> None:
        super().update(statuses)
        under_way = [status for status in statuses if status.epoch and status.state == "training"]
        if not self.killed and any(self._is_on_victim(status) for status in under_way):
            self.cluster.kill()
            self.killed = True

    def _is_on_victim(self, status: JobStatus) -> bool:
        claim = read_json(self.locks / f"{status.task}-fold{status.fold}.process.json")
        try:
            parents = psutil.Process(claim["pid"]).parents()
        except psutil.NoSuchProcess:  # it has ended meanwhile
            return False
        return self.cluster.victim in [process.pid for process in parents]


def begun_again(there: TinyRun) -> bool:
    """Whether a job had two processes, by what its log says."""
    logs = [there.run.job_folder("heads", fold) / "log.txt" for fold in (0, 1)]
    return sorted(log.read_text().count(f"heads fold {fold} on ") for fold, log in enumerate(logs)) == [1, 2]


def on_cluster(backend: BackendName, address: str) -> Hardware:
    return Hardware("cpu", 0, 2, backend, address, 1)


def survives(setting: TinyRun, expected: list[bytes], name: BackendName, cluster: DaskCluster | RayCluster) -> None:
    there = setting.elsewhere(name)
    display = Killing(cluster, there)
    assert trained(setting, name, on_cluster(name, cluster.address), display, retries=2) == expected
    assert display.killed
    assert begun_again(there)


def test_a_dask_worker_that_dies_costs_no_job(setting: TinyRun, expected: list[bytes], tmp_path: Path) -> None:
    with DaskCluster(tmp_path) as cluster:
        survives(setting, expected, "dask", cluster)
        assert len(cluster.workers) == 1


def test_a_ray_node_that_dies_costs_no_job(setting: TinyRun, expected: list[bytes]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        with RayCluster() as cluster:
            with pytest.raises(MaskensError, match=r"a job wants 3 CPUs, 1 for threads and 2 for loader processes"):
                choose_hardware("cpu", 2, 1, "ray", cluster.address)
            survives(setting, expected, "ray", cluster)


def test_a_ray_head_that_is_gone_ends_the_command_and_not_ray_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from ensemble.backends import ray_backend

    monkeypatch.setattr(ray_backend, "LOOK", 0.01)
    monkeypatch.setattr(ray_backend, "RESTARTING", 0.1)
    backend = ray_backend.RayBackend(on_cluster("ray", ""))
    with socket.create_server(("127.0.0.1", 0)) as head:
        backend.head = f"127.0.0.1:{head.getsockname()[1]}"
        time.sleep(0.02)
        backend.look_at_head()
    time.sleep(0.02)
    for _ in range(2):
        with pytest.raises(MaskensError, match=r"the head of the Ray cluster at 127.0.0.1:\d+ is gone"):
            backend.look_at_head()
