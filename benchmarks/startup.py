"""How soon the command line answers: --help, wrong options, and folds for 2,700 people x 7 photos.

    python benchmarks/startup.py [--rounds 5]

Whole processes, wall time, as the installed command starts (compiled once, at the first run), in turn with an
interpreter that does nothing and with the imports that a command can't do without. One run of each comes first and does
not count. The folds part lists 18,900 (empty-looking, but not empty) photo files in a temporary folder.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from folds.labels import SHOTS

ROOT = Path(__file__).resolve().parent.parent


def fake_data(root: Path, people: int) -> None:
    """A data folder in which every photo is one byte: folds does not open photos."""
    rng = np.random.default_rng(0)
    rows = ["id,gender,race,age,path"]
    for number in range(people):
        gender, age = ("male", "female")[number % 2], int(rng.choice([19, 25, 40, 55, 60]))
        path = f"{number:06}_{gender}_Asian_{age}"
        folder = root / "train" / "images" / path
        folder.mkdir(parents=True)
        for shot in SHOTS:
            (folder / f"{shot}.jpg").write_bytes(b"x")
        rows.append(f"{number:06},{gender},Asian,{age},{path}")
    (root / "train" / "train.csv").write_text("\n".join(rows) + "\n")


def wall(command: list[str], codes: tuple[int, ...] = (0,)) -> float:
    started = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": ""}
    done = subprocess.run(command, env=environment, capture_output=True)
    seconds = time.perf_counter() - started
    if done.returncode not in codes:
        sys.exit(done.stderr.decode())
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    cli = [sys.executable, "-c", "from cli import main; main()"]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        fake_data(data, 2700)
        commands = {
            "python -c pass": ([sys.executable, "-c", "pass"], (0,)),
            "python -c 'import typer, pydantic.types, rich.console'": (
                [sys.executable, "-c", "import typer, pydantic.types, rich.console"],
                (0,),
            ),
            "maskens --help": ([*cli, "--help"], (0,)),
            "maskens train --nonsense": ([*cli, "train", "--nonsense"], (2,)),
            "maskens train --fold x": ([*cli, "train", "--fold", "x"], (2,)),
            "maskens folds, 18,900 photos": ([*cli, "folds", "--data", str(data), "--run", f"{folder}/NEW"], (0,)),
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for round_ in range(args.rounds + 1):
            for name, (command, codes) in commands.items():
                seconds = wall([word.replace("NEW", f"run{round_}") for word in command], codes)
                if round_:
                    times[name].append(seconds)
    print("| command | seconds, median (min-max) |\n|---|---|")
    for name, values in times.items():
        print(f"| `{name}` | {statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f}) |")


if __name__ == "__main__":
    main()
