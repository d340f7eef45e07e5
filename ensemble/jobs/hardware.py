"""Device, cores, threads and loader processes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import joblib

from folds.errors import MaskensError

BackendName = Literal["sequential", "loky", "dask", "ray"]


def choose_device(name: str) -> str:
    """`auto` becomes cuda where there is one, else cpu.

    Raises:
        MaskensError: cuda asked for and not to be had.
    """
    import torch  # here, so that planning jobs needs none of it

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise MaskensError("--device cuda: torch sees no CUDA device here. Use --device cpu or auto.")
    return name


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named:
        return [name.strip() for name in named.split(",")]
    return [str(number) for number in range(torch.cuda.device_count())]


@dataclass(frozen=True)
class Hardware:
    """Where and how wide jobs run."""

    device: str  # cpu, cuda
    workers: int | None  # loader processes a job; None lets maskens choose
    jobs: int = 1  # jobs at a time
    backend: BackendName | None = None  # None: this process for one job at a time, else processes beside it
    address: str | None = None  # of a cluster's scheduler
    node_cores: int | None = None  # that a job has on its node; None: its share of this machine's

    @property
    def several_processes(self) -> bool:
        """Whether work may go to other processes than this one."""
        return self.jobs > 1 or self.backend not in (None, "sequential")

    @property
    def cores(self) -> int:
        return int(joblib.cpu_count())  # heeds affinity and container limits

    @property
    def job_workers(self) -> int:
        """0 on a CPU, to leave all cores to the model; for a GPU one less than the job's share of the cores, 1 to 8."""
        if self.workers is not None:
            return self.workers
        return 0 if self.device == "cpu" else self._gpu_workers

    @property
    def job_threads(self) -> int:
        """Arithmetic threads of a job: OMP_NUM_THREADS, or the job's share of the cores, which for a GPU is shared
        with loader processes. It does not depend on `workers`, because it moves the last digits of a result."""
        wanted = os.environ.get("OMP_NUM_THREADS", "")
        if wanted.isdecimal() and int(wanted) > 0:
            return int(wanted)
        return max(1, self._share - (0 if self.device == "cpu" else self._gpu_workers))

    @property
    def job_cores(self) -> int:
        """What a job keeps busy: its threads and its loader processes."""
        return self.job_threads + self.job_workers

    @property
    def oversubscription(self) -> str:
        """What to say where jobs and their loader processes want more cores than there are, else ""."""
        wanted = self.jobs * self.job_cores
        if self.address:
            return ""  # the cluster's own scheduler sees to that
        least = 2 if self.device == "cuda" else 1  # one of the two waits for the GPU, most of the time
        if wanted <= max(self.cores, least):
            return ""
        return (
            f"{self.job_threads} threads and {self.job_workers} loader processes a job, --jobs {self.jobs}: that is "
            f"{wanted} at work on {self.cores} cores, and they will wait for one another; lower --jobs, --workers or "
            "OMP_NUM_THREADS"
        )

    @property
    def _share(self) -> int:
        return self.node_cores or max(1, self.cores // self.jobs)

    @property
    def _gpu_workers(self) -> int:
        return min(8, max(1, self._share - 1))

    @property
    def decoding_threads(self) -> int:
        """Threads that decode photos for the cache."""
        return self.workers or self.cores
