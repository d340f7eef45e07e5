"""Killed at any instant and started again: does the run come out as if nothing had happened?

    python benchmarks/kills.py --kills 200

Generated photos, a tiny model, 2 folds: folds, train, infer and score, one after the other, in a process that is
killed (SIGKILL) after a random time, and started again until all is done. Then every file of the run is compared with
that of a run that nobody killed: byte by byte, but for times (see `compared`). Epochs are saved within,
too, as long ones are. Linux and macOS.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from folds.records import SEAL

RECIPE = """
[tasks.heads]
predicts = "heads"
model = "test_resnet.r160_in1k"
model_args = { drop_rate = 0.2 }
pretrained = false
resize = [48, 36]
batch_size = 16
epochs = 3
ema = 0.9
augment = [{ name = "HorizontalFlip", args = { p = 0.5 } }, { name = "RandomBrightnessContrast", args = { p = 0.5 } }]
"""
TIMES = ("seconds", "photos_per_s", "created")
SHORTEST = 0.02  # seconds until a kill
SAVE_EVERY = 0.05  # seconds of an epoch's work that may be lost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = soak(Path(folder), args.kills, args.seed)
    print("| killed during | kills |\n|---|---|")
    for step, count in sorted(found.kills.items()):
        print(f"| {step} | {count} |")
    print(f"\n{found.kills.total()} kills, {found.runs} runs finished, {len(found.differing)} files differ")
    for line in found.differing:
        print(f"  - {line}")
    sys.exit(1 if found.differing else 0)


class Soak:
    """What came of it."""

    def __init__(self) -> None:
        self.kills: Counter[str] = Counter()
        self.runs = 0
        self.differing: list[str] = []


def soak(folder: Path, kills: int, seed: int) -> Soak:
    """Kill and start again until so many kills are done and the last run is finished.

    Raises:
        RuntimeError: a process that nobody killed ends badly.
    """
    preload()
    rng = np.random.default_rng(seed)
    (folder / "tiny.toml").write_text(RECIPE)
    step = ("sample", str(folder / "data"), "--people", "16", "--size", "48x64", "--quiet")
    finish([step], folder)
    started = time.perf_counter()
    finish(steps(folder, "whole"), folder)
    longest = time.perf_counter() - started
    found = Soak()
    while found.kills.total() < kills:
        name = f"killed{found.runs}"
        todo = steps(folder, name)
        done = False
        while not done and found.kills.total() < kills:
            where = killed_during(todo, folder, rng.uniform(SHORTEST, longest))
            done = not where
            if where:
                found.kills[where] += 1
        if not done:
            finish(todo, folder)
        found.runs += 1
        found.differing += [f"{name}: {line}" for line in differing(folder / "whole" / "run", folder / name / "run")]
    return found


def steps(folder: Path, name: str) -> list[tuple[str, ...]]:
    """The commands of a whole run."""
    run = ("--run", str(folder / name / "run"), "--quiet")
    plain = ("--device", "cpu", "--workers", "0")
    return [
        ("folds", "--data", str(folder / "data"), "--k", "2", *run),
        ("train", "--recipe", str(folder / "tiny.toml"), *plain, *run),
        ("infer", *plain, *run),
        ("score", *run),
    ]


def preload() -> None:
    """Import all that the commands do, so that a child that is killed has worked and not imported."""
    import ensemble.commands.train
    import ensemble.evaluation.evaluate
    import ensemble.prediction.inference
    import ensemble.training.queue  # noqa: F401


def killed_during(todo: Sequence[tuple[str, ...]], folder: Path, after: float) -> str:
    """Run the commands in a child and kill it after so many seconds; returns the command it was at, "" if it was done.

    Raises:
        RuntimeError: it ended badly by itself.
    """
    at, output = folder / "at", folder / "output"
    at.write_text("start")
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            run_all(todo, at, output)
        os._exit(1)
    deadline = time.perf_counter() + after
    while time.perf_counter() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            if os.waitstatus_to_exitcode(status):
                raise RuntimeError(f"{at.read_text()} ended badly: {output.read_text()[-2000:]}")
            return ""
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return at.read_text() or "between two commands"


def finish(todo: Sequence[tuple[str, ...]], folder: Path) -> None:
    """Run the commands in a child to the end."""
    if killed_during(todo, folder, float("inf")):
        raise RuntimeError("unreachable")


def run_all(todo: Sequence[tuple[str, ...]], at: Path, output: Path) -> None:
    """In the child: one command after the other, as from the command line."""
    import cli
    import ensemble.training.fit_fold

    ensemble.training.fit_fold.SAVE_EVERY = SAVE_EVERY
    with output.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        for step in todo:
            at.write_text(step[0])
            sys.argv = ["maskens", *step]
            try:
                cli.main()
            except SystemExit as ended:
                if ended.code:
                    file.flush()
                    os._exit(1)
    os._exit(0)


def differing(whole: Path, killed: Path) -> list[str]:
    """The files of two runs that are not alike, in words."""
    names = [{p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file()} for run in (whole, killed)]
    shown = sorted(name for name in names[0] | names[1] if not name.startswith(".locks/"))
    only = [f"only one run has {name}" for name in shown if not all(name in of for of in names)]
    both = [name for name in shown if all(name in of for of in names)]
    return only + [f"{name} differs" for name in both if compared(whole / name) != compared(killed / name)]


def compared(file: Path) -> object:
    """What of a file has to be the same: its bytes; of JSON and histories all but times and paths."""
    if file.suffix == ".json":
        return _without_times(json.loads(file.read_text()))
    if file.name == "history.csv":
        with file.open() as handle:
            return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(handle)]
    if file.name == "eval.npz":  # its record names the run's folder
        with np.load(file) as arrays:
            return [(name, arrays[name].tobytes()) for name in sorted(arrays) if name != "record"]
    return file.read_bytes()


def _without_times(value: object) -> object:
    if isinstance(value, dict):
        own = isinstance(value.get(SEAL), str)  # a record's checksum of itself, times and all
        return {k: _without_times(v) for k, v in value.items() if k not in TIMES and not (own and k == SEAL)}
    return value


if __name__ == "__main__":
    main()
