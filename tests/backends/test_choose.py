"""Options of where jobs run, refused before anything starts."""

from __future__ import annotations

from typing import Any

import pytest
from edits import hide_package

from ensemble.backends import dask_backend
from ensemble.backends.choose import choose_hardware
from ensemble.jobs.hardware import Hardware, visible_gpus
from folds.errors import MaskensError


@pytest.mark.parametrize(
    ("backend", "jobs", "address", "refusal"),
    [
        (None, None, "tcp://a:1", "--address goes with --backend dask"),
        ("sequential", 2, None, "runs one job at a time, not 2"),
        ("dask", None, "127.0.0.1:1", "--address 127.0.0.1:1: no Dask scheduler .* Start one with: dask scheduler"),
        ("ray", None, "127.0.0.1:1", "--address 127.0.0.1:1: no Ray cluster .* Start one with: ray start --head"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    backend: Any, jobs: int | None, address: str | None, refusal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_backend, "ANSWERING", 0.2)
    with pytest.raises(MaskensError, match=refusal):
        choose_hardware("cpu", None, jobs, backend, address)


@pytest.mark.parametrize(("backend", "package"), [("dask", "distributed"), ("ray", "ray")])
def test_a_backend_that_is_not_installed_is_named(backend: Any, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_package(monkeypatch, package)
    with pytest.raises(MaskensError, match=rf"needs {package}.* Install: pip install 'maskens\[{backend}\]'"):
        choose_hardware("cpu", None, 2, backend)


def test_each_process_gets_a_gpu_of_those_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    assert visible_gpus() == ["3", "5"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert visible_gpus() == ["0", "1"]


def test_a_cluster_sees_to_its_cores_itself() -> None:
    there = Hardware("cpu", 0, 64, "ray", "10.0.0.1:6379", node_cores=4)
    assert there.oversubscription == ""
    assert there.several_processes
