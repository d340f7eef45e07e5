"""The whole job on real faces: build the benchmark, folds, train, infer, score; prints a table.

    python benchmarks/real_photos.py --source ../shared/bench --out /tmp/real

Needs the benchmark's photos (not ours to ship) and its ImageNet weights in --source. A second call goes on
where the first stopped; times are then those of the commands it still had to run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def maskens(log: Path, *args: object) -> tuple[str, float]:
    """Run the command line; returns (output, wall seconds) and appends both to the log."""
    command = [sys.executable, "-m", "cli", *map(str, args)]
    started = time.perf_counter()
    done = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    seconds = time.perf_counter() - started
    with log.open("a") as file:
        file.write(f"$ maskens {' '.join(map(str, args))}\n{done.stdout}[{seconds:.1f} s, exit {done.returncode}]\n\n")
    if done.returncode:
        sys.exit(f"maskens {' '.join(map(str, args))} failed:\n{done.stdout}")
    return done.stdout, seconds


def headline(output: str) -> str:
    """`0.6123 / 0.7012` from what `maskens score` prints."""
    f1, accuracy = re.findall(r"macro F1 ([\d.]+)[^,]*, accuracy ([\d.]+)", output)[-1]
    return f"{f1} / {accuracy}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=ROOT.parent / "shared" / "bench")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train-people", type=int, default=600)
    parser.add_argument("--eval-people", type=int, default=200)
    parser.add_argument("--size", default="288x384")
    parser.add_argument("--recipe", default="quick")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    data, run, log = args.out / "data", args.out / "run", args.out / "log.txt"
    if not data.exists():
        build = [sys.executable, args.source / "build_benchmark.py", data, "--size", args.size]
        people = ["--train-people", args.train_people, "--eval-people", args.eval_people]
        subprocess.run([*map(str, build + people)], check=True)
    weights = args.source / "tf_efficientnet_lite0.in1k.safetensors"

    rows: list[tuple[str, str]] = []
    _, seconds = maskens(log, "folds", "--data", data, "--run", run)
    rows.append(("folds, wall", f"{seconds:.1f} s"))
    _, seconds = maskens(log, "train", "--run", run, "--fold", "0..4", "--recipe", args.recipe, "--weights", weights)
    jobs = [json.loads(f.read_text()) for f in sorted(run.glob("*/fold*/job.json"))]
    rows.append((f"train {len(jobs)} jobs, wall", f"{seconds / 60:.1f} min"))
    rows.append(("train, sum over the jobs", f"{sum(j['seconds'] for j in jobs) / 60:.1f} min"))
    for tta in ("none", "flip"):
        _, seconds = maskens(log, "infer", "--run", run, "--tta", tta)
        rows.append((f"infer --tta {tta}, wall", f"{seconds:.1f} s"))
        output, _ = maskens(log, "score", "--run", run, "--truth", data / "eval" / "info.csv")
        rows.append((f"eval part, --tta {tta}: macro F1 / accuracy", headline(output)))
        for epoch in ("best", "last"):
            output, _ = maskens(log, "score", "--run", run, "--tta", tta, "--epoch", epoch)
            rows.append((f"out-of-fold, {epoch} epochs, --tta {tta}: macro F1 / accuracy", headline(output)))
    for part in ("heldout", "realmasks"):
        out = args.out / f"{part}.csv"
        _, seconds = maskens(log, "infer", "--run", run, "--data", args.source / part, "--out", out)
        rows.append((f"infer {part}, wall", f"{seconds:.1f} s"))
        output, _ = maskens(log, "check-submission", out, "--run", run, "--data", args.source / part)
        checked = [line for line in output.splitlines() if "is accepted" in line or line.startswith("warning")]
        rows.append((f"check-submission {part}", "; ".join(checked).replace(str(args.out) + "/", "")))

    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, recipe {args.recipe}")
    print(f"{args.train_people} + {args.eval_people} people, {args.size} photos\n")
    print("| what | value |\n|---|---|")
    for name, value in rows:
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
