"""Real clusters on this machine, as somebody would start them, whose parts can be killed."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from distributed import Client

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
Part = Literal["worker", "scheduler", "head"]


class DaskCluster:
    """A scheduler and workers without nannies, each a process of its own; a context."""

    parts: tuple[Part, ...] = ("worker", "scheduler")

    def __init__(self, folder: Path, workers: int = 2) -> None:
        self.folder, self.size = folder, workers
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.workers: list[subprocess.Popen[bytes]] = []

    @property
    def victim(self) -> int:
        """Process id of the worker that `kill` would kill."""
        return self.workers[0].pid

    def kill(self, part: Part = "worker") -> None:
        """Kill the first worker, or the scheduler and those of its workers that don't end by themselves."""
        if part == "scheduler":
            self.scheduler.kill()
            for process in (self.scheduler, *self.workers):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(3)
                process.kill()
                process.wait()
        else:
            self.workers[0].kill()
            self.workers.pop(0).wait()

    def mend(self) -> None:
        """Start what is missing, and wait until a scheduler knows its workers."""
        if self.scheduler.poll() is not None:
            self._start_scheduler()
        self.workers = [worker for worker in self.workers if worker.poll() is None]
        while len(self.workers) < self.size:
            self.workers.append(self._start("worker", self.address, "--nthreads", "1", "--no-nanny"))
        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=60)

    def _start_scheduler(self) -> None:
        self.scheduler = self._start("scheduler", "--port", str(self.port))
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.05)

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        where = ["--host", "127.0.0.1", "--no-dashboard"]
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *words, *where],
            env=os.environ | ENVIRONMENT,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> DaskCluster:
        self._start_scheduler()
        self.mend()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


class RayCluster:
    """A head and one more node of one core each, each with processes of its own; a context."""

    parts: tuple[Part, ...] = ("worker", "head")

    def __init__(self) -> None:
        os.environ.update(ENVIRONMENT)  # nodes inherit it
        self._node: Any = None
        self._cluster: Any = None

    @property
    def address(self) -> str:
        """Of the head, another one after it was killed."""
        return str(self._cluster.address)

    @property
    def victim(self) -> int:
        """Process id of the node that `kill` would kill."""
        raylet: int = self._node.all_processes["raylet"][0].process.pid
        return raylet

    def kill(self, part: Part = "worker") -> None:
        """Kill the second node, or the head, without which a cluster is none."""
        node = self._cluster.head_node if part == "head" else self._node
        self._cluster.remove_node(node, allow_graceful=False)
        if part == "head":
            self._cluster.shutdown()
            self._cluster = None
        self._node = None

    def mend(self) -> None:
        """Start what is missing."""
        from ray.cluster_utils import Cluster

        small = {"num_cpus": 1, "object_store_memory": 80_000_000}
        if self._cluster is None:
            self._cluster = Cluster(initialize_head=True, head_node_args=small | {"include_dashboard": False})
        self._node = self._node or self._cluster.add_node(**small)

    def __enter__(self) -> RayCluster:
        self.mend()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._cluster.shutdown()
