"""What tuning, blending and TTA are worth, out-of-fold and on people set aside; does the one predict the other?

    python benchmarks/decisions.py --source ../shared/bench --out DIR

Needs the real-photo benchmark (its builder and weights lie in --source). Trains four runs on the same folds, one after
another, three quarters of an hour on two cores; run again, it goes on where it stopped. DIR may be that of study.py,
whose runs of the same names are the same.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from study import FIRST, VARIANTS, build_data, maskens

from ensemble.decision.blend import Blend, load_blend
from ensemble.decision.decide import Decision, decide, decide_hard, vote
from ensemble.decision.members import load_ensembles
from ensemble.decision.tune import STEPS, tune
from ensemble.decision.tuning import Fitted
from ensemble.inference.infer import Prediction
from ensemble.metrics.bootstrap import draw_people, drawn_f1, interval, person_confusions
from folds.data.labels import CLASSES, FloatArray, IntArray, decode
from folds.run import load_run

TUNED = 2  # place of the tuning that is kept among the ways
RUNS = ("heads", "heads-4-cutmix", "class18", "apart")
FOLDS = 3


@dataclass(frozen=True)
class People:
    """Photos with their truth, and draws of the people on them."""

    truth: IntArray  # (photos,)
    person: IntArray  # (photos,), 0..people-1
    weights: np.ndarray[tuple[int, ...], np.dtype[np.float32]]  # (1 + draws, people)

    def f1(self, classes: IntArray) -> FloatArray:
        """Macro F1 on each draw, everybody first."""
        confusions = person_confusions(self.truth, classes, self.person)
        return np.asarray(drawn_f1(self.weights, confusions, np.arange(CLASSES)).mean(axis=1))


@dataclass(frozen=True)
class Way:
    """A way to decide, with its decision on both sets of people."""

    name: str
    oof: IntArray
    eval: IntArray
    losses: tuple[float, float] | None = None  # log loss out-of-fold and set aside, where there are probabilities


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=Path("../shared/bench"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train-people", type=int, default=600)
    parser.add_argument("--eval-people", type=int, default=200)
    parser.add_argument("--size", default="288x384")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    data, weights = args.out / "data", args.source / "tf_efficientnet_lite0.in1k.safetensors"
    build_data(args.source, data, args.train_people, args.eval_people, args.size)
    (args.out / "first.toml").write_text(FIRST)
    for name in RUNS:
        recipe = args.out / f"{name}.toml"
        recipe.write_text(f'extends = "first.toml"\n{VARIANTS[name][1]}')
        run = ("--run", args.out / name)
        maskens("folds", "--data", data, *run, "--k", FOLDS)
        maskens("train", *run, "--recipe", recipe, "--weights", weights, "--jobs", args.jobs)
    logits = args.out / "eval.logits.npz"
    if not logits.exists():
        runs = [option for name in RUNS for option in ("--run", args.out / name)]
        maskens("infer", *runs, "--untuned", "--out", args.out / "eval.csv")
    print_table(args.out, data, logits)


def print_table(out: Path, data: Path, logits: Path) -> None:
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {FOLDS} folds\n")
    columns = (
        "runs",
        "decided",
        "out-of-fold",
        "against flip",
        "set aside",
        "against flip",
        "aside - oof",
        "log losses",
    )
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    aside = eval_people(data, logits)
    differences = []
    tuned: dict[Sequence[str], tuple[FloatArray, FloatArray]] = {}
    for names in [*((name,) for name in RUNS), RUNS]:
        blend = load_blend([load_run(out / name) for name in names], data, "best")
        inside = People(blend.truth, blend.person, draw_people(blend.stratum))
        found = ways(blend, logits, names, aside.truth)
        both = [(inside.f1(way.oof), aside.f1(way.eval)) for way in found]
        tuned[names] = both[TUNED]
        for way, (oof, its_eval) in zip(found, both, strict=True):
            first = way is found[0]
            gains = ["", ""] if first else [told(a - b) for a, b in zip((oof, its_eval), both[0], strict=True)]
            difference = its_eval[0] - oof[0]
            differences.append(difference)
            losses = f"{way.losses[0]:.3f}, {way.losses[1]:.3f}" if way.losses else ""
            scores = (f"{interval(oof):.3f}", gains[0], f"{interval(its_eval):.3f}", gains[1])
            cells = (*scores, f"{difference:+.3f}", losses)
            print(f"| {' + '.join(names)} | {way.name} | {' | '.join(cells)} |")
    best = max(((name,) for name in RUNS), key=lambda names: tuned[names][0][0])
    gains = [told(ours - its) for ours, its in zip(tuned[RUNS], tuned[best], strict=True)]
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


def told(drawn: FloatArray) -> str:
    gain = interval(drawn)
    return f"{gain:+.3f} {gain.significance}"


def ways(blend: Blend, logits: Path, names: Sequence[str], aside: IntArray) -> list[Way]:
    """Every way to decide that is compared; plain with flip first."""
    plain, single = blend.plain("flip"), blend.plain("none")
    steps = [s for s in STEPS if s != "weights" or len(names) > 1]
    kept, kept_oof = tune(blend, steps)
    forced, forced_oof = tune(blend, steps, force=True)
    fits = [plain, single, kept.fitted, forced.fitted]
    on_eval = [
        decide(predicted(blend, logits, names, fitted).joints, fitted.weights, fitted.offsets, "joint")
        for fitted in fits
    ]
    oof = [blend.decide(plain), blend.decide(single), kept_oof, forced_oof]
    losses = [(log_loss(a, blend.truth), log_loss(b, aside)) for a, b in zip(oof, on_eval, strict=True)]
    titles = ["flip", "no TTA", f"tuned, kept: {kept.words}", f"all of {', '.join(steps)}"]
    found = [Way(title, oof[n].classes, on_eval[n].classes, losses[n]) for n, title in enumerate(titles)]
    by_part = [decide_hard(decision.log_probabilities) for decision in (oof[0], on_eval[0])]
    found.append(Way("flip, part by part", by_part[0], by_part[1]))
    if len(names) > 1:
        votes = vote(blend.joints(plain).argmax(axis=2), oof[0].log_probabilities)
        on_others = decide(predicted(blend, logits, names, plain).joints, plain.weights, plain.offsets, "vote").classes
        found.append(Way("flip, hard vote", votes, on_others))
    return found


def predicted(blend: Blend, logits: Path, names: Sequence[str], fitted: Fitted) -> Prediction:
    """What `infer` would say of the people set aside, from logits that were kept."""
    views = 1 if fitted.tta == "none" else 2
    ensembles = load_ensembles([m.run for m in blend.runs], [m.recipe for m in blend.runs], fitted, False)
    with np.load(logits) as z:
        order = [Path(run).name for run in json.loads(str(z["record"]))["runs"]]
        found = [
            {task: z[f"run{order.index(name)}/logits/{task}"][:, :views] for task in e.targets}
            for name, e in zip(names, ensembles, strict=True)
        ]
    return Prediction(np.stack([e.joint(own) for e, own in zip(ensembles, found, strict=True)]), found)


def eval_people(data: Path, logits: Path) -> People:
    """The people set aside, in the order of the logits."""
    with (data / "eval" / "meta.csv").open() as file:
        rows = {row["ImageID"]: row for row in csv.DictReader(file)}
    with np.load(logits) as z:
        ids = z["ids"].tolist()
    truth = np.array([int(rows[i]["ans"]) for i in ids])
    person = np.unique([rows[i]["id"] for i in ids], return_inverse=True)[1].astype(np.int64)
    _, gender, age = decode(truth)
    stratum = np.zeros(int(person.max()) + 1, dtype=np.int64)
    stratum[person] = gender * 3 + age
    return People(truth, person, draw_people(stratum))


if __name__ == "__main__":
    main()
