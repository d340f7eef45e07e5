"""Workers of a Dask cluster."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any, Self

import joblib
from dask import config
from distributed import Client, KilledWorker, LocalCluster
from distributed.client import FutureCancelledError

from ensemble.backends.backend import Backend, Call, ClusterCapacity, WorkerLost
from ensemble.backends.node_process import cant_run, packed_call, run_on_node, stop_all
from ensemble.backends.work_process import Worker
from ensemble.jobs.hardware import Hardware
from folds.errors import MaskensError, first_line

ANSWERING = 30.0  # seconds in which a scheduler must answer
RESTARTING = 300.0  # in which one that is gone may come back
GPU = "GPU"  # the resource that workers with one declare


class DaskBackend(Backend):
    """Each call is a task: Dask gives it to a worker that is free. Without an address, the workers are in this
    process."""

    def __init__(self, hardware: Hardware) -> None:
        self.slots, self._hardware = hardware.jobs, hardware
        self._resources: dict[str, float] = {}
        self._client: Client | None = None
        self._cluster: LocalCluster | None = None
        self._under_way: dict[str, Call] = {}
        self._stopping = False
        self._gone = ""  # the error, once a scheduler does not come back
        self._lock = threading.Lock()

    def call(self, call: Call) -> Any:
        try:
            with packed_call(call, self._hardware.job_threads) as packed:
                client = self._connected()
                key = f"{call.name} {call.token}"
                future = client.submit(run_on_node, packed, key=key, pure=False, resources=self._resources, retries=0)
                self._under_way[call.token] = call
                outcome = future.result()
        except MaskensError:
            raise
        except KilledWorker as error:
            raise WorkerLost("the worker that had it is gone") from error
        except (FutureCancelledError, OSError, TimeoutError) as error:
            if self._stopping:  # by this process itself
                raise KeyboardInterrupt from None
            raise WorkerLost("the scheduler is gone") from error
        except Exception as error:  # `run_on_node` raises nothing
            if self._stopping:
                raise KeyboardInterrupt from None
            raise cant_run(error) from error
        finally:
            self._under_way.pop(call.token, None)
        return outcome.result(self._stopping)

    def __enter__(self) -> Self:
        for name in ("distributed", "distributed.client"):  # lost workers are reported by us
            logging.getLogger(name).setLevel(logging.CRITICAL)
        if self._hardware.address is None:
            # threads will do, as each call has a process of its own
            self._cluster = LocalCluster(
                n_workers=self.slots,
                threads_per_worker=1,
                processes=False,
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
            )
        self._connected()
        return self

    def __exit__(self, kind: type[BaseException] | None, *more: object) -> None:
        if kind:
            self._stopping = True
            stop_all(list(self._under_way.values()))
        for each in (self._client, self._cluster):
            if each is not None:
                with contextlib.suppress(Exception):  # one that is gone can't close
                    each.close(timeout=5)
        if self._cluster:
            Worker.end_idle()
        self._client = self._cluster = None

    def _connected(self) -> Client:
        """A client whose scheduler is there, or comes back soon. Raises MaskensError: it does not."""
        with self._lock:
            if self._gone:
                raise MaskensError(self._gone)
            if self._client is None or self._client.status != "running":
                address = self._cluster or self._hardware.address
                again = self._client is not None
                seconds = RESTARTING if again else ANSWERING
                try:
                    self._client = _client(address, seconds)
                except (OSError, TimeoutError) as error:
                    self._gone = (
                        f"no Dask scheduler has answered at {self._hardware.address} for {seconds:.0f} s. "
                        "Saved work is kept; the same command resumes it"
                    )
                    raise MaskensError(self._gone) from error
                if not again and self._hardware.device == "cuda" and dask_shape(self._client).gpus:
                    self._resources = {GPU: 1}
            return self._client


def _client(address: str | LocalCluster | None, seconds: float) -> Client:
    with config.set({"distributed.comm.timeouts.connect": f"{seconds}s"}):
        return Client(address, timeout=seconds, set_as_default=False)


@contextlib.contextmanager
def dask_client(address: str) -> Iterator[Client]:
    """A client for as long as the block takes. Raises MaskensError: no scheduler answers, or it has no workers."""
    try:
        client = _client(address, ANSWERING)
    except (OSError, TimeoutError, ValueError) as error:
        raise MaskensError(
            f"--address {address}: no Dask scheduler answers there ({first_line(error)}). "
            "Start one with: dask scheduler"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=ANSWERING)  # they may be about to start
        except TimeoutError:
            raise MaskensError(
                f"--address {address}: the scheduler has no workers. Start some with: dask worker {address}"
            ) from None
        yield client


def dask_shape(client: Client) -> ClusterCapacity:
    """How many calls the workers take at a time, and with how many cores each."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    slots = Counter[str]()
    for worker in workers.values():
        slots[worker["host"]] += worker["nthreads"]
    cores = {workers[name]["host"]: count for name, count in client.run(joblib.cpu_count).items() if name in workers}
    gpus = sum(int(worker["resources"].get(GPU, 0)) for worker in workers.values())
    return ClusterCapacity(sum(slots.values()), gpus, min(max(1, cores[host] // slots[host]) for host in cores))
