"""Which keys of a recipe raise the score? One thing changed at a time, several seeds.

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
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from real_photos import People, build_data, eval_rows, initial_weights, machine, maskens, parse, print_heads

from ensemble.decision.oof_ensemble import load_oof_ensemble
from ensemble.decision.submission import read_answers
from ensemble.evaluation.compare import over_seeds
from ensemble.metrics.scores import SCORED_PARTS
from ensemble.recipes.schema import shipped
from folds.labels import FloatArray, decode
from folds.ranges import parse_folds
from folds.run_folder import load_run

BASE = "quick"
SINGLE_K = 18  # a single model learns from all people but one in eighteen, whom maskens needs to choose the epoch


@dataclass(frozen=True)
class Rung:
    """A recipe that changes one thing of another."""

    what: str
    to: str = BASE  # the rung that it extends
    keys: str = ""  # of [tasks.heads]
    tasks: tuple[str, ...] = ()  # instead of heads, each with all keys that heads has
    single: bool = False  # one model of nearly everybody, for as many photos as all folds of the others together


AUGMENT = """augment = [
    { name = "HorizontalFlip", args = { p = 0.5 } },
    { name = "Affine", args = { scale = [0.9, 1.1], translate_percent = [-0.04, 0.04], rotate = [-8, 8], p = 0.7 } },
    "camera",
]"""
RUNGS = {
    BASE: Rung("`quick`: three heads, cross-entropy on three age bands", "quick"),
    "apart": Rung("four models a fold, ages by gender", tasks=("mask", "gender", "male-age", "female-age")),
    "together": Rung("three models a fold, one for all ages", tasks=("mask", "gender", "age")),
    "class18": Rung("one model with 18 classes", tasks=("class18",)),
    "years": Rung("ages as a Gaussian of 2 years around the age", keys='ages = { cuts = "years", sigma = 2 }'),
    "ordinal": Rung("ages by probabilities at every year", keys='ages = { cuts = "years", head = "ordinal" }'),
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
    parser = parse(__doc__, eval_people=300, k=3, fold="all")
    parser.add_argument("--seed", type=int, action="append", help="may be repeated")
    parser.add_argument("--only", action="append", choices=list(RUNGS))
    args = parser.parse_args()
    build_data(args)
    for seed in args.seed or [0]:
        for name in args.only or RUNGS:
            train(args, name, seed)
    print_table(args.out, args.fold)


def train(args: argparse.Namespace, name: str, seed: int) -> Path:
    """Train and predict what is not there yet; returns the run's folder."""
    rung, run, first, data = RUNGS[name], args.out / f"{name}-{seed}", args.out / f"{BASE}-0", args.out / "data"
    if not (first / "folds.csv").exists():
        maskens("folds", "--data", data, "--run", first, "--k", args.k, "--seed", 0)
    if rung.single:
        maskens("folds", "--data", data, "--run", run, "--k", SINGLE_K, "--seed", seed)
    elif run != first:
        maskens("folds", "--data", data, "--run", run, "--folds-file", first / "folds.csv", "--seed", seed)
    fold = "0" if rung.single else args.fold
    recipe = write_recipe(args, name)
    maskens("train", "--run", run, "--recipe", recipe, *initial_weights(args), "--fold", fold, "--yes")
    if not (run / "submission.csv").exists():
        maskens("infer", "--run", run, "--tta", "flip", "--allow-missing")
    return Path(run)


def write_recipe(args: argparse.Namespace, name: str) -> Path:
    """Write a rung's recipe, and those that it extends."""
    rung, quick = RUNGS[name], shipped()[BASE]
    recipe: Path = args.out / f"{name}.toml"
    if rung.tasks:
        text = quick.replace("[tasks.heads]", "[defaults]") + "".join(f"[tasks.{task}]\n" for task in rung.tasks)
    else:
        base = rung.to if name == BASE else write_recipe(args, rung.to).name
        keys = f"epochs = {2 * (args.k - 1)}" if rung.single else rung.keys  # `quick` has 2 epochs
        text = f'extends = "{base}"\n[tasks.heads]\n{keys}\n'
    recipe.write_text(text)
    return recipe


def finished(folder: Path, folds: str) -> bool:
    """Whether a run has predicted new people, with models of these folds and no others."""
    if not (folder / "submission.csv").exists():
        return False
    k = load_run(folder).k
    wanted = {0} if k == SINGLE_K else set(parse_folds(folds, k))
    return {path.parent.name for path in folder.glob("*/fold*/oof.npz")} == {f"fold{fold}" for fold in wanted}


def print_table(out: Path, folds: str) -> None:
    """Every finished rung against the rung that it extends, on the same draws of people."""
    runs = {
        name: {int(p.name.rpartition("-")[2]): p for p in sorted(out.glob(f"{name}-[0-9]*")) if finished(p, folds)}
        for name in RUNGS
    }
    print(f"{machine()}\n")
    figures = ("macro F1", "against", "mask, gender, age", "new people", "against", "unseen masks", "minutes a run")
    print_heads("variant", "what", "seeds", *figures)
    for name, found in runs.items():
        if not found:
            continue
        before = {} if name == BASE else runs[RUNGS[name].to]
        cells = [name, RUNGS[name].what, str(len(found))]
        for scores in (out_of_fold, new_people):
            if RUNGS[name].single and scores is out_of_fold:
                cells += ["", "", ""]
                continue
            own = {seed: scores(run) for seed, run in found.items()}
            cells.append(f"{over_seeds(np.stack([s[SCORED_PARTS[0]] for s in own.values()])).mean:.3f}")
            gain = ""
            if shared := [seed for seed in found if seed in before]:  # the same seeds of both, as in a sweep
                base = {seed: scores(before[seed]) for seed in shared}
                g = over_seeds(np.stack([own[s][SCORED_PARTS[0]] - base[s][SCORED_PARTS[0]] for s in shared]))
                gain = f"{g.mean:+.3f} {g.significance}"
            cells.append(gain)
            if scores is out_of_fold:
                parts = [np.mean([s[part][0] for s in own.values()]) for part in SCORED_PARTS[1:]]
                cells.append(", ".join(f"{part:.3f}" for part in parts))
        cells.append(f"{np.mean([unseen_masks(run) for run in found.values()]):.3f}")
        jobs = [json.loads(f.read_text()) for run in found.values() for f in run.glob("*/fold*/job.json")]
        cells.append(f"{sum(job['seconds'] for job in jobs) / 60 / len(found):.1f}")
        print("|", " | ".join(cells), "|")


def out_of_fold(run: Path) -> dict[str, FloatArray]:
    """Macro F1 of each part: float64 (1 + draws,), everybody first."""
    blend = load_oof_ensemble([load_run(run)], None, "best")
    return People.held_out(blend).macro_parts(blend.decide(blend.plain("flip")).classes)


def new_people(run: Path) -> dict[str, FloatArray]:
    """The same on the eval part."""
    ids, classes = read_answers(run / "submission.csv")
    return People.new(run.parent / "data", ids).macro_parts(classes)


def unseen_masks(run: Path) -> float:
    """How often the state of the mask is right on new people's photos with a mask of a style that training has not."""
    rows = eval_rows(run.parent / "data")
    answers = zip(*read_answers(run / "submission.csv"), strict=True)
    unseen = [(int(rows[i]["ans"]), c) for i, c in answers if rows[i]["unseen_style"] == "1"]
    return float(np.mean([decode(truth)[0] == decode(c)[0] for truth, c in unseen]))


if __name__ == "__main__":
    main()
