"""The views of out-of-fold logits are a key of the recipe, and change nothing of the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import MakeData
from planned import SMALL
from safetensors.numpy import load_file
from tiny_runs import TinyRun, tiny_run

from ensemble.jobs.finished import is_done, reuse_jobs
from ensemble.jobs.oof import load_job_oof
from ensemble.recipes.recipe_file import bind_recipe, resolve_recipe, run_recipe
from ensemble.recipes.views import VIEWS
from ensemble.training.queue import run_job
from folds.errors import MaskensError
from folds.layout import read_train

RECIPE = f"{SMALL}epochs = 1\nbatch_size = 8\n[tasks.heads]\n"
MORE = 'oof_tta = ["mine"]' + RECIPE + '[tta.mine]\nviews = ["identity", "scale=1.1"]\n'


@pytest.fixture(scope="module")
def jobs(make_data: MakeData, tmp_path_factory: pytest.TempPathFactory) -> tuple[TinyRun, TinyRun]:
    """The same run without and with a further view, its first job trained."""
    root = tmp_path_factory.mktemp("oof-views")
    data = read_train(make_data(root / "data", people=18))
    plain, more = (tiny_run(root / name, data, text) for name, text in (("plain", RECIPE), ("more", MORE)))
    for there in (plain, more):
        assert run_job(there.spec("heads"), data, there.folds) is None
    return plain, more


def file_of(there: TinyRun, name: str) -> Path:
    return there.run.job_folder("heads", 0) / name


def test_further_views_are_kept_and_all_else_comes_out_to_the_bit(jobs: tuple[TinyRun, TinyRun]) -> None:
    plain, more = (load_job_oof(file_of(there, "oof.npz"), {}) for there in jobs)
    assert plain.views == VIEWS["flip"]
    assert more.views == (*VIEWS["flip"], "scale=1.1")
    assert np.array_equal(more.at("best")[:2], plain.at("best"))
    assert np.isfinite(more.at("best")[2]).all() and not np.allclose(more.at("best")[2], more.at("best")[0])
    learned, again = (load_file(file_of(there, "model.safetensors")) for there in jobs)
    assert all(np.array_equal(learned[name], again[name]) for name in learned)


def test_a_job_is_taken_over_only_with_the_views_that_are_wanted(jobs: tuple[TinyRun, TinyRun], tmp_path: Path) -> None:
    plain, more = jobs
    for there, text, source, taken in ((more, MORE, plain, 0), (plain, RECIPE, more, 1)):
        wanted = tiny_run(tmp_path / there.run.folder.name, there.data, text)
        assert reuse_jobs([wanted.spec("heads")], source.run) == taken


def test_a_run_with_models_keeps_the_views_it_has(jobs: tuple[TinyRun, TinyRun]) -> None:
    assert is_done(jobs[0].spec("heads"))
    with pytest.raises(MaskensError, match=r"(?s)this one differs.*oof_tta: \['flip'\], now \['crops'\]"):
        resolve_recipe(jobs[0].run, changes=['oof_tta=["crops"]'])


def test_before_there_are_models_the_views_may_change(jobs: tuple[TinyRun, TinyRun], tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", jobs[0].data, RECIPE).run
    bind_recipe(run, resolve_recipe(run, changes=['oof_tta=["crops"]']))
    assert run_recipe(run).oof_views == (*VIEWS["flip"], *VIEWS["crops"][1:])
