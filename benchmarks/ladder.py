"""Which keys of a recipe raise the score? One thing added at a time, for the same number of photos, several seeds.

    python benchmarks/ladder.py --source ../shared/bench --out DIR --seed 0 --seed 1 --seed 2

Needs the real-photo benchmark (its builder and weights lie in --source). Each rung extends the one that it names and
shows its models the same number of photos, so that the training minutes are alike where the model and the photos' size
are. All seeds share the folds. F1 is out-of-fold with flip; its interval is over people and seeds together, drawn as
`maskens sweep` draws them; a rung is compared on the seeds that it shares with the one it extends. `new people` is the
eval part, predicted by the ensembles of the same runs.
Run again, it resumes where it stopped; `--only RUNG` trains some, the table is of all that are finished. With many
people one fold tells as much as all folds of few, in less time: `--train-people 2700 --k 5 --fold 0`.
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
from study import build_data, drawn, maskens

from ensemble.decision.submission import read_answers
from ensemble.evaluation.sweep import over_seeds
from ensemble.metrics.bootstrap import SCORED_PARTS, draw_people, drawn_parts, person_confusions
from folds.data.labels import AGES, FloatArray, IntArray, decode
from folds.run import load_run
from folds.splitting.ranges import parse_folds

BASE = "quick"
EPOCHS = 2  # of `quick`
SINGLE_K = 18  # a single model learns from all people but one in eighteen, whom maskens needs to choose the epoch


@dataclass(frozen=True)
class Rung:
    """A recipe that adds one thing to another."""

    what: str
    to: str = BASE  # the rung that it extends
    keys: str = ""  # of [tasks.heads]
    single: bool = False  # one model of nearly everybody, for as many photos as all folds of the others together


AUGMENT = """augment = [
    { name = "HorizontalFlip", args = { p = 0.5 } },
    { name = "Affine", args = { scale = [0.9, 1.1], translate_percent = [-0.04, 0.04], rotate = [-8, 8], p = 0.7 } },
    "camera",
]"""
YEARS = 'ages = { cuts = "years", sigma = 2 }'
RUNGS = {
    BASE: Rung("`quick`: three heads, cross-entropy on three age bands", "quick"),
    "years": Rung("ages as a distribution over years, a Gaussian of 2 around the age", keys=YEARS),
    "ordinal": Rung(
        "ages by conditional probabilities at every year", keys='ages = { cuts = "years", head = "ordinal" }'
    ),
    "regression": Rung("ages by middle and spread", keys='ages = { cuts = "years", head = "regression" }'),
    "adjusted": Rung("logits adjusted by class frequency", keys="loss = { logit_adjustment = 1.0 }"),
    "layers": Rung("layer-wise learning-rate decay 0.8", keys="optimizer = { layer_decay = 0.8 }"),
    "larger": Rung("`best`: photos of 176x132, 1.9 times the pixels", keys="resize = [176, 132]"),
    "largest": Rung("photos of 224x168, 1.6 times the pixels again", "larger", "resize = [224, 168]"),
    "single": Rung("one model in place of one a fold, for as many photos as all of them", "larger", single=True),
    "face": Rung("the face cut out", keys='crop = "face"'),
    "camera": Rung("`camera` in place of brightness and hue", keys=AUGMENT),
    "longer": Rung("4 epochs, CutMix on half of the batches", keys="epochs = 4\nmix = { cutmix = 1.0, prob = 0.5 }"),
    "everything": Rung(
        "adjusted, layers and camera together, averaged weights",
        "longer",
        "ema = 0.99\nloss = { logit_adjustment = 1.0 }\noptimizer = { layer_decay = 0.8 }\n" + AUGMENT,
    ),
    "masks": Rung("masks drawn on three of ten bare faces", keys="masks = { prob = 0.3, detect = true }"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=Path("../shared/bench"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train-people", type=int, default=600)
    parser.add_argument("--eval-people", type=int, default=300)
    parser.add_argument("--size", default="288x384")
    parser.add_argument("--k", type=int, default=3)
    parser.add_argument("--fold", default="all", help="Folds to train, as of `maskens train`.")
    parser.add_argument("--seed", type=int, action="append", help="May be repeated.")
    parser.add_argument("--only", action="append", choices=list(RUNGS))
    args = parser.parse_args()
    build_data(args.source, args.out / "data", args.train_people, args.eval_people, args.size)
    for seed in args.seed or [0]:
        for name in args.only or RUNGS:
            train(args, name, seed)
    print_table(args.out, args.fold)


def train(args: argparse.Namespace, name: str, seed: int) -> None:
    """Train and predict what is not there yet."""
    run, rung = run_folder(args.out, name, seed), RUNGS[name]
    fold = "0" if rung.single else args.fold
    recipe = write_recipe(args, name)
    first = run_folder(args.out, BASE, 0)
    if not (first / "folds.csv").exists():
        maskens("folds", "--data", args.out / "data", "--run", first, "--k", args.k, "--seed", 0)
    if rung.single:
        maskens("folds", "--data", args.out / "data", "--run", run, "--k", SINGLE_K, "--seed", seed)
    elif run != first:
        folds = ("--folds-file", first / "folds.csv", "--seed", seed)
        maskens("folds", "--data", args.out / "data", "--run", run, *folds)
    weights = args.source / "tf_efficientnet_lite0.in1k.safetensors"
    maskens("train", "--run", run, "--recipe", recipe, "--weights", weights, "--fold", fold, "--yes")
    if not (run / "submission.csv").exists():
        maskens("infer", "--run", run, "--tta", "flip", "--allow-missing")


def write_recipe(args: argparse.Namespace, name: str) -> Path:
    """Write a rung's recipe, and those that it extends."""
    rung = RUNGS[name]
    recipe: Path = args.out / f"{name}.toml"
    base = rung.to if name == BASE else write_recipe(args, rung.to).name
    keys = f"epochs = {EPOCHS * (args.k - 1)}" if rung.single else rung.keys
    recipe.write_text(f'extends = "{base}"\n[tasks.heads]\n{keys}\n')
    return recipe


def run_folder(out: Path, name: str, seed: int) -> Path:
    return out / f"{name}-{seed}"


def finished(folder: Path, folds: str) -> bool:
    """Whether a run has predicted new people, with models of these folds and no others."""
    if not (folder / "submission.csv").exists():
        return False
    k = load_run(folder).k
    wanted = {0} if k == SINGLE_K else set(parse_folds(folds, k))
    return {path.parent.name for path in folder.glob("heads/fold*/oof.npz")} == {f"fold{fold}" for fold in wanted}


def print_table(out: Path, folds: str) -> None:
    """Every finished rung against the rung that it extends, on the same draws of people."""
    runs = {
        name: {int(p.name.rpartition("-")[2]): p for p in sorted(out.glob(f"{name}-[0-9]*")) if finished(p, folds)}
        for name in RUNGS
    }
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print(
        "| variant | added | seeds | macro F1 | against | mask, gender, age | new people | against | unseen masks "
        "| minutes a run |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, found in runs.items():
        if not found:
            continue
        before = {} if name == BASE else runs[RUNGS[name].to]
        cells = [name, RUNGS[name].what, str(len(found))]
        for scores in (out_of_fold, new_people):
            if RUNGS[name].single and scores is out_of_fold:
                cells += ["", "", ""]
                continue
            own = {seed: scores(run, out) for seed, run in found.items()}
            f1 = over_seeds(np.stack([s[SCORED_PARTS[0]] for s in own.values()])).mean
            cells.append(f"{f1.value:.3f} ({f1.low:.3f} to {f1.high:.3f})")
            gain = ""
            if shared := [seed for seed in found if seed in before]:  # the same seeds of both, as in a sweep
                base = {seed: scores(before[seed], out) for seed in shared}
                g = over_seeds(np.stack([own[s][SCORED_PARTS[0]] - base[s][SCORED_PARTS[0]] for s in shared])).mean
                gain = f"{g:+.3f} {g.significance if len(shared) > 1 else g.of_one_seed}"
            cells.append(gain)
            if scores is out_of_fold:
                cells.append(
                    ", ".join(f"{np.mean([s[part][0] for s in own.values()]):.3f}" for part in SCORED_PARTS[1:])
                )
        cells.append(f"{np.mean([unseen_masks(run, out) for run in found.values()]):.3f}")
        jobs = [json.loads(f.read_text()) for run in found.values() for f in run.glob("*/fold*/job.json")]
        cells.append(f"{sum(job['seconds'] for job in jobs) / 60 / len(found):.1f}")
        print("|", " | ".join(cells), "|")


def out_of_fold(run: Path, out: Path) -> dict[str, FloatArray]:
    return drawn(run, "flip", "best")


def new_people(run: Path, out: Path) -> dict[str, FloatArray]:
    """Macro F1 of each part on the eval part: float64 (1 + draws,), everybody first."""
    rows, ids, predicted = eval_rows(run, out)
    truth = np.array([int(rows[i]["ans"]) for i in ids], dtype=np.int64)
    person: IntArray = np.unique([rows[i]["id"] for i in ids], return_inverse=True)[1].astype(np.int64)
    _, gender, age = decode(truth)
    stratum = np.zeros(person.max() + 1, dtype=np.int64)
    stratum[person] = gender * len(AGES) + age
    found = drawn_parts(draw_people(stratum), person_confusions(truth, predicted, person))
    return {part: f1.mean(axis=1) for part, f1 in found.items()}


def unseen_masks(run: Path, out: Path) -> float:
    """How often the state of the mask is right on new people's photos with a mask of a style that training has not."""
    rows, ids, predicted = eval_rows(run, out)
    right = [
        decode(int(rows[i]["ans"]))[0] == decode(c)[0]
        for i, c in zip(ids, predicted.tolist(), strict=True)
        if rows[i]["unseen_style"] == "1"
    ]
    return float(np.mean(right))


def eval_rows(run: Path, out: Path) -> tuple[dict[str, dict[str, str]], Sequence[str], IntArray]:
    """(what the eval part's photos are, by id; ids and classes of a run's submission)."""
    with (out / "data" / "eval" / "meta.csv").open() as file:
        rows = {row["ImageID"]: row for row in csv.DictReader(file)}
    return rows, *read_answers(run / "submission.csv")


if __name__ == "__main__":
    main()
