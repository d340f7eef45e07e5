"""Real clusters on this machine, as somebody would start them, one worker of which can be killed."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from distributed import Client

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}


@dataclass
class Cluster:
    address: str
    victim: int  # process id of the worker or node that `kill` kills
    kill: Callable[[], object]


@contextlib.contextmanager
def dask_cluster(folder: Path) -> Iterator[Cluster]:
    """A scheduler and two workers without nannies, each a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    processes: list[subprocess.Popen[bytes]] = []

    def start(*words: str) -> None:
        dask = [sys.executable, "-m", "dask", *words, "--host", "127.0.0.1", "--no-dashboard"]
        out = subprocess.DEVNULL
        processes.append(subprocess.Popen(dask, env=os.environ | ENVIRONMENT, cwd=folder, stdout=out, stderr=out))

    try:
        start("scheduler", "--port", str(port))
        reached = False
        while not reached:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                reached = True
            time.sleep(0.05)
        for _ in range(2):
            start("worker", address, "--nthreads", "1", "--no-nanny")
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        yield Cluster(address, processes[1].pid, processes[1].kill)
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextlib.contextmanager
def ray_cluster() -> Iterator[Cluster]:
    """A head and one more node of one core each, each with processes of its own, which inherit our environment."""
    from ray.cluster_utils import Cluster as Nodes

    small = {"num_cpus": 1, "object_store_memory": 80_000_000}
    nodes = Nodes(initialize_head=True, head_node_args=small | {"include_dashboard": False})
    try:
        node = nodes.add_node(**small)
        raylet = node.all_processes["raylet"][0].process.pid
        yield Cluster(str(nodes.address), raylet, lambda: nodes.remove_node(node, allow_graceful=False))
    finally:
        nodes.shutdown()
