"""Jobs on each backend against a shell loop of the same jobs.

    python benchmarks/backends.py [--workers 1 2]

Generated photos, the tiny model of the recipe `demo`, 4 tasks x 5 folds of one epoch: 20 jobs of a second or so, one
thread each. Each way trains them in a run of its own with the same photo cache, filled beforehand: a shell loop of
`maskens train --task T --fold K`, one `maskens train --backend sequential`, and loky, Dask and Ray with so many workers
on this machine. All runs must come out equal, byte for byte. Six minutes on two idle cores;
--tasks 1 trains five jobs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TASKS = ("mask", "gender", "male-age", "female-age")
BACKENDS = ("loky", "dask", "ray")
RESULTS = ("model.safetensors", "oof.npz")
QUIET = ["--quiet", "--device", "cpu", "--workers", "0"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=len(TASKS), choices=range(1, len(TASKS) + 1))
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--people", type=int, default=60, help="of the generated photos, 7 each")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    tasks = TASKS[: args.tasks]
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{len(tasks) * args.folds} jobs, OMP_NUM_THREADS {os.environ['OMP_NUM_THREADS']}\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        trainings(Path(folder), tasks, args.folds, args.people, args.backends, args.workers)


def trainings(
    root: Path, tasks: tuple[str, ...], folds: int, people: int, backends: list[str], workers: list[int]
) -> None:
    """Train the same jobs in each way and print a row for each.

    Raises:
        SystemExit: a run has other bytes than the first.
    """
    maskens("sample", root / "data", "--people", people, "--size", "96x128", "--quiet")
    split(root, "warm", folds)
    train_all(root, "warm", tasks[:1], "--fold", 0)  # fills the cache; Python's bytecode and the disk are warm too
    print("| way | workers | wall, s | of the shell loop | training itself, s, sum over the jobs |")
    print("|---|---|---|---|---|", flush=True)
    walls: list[float] = []

    def way(name: str, workers: int, train: Callable[[str], None]) -> None:
        run = f"{name.replace(' ', '-')}-{workers}"
        split(root, run, folds)
        started = time.perf_counter()
        train(run)
        walls.append(time.perf_counter() - started)
        jobs = [json.loads(path.read_text())["seconds"] for path in sorted((root / "runs" / run).glob("*/*/job.json"))]
        ratio = walls[-1] / walls[0]
        print(f"| {name} | {workers} | {walls[-1]:.1f} | {ratio:.2f} | {sum(jobs):.1f} |", flush=True)
        refuse_different(root / "runs", run, tasks, folds)

    way("shell loop", 1, lambda run: shell_loop(root, run, tasks, folds))
    way("sequential", 1, lambda run: train_all(root, run, tasks))
    started = time.perf_counter()
    train_all(root, "sequential-1", tasks)
    idle = time.perf_counter() - started
    for backend in backends:
        for number in workers:
            way(backend, number, lambda run: train_all(root, run, tasks, "--backend", backend, "--jobs", number))  # noqa: B023
    print(f"\nevery run: the same {len(tasks) * folds * len(RESULTS)} files ({', '.join(RESULTS)}), byte for byte")
    print(f"a command whose jobs are all done takes {idle:.1f} s\n")


def split(root: Path, run: str, folds: int) -> None:
    maskens("folds", "--data", root / "data", "--run", root / "runs" / run, "--k", folds, "--quiet")


def command(root: Path, run: str) -> list[str]:
    chosen = ["--recipe", "demo", "--set", "tasks.*.epochs=1", "--run", str(root / "runs" / run)]
    return [sys.executable, "-m", "cli", "train", *chosen, *QUIET]


def train_all(root: Path, run: str, tasks: tuple[str, ...], *options: object) -> None:
    run_process([*command(root, run), *(f"--task={task}" for task in tasks), *map(str, options)])


def shell_loop(root: Path, run: str, tasks: tuple[str, ...], folds: int) -> None:
    """One process a job, one after the other."""
    one = f'{shlex.join(command(root, run))} --task "$task" --fold "$fold" || exit 1'
    numbers = " ".join(map(str, range(folds)))
    run_process(["sh", "-c", f"for task in {' '.join(tasks)}; do for fold in {numbers}; do {one}; done; done"])


def refuse_different(runs: Path, run: str, tasks: tuple[str, ...], folds: int) -> None:
    for file in (f"{task}/fold{fold}/{name}" for task in tasks for fold in range(folds) for name in RESULTS):
        if (runs / run / file).read_bytes() != (runs / "shell-loop-1" / file).read_bytes():
            sys.exit(f"{run}: {file} is not that of the shell loop")


def maskens(*words: object) -> None:
    run_process([sys.executable, "-m", "cli", *map(str, words)])


def run_process(words: list[str]) -> str:
    done = subprocess.run(words, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


if __name__ == "__main__":
    main()
