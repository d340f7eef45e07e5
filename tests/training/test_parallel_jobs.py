"""Several jobs at a time: they give what they give one after the other, whatever else they do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_runs import DEFAULTS, Silent, TinyRun, tiny_run
from tracked import BOTH, events, wandb_history

from ensemble.jobs.finished import is_done
from ensemble.jobs.hardware import Hardware
from ensemble.jobs.oof import load_job_oof
from ensemble.jobs.spec import JobSpec, plan
from ensemble.training.queue import train
from folds.layout import read_train

RECIPE = f"{DEFAULTS}[tasks.mask]\n[tasks.gender]\n[tasks.age]\n"


def trained(
    setting: TinyRun, name: str, tasks: list[str], folds: list[int], hardware: Hardware, track: tuple[str, ...] = ()
) -> list[JobSpec]:
    """The jobs of a run of this name, each trained with one thread."""
    planned = plan(setting.elsewhere(name).run, setting.recipe, tasks, folds, hardware, None, track)
    specs = [dataclasses.replace(s, threads=1) for s in planned]
    assert train(specs, setting.data, setting.folds, specs, hardware, Silent()) == {}
    return specs


@pytest.fixture(scope="module")
def setting(make_data: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyRun]:
    root = tmp_path_factory.mktemp("parallel")
    data = read_train(make_data(root / "data", people=24))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
            patch.setenv(name, str(root / name))
        yield tiny_run(root / "run", data, RECIPE, "tasks.*.epochs=2")


def test_parallel_jobs_with_loader_processes_and_trackers_give_what_sequential_ones_do(setting: TinyRun) -> None:
    one = trained(setting, "one", ["mask"], [0, 1], Hardware("cpu", workers=0))
    two = trained(setting, "two", ["mask"], [0, 1], Hardware("cpu", workers=1, jobs=2), BOTH)
    for a, b in zip(one, two, strict=True):
        alone, beside = (load_job_oof(s.run.job_folder(s.task, s.fold) / "oof.npz", {}) for s in (a, b))
        assert alone.at("last") == pytest.approx(beside.at("last"), abs=1e-4)
        assert is_done(b)
        assert b.job.status().note == ""
        folder = b.run.job_folder("mask", b.fold)
        assert [e.step for e in events(folder).Scalars("f1")] == [1, 2]
        assert [r["step"] for r in wandb_history(folder)[0]] == [1, 2]
