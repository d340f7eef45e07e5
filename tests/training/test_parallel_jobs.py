"""Several jobs at a time: they give what they give one after the other, whatever else they do.

In a file of their own, so that the processes of joblib, each of which imports torch, start once for all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from joblib.externals.loky import get_reusable_executor
from tracked import BOTH, events, wandb_history

from ensemble.jobs.completion import is_done
from ensemble.jobs.hardware import Hardware
from ensemble.jobs.oof import load_job_oof
from ensemble.jobs.plan import plan
from ensemble.jobs.spec import JobSpec
from ensemble.jobs.status import read_status
from ensemble.recipes.reading import parse_recipe
from ensemble.recipes.run_recipe import bind_recipe
from ensemble.training.jobs import train
from folds.data.labels import IntArray
from folds.data.layout import read_train
from folds.data.people import TrainData
from folds.run import Run, start_run
from folds.splitting.split import make_folds

RECIPE = """
[defaults]
model = "test_resnet.r160_in1k"
model_args = { drop_rate = 0.2 }
pretrained = false
resize = [32, 24]
batch_size = 16
epochs = 2
augment = [{ name = "HorizontalFlip", args = { p = 0.5 } }, { name = "RandomBrightnessContrast", args = { p = 0.5 } }]
optimizer = { lr = 3e-3 }
[tasks.mask]
[tasks.gender]
[tasks.age]
"""


class Silent:
    def update(self, statuses: object) -> None: ...


@dataclasses.dataclass(frozen=True)
class Setting:
    data: TrainData
    folds: IntArray
    run: Run

    def train(
        self, name: str, tasks: list[str], folds: list[int], hardware: Hardware, track: tuple[str, ...] = ()
    ) -> list[JobSpec]:
        """Train a run of this name, each job with one thread."""
        recipe = parse_recipe(RECIPE, "tiny")
        run = bind_recipe(dataclasses.replace(self.run, folder=self.run.folder / name), recipe)
        planned = plan(run, recipe, tasks, folds, hardware, None, track)
        specs = [dataclasses.replace(s, threads=1) for s in planned]
        assert train(specs, self.data, self.folds, specs, hardware, Silent()) == {}
        return specs


@pytest.fixture(scope="module")
def setting(make_data: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    root = tmp_path_factory.mktemp("parallel")
    data = read_train(make_data(root / "data", people=24))
    folds = make_folds(data, 2, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
            patch.setenv(name, str(root / name))
        get_reusable_executor().shutdown(wait=True)  # processes of an earlier test don't know of this environment
        yield Setting(data, folds, start_run(root / "runs", data, folds, 2, seed=1)[0])


def test_parallel_jobs_give_what_sequential_ones_do(setting: Setting) -> None:
    one, two = (
        setting.train(name, ["mask", "gender"], [0], Hardware("cpu", workers=0, jobs=jobs))
        for name, jobs in (("one", 1), ("two", 2))
    )
    for a, b in zip(one, two, strict=True):
        alone, beside = (load_job_oof(s.run.job_folder(s.task, 0) / "oof.npz", {}) for s in (a, b))
        assert alone.last == pytest.approx(beside.last, abs=1e-4)


def test_parallel_jobs_may_have_loader_processes(setting: Setting) -> None:
    specs = setting.train("loaders", ["mask", "gender"], [0], Hardware("cpu", workers=1, jobs=2))
    assert all(is_done(s) for s in specs)


def test_parallel_jobs_are_tracked(setting: Setting) -> None:
    for spec in setting.train("tracked", ["mask"], [0, 1], Hardware("cpu", workers=0, jobs=2), BOTH):
        folder = spec.run.job_folder("mask", spec.fold)
        assert read_status(spec.run, "mask", spec.fold).note == ""
        assert [e.step for e in events(folder).Scalars("f1")] == [1, 2]
        assert [r["step"] for r in wandb_history(folder)[0]] == [1, 2]
