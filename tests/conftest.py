"""What the tests share: a small generated data folder in the layout that `folds.layout` reads."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes share the cores; read when numpy and torch load

import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from folds.files import csv_text
from folds.labels import AGES, GENDERS, SHOT_MASK

MakeData = Callable[..., Path]
EVAL_IDS = ("b00.jpg", "a01.jpg", "d02.jpg", "c03.jpg", "f04.jpg", "e05.jpg")  # unsorted, as in real life

for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # a script's background jobs ignore some, and so would their children
    if (number := getattr(signal, name, None)) and signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)

settings.register_profile("maskens", deadline=None, max_examples=30)
settings.load_profile("maskens")


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """No file of a test has to outlive a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _temporary_files_go_with_the_tests() -> Iterator[None]:
    """What libraries put into the system's temporary folder, and leave there when a process is killed."""
    folder = tempfile.mkdtemp(prefix="maskens-tests-")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def make_data() -> MakeData:
    """`make_data(root, people=30, size=(24, 32), eval_ids=EVAL_IDS)` writes a data folder and returns its root."""
    return _make_data


def _make_data(
    root: Path, people: int = 30, size: tuple[int, int] = (24, 32), eval_ids: Sequence[str] = EVAL_IDS
) -> Path:
    """Write noise photos whose colour tells the three labels, so that a model can learn them.

    Args:
        people: round robin over gender x age band: 6 * k people allow k folds.
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
