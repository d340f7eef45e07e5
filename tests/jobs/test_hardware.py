"""What the machine has for jobs: its cores, a GPU that torch can't use, and the memory of a container."""

from __future__ import annotations

import itertools
from pathlib import Path

import psutil
import pytest
import torch

from ensemble.jobs import hardware
from ensemble.jobs.hardware import Hardware, free_memory, unused_gpu

GB = 2**30
CPU = Hardware("cpu", 0)


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The device file of a GPU."""
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(hardware, "GPU_FILES", str(tmp_path / "nvidia[0-9]*"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return str(tmp_path / "nvidia0")


@pytest.mark.parametrize(("cuda", "words"), [(None, "built for CPUs only"), ("13.0", "CUDA 13.0 with the driver's")])
def test_a_gpu_that_torch_can_not_use_is_pointed_out(
    gpu: str, monkeypatch: pytest.MonkeyPatch, cuda: str | None, words: str
) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    line = unused_gpu("auto", CPU)
    assert gpu in line and words in line


def test_no_warning_of_a_gpu_that_is_used_or_hidden_on_purpose(gpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert unused_gpu("auto", CPU)
    assert unused_gpu("auto", Hardware("cuda", 0)) == unused_gpu("cpu", CPU) == ""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert unused_gpu("auto", CPU) == ""


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_default_threads_and_loader_processes_fit_the_cores(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for jobs, cores in itertools.product((1, 4), (1, 2, 16)):
        monkeypatch.setattr(Hardware, "cores", cores)
        chosen = Hardware(device, None, jobs)
        assert chosen.job_threads >= 1
        assert chosen.job_workers >= (device == "cuda")
        fits = jobs * (chosen.job_threads + chosen.job_workers) <= cores
        assert fits or cores < jobs * (1 if device == "cpu" else 2)
        assert (chosen.oversubscription == "") == (fits or (device == "cuda" and jobs == 1))
    monkeypatch.setattr(Hardware, "cores", 2)
    asked = Hardware("cpu", 1)
    assert asked.job_threads == Hardware("cpu", 0).job_threads == 2, "the number of workers moves no digit"
    assert "3 at work on 2 cores" in asked.oversubscription
    assert "3 at work on 2 cores" in Hardware("cpu", 0, jobs=3).oversubscription
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert "lower --jobs, --workers or OMP_NUM_THREADS" in Hardware("cpu", 0).oversubscription


def group(folder: Path, version: int, limit: str, used: int = GB, cached: int = 0) -> None:
    """A control group's files."""
    names = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes"), 2: ("memory.max", "memory.current")}[version]
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (limit, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    stat = "inactive_file" if version == 2 else "total_inactive_file"
    (folder / "memory.stat").write_text(f"anon 5\n{stat} {cached}\n")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file system of a machine with 64 GB free."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 64 * GB}))
    (tmp_path / "proc/self").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("version", "folder", "line"),
    [(1, "sys/fs/cgroup/memory", "4:cpu,memory:/docker/abc"), (2, "sys/fs/cgroup", "0::/docker/abc")],
)
def test_a_containers_memory_limit_counts_where_it_is_lower(root: Path, version: int, folder: str, line: str) -> None:
    assert free_memory(root) == 64 * GB, "no control groups"
    (root / "proc/self/cgroup").write_text(f"9:name=systemd:/\n{line}\n")
    assert free_memory(root) == 64 * GB, "the group's files are not there"
    group(root / folder, version, str(8 * GB), 3 * GB, cached=GB)  # as from within the container
    assert free_memory(root) == 6 * GB, "cache is given back"
    group(root / folder / "docker/abc", version, str(4 * GB), GB)  # as from outside
    assert free_memory(root) == 3 * GB
    group(root / folder / "docker/abc", version, "max" if version == 2 else str(2**63 - 4096), GB)
    assert free_memory(root) == 6 * GB, "the group around it has the limit"
    group(root / folder, version, str(8 * GB), 9 * GB)
    assert free_memory(root) == 0
