"""Which keys of a recipe raise the score? Successive halving: all rungs with one seed, then those that are not clearly
worse with two more.

    python benchmarks/ladder.py --source ../shared/bench --out DIR

Needs the real-photo benchmark (its builder and weights lie in --source). A rung is the base with one thing changed, or
several that won; the base is `best`. All rungs and seeds share the folds. `log loss` is of the 18 classes, out-of-fold
with flip; `tuned` the macro F1 of a tuning, out-of-fold, on people that it was not fitted on; `new people` that of the
eval part, predicted by the tuned ensembles. Differences are to the base, over the seeds that both have; intervals are
over people and seeds together. `unseen masks`: how often the state of a mask is right whose style is not in training;
`cost`: pixels shown in training, relative to the base.
Run again, it resumes where it stopped; `--only RUNG` trains some (the base always), the table is of all that are
finished. On many people: `--train-people 2700 --eval-people 600 --k 5 --fold 0`.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from real_photos import People, build_data, initial_weights, machine, maskens, parse, print_heads, unseen_masks

from ensemble.decision.oof_ensemble import load_oof_ensemble
from ensemble.decision.submission import read_answers
from ensemble.decision.tuning import TUNING, read_nested
from ensemble.evaluation.compare import over_seeds
from ensemble.metrics.scores import SCORED_PARTS
from ensemble.recipes.recipe_file import run_recipe
from folds.labels import FloatArray
from folds.ranges import parse_seeds
from folds.run_folder import load_run

BASE = "base"
STAGES = ("0", "1..2")  # seeds; after each, rungs that are clearly worse go no further
SINGLE_K = 18  # a single model learns from all people but one in eighteen, whom maskens needs to choose the epoch


@dataclass(frozen=True)
class Rung:
    """What changes in `best`."""

    what: str
    keys: str = ""  # of [tasks.heads]
    single: bool = False  # one model of nearly everybody, for as many photos as all folds of the others together


AUGMENT = """augment = [
    { name = "HorizontalFlip", args = { p = 0.5 } },
    { name = "Affine", args = { scale = [0.9, 1.1], translate_percent = [-0.04, 0.04], rotate = [-8, 8], p = 0.7 } },
    "%s",
]
"""
YEARS2 = 'ages = { cuts = "years", sigma = 2 }\n'
EYES = 'crop = "eyes"\n'
STRONG = AUGMENT % "camera-strong"
DRAWN = "masks = { prob = 0.2, detect = true }\n"
SMALL4 = "resize = [128, 96]\nepochs = 4\n"
FEWER = "sampler = { photos_per_person = 3 }\n"
GROWING4 = "epochs = 4\nsizes = [[96, 72], [96, 72], [128, 96]]\n"
FROZEN = "frozen_stages = 3\n"
FACES = EYES + STRONG + DRAWN
RUNGS = {
    BASE: Rung(
        "photos of 176x132, 2 epochs, ages as a Gaussian of 5 years around the age",
        'epochs = 2\nresize = [176, 132]\nages = { cuts = "years", sigma = 5 }',
    ),
    "bands": Rung("cross-entropy on three age bands", "ages = { cuts = [30, 60], sigma = 0 }"),
    "years2": Rung("ages as a Gaussian of 2 years around the age", YEARS2),
    "ordinal": Rung("ages by probabilities at every year", 'ages = { cuts = "years", head = "ordinal" }'),
    "regression": Rung("ages by middle and spread", 'ages = { cuts = "years", head = "regression" }'),
    "epochs3": Rung("3 epochs", "epochs = 3"),
    "epochs4": Rung("4 epochs", "epochs = 4"),
    "epochs6": Rung("6 epochs", "epochs = 6"),
    "epochs8": Rung("8 epochs", "epochs = 8"),
    "fewer4": Rung("4 epochs of three photos a person", FEWER + "epochs = 4"),
    "fewer6": Rung("6 epochs of three photos a person", FEWER + "epochs = 6"),
    "fewer8": Rung("8 epochs of three photos a person", FEWER + "epochs = 8"),
    "growing4": Rung("4 epochs, on 96x72 twice, 128x96, 176x132", GROWING4),
    "frozen2": Rung("stem and three stages frozen", FROZEN),
    "frozen2-lr20": Rung("the same with a learning rate of 0.002", FROZEN + "optimizer = { lr = 2e-3 }"),
    "frozen3": Rung("3 epochs, stem and three stages frozen", FROZEN + "epochs = 3"),
    "frozen4": Rung("4 epochs, stem and three stages frozen", FROZEN + "epochs = 4"),
    "frozen4-randaug": Rung("the same with randaug", FROZEN + "epochs = 4\n" + STRONG),
    "frozen4-faces": Rung("the same with eyes, randaug and masks", FROZEN + "epochs = 4\n" + FACES),
    "balanced": Rung("photos drawn evenly over the states of the mask", 'sampler = { balance = "mask" }'),
    "classes": Rung("photos drawn more evenly over the classes", 'sampler = { balance = "class", strength = 0.5 }'),
    "batch16": Rung("batches of 16", "batch_size = 16"),
    "lr5": Rung("learning rate 0.0005", "optimizer = { lr = 5e-4 }"),
    "lr20": Rung("learning rate 0.002", "optimizer = { lr = 2e-3 }"),
    "lr40": Rung("learning rate 0.004", "optimizer = { lr = 4e-3 }"),
    "drop": Rung("dropout 0.2, drop path 0.1", "model_args = { drop_rate = 0.2, drop_path_rate = 0.1 }"),
    "layers": Rung("layer-wise learning-rate decay 0.8", "optimizer = { layer_decay = 0.8 }"),
    "smooth": Rung("label smoothing 0.1", "loss = { label_smoothing = 0.1 }"),
    "smooth-mask": Rung("label smoothing 0.1, of the mask", "loss = { heads = { mask = { label_smoothing = 0.1 } } }"),
    "mixup": Rung("Mixup on half of the batches", "mix = { mixup = 0.4, prob = 0.5 }"),
    "camera": Rung("`camera` in place of brightness and hue", AUGMENT % "camera"),
    "randaug": Rung("`camera-strong`, three of twelve, as RandAugment draws", STRONG),
    "ema": Rung("averaged weights, about the last 50 updates", "ema = 0.98"),
    "masks": Rung("masks drawn on two of ten bare faces", DRAWN),
    "face": Rung("the face cut out", 'crop = "face"'),
    "eyes": Rung("the face aligned by the eyes", EYES),
    "eyes-masks": Rung("eyes and masks", EYES + DRAWN),
    "faces": Rung("eyes, randaug and masks", FACES),
    "small2": Rung("on 128x96", "resize = [128, 96]"),
    "quick": Rung("`quick`", "resize = [128, 96]\noptimizer = { lr = 2e-3 }\n" + FROZEN),
    "small2-frozen": Rung("on 128x96, stem and three stages frozen", "resize = [128, 96]\n" + FROZEN),
    "small4": Rung("on 128x96, 4 epochs", SMALL4),
    "small4-faces": Rung("the same with eyes, randaug and masks", FACES + SMALL4),
    "smallest4": Rung("on 96x72, 4 epochs", "resize = [96, 72]\nepochs = 4"),
    "single": Rung("one model in place of one a fold, for as many photos as all of them", single=True),
}


def main() -> None:
    parser = parse(__doc__, eval_people=300, k=3, fold="all", jobs=2)
    parser.add_argument("--base", choices=list(RUNGS), default=BASE, help="what the others are changes of")
    parser.add_argument("--only", action="append", choices=list(RUNGS))
    parser.add_argument("--stages", type=int, default=len(STAGES), help="of halving")
    args = parser.parse_args()
    data, folds = build_data(args), args.out / "folds"
    if not (folds / "folds.csv").exists():
        maskens("folds", "--data", data, "--run", folds, "--k", args.k, "--seed", 0)
    names = list(dict.fromkeys([args.base, *(args.only or RUNGS)]))
    for seeds in STAGES[: args.stages]:
        names = sweep(args, names, seeds)
    print_table(args.out, args.base)


def sweep(args: argparse.Namespace, names: Sequence[str], seeds: str) -> list[str]:
    """Train and predict rungs with these seeds; returns those that are not clearly worse than the base."""
    out = args.out / f"seeds{seeds}"
    recipes = [("--recipe", write_recipe(args, name)) for name in names if not RUNGS[name].single]
    options = ("--fold", args.fold, "--seed", seeds, "--jobs", args.jobs, "--yes", *initial_weights(args))
    maskens("sweep", "--run", args.out / "folds", "--out", out, *(item for pair in recipes for item in pair), *options)
    for name in names:
        if RUNGS[name].single:
            train_single(args, name, seeds)
    for run in sorted(out.glob("*-seed*")):
        if not (run / "submission.csv").exists():
            maskens("tune", "--run", run)
            maskens("infer", "--run", run, "--allow-missing")
    with (out / "comparison.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["part"] == SCORED_PARTS[0]]
    worse = {row["recipe"] for row in rows if row["verdict"] == "worse"}
    return [name for name in names if name not in worse]


def train_single(args: argparse.Namespace, name: str, seeds: str) -> None:
    """Train one model of all people but one in SINGLE_K, with each seed."""
    for seed in parse_seeds(seeds):
        run = args.out / f"seeds{seeds}" / f"{name}-seed{seed}"
        recipe = write_recipe(args, name, f"epochs = {2 * (args.k - 1)}")
        maskens("folds", "--data", args.out / "data", "--run", run, "--k", SINGLE_K, "--seed", seed)
        maskens("train", "--run", run, "--recipe", recipe, *initial_weights(args), "--fold", 0, "--yes")


def write_recipe(args: argparse.Namespace, name: str, more: str = "") -> Path:
    """Write a rung's recipe: its keys after those of the base, and these after those of BASE."""
    keys, extended = RUNGS[name].keys + more, "best"
    if name != BASE:
        extended = write_recipe(args, args.base if name != args.base else BASE).name
    recipe: Path = args.out / f"{name}.toml"
    recipe.write_text(f'extends = "{extended}"\n[tasks.heads]\n{keys}\n')
    return recipe


def found_runs(out: Path, name: str) -> dict[int, Path]:
    """Seed -> a rung's run that has predicted new people."""
    runs = (file.parent for file in sorted(out.glob(f"seeds*/{name}-seed*/submission.csv")))
    return {int(run.name.rpartition("seed")[2]): run for run in runs}


def print_table(out: Path, base: str) -> None:
    """Every finished rung against the base, on the same draws of people."""
    print(f"{machine()}\n")
    scorers = {"tuned": tuned, "new people": new_people}
    compared = (column for name in scorers for column in (name, "against"))
    print_heads("rung", "what", "seeds", "log loss", *compared, "unseen masks", "cost")
    before = found_runs(out, base)
    for name in RUNGS:
        if not (found := found_runs(out, name)):
            continue
        cells = [name, RUNGS[name].what, str(len(found))]
        losses = [log_loss(run) for run in found.values()] if not RUNGS[name].single else []
        cells.append(f"{np.mean(losses):.3f}" if losses else "")
        for score in scorers.values():
            if RUNGS[name].single and score is not new_people:
                cells += ["", ""]
                continue
            own = np.stack([score(run) for run in found.values()])
            cells.append(f"{over_seeds(own).mean:.3f}")
            shared = [n for n, seed in enumerate(found) if seed in before and name != base]  # as in a sweep
            theirs = [score(before[seed]) for seed in found if seed in before]
            gain = over_seeds(own[shared] - np.stack(theirs)) if shared else None
            cells.append(f"{gain.mean:+.3f}" if gain else "")
        cells.append(f"{np.mean([unseen(run) for run in found.values()]):.3f}")
        cells.append(f"{pixels(found) / pixels(before):.2f}" if before else "")
        print("|", " | ".join(cells), "|")


def pixels(runs: Mapping[int, Path]) -> float:
    """Pixels that a run's models are shown in training, in units of their photos."""
    run = next(iter(runs.values()))
    task = run_recipe(load_run(run)).tasks["heads"]
    models = len(list(run.glob("heads/fold*/oof.npz")))
    return models * task.epochs * task.sampler.photos_per_person * float(np.prod(task.resize))


def log_loss(run: Path) -> float:
    """Of the 18 classes, out-of-fold with flip: less noisy than F1, and what temperatures and offsets start from."""
    blend = load_oof_ensemble([load_run(run)], None, "cross-fitted")
    found = blend.decide(blend.plain("flip")).log_probabilities
    return float(-found[np.arange(len(blend.truth)), blend.truth].mean())


def tuned(run: Path) -> FloatArray:
    """Macro F1 out-of-fold by a tuning that was fitted on other people: float64 (1 + draws,), everybody first."""
    blend = load_oof_ensemble([load_run(run)], None, "cross-fitted")
    nested = read_nested(run / TUNING, [blend.data.files[row] for row in blend.rows])
    return People.held_out(blend).macro_f1(nested.classes)


def new_people(run: Path) -> FloatArray:
    """The same on the eval part, as `maskens infer` decides after `maskens tune`."""
    ids, classes = read_answers(run / "submission.csv")
    return People.new(run.parents[1] / "data", ids).macro_f1(classes)


def unseen(run: Path) -> float:
    """`unseen_masks` of the same decision."""
    return unseen_masks(run.parents[1] / "data", *read_answers(run / "submission.csv"))


if __name__ == "__main__":
    main()
