"""Options of where jobs run, refused before anything starts."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from run_command import maskens, refused

from ensemble.backends.choose import choose_hardware
from ensemble.jobs.hardware import Hardware, visible_gpus
from folds.errors import MaskensError


@pytest.fixture
def run(make_data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_data(tmp_path / "data", people=24)
    assert maskens("folds", "--k", 2).code == 0


def test_options_that_do_not_go_together_are_one_message(run: None) -> None:
    refused(maskens("train", "--recipe", "demo", "--address", "tcp://a:1"), "--address goes with --backend dask")
    refused(
        maskens("train", "--recipe", "demo", "--backend", "sequential", "--jobs", 2), "runs one job at a time, not 2"
    )
    refused(maskens("train", "--backend", "spark"), "'spark' is not one of")
    refused(
        maskens("train", "--recipe", "demo", "--backend", "dask", "--address", "here"),
        "--address here: no Dask scheduler answers there",
        "Start one with: dask scheduler",
    )
    refused(
        maskens("train", "--recipe", "demo", "--backend", "ray", "--address", "127.0.0.1:1"),
        "--address 127.0.0.1:1: no Ray cluster answers there (",
        "Start one with: ray start --head",
    )
    assert not Path("runs/default/recipe.toml").exists()


@pytest.mark.parametrize(("backend", "package"), [("dask", "distributed"), ("ray", "ray")])
def test_an_engine_that_is_not_installed_is_told(backend: Any, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else real(name))
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
