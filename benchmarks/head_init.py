"""What a new classifier's initial weights are worth: one job with timm's and one with ours.

    python benchmarks/head_init.py --data DIR --weights tf_efficientnet_lite0.in1k.safetensors

DIR is a data folder, such as the one that real_photos.py builds. Both jobs differ in
nothing but the classifier's first weights. About three minutes on two cores with 600 people.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import tempfile
from pathlib import Path

import ensemble.models.create
from ensemble.jobs.hardware import Hardware
from ensemble.jobs.plan import plan
from ensemble.recipes.initial_weights import with_weights
from ensemble.recipes.reading import load_recipe
from ensemble.recipes.run_recipe import bind_recipe
from ensemble.training.job import run_job
from folds.data.layout import read_train
from folds.run import start_run
from folds.splitting.split import make_folds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--task", default="heads")
    args = parser.parse_args()
    data = read_train(args.data)
    folds = make_folds(data, 5, seed=42)
    recipe = with_weights(load_recipe("quick"), [str(args.weights)], pretrained=True)
    ours = ensemble.models.create._reset_new_head
    print("| classifier starts with | " + "macro F1 after each epoch of fold 0 |\n|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        run, _ = start_run(Path(folder) / "run", data, folds, 5, seed=42)
        for name, soften in (("timm's own spread", lambda model, classes: None), ("torch's default", ours)):
            ensemble.models.create._reset_new_head = soften
            there = bind_recipe(dataclasses.replace(run, folder=Path(folder) / name), recipe)
            (spec,) = plan(there, recipe, [args.task], [0], Hardware("cpu", None), Path(folder) / "cache")
            failure = run_job(spec, data, folds)
            if failure:
                raise SystemExit(failure.message)
            with (there.job_folder(args.task, 0) / "history.csv").open() as file:
                print(f"| {name} | {', '.join(row['f1'] for row in csv.DictReader(file))} |")


if __name__ == "__main__":
    main()
