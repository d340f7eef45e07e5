"""What the tests share: a small generated data folder in the layout that `folds.layout` reads."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes share the cores; read when torch loads

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from ensemble.oof import JobOof, save_job_oof
from ensemble.preflight import bind_recipe
from ensemble.recipe_file import parse_recipe
from folds.files import csv_text
from folds.labels import AGES, GENDERS, SHOT_MASK
from folds.layout import TrainData
from folds.run import Run, start_run
from folds.split import make_folds

MakeData = Callable[..., Path]
PlanRun = Callable[..., Run]
EVAL_IDS = ("b00.jpg", "a01.jpg", "d02.jpg", "c03.jpg", "f04.jpg", "e05.jpg")  # unsorted, as in real life

settings.register_profile("maskens", deadline=None, max_examples=60)
settings.load_profile("maskens")


@pytest.fixture(scope="session")
def make_data() -> MakeData:
    """`make_data(root, people=30, size=(24, 32), eval_ids=EVAL_IDS)` writes a data folder and returns its root."""
    return _make_data


PLANNED = """
[defaults]
model = "test_resnet.r160_in1k"
pretrained = false
resize = [32, 24]
[tasks.class18]
"""


@pytest.fixture(scope="session")
def plan_run() -> PlanRun:
    """`plan_run(folder, data, logits)` writes a run whose out-of-fold logits are those; it has no models."""
    return _plan_run


def _plan_run(
    folder: Path,
    data: TrainData,
    logits: np.ndarray | dict[str, np.ndarray],
    *,
    recipe: str = PLANNED,
    deal: int = 1,
    seed: int = 1,
    k: int = 2,
    trained: Sequence[int] | None = None,
) -> Run:
    """Write a finished run.

    Args:
        logits: float (photos, width) of the task class18, or task -> such; or (views, photos, width).
        deal: the seed of the folds.
        seed: the run's own.
        trained: the folds that are there; by default all.
    """
    folds = make_folds(data, k, seed=deal)
    resolved = parse_recipe(recipe, "planned")
    run = bind_recipe(start_run(folder, data, folds, k, seed=seed)[0], resolved)
    for task, values in (logits if isinstance(logits, dict) else {"class18": logits}).items():
        views = np.broadcast_to(values, (2, *values.shape[-2:])).astype(np.float32)
        for fold in range(k) if trained is None else trained:
            rows = np.flatnonzero(folds[data.photo_person] == fold)
            record = {"task_hash": resolved.tasks[task].hash, "folds_hash": run.folds_hash, "fold": fold}
            oof = JobOof(np.array(data.files)[rows], views[:, rows], views[:, rows])
            save_job_oof(run.job_folder(task, fold) / "oof.npz", oof, record)
    return run


def _make_data(
    root: Path, people: int = 30, size: tuple[int, int] = (24, 32), eval_ids: Sequence[str] = EVAL_IDS
) -> Path:
    """Write noise photos whose colour tells the three labels, so that a model can learn them.

    Args:
        people: dealt round robin over gender x age band: 6 * k people allow k folds.
        size: (height, width) of each photo in pixels.
        eval_ids: file names of the photos to predict, in the order of info.csv.
    """
    rng = np.random.default_rng(people)
    rows = []
    for number in range(people):
        gender, band = divmod(number % (len(GENDERS) * len(AGES)), len(AGES))
        years = (18 + number % 12, 30 + number % 30, 60 + number % 10)[band]
        name = f"{number:06d}"
        path = f"{name}_{GENDERS[gender]}_Asian_{years}"
        rows.append((name, GENDERS[gender], "Asian", years, path))
        folder = root / "train" / "images" / path
        folder.mkdir(parents=True)
        for shot, mask in SHOT_MASK.items():
            _photo(rng, size, mask, gender, band).save(folder / f"{shot}.jpg", quality=95)
    (root / "eval" / "images").mkdir(parents=True)
    for number, image in enumerate(eval_ids):
        _photo(rng, size, number % 3, number % 2, number % 3).save(root / "eval" / "images" / image)
    (root / "train" / "train.csv").write_text(csv_text(("id", "gender", "race", "age", "path"), rows))
    (root / "eval" / "info.csv").write_text(csv_text(("ImageID", "ans"), [(i, 0) for i in eval_ids]))
    return root


def _photo(rng: np.random.Generator, size: tuple[int, int], mask: int, gender: int, band: int) -> Image.Image:
    colour = np.array([50 + 75 * mask, 50 + 150 * gender, 50 + 75 * band])
    noise = rng.integers(-50, 50, (*size, 1))
    return Image.fromarray(np.clip(colour + noise, 0, 255).astype(np.uint8))
