"""What does a budget for an inference save, and what does it change?

    python benchmarks/anytime.py --run RUN --logits FILE.logits.npz

`--logits` is what `maskens infer` left beside a CSV, all passes made, by models of this run. The rule of `--max-passes`
is chosen on photos of these, as it would be, and applied to the others: how many passes they make, and how many of
their classes differ from those after all passes. Medians over several draws of the photos that the rule is chosen on.
engines.py measures the time that a budget saves.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import numpy as np

from ensemble.decision.early_exit import choose_rule, margins, passes_needed, scores_after_passes
from ensemble.decision.members import load_ensembles
from ensemble.decision.tuning import apply_tuning
from ensemble.prediction.strategies import WHOLE
from folds.labels import FloatArray
from folds.run_folder import load_run

SHARES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--logits", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=20)
    args = parser.parse_args()
    run = load_run(args.run)
    fitted = apply_tuning([run], "flip", tuned=False).fitted
    (ensemble,) = load_ensembles([run], fitted, allow_missing=True)
    with np.load(args.logits) as arrays:
        logits = {name.removeprefix("logits/"): arrays[name] for name in arrays if name.startswith("logits/")}
    replay(scores_after_passes(ensemble, logits), args.draws)


def replay(scores: FloatArray, draws: int) -> None:
    """The rule on some photos, applied to the others."""
    passes, photos, _ = scores.shape
    print(f"{photos} photos, {passes} passes each, {draws} draws of the {WHOLE} photos that the rule is chosen on\n")
    print("| budget | passes of the others | classes changed, reported | changed among the others, median (min-max) |")
    print("|---|---|---|---|")
    for share in SHARES:
        made, told, changed = list[float](), list[float](), list[float]()
        for seed in range(draws):
            order = np.random.default_rng(seed).permutation(photos)
            rule = choose_rule(scores[:, order[:WHOLE]], share)
            others = scores[:, order[WHOLE:]]
            left = passes_needed(margins(others), rule.threshold)
            best = others.argmax(axis=-1)
            made.append(float(left.mean() / passes))
            told.append(rule.changed / rule.photos)
            changed.append(float((best[left - 1, np.arange(len(left))] != best[-1]).mean()))
        span = f"{statistics.median(changed):.2%} ({min(changed):.2%}-{max(changed):.2%})"
        print(f"| {share:g} | {statistics.median(made):.1%} | {statistics.median(told):.2%} | {span} |")


if __name__ == "__main__":
    main()
