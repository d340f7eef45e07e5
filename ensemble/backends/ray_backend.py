"""Nodes of a Ray cluster."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any, Self

import ray
from ray.exceptions import GetTimeoutError, RayError, RaySystemError, RayTaskError

from ensemble.backends.backend import Backend, Call, ClusterCapacity, WorkerLost
from ensemble.backends.node_process import cant_run, packed_call, run_on_node, stop_all
from ensemble.jobs.hardware import Hardware
from folds.errors import MaskensError, first_line

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else it reports to its makers
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a later default, of which it warns
os.environ.setdefault("RAY_worker_niceness", "0")  # of a Ray started here; else all others come first
ANSWERING = 30.0  # seconds in which a head must answer
RESTARTING = 20.0  # in which one that does not may do so again
LOOK = 2.0  # seconds between two looks at it
OBJECTS = 100_000_000  # bytes of memory for objects, of which hardly any are made


class RayBackend(Backend):
    """Each call is a task: Ray gives it to a node that has the cores, or the GPU, for it. Without an address, Ray is
    started on this machine."""

    def __init__(self, hardware: Hardware) -> None:
        self.slots, self._hardware = hardware.jobs, hardware
        self._context = contextlib.ExitStack()
        self._under_way: dict[str, Call] = {}
        self._stopping = self._gone = False
        self._lock = threading.Lock()
        self.head, self._seen = "", time.monotonic()  # its address, and when it last answered
        self._run_on_node: Any = None

    def call(self, call: Call) -> Any:
        cpus, gpus = self._hardware.job_cores, 1 if self._hardware.device == "cuda" else 0
        task = self._run_on_node.options(name=call.name, num_cpus=cpus, num_gpus=gpus, max_retries=0)
        self._under_way[call.token] = call
        try:
            with packed_call(call, self._hardware.job_threads) as packed:
                self.look_at_head()
                running, outcome = task.remote(packed), None
                while outcome is None:
                    try:
                        outcome = ray.get(running, timeout=LOOK)
                    except GetTimeoutError:
                        self.look_at_head()
        except (RayTaskError, RaySystemError) as error:  # `run_on_node` raises nothing
            raise cant_run(error) from error
        except RayError as error:
            raise WorkerLost(f"the worker that had it is gone ({type(error).__name__})") from error
        finally:
            self._under_way.pop(call.token, None)
        return outcome.result(self._stopping)

    def look_at_head(self) -> None:
        """Raises MaskensError where it is gone: Ray itself would wait, and after a minute end this process silently."""
        with self._lock:
            until = time.monotonic() + RESTARTING
            while not self._gone and time.monotonic() - self._seen > LOOK:
                try:
                    reach(self.head, RESTARTING / 4)
                    self._seen = time.monotonic()
                except OSError:
                    self._gone = time.monotonic() > until
                    time.sleep(LOOK)
            if self._gone:
                resume = "Saved work is kept; the same command resumes it"
                raise MaskensError(f"the head of the Ray cluster at {self.head} is gone. {resume}")

    def __enter__(self) -> Self:
        hardware = self._hardware
        cores = self.slots * hardware.job_cores
        local = None if hardware.address else {"num_cpus": cores, "object_store_memory": OBJECTS}
        self._context.enter_context(connected(hardware.address, local))
        self.head = ray.get_runtime_context().gcs_address
        self._run_on_node = ray.remote(run_on_node)  # once, as Ray sends each that is made to its head
        return self

    def __exit__(self, kind: type[BaseException] | None, *more: object) -> None:
        try:
            if kind:
                self._stopping = True
                stop_all(list(self._under_way.values()))
        finally:
            self._context.close()


@contextlib.contextmanager
def connected(address: str | None, local: dict[str, Any] | None = None) -> Iterator[None]:
    """Connected to a cluster, or to one started here with what `local` gives it. Raises MaskensError: none answers."""
    if ray.is_initialized():  # by whoever calls us
        yield
        return
    started = {} if address else {"include_dashboard": False, "_temp_dir": temporary_folder(), **(local or {})}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        reach(address)
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.CRITICAL, **started)
    except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
        if not address:
            raise MaskensError(
                f"Ray can't be started here, with its files in {temporary_folder()} ({first_line(error)}). "
                "RAY_TMPDIR names another folder."
            ) from error
        raise MaskensError(
            f"--address {address}: no Ray cluster answers there ({first_line(error)}). Start one with: ray start --head"
        ) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray takes it for itself; it is to stop a command, its work saved
    ray._private.worker._worker_logs_enabled = False  # else it prints pages when a node dies
    try:
        yield
    finally:
        ray.shutdown()


def temporary_folder() -> str:
    """Where a Ray started here keeps its sockets and logs: its default, /tmp/ray, belongs to who came first."""
    return os.environ.get("RAY_TMPDIR") or f"{tempfile.gettempdir()}/ray-{os.getuid()}"


def reach(address: str | None, seconds: float = ANSWERING) -> None:
    """Raises OSError where nothing answers: Ray itself would try for many minutes."""
    host, colon, port = (address or "").rpartition("://")[2].rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=seconds).close()


def ray_shape(address: str, jobs: int | None, on_gpus: bool | None) -> ClusterCapacity:
    """What the connected cluster takes at a time: default a call for each GPU, else one for each node. Calls want a GPU
    if `on_gpus`; None: if there are any. Raises MaskensError: no node has a core for calls, and none comes soon."""
    until = time.monotonic() + ANSWERING
    while not (nodes := [n["Resources"] for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU", 0) >= 1]):
        if time.monotonic() > until:
            raise MaskensError(
                f"--address {address}: no node of the Ray cluster has CPUs. "
                f"Start one with: ray start --address {address}"
            )
        time.sleep(0.5)
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    wants_gpus = on_gpus is not False and gpus > 0
    wanted = jobs or (gpus if wants_gpus else len(nodes))
    cores = [int(node["CPU"]) for node in nodes if not wants_gpus or node.get("GPU", 0)]
    return ClusterCapacity(wanted, gpus, max(1, min(cores) // -(-wanted // len(cores))), max(cores))
