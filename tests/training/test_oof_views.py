"""The views of out-of-fold logits are a key of the recipe, and change nothing of the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from planned import SMALL
from safetensors.numpy import load_file

from ensemble.jobs.finished import is_done, reuse_jobs
from ensemble.jobs.oof import load_job_oof
from ensemble.jobs.spec import JobSpec
from ensemble.recipes.recipe_file import bind_recipe, parse_recipe, resolve_recipe, run_recipe
from ensemble.recipes.views import VIEWS
from ensemble.training.queue import run_job
from folds.errors import MaskensError
from folds.layout import read_train
from folds.run_folder import start_run
from folds.splits import make_folds

RECIPE = f"{SMALL}epochs = 1\nbatch_size = 8\n[tasks.heads]\n"
MORE = 'oof_tta = ["mine"]' + RECIPE + '[tta.mine]\nviews = ["identity", "scale=1.1"]\n'


@pytest.fixture(scope="module")
def jobs(make_data: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[JobSpec, JobSpec]:
    """The same job without and with a further view."""
    root = tmp_path_factory.mktemp("oof-views")
    data = read_train(make_data(root / "data", people=18))
    folds = make_folds(data, 2, seed=1)
    specs = []
    for name, text in (("plain", RECIPE), ("more", MORE)):
        recipe = parse_recipe(text, name)
        run = bind_recipe(start_run(root / name, data, folds, 2, seed=1)[0], recipe)
        specs.append(JobSpec(run, recipe, "heads", 0, "cpu", 0, 1, None))
        assert run_job(specs[-1], data, folds) is None
    return specs[0], specs[1]


def file_of(spec: JobSpec, name: str) -> Path:
    return spec.run.job_folder("heads", 0) / name


def test_further_views_are_kept_and_all_else_comes_out_to_the_bit(jobs: tuple[JobSpec, JobSpec]) -> None:
    plain, more = (load_job_oof(file_of(spec, "oof.npz"), {}) for spec in jobs)
    assert plain.views == VIEWS["flip"]
    assert more.views == (*VIEWS["flip"], "scale=1.1")
    assert np.array_equal(more.at("best")[:2], plain.at("best"))
    assert np.isfinite(more.at("best")[2]).all() and not np.allclose(more.at("best")[2], more.at("best")[0])
    learned, again = (load_file(file_of(spec, "model.safetensors")) for spec in jobs)
    assert all(np.array_equal(learned[name], again[name]) for name in learned)


def test_a_job_is_taken_over_only_with_the_views_that_are_wanted(jobs: tuple[JobSpec, JobSpec], tmp_path: Path) -> None:
    plain, more = jobs
    data = read_train(plain.run.data_folder())
    folds = make_folds(data, 2, seed=1)
    for spec, source, taken in ((more, plain, 0), (plain, more, 1)):
        run = bind_recipe(start_run(tmp_path / spec.run.folder.name, data, folds, 2, seed=1)[0], spec.recipe)
        assert reuse_jobs([JobSpec(run, spec.recipe, "heads", 0, "cpu", 0, 1, None)], source.run) == taken


def test_a_run_with_models_keeps_the_views_it_has(jobs: tuple[JobSpec, JobSpec]) -> None:
    run = jobs[0].run
    assert is_done(jobs[0])
    with pytest.raises(MaskensError, match=r"(?s)this one differs.*oof_tta: \['flip'\], now \['crops'\]"):
        resolve_recipe(run, changes=['oof_tta=["crops"]'])


def test_before_there_are_models_the_views_may_change(jobs: tuple[JobSpec, JobSpec], tmp_path: Path) -> None:
    data = read_train(jobs[0].run.data_folder())
    started, _ = start_run(tmp_path / "run", data, make_folds(data, 2, seed=1), 2, seed=1)
    run = bind_recipe(started, parse_recipe(RECIPE, "r"))
    bind_recipe(run, resolve_recipe(run, changes=['oof_tta=["crops"]']))
    assert run_recipe(run).oof_views == (*VIEWS["flip"], *VIEWS["crops"][1:])
