"""A data folder and a finished run to spoil, small enough that a command takes a moment."""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from folds.layout import read_eval
from hostile.judge import Ended, command

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
    before: dict[str, object] = field(default_factory=dict)  # results in order, by how the run is used

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

    def scratch(self, name: str) -> Path:
        """A path in a folder of its own, where nothing is."""
        folder = self.folder / "scratch"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder / name

    @contextlib.contextmanager
    def spoiled(self, files: Mapping[Path, bytes | None]) -> Iterator[None]:
        """These files with this content, or without them, and as they were again."""
        before = {file: file.read_bytes() for file in files}
        try:
            for file, content in files.items():
                if content is None:
                    file.unlink()
                else:
                    file.write_bytes(content)
            yield
        finally:
            for file, content in before.items():
                file.write_bytes(content)

    def used(self, files: Mapping[Path, bytes | None], how: str) -> tuple[Ended, bool]:
        """Score (tuned or `untuned`) or `infer` with these files: (what came of it, whether the figures or classes
        are those of the run in order)."""
        if how not in self.before:
            self.before[how] = _figures(_use(self, how).out) if how != "infer" else self.submission
        with self.spoiled(files):
            ended = _use(self, how)
        out = self.folder / "scratch" / "s.csv"
        found = _figures(ended.out) if how != "infer" else out.read_bytes() if out.exists() else b""
        return ended, found == self.before[how]


def _use(place: Workplace, how: str) -> Ended:
    out = place.scratch("s.csv")
    if how == "infer":
        return command("infer", "--run", place.run, "--out", out, "--workers", 0, "--device", "cpu")
    return command("score", "--run", place.run, "--json", *(["--no-tuning"] if how == "untuned" else []))


def _figures(text: str) -> object:
    """What `maskens score --json` prints but for its notes."""
    try:
        return {key: value for key, value in json.loads(text).items() if key != "notes"}
    except ValueError:
        return text


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


def _must(*words: object) -> None:
    ended = command(*words)
    if ended.code:
        raise RuntimeError(f"{words[0]} failed: {ended.err}")
