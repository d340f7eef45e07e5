"""What is the model on everybody worth beside the models of the folds, and the ensemble beside its best fold?

    python benchmarks/full.py --source ../shared/bench --out DIR [--recipe best]

Trains the folds and the model on everybody, tunes, predicts the eval part once and decides by some of the models at a
time. Differences are to the mean of the folds, on the same draws of people; `best fold` is the one with the highest
out-of-fold macro F1. Run again, it resumes where it stopped.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from real_photos import (
    People,
    build_data,
    gained,
    initial_weights,
    machine,
    maskens,
    parse,
    print_heads,
    unseen_masks,
)

from ensemble.commands.score import Scored, score
from ensemble.decision.joint import joint_log_probabilities
from ensemble.decision.members import choose_ensembles
from ensemble.metrics.scores import SCORED_PARTS, interval
from folds.ranges import FULL
from folds.run_folder import load_run


def main() -> None:
    args = parse(__doc__, eval_people=300, k=3, recipe="best").parse_args()
    data, run = build_data(args), args.out / f"full-{args.recipe}"
    if not (run / "folds.csv").exists():
        maskens("folds", "--data", data, "--run", run, "--k", args.k, "--seed", 0)
    maskens("train", "--run", run, "--recipe", args.recipe, "--fold", "all,full", *initial_weights(args), "--yes")
    if not (run / "submission.csv").exists():
        maskens("tune", "--run", run)
        maskens("infer", "--run", run, "--no-early-exit")
    print_table(data, run)


def print_table(data: Path, run: Path) -> None:
    print(f"{machine()}\n")
    chosen = choose_ensembles([load_run(run)], None, True, False)
    (ensemble,), fitted = chosen.ensembles, chosen.fitted
    with np.load(run / "eval.npz") as z:
        ids, logits = z["ids"].tolist(), {task: z[f"logits/{task}"] for task in ensemble.output_specs}
    people = People.new(data, ids)
    scored = score(run)
    assert isinstance(scored, Scored)
    best = max(scored.evaluation.folds, key=lambda fold: fold.f1).fold
    folds = [n for n in ensemble.complete_folds if n != FULL]
    models = {"the folds": folds, f"best fold, {best}": [best]}
    if FULL in ensemble.complete_folds:
        models |= {"everybody": [FULL], "folds and everybody": [*folds, FULL]}
    print_heads("models", "log loss", "macro F1", "against the folds", "mask, gender, age", "unseen masks")
    against = None
    for name, folds in models.items():
        some = {task: values[np.isin(ensemble.folds(task), folds)] for task, values in logits.items()}
        temperatures = ensemble.temperatures if len(folds) > 1 else ensemble.of_one_fold
        log_p = joint_log_probabilities(some, ensemble.output_specs, temperatures, ensemble.tta)
        classes = (log_p + np.array(fitted.offsets)).argmax(axis=1)
        drawn, unseen = people.macro_parts(classes), unseen_masks(data, ids, classes)
        whole = drawn[SCORED_PARTS[0]]
        against = whole if against is None else against
        parts = ", ".join(f"{drawn[part][0]:.3f}" for part in SCORED_PARTS[1:])
        loss = -log_p[np.arange(len(ids)), people.truth].mean()
        gain = "" if against is whole else gained(whole - against)
        print(f"| {name} | {loss:.3f} | {interval(whole):.3f} | {gain} | {parts} | {unseen:.3f} |")


if __name__ == "__main__":
    main()
