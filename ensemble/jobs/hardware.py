"""Device, cores, memory, threads and loader processes."""

from __future__ import annotations

import contextlib
import glob
import os
import platform
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import joblib
import psutil

from folds.errors import MaskensError

GPU_FILES = "/dev/nvidia[0-9]*"  # of NVIDIA's driver on Linux
OTHER_GPUS = ("/dev/kfd", "/dev/dxg", "/dev/nvmap")  # of AMD's driver, of Windows' in its Linux, of NVIDIA's Jetson
CGROUPS = {  # version of Linux's control groups -> folder, files of limit and use, page cache in memory.stat
    1: ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
}

BackendName = Literal["sequential", "loky", "dask", "ray"]


def choose_device(name: str) -> str:
    """`auto` becomes cuda where there is one, else cpu. Raises MaskensError: cuda asked for and not available."""
    no_gpu = sys.platform == "linux" and not glob.glob(GPU_FILES) and not any(map(os.path.exists, OTHER_GPUS))
    if name == "cpu" or (name == "auto" and no_gpu):
        return "cpu"
    import torch  # here, because it takes seconds

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise MaskensError("--device cuda: torch sees no CUDA device here. Use --device cpu or auto.")
    return name


def unused_gpu(asked: str, hardware: Hardware) -> str:
    """A warning where `auto` became the CPU though there is a GPU, which torch can't use; else "". `asked` is auto, cpu
    or cuda."""
    import torch

    files = glob.glob(GPU_FILES)
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if asked != "auto" or hardware.device != "cpu" or hardware.address or not files or hidden:
        return ""
    why = "is built for CPUs only: install a torch built for CUDA"
    if torch.version.cuda:
        why = f"can't use it: compare its CUDA {torch.version.cuda} with the driver's (nvidia-smi)"
    return (
        f"there is a GPU ({files[0]}), but torch {torch.__version__} {why}. Everything runs on the CPU (--device cpu)"
    )


def machine(device: str, threads: int) -> str:
    """What a measured time depends on beside the model: processor or GPU, threads, torch's version. On a CPU it imports
    no torch."""
    if device != "cpu":
        import torch

        chip = torch.cuda.get_device_name(device)
    else:
        chip = _processor()
    return f"{chip}, {threads} threads, torch {metadata.version('torch')}"


def _processor() -> str:
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open() as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()  # not Linux, or not of Intel's or AMD's make


def free_memory(root: Path = Path("/")) -> int:
    """Bytes that are left: of this machine, or of the container where its limit is lower (cgroups v1 and v2). Linux's
    `proc` and `sys` are in `root`."""
    found, lines = [int(psutil.virtual_memory().available)], []
    with contextlib.suppress(OSError):
        lines = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
    for _, controllers, group in lines:
        version = 1 if "memory" in controllers.split(",") else 2
        if version == 2 and controllers:
            continue
        folder, limit, used, cached = CGROUPS[version]
        base = root / folder
        inner = base / group.lstrip("/")
        # a limit holds for all groups within; in a container the path may be the host's, and the root its own
        for level in (inner, *inner.parents):
            with contextlib.suppress(OSError, ValueError, KeyError):  # no limit
                stat = dict(line.split() for line in (level / "memory.stat").read_text().splitlines())
                left = int((level / limit).read_text()) - int((level / used).read_text())
                found.append(left + int(stat[cached]))  # the page cache is given back when memory is short
    return max(0, min(found))


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
        """Whether work may run in other processes than this one."""
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
        """Its threads and its loader processes."""
        return self.job_threads + self.job_workers

    @property
    def oversubscription(self) -> str:
        """A warning where jobs and their loader processes want more cores than there are, else ""."""
        wanted = self.jobs * self.job_cores
        least = 2 if self.device == "cuda" else 1  # one of the two waits for the GPU, most of the time
        if self.address or wanted <= max(self.cores, least):  # a cluster's scheduler has limits of its own
            return ""
        return (
            f"{self.job_threads} threads and {self.job_workers} loader processes a job, --jobs {self.jobs}: that is "
            f"{wanted} at work on {self.cores} cores; lower --jobs, --workers or OMP_NUM_THREADS"
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
