"""The real-photo benchmark: its data, commands on it, and macro F1 over draws of its people."""

from __future__ import annotations

import argparse
import csv
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ensemble.decision.oof_ensemble import OofEnsemble
from ensemble.metrics.scores import Draws, interval
from folds.labels import AGES, FloatArray, IntArray, decode


def parse(doc: str | None, eval_people: int, **options: object) -> argparse.ArgumentParser:
    """A parser with the options of all benchmarks on real photos, `options` with these defaults."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=Path("../shared/bench"), help="its builder and weights")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train-people", type=int, default=600)
    parser.add_argument("--eval-people", type=int, default=eval_people)
    parser.add_argument("--size", default="288x384")
    for name, value in options.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    return parser


def build_data(args: argparse.Namespace) -> Path:
    """The data folder, built if it is not there yet."""
    data: Path = args.out / "data"
    if not data.exists():
        build = [sys.executable, args.source / "build_benchmark.py", data, "--size", args.size]
        people = ["--train-people", args.train_people, "--eval-people", args.eval_people]
        subprocess.run([*map(str, build + people)], check=True)
    return data


def initial_weights(args: argparse.Namespace) -> tuple[object, ...]:
    return "--weights", args.source / "tf_efficientnet_lite0.in1k.safetensors"


def maskens(*arguments: object, log: Path = Path(os.devnull)) -> None:
    """Run a command in a process of its own; what it prints goes to a file."""
    print("maskens", *arguments, flush=True)
    command = [sys.executable, "-c", "import cli; cli.main()", *map(str, arguments)]
    with log.open("w") as output:
        subprocess.run(command, check=True, stdout=output)


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def print_heads(*columns: str) -> None:
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")


def gained(drawn: FloatArray) -> str:
    """A difference of scores with its interval, in words."""
    gain = interval(drawn)
    return f"{gain:+.3f} {gain.significance}"


class People(Draws):
    """Photos with their truth, and draws of the people on them."""

    @staticmethod
    def held_out(blend: OofEnsemble) -> People:
        """Those that the folds of runs hold out."""
        return People(blend.truth, blend.person, blend.stratum)

    @staticmethod
    def new(data: Path, ids: Sequence[str]) -> People:
        """The people of the eval part, their photos in the order of the ids."""
        rows = eval_rows(data)
        truth = np.array([int(rows[i]["ans"]) for i in ids], dtype=np.int64)
        person = np.unique([rows[i]["id"] for i in ids], return_inverse=True)[1].astype(np.int64)
        _, gender, age = decode(truth)
        stratum = np.zeros(int(person.max()) + 1, dtype=np.int64)
        stratum[person] = gender * len(AGES) + age
        return People(truth, person, stratum)

    def macro_parts(self, classes: IntArray) -> dict[str, FloatArray]:
        """Macro F1 of the whole and of each part: float64 (1 + draws,), everybody first."""
        return {part: f1.mean(axis=1) for part, f1 in self.parts(classes).items()}


def eval_rows(data: Path) -> dict[str, dict[str, str]]:
    """What the photos of the eval part show, by ImageID."""
    with (data / "eval" / "meta.csv").open() as file:
        return {row["ImageID"]: row for row in csv.DictReader(file)}


def unseen_masks(data: Path, ids: Sequence[str], classes: IntArray) -> float:
    """How often the state of the mask is right on new people's photos with a mask of a style that training has not."""
    rows = eval_rows(data)
    unseen = [
        (int(rows[i]["ans"]), int(c)) for i, c in zip(ids, classes, strict=True) if rows[i]["unseen_style"] == "1"
    ]
    return float(np.mean([decode(truth)[0] == decode(c)[0] for truth, c in unseen]))
