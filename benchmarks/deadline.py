"""Does `maskens run --hours` keep its time, and what does each budget score?

    python benchmarks/deadline.py --source ../shared/bench --out DIR

Whole processes, one after another, each in a new run folder with an empty photo cache: generated faces with the
recipe `demo`, then 600 people of the real-photo benchmark with the recipe that maskens recommends for the time. `new
people` is the eval part, whose answers the runs don't see. Nothing else may be at work. Run again, it resumes with the
budgets that are not finished; what was interrupted is begun anew.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

from real_photos import build_data, initial_weights, machine, maskens, parse, print_heads

from ensemble.commands.score import Scored, score
from ensemble.metrics.scores import SCORED_PARTS

MINUTES = (3, 6, 12)


def main() -> None:
    args = parse(__doc__, eval_people=300).parse_args()
    real, drawn = build_data(args), args.out / "drawn"
    if not drawn.exists():
        maskens("sample", drawn, "--people", 90, "--size", "192x256")
    for minutes in MINUTES:
        carry_out(args.out / f"drawn-{minutes}", drawn, minutes, "--recipe", "demo")
        carry_out(args.out / f"real-{minutes}", real, minutes, *initial_weights(args))
    print(f"{machine()}\n")
    print_heads("photos", "minutes", "took", "of the limit", "folds", "epochs", "out-of-fold", "new people")
    for kind, answers in (("drawn", drawn / "eval" / "answers.csv"), ("real", real / "eval" / "info.csv")):
        for minutes in MINUTES:
            print_row(args.out / f"{kind}-{minutes}", kind, minutes, answers)


def carry_out(out: Path, data: Path, minutes: int, *options: object) -> None:
    """Run once, unless that is done: `out` has the run's folder and the seconds it took."""
    seconds = out / "seconds.txt"
    if seconds.exists():
        return
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    began, where = time.perf_counter(), ("--data", data, "--run", out / "run")
    maskens("run", *where, "--hours", minutes / 60, "--yes", *options, log=out / "log.txt")
    seconds.write_text(f"{time.perf_counter() - began:.1f}")


def print_row(out: Path, kind: str, minutes: int, answers: Path) -> None:
    took = float((out / "seconds.txt").read_text())
    jobs = [json.loads(file.read_text()) for file in sorted((out / "run").glob("*/fold*/job.json"))]
    done = [job for job in jobs if job["state"] == "done"]
    folds = len({job["fold"] for job in done})
    epochs = f"{min(job['epoch'] for job in done)} to {max(job['epoch'] for job in done)}"
    scored, new = score(out / "run"), score(out / "run", truth=answers)
    assert isinstance(scored, Scored) and not isinstance(new, Scored)
    f1 = (f"{scored.evaluation.f1[SCORED_PARTS[0]]:.3f}", f"{new[0].f1.value:.3f}")
    cells = (kind, minutes, f"{took:.0f} s", f"{took / 60 / minutes:.2f}", folds, epochs, *f1)
    print("|", " | ".join(map(str, cells)), "|")


if __name__ == "__main__":
    main()
