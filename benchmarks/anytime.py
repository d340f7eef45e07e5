"""What does a budget for an inference save, and what does it change?

    python benchmarks/anytime.py --run RUN --logits FILE.logits.npz [--data DIR --photos 1000]

`--logits` is what `maskens infer` left beside a CSV, all passes made, by models of this run. The rule of `--budget` is
chosen on photos of these, as it would be, and applied to the others: how many passes they make, and how many of their
classes differ from those after all passes. Medians over several draws of the photos that the rule is chosen on. With
`--data`, so many of that folder's photos are predicted with and without a budget in turn, from a warm cache.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np

from ensemble.decision.anytime import Budget, choose_rule, margins, passes_made, scores_after_passes
from ensemble.decision.decide import decide
from ensemble.decision.members import Ensemble, load_ensembles
from ensemble.decision.tuning import Fitted, apply_tuning
from ensemble.inference.anytime_predictor import WHOLE
from ensemble.inference.infer import infer
from ensemble.inference.settings import InferenceSettings
from ensemble.jobs.hardware import Hardware, choose_device
from ensemble.recipes.run_recipe import run_recipe
from folds.data.labels import FloatArray
from folds.data.layout import read_eval
from folds.run import load_run

SHARES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--logits", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--share", type=float, default=0.5, help="Of the passes, for the seconds.")
    args = parser.parse_args()
    run = load_run(args.run)
    recipe = run_recipe(run)
    fitted = apply_tuning([run], [recipe], "flip", tuned=False).fitted
    (ensemble,) = load_ensembles([run], [recipe], fitted, allow_missing=True)
    with np.load(args.logits) as arrays:
        logits = {name.removeprefix("logits/"): arrays[name] for name in arrays if name.startswith("logits/")}
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    replay(scores_after_passes(ensemble, logits), args.draws)
    if args.data:
        measure(ensemble, fitted, args.data, args.photos, args.share)


def replay(scores: FloatArray, draws: int) -> None:
    """The rule on some photos, applied to the others."""
    passes, photos, _ = scores.shape
    print(f"{photos} photos, {passes} passes each, {draws} draws of the {WHOLE} photos that the rule is chosen on\n")
    print("| budget | passes of the others | classes changed, told | changed among the others, median (min-max) |")
    print("|---|---|---|---|")
    for share in SHARES:
        made, told, changed = list[float](), list[float](), list[float]()
        for seed in range(draws):
            order = np.random.default_rng(seed).permutation(photos)
            rule = choose_rule(scores[:, order[:WHOLE]], share)
            others = scores[:, order[WHOLE:]]
            left = passes_made(margins(others), rule.threshold)
            best = others.argmax(axis=-1)
            made.append(float(left.mean() / passes))
            told.append(rule.changed / rule.photos)
            changed.append(float((best[left - 1, np.arange(len(left))] != best[-1]).mean()))
        span = f"{statistics.median(changed):.2%} ({min(changed):.2%}-{max(changed):.2%})"
        print(f"| {share:g} | {statistics.median(made):.1%} | {statistics.median(told):.2%} | {span} |")


def measure(ensemble: Ensemble, fitted: Fitted, folder: Path, photos: int, share: float) -> None:
    """Seconds with and without a budget, in turn."""
    data = read_eval(folder)
    some = data.photos.some(np.linspace(0, len(data.ids) - 1, min(photos, len(data.ids))).astype(np.int64))
    settings = InferenceSettings(
        "flip", Hardware(choose_device("auto"), None), folder.parent / ".cache", early_exit=fitted
    )
    infer([ensemble], some, dataclasses.replace(settings, tta="none"))  # fills the cache
    whole, less, classes, words = list[float](), list[float](), [], ""
    for _ in range(ROUNDS):
        for budget, seconds in ((None, whole), (Budget(share=share), less)):
            started = time.perf_counter()
            found = infer([ensemble], some, dataclasses.replace(settings, budget=budget))
            seconds.append(time.perf_counter() - started)
            classes.append(decide(found.joints, fitted.weights, fitted.offsets).classes)
            words = found.budget or words
    ratios = [a / b for a, b in zip(whole, less, strict=True)]
    print(f"\n{len(some.files)} photos: {statistics.median(whole):.1f} s whole, {statistics.median(less):.1f} s with")
    print(f"a {words}; {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f}-{max(ratios):.2f});")
    print(f"{int((classes[0] != classes[1]).sum())} classes differ")


if __name__ == "__main__":
    main()
