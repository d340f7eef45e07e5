"""Workers, nodes, schedulers, heads and commands killed while a cluster trains: is a job lost, or done twice?

    python benchmarks/cluster_kills.py --backend dask --kills 30
    python benchmarks/cluster_kills.py --backend ray --kills 12

A real cluster on this machine: a Dask scheduler and two workers, or two Ray nodes, each with processes of its own;
generated photos and tiny models, four jobs. At random instants a part of the cluster, or the command that trains, is
killed (SIGKILL). What is missing is started again, and the command, too, if it was the victim. In the end every job's
model and out-of-fold logits are held, byte by byte, against those of a training that nobody disturbed; and jobs that
were finished before a kill must not have been touched after it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from kills import RECIPE
from local_clusters import ENVIRONMENT, DaskCluster, RayCluster

from ensemble.jobs.status import read_status
from folds.run import load_run

FOLDS = 4
FILES = ("model.safetensors", "oof.npz")
LONGEST = 8.0  # seconds until a kill


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=["dask", "ray"], required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tiny.toml").write_text(RECIPE.replace("epochs = 3", "epochs = 60"))
        finish(folder, "sample", folder / "data", "--people", 24, "--size", "48x64")
        finish(folder, "folds", "--data", folder / "data", "--k", FOLDS, "--run", folder / "whole")
        finish(folder, "train", "--run", folder / "whole", "--recipe", folder / "tiny.toml")
        with DaskCluster(folder) if args.backend == "dask" else RayCluster() as cluster:
            found = soak(folder, args.backend, cluster, args.kills, np.random.default_rng(args.seed))
    print("| killed | times |\n|---|---|")
    for victim, count in sorted(found.kills.items()):
        print(f"| {victim} | {count} |")
    print(
        f"\n{args.backend}: {found.kills.total()} kills in {found.runs} runs of {FOLDS} jobs; "
        f"jobs lost: {found.lost}, done twice: {found.twice}, not the same bytes: {found.differing}"
    )
    sys.exit(1 if found.lost or found.twice or found.differing else 0)


class Soak:
    """What came of it."""

    def __init__(self) -> None:
        self.kills: Counter[str] = Counter()
        self.runs = self.lost = self.twice = self.differing = 0


def soak(folder: Path, backend: str, cluster: DaskCluster | RayCluster, kills: int, rng: np.random.Generator) -> Soak:
    """Train until so many kills are done and the last run is finished."""
    found = Soak()
    while found.kills.total() < kills:
        run = folder / f"run{found.runs}"
        finish(folder, "folds", "--data", folder / "data", "--k", FOLDS, "--run", run)
        cluster.mend()
        where = ("--backend", backend, "--jobs", 2, "--retries", 20)
        words = ("train", "--run", run, "--recipe", folder / "tiny.toml", *where)
        command = start(folder, *words, "--address", cluster.address)
        while command.poll() is None:
            place = int(rng.integers(1 + len(cluster.parts)))
            victim = cluster.parts[place - 1] if place else "command"
            until = time.monotonic() + rng.uniform(1, LONGEST)
            while command.poll() is None and time.monotonic() < until:
                time.sleep(0.05)
            if command.poll() is not None or found.kills.total() >= kills:
                continue
            before = finished(run)
            found.kills[victim] += 1
            if victim == "command":
                command.kill()
            else:
                cluster.kill(victim)
            if victim in ("command", "head"):  # without Ray's head it ends by itself
                command.wait(120)
                cluster.mend()
                command = start(folder, *words, "--address", cluster.address)
            else:
                cluster.mend()
            after = finished(run)
            found.twice += sum(after.get(fold) != state for fold, state in before.items())
        found.runs += 1
        done = finished(run)
        found.lost += FOLDS - len(done)
        found.differing += sum(left_by(run, fold) != left_by(folder / "whole", fold) for fold in done)
        if command.returncode:
            print((folder / "said").read_text()[-500:], file=sys.stderr)
            break
    return found


def finished(run: Path) -> dict[int, float]:
    """Fold -> when its job was finished."""
    loaded = load_run(run)
    done = [fold for fold in range(FOLDS) if read_status(loaded, "heads", fold).state == "done"]
    return {fold: (run / "heads" / f"fold{fold}" / "model.safetensors").stat().st_mtime for fold in done}


def left_by(run: Path, fold: int) -> list[bytes]:
    return [(run / "heads" / f"fold{fold}" / name).read_bytes() for name in FILES]


def start(folder: Path, *words: object) -> subprocess.Popen[bytes]:
    """A maskens command as a process of its own."""
    with (folder / "said").open("ab") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "cli", *map(str, words)], env=os.environ | ENVIRONMENT, stdout=said, stderr=said
        )


def finish(folder: Path, *words: object) -> None:
    if start(folder, *words).wait():
        raise RuntimeError((folder / "said").read_text()[-2000:])


if __name__ == "__main__":
    main()
