"""What tuning, blending and TTA are worth, out-of-fold and on people set aside; does the one predict the other?

    python benchmarks/decisions.py --source ../shared/bench --out DIR

Needs the real-photo benchmark (its builder and weights lie in --source). Trains four variants of `quick` on the same
folds, three quarters of an hour on two cores; run again, it resumes where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from real_photos import People, build_data, gained, initial_weights, machine, maskens, parse, print_heads

from ensemble.decision.fitting import STEPS, tune
from ensemble.decision.joint import Decision, decide, decide_hard, vote
from ensemble.decision.members import load_ensembles
from ensemble.decision.oof_ensemble import OofEnsemble, load_oof_ensemble
from ensemble.decision.tuning import DecisionParams
from ensemble.metrics.scores import interval
from ensemble.recipes.schema import shipped
from folds.labels import FloatArray, IntArray
from folds.run_folder import load_run

TUNED = 2  # place of the tuning that is kept among the ways
RECIPES = {
    "quick": ('extends = "quick"', ()),
    "longer": ('extends = "quick"\n[tasks.heads]\nepochs = 4\nmix = { cutmix = 1.0, prob = 0.5 }', ()),
    "class18": ("", ("class18",)),
    "apart": ("", ("mask", "gender", "male-age", "female-age")),
}
"""Name -> (the recipe, or tasks that have each all keys of the one task of `quick`)."""
RUNS = tuple(f"{name}-seed0" for name in RECIPES)


@dataclass(frozen=True)
class Way:
    """A way to decide, with its decision on both sets of people."""

    name: str
    oof: IntArray
    eval: IntArray
    losses: tuple[float, float] | None = None  # log loss out-of-fold and set aside, where there are probabilities


def main() -> None:
    args = parse(__doc__, eval_people=200, k=3, fold="all").parse_args()
    data, folds, logits = build_data(args), args.out / "folds", args.out / "eval.logits.npz"
    if not (folds / "folds.csv").exists():
        maskens("folds", "--data", data, "--run", folds, "--k", args.k, "--seed", 0)
    recipes = [option for name in RECIPES for option in ("--recipe", write_recipe(args.out, name))]
    shared = ("--out", args.out, "--seed", 0, "--fold", args.fold, "--yes", *initial_weights(args))
    maskens("sweep", "--run", folds, *recipes, *shared)
    runs = [args.out / name for name in RUNS]
    if not logits.exists():
        options = [option for run in runs for option in ("--run", run)]
        maskens("infer", *options, "--no-tuning", "--out", args.out / "eval.csv")
    print_table(args.out, data, logits)


def write_recipe(out: Path, name: str) -> Path:
    text, tasks = RECIPES[name]
    if tasks:
        text = shipped()["quick"].replace("[tasks.heads]", "[defaults]") + "".join(f"[tasks.{t}]\n" for t in tasks)
    file = out / f"{name}.toml"
    file.write_text(text)
    return file


def print_table(out: Path, data: Path, logits: Path) -> None:
    print(f"{machine()}\n")
    print_heads(
        *("runs", "decided", "out-of-fold", "against flip", "set aside", "against flip", "aside - oof", "log losses")
    )
    with np.load(logits) as z:
        aside = People.new(data, z["ids"].tolist())
    differences = []
    tuned: dict[Sequence[str], tuple[FloatArray, FloatArray]] = {}
    for names in [*((name,) for name in RUNS), RUNS]:
        blend = load_oof_ensemble([load_run(out / name) for name in names], data, "best")
        inside = People.held_out(blend)
        found = ways(blend, logits, names, aside.truth)
        both = [(inside.macro_f1(way.oof), aside.macro_f1(way.eval)) for way in found]
        tuned[names] = both[TUNED]
        for way, (oof, its_eval) in zip(found, both, strict=True):
            gains = [gained(a - b) for a, b in zip((oof, its_eval), both[0], strict=True)]
            differences.append(its_eval[0] - oof[0])
            losses = f"{way.losses[0]:.3f}, {way.losses[1]:.3f}" if way.losses else ""
            cells = (f"{interval(oof):.3f}", gains[0], f"{interval(its_eval):.3f}", gains[1])
            print(f"| {' + '.join(names)} | {way.name} | {' | '.join(cells)} | {differences[-1]:+.3f} | {losses} |")
    best = max(((name,) for name in RUNS), key=lambda names: tuned[names][0][0])
    gains = [gained(ours - its) for ours, its in zip(tuned[RUNS], tuned[best], strict=True)]
    print(
        f"\nthe tuned blend against {best[0]}, the best run by itself, tuned: out-of-fold {gains[0]}; aside {gains[1]}"
    )
    print(
        f"\nset aside - out-of-fold over {len(differences)} rows: mean {np.mean(differences):+.3f}, "
        f"mean absolute {np.mean(np.abs(differences)):.3f}, largest {max(differences, key=abs):+.3f}"
    )


def log_loss(decision: Decision, truth: IntArray) -> float:
    """Mean over the photos, in nats."""
    return -float(decision.log_probabilities[np.arange(len(truth)), truth].mean())


def ways(blend: OofEnsemble, logits: Path, names: Sequence[str], aside: IntArray) -> list[Way]:
    """Every way to decide that is compared; plain with flip first."""
    plain, single = blend.plain("flip"), blend.plain("none")
    steps = [s for s in STEPS if s != "weights" or len(names) > 1]
    kept, kept_oof = tune(blend, steps)
    forced, forced_oof = tune(blend, steps, force=True)
    fits = [plain, single, kept.fitted, forced.fitted]
    on_eval = [decide(class_log_probs(blend, logits, names, f), f.weights, f.offsets, "joint") for f in fits]
    oof = [blend.decide(plain), blend.decide(single), kept_oof, forced_oof]
    losses = [(log_loss(a, blend.truth), log_loss(b, aside)) for a, b in zip(oof, on_eval, strict=True)]
    titles = ["flip", "no TTA", f"tuned, kept: {', '.join(kept.kept)}", f"all of {', '.join(steps)}"]
    found = [Way(title, oof[n].classes, on_eval[n].classes, losses[n]) for n, title in enumerate(titles)]
    by_part = [decide_hard(decision.log_probabilities) for decision in (oof[0], on_eval[0])]
    found.append(Way("flip, part by part", by_part[0], by_part[1]))
    if len(names) > 1:
        votes = vote(blend.class_log_probs(plain).argmax(axis=2), oof[0].log_probabilities)
        on_others = decide(class_log_probs(blend, logits, names, plain), plain.weights, plain.offsets, "vote").classes
        found.append(Way("flip, hard vote", votes, on_others))
    return found


def class_log_probs(blend: OofEnsemble, logits: Path, names: Sequence[str], fitted: DecisionParams) -> FloatArray:
    """What the runs would predict for the people set aside, from logits that were kept: (runs, photos, 18)."""
    views = 1 if fitted.tta == "none" else 2
    ensembles = load_ensembles([m.run for m in blend.runs], fitted, False)
    with np.load(logits) as z:
        order = [Path(run).name for run in json.loads(str(z["record"]))["runs"]]
        found = [
            {task: z[f"run{order.index(name)}/logits/{task}"][:, :views] for task in e.output_specs}
            for name, e in zip(names, ensembles, strict=True)
        ]
    return np.stack([e.joint(own) for e, own in zip(ensembles, found, strict=True)])


if __name__ == "__main__":
    main()
