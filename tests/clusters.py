"""Real clusters on this machine, as somebody would start them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cli

QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def _environment() -> dict[str, str]:
    return os.environ | {
        "PYTHONPATH": str(Path(cli.__file__).parent),
        "OMP_NUM_THREADS": "1",
        "RAY_worker_niceness": "0",
    }


@contextlib.contextmanager
def dask_cluster(folder: Path, workers: int = 2) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and workers without nannies, each a process of its own; yields (address, workers)."""
    known = folder / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    where = ["--host", "127.0.0.1", "--no-dashboard"]
    with contextlib.ExitStack() as stack:

        def start(*words: object) -> subprocess.Popen[bytes]:
            process = subprocess.Popen([*dask, *map(str, words)], env=_environment(), cwd=folder, **QUIET)  # type: ignore[call-overload]
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process  # type: ignore[no-any-return]

        start("scheduler", *where, "--port", 0, "--scheduler-file", known)
        while not known.exists():
            time.sleep(0.05)
        wanted = ["--scheduler-file", known, "--nthreads", 1, "--no-nanny"]
        address = json.loads(known.read_text())["address"]
        yield address, [start("worker", *where, *wanted) for _ in range(workers)]


@contextlib.contextmanager
def ray_cluster() -> Iterator[tuple[str, Callable[[], None]]]:
    """Two nodes of one core, each with processes of its own; yields (address, what kills the second node)."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        for name, value in _environment().items():
            patch.setenv(name, value)
        small = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=small)
        try:
            second = cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
            yield cluster.address, lambda: cluster.remove_node(second, allow_graceful=False)
        finally:
            cluster.shutdown()
