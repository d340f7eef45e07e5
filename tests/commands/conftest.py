"""A folder in which the whole job has been done once, for all tests of commands."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from run_command import ran

from ensemble.decision.submission import read_answers

SMALL = {
    "model_args": "{channels=[8,16,24,32], stem_width=8}",
    "resize": "[32,24]",
    "epochs": "3",
    "optimizer.lr": "2e-2",
}
"""The recipe `demo`, smaller still."""


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole job, with the commands as a user types them; done by the first test process that needs it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base  # never one of earlier tests
    folder = shared / "demo"
    with FileLock(shared / "demo.lock"):
        if not (shared / "demo.done").exists():
            folder.mkdir()
            _whole_job(folder)
            (shared / "demo.done").touch()
    return folder


def _whole_job(folder: Path) -> None:
    settings = [word for key, value in SMALL.items() for word in ("--set", f"tasks.*.{key}={value}")]
    settings += ["--set", "tasks.mask.epochs=5"]  # the hardest one
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in (
            ("sample", "data", "--people", "72", "--size", "48x64"),
            ("folds", "--k", "3"),
            ("train", "--fold", "0..1", "--recipe", "demo", *settings),
            ("train",),
            ("infer", "--tta", "flip"),
        ):
            ran(*words)


@pytest.fixture(scope="session")
def few(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the finished job as `run`, the first 42 of its photos to predict, and the CSV before.csv."""
    folder = tmp_path_factory.mktemp("few")
    shutil.copytree(demo / "runs" / "default", folder / "run")
    shutil.copytree(demo / "data", folder / "data", ignore=shutil.ignore_patterns("images"))
    (folder / "data" / "train" / "images").symlink_to(demo / "data" / "train" / "images")
    eval = folder / "data" / "eval"
    for table in (eval / "info.csv", eval / "answers.csv"):
        table.write_text("\n".join([*table.read_text().splitlines()[:43], ""]))
    (eval / "images").mkdir()
    for image in read_answers(eval / "info.csv")[0]:
        shutil.copy(demo / "data" / "eval" / "images" / image, eval / "images")
    for file in ("submission.csv", "eval.npz"):
        (folder / "run" / file).unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ran("infer", "--run", "run", "--data", "data", "--out", "before.csv", "--cache", "none")
    return folder


@pytest.fixture
def few_copied(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `few` to spoil, as the working folder."""
    copied = tmp_path / "few"
    shutil.copytree(few, copied, symlinks=True)
    run = copied / "run" / "run.json"
    run.write_text(json.dumps(json.loads(run.read_text()) | {"data": str(copied / "data")}))
    monkeypatch.chdir(copied)
    return copied


@pytest.fixture
def there(demo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The finished job as the working folder, to be read only."""
    monkeypatch.chdir(demo)
    return demo


@pytest.fixture
def copy(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished job to spoil, but for its photos: they are links to those of `demo`."""
    shutil.copytree(demo, tmp_path / "demo", ignore=shutil.ignore_patterns("images"))
    for part in ("train", "eval"):
        (tmp_path / "demo" / "data" / part / "images").symlink_to(demo / "data" / part / "images")
    monkeypatch.chdir(tmp_path / "demo")
    return tmp_path / "demo"


@pytest.fixture
def data(make_data: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small data folder; the working folder is the one around it."""
    monkeypatch.chdir(tmp_path)
    return make_data(tmp_path / "data", people=18)
