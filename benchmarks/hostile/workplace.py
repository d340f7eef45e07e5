"""A data folder and a finished run to spoil, small enough that a command takes a moment."""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from folds.data.layout import read_eval
from hostile.judge import command

PREDICTED = 10  # photos
RECIPE = """
[defaults]
model = "test_resnet.r160_in1k"
model_args = { channels = [8, 16, 24, 32], stem_width = 8 }
pretrained = false
resize = [32, 24]
batch_size = 16
epochs = 2
optimizer = { lr = 2e-2 }
[tasks.heads]
[tasks.mask]
"""


@dataclass(frozen=True)
class Workplace:
    """What is spoiled, one file at a time."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def run(self) -> Path:
        return self.folder / "runs" / "done"

    @functools.cached_property
    def ids(self) -> tuple[str, ...]:
        """The photos to predict."""
        return read_eval(self.data).ids

    @functools.cached_property
    def submission(self) -> bytes:
        """What the run says of them, tuned."""
        return (self.run / "submission.csv").read_bytes()

    @functools.cached_property
    def score(self) -> str:
        """What `maskens score` prints of it."""
        return _must("score", "--run", self.run, "--json")

    @functools.cached_property
    def untuned_score(self) -> str:
        """The same, without the tuning."""
        return _must("score", "--run", self.run, "--json", "--untuned")

    def scratch(self, name: str) -> Path:
        """A path in a folder of its own, where nothing is."""
        folder = self.folder / "scratch"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder / name

    @contextlib.contextmanager
    def spoiled(self, file: Path, content: bytes | None) -> Iterator[None]:
        """The file with this content, or without it, and as it was again."""
        before = file.read_bytes()
        try:
            if content is None:
                file.unlink()
            else:
                file.write_bytes(content)
            yield
        finally:
            file.write_bytes(before)


def make_workplace(folder: Path) -> Workplace:
    """Generate photos, train, tune and predict."""
    place = Workplace(folder)
    (folder / "tiny.toml").write_text(RECIPE)
    _must("sample", place.data, "--people", 24, "--size", "32x40", "--quiet")
    info = place.data / "eval" / "info.csv"
    info.write_text("".join(info.read_text().splitlines(keepends=True)[: PREDICTED + 1]))
    plain = ("--workers", 0, "--device", "cpu", "--quiet")
    _must("folds", "--data", place.data, "--run", place.run, "--k", 2, "--quiet")
    _must("train", "--run", place.run, "--recipe", folder / "tiny.toml", *plain)
    _must("tune", "--run", place.run, "--force", "--quiet")
    _must("infer", "--run", place.run, *plain)
    return place


def _must(*words: object) -> str:
    ended = command(*words)
    if ended.code:
        raise RuntimeError(f"{words[0]} failed: {ended.err}")
    return ended.out
