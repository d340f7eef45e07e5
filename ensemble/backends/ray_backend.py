"""Nodes of a Ray cluster."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from ensemble.backends.backend import STOPPING, Call, WorkerLost
from ensemble.backends.node_process import pack_call, run_on_node, stop_all
from ensemble.backends.shape import Shape
from ensemble.jobs.hardware import Hardware
from folds.errors import MaskensError, first_line

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else it reports to its makers
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a later default, of which it warns
os.environ.setdefault("RAY_worker_niceness", "0")  # of a Ray started here; else all others come first
ANSWERING = 30.0  # seconds in which a head must answer
OBJECTS = 100_000_000  # bytes of memory for objects, of which hardly any are made


class RayBackend:
    """Each call is a task: Ray gives it to a node that has the cores, or the GPU, for it. Without an address, Ray is
    started on this machine."""

    def __init__(self, hardware: Hardware) -> None:
        self.slots, self._hardware = hardware.jobs, hardware
        self._context = contextlib.ExitStack()
        self._under_way: dict[str, Call] = {}
        self._stopping = False

    def call(self, call: Call) -> Any:
        packed = pack_call(call, self._hardware.job_threads)
        task = ray.remote(run_on_node).options(
            name=call.name,
            num_cpus=self._hardware.job_threads + self._hardware.job_workers,
            num_gpus=1 if self._hardware.device == "cuda" else 0,
            max_retries=0,
        )
        self._under_way[call.token] = call
        try:
            outcome = ray.get(task.remote(packed))
        except RayTaskError:
            raise
        except RayError as error:
            raise WorkerLost(f"the worker that had it is gone ({type(error).__name__})") from error
        finally:
            self._under_way.pop(call.token, None)
        return outcome.result(self._stopping)

    def __enter__(self) -> RayBackend:
        hardware = self._hardware
        cores = self.slots * (hardware.job_threads + hardware.job_workers)
        local = None if hardware.address else {"num_cpus": cores, "object_store_memory": OBJECTS}
        self._context.enter_context(connected(hardware.address, local))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        try:
            if kind and issubclass(kind, KeyboardInterrupt):
                self._stopping = True
                stop_all(list(self._under_way.values()), STOPPING)
        finally:
            self._context.close()


@contextlib.contextmanager
def connected(address: str | None, local: dict[str, Any] | None = None) -> Iterator[None]:
    """Connected to a cluster, or to one started here, for as long as the block takes.

    Args:
        local: what a cluster on this machine has.

    Raises:
        MaskensError: no cluster answers at the address.
    """
    if ray.is_initialized():  # by whoever calls us
        yield
        return
    with _handlers_kept():
        try:
            _reach(address)
            ray.init(
                address=address or "local",
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                **(local or {}),
            )
        except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
            raise MaskensError(
                f"--address {address}: no Ray cluster answers there ({first_line(error)}). "
                "Start one with: ray start --head"
            ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _reach(address: str | None) -> None:
    """Find out whether anything answers there: Ray itself would try for many minutes.

    Raises:
        OSError: nothing does.
    """
    host, colon, port = (address or "").rpartition("://")[2].rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=ANSWERING).close()


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself, which is to stop a command after its work is saved."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def ray_shape(jobs: int | None, on_gpus: bool | None) -> Shape:
    """What the cluster that is connected takes at a time: a call for each GPU, else one for each node.

    Args:
        jobs: calls at a time, if they are given.
        on_gpus: whether calls want one; None: if there are any.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    wanted = jobs or (gpus if on_gpus is not False and gpus else len(nodes))
    cores = min(int(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0))
    return Shape(wanted, gpus, max(1, cores // -(-wanted // len(nodes))))
