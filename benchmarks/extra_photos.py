"""What do extra photos with an age alone add? 600 people with their seven photos, and the photo without a mask of 2,100
others, whose age is known and neither mask nor gender.

    python benchmarks/extra_photos.py --source ../shared/bench --out DIR

Needs the real-photo benchmark (its builder and weights lie in --source). Trains `--recipe` with and without the extra
photos, on the same folds, with `--weight` of `sampler.extra`. F1 is of each head and of the 18 classes, out-of-fold and
of the eval part, whose people are new to all; intervals are over people and seeds. Run again, it resumes where it
stopped.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from real_photos import People, build_data, initial_weights, machine, maskens, parse, print_heads

from ensemble.decision.submission import read_answers
from ensemble.evaluation.compare import compare_recipes, over_seeds
from ensemble.metrics.scores import SCORED_PARTS
from folds.files import csv_text
from folds.ranges import parse_seeds
from folds.run_folder import load_run

PLAIN, MORE = "without", "with extra photos"


def main() -> None:
    parser = parse(__doc__, eval_people=600, people=600, recipe="best", k=3, seeds="0..1", weight=1.0, jobs=2)
    parser.set_defaults(train_people=2700)
    args = parser.parse_args()
    data = split(args, build_data(args))
    runs = {
        (name, seed): args.out / f"{name.split()[0]}-{seed}"
        for name in (PLAIN, MORE)
        for seed in parse_seeds(args.seeds)
    }
    for (name, seed), run in runs.items():
        extra = ("--extra", args.out / "data" / "train" / "extra.csv") if name == MORE else ()
        first = next(iter(runs.values())) / "folds.csv"
        split_as = ("--folds-file", first) if first.exists() else ("--k", args.k)
        maskens("folds", "--data", data, "--run", run, "--seed", seed, *split_as, *extra)
        weight = ("--set", f"tasks.*.sampler.extra={args.weight}")
        recipe = ("--recipe", args.recipe, *weight, *initial_weights(args))
        maskens("train", "--run", run, *recipe, "--jobs", args.jobs, "--yes", log=run.with_suffix(".log"))
        if not run.with_suffix(".csv").exists():
            maskens("infer", "--run", run, "--no-tuning", "--tta", "flip", "--out", run.with_suffix(".csv"))
    print(
        f"{machine()}; {args.people} people, {args.train_people - args.people} extra photos, weight {args.weight:g}\n"
    )
    print_table(data, runs)


def split(args: argparse.Namespace, whole: Path) -> Path:
    """A data folder of some people, drawn at random, and the others' list beside their photos."""
    data: Path = args.out / "some"
    with (whole / "train" / "train.csv").open() as file:
        rows = list(csv.DictReader(file))
    rows = [rows[n] for n in np.random.default_rng(0).permutation(len(rows))]
    mine, others = rows[: args.people], rows[args.people :]
    others = [row for row in others if row["id"] not in {first["id"] for first in mine}]
    (data / "train").mkdir(parents=True, exist_ok=True)
    (data / "train" / "train.csv").write_text(csv_text(list(rows[0]), [list(row.values()) for row in mine]))
    listed = [(f"images/{row['path']}/normal.jpg", row["id"], row["age"]) for row in others]
    (whole / "train" / "extra.csv").write_text(csv_text(("photo", "person", "age"), listed))
    for link, target in ((data / "train" / "images", whole / "train" / "images"), (data / "eval", whole / "eval")):
        if not link.exists():
            link.symlink_to(target.resolve())
    return data


def print_table(data: Path, runs: dict[tuple[str, int], Path]) -> None:
    found = compare_recipes({pair: load_run(run) for pair, run in runs.items()})
    assert found is not None
    new = {}
    for name in (PLAIN, MORE):
        drawn = []
        for run in (run for (its, _), run in runs.items() if its == name):
            ids, classes = read_answers(run.with_suffix(".csv"))
            drawn.append(People.new(data, ids).macro_parts(classes))
        new[name] = {part: np.stack([each[part] for each in drawn]) for part in SCORED_PARTS}
    print_heads("F1 of", "out-of-fold without", "with", "gain", "new people without", "with", "gain")
    plain, more = found.scores
    for part in SCORED_PARTS:
        without, with_extra = new[PLAIN][part], new[MORE][part]
        cells = []
        for before, after, gain in (
            (plain.f1[part], more.f1[part], more.gain[part]),
            tuple(over_seeds(drawn) for drawn in (without, with_extra, with_extra - without)),
        ):
            cells += [f"{before.mean:.3f}", f"{after.mean:.3f}", f"{gain.mean:+.3f} {gain.significance}"]
        print(f"| {part} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
