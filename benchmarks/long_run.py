"""Does a long training grow? Memory of the process after each of many epochs, and disk beside the run.

    python benchmarks/long_run.py --epochs 50

Generated photos, a tiny model, one job with everything that is kept from epoch to epoch: averaged weights, a mean of
the last epochs, history. The memory is what the system counts for the process, looked at ten times a second.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

RECIPE = """
[tasks.heads]
predicts = "heads"
model = "test_resnet.r160_in1k"
pretrained = false
resize = [64, 48]
batch_size = 16
ema = 0.99
average_epochs = 3
augment = [{ name = "HorizontalFlip", args = { p = 0.5 } }, "camera"]
"""
MB = 1e6
FIRST = 5  # epochs after which the process has all it needs
SHOWN = 5  # rows of the table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--people", type=int, default=60)
    parser.add_argument("--workers", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        memory, disk = train(Path(name), args.epochs, args.people, args.workers)
    print("| after epoch | memory, MB | disk of the job, MB |\n|---|---|---|")
    for epoch in np.linspace(1, max(memory), SHOWN + 1).round().astype(int).tolist():
        nearest = min(memory, key=lambda e: abs(e - epoch))
        print(f"| {nearest} | {memory[nearest] / MB:.0f} | {disk[nearest] / MB:.1f} |")
    later = np.array([e for e in sorted(memory) if FIRST <= e < args.epochs])
    slope = np.polyfit(later, [memory[e] / MB for e in later.tolist()], 1)[0]
    print(f"\nFrom epoch {FIRST} to the last but one memory grows by {slope:.2f} MB an epoch.")


def train(folder: Path, epochs: int, people: int, workers: int) -> tuple[dict[int, int], dict[int, int]]:
    """Bytes of memory, and of the job's folder, at the end of each epoch: epoch -> the largest that was seen in it."""
    (folder / "long.toml").write_text(f"{RECIPE}epochs = {epochs}\n")
    run = ["--run", folder / "run"]
    words = ["--recipe", folder / "long.toml", "--fold", 0, "--workers", workers, "--yes"]
    maskens("sample", folder / "data", "--people", people, "--size", "96x128").wait()
    maskens("folds", "--data", folder / "data", "--k", 2, *run).wait()
    training = maskens("train", *words, *run)
    memory, disk = dict[int, int](), dict[int, int]()
    job = folder / "run" / "heads" / "fold0"
    while training.poll() is None:
        if (job / "job.json").exists() and (epoch := json.loads((job / "job.json").read_text())["epoch"]):
            family = [psutil.Process(training.pid), *psutil.Process(training.pid).children(recursive=True)]
            memory[epoch] = max(memory.get(epoch, 0), sum(_rss(p) for p in family))
            disk[epoch] = max(disk.get(epoch, 0), sum(f.stat().st_size for f in job.iterdir() if f.suffix != ".tmp"))
        time.sleep(0.1)
    if training.returncode:
        raise SystemExit(f"the training ended with {training.returncode}")
    return memory, disk


def maskens(*words: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "cli", *map(str, words)], stdout=subprocess.DEVNULL)


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


if __name__ == "__main__":
    main()
