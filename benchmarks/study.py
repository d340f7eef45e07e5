"""Which recipe is worth it? Variants on the same people and folds, one change at a time.

    python benchmarks/study.py --source ../shared/bench --out DIR

Needs the real-photo benchmark (its builder and weights lie in --source); takes about an hour and a half on two
cores. Jobs that two variants share are trained once (`maskens train --reuse`). Run again, it goes on where it
stopped. `--only NAME` trains some variants; the table is of all that are finished.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np

from ensemble.decision.blend import load_blend
from ensemble.jobs.oof import Epoch
from ensemble.metrics.bootstrap import SCORED_PARTS, draw_people, drawn_parts, interval, person_confusions
from ensemble.recipes.run_recipe import run_recipe
from ensemble.recipes.tta_views import Tta
from folds.data.labels import FloatArray
from folds.run import load_run
from folds.splitting.split import strata

FIRST = """
[defaults]
model = "tf_efficientnet_lite0.in1k"
resize = [128, 96]
batch_size = 32
epochs = 2
loss = { ce = 1.0 }
optimizer = { name = "adamw", lr = 1e-3, weight_decay = 1e-2 }
schedule = { name = "cosine", warmup_epochs = 0.2, lr_min = 1e-5 }
[[defaults.augment]]
name = "HorizontalFlip"
args = { p = 0.5 }
[[defaults.augment]]
name = "Affine"
args = { scale = [0.9, 1.1], translate_percent = [-0.04, 0.04], rotate = [-8, 8], p = 0.7 }
[[defaults.augment]]
name = "RandomBrightnessContrast"
args = { brightness_limit = [-0.2, 0.2], contrast_limit = [-0.2, 0.2], p = 0.5 }
[[defaults.augment]]
name = "HueSaturationValue"
args = { hue_shift_limit = [-10, 10], sat_shift_limit = [-20, 20], val_shift_limit = [-10, 10], p = 0.5 }

[tasks.mask]
epochs = 1
[tasks.gender]
[tasks.male-age]
[tasks.female-age]
"""
AGES_APART = 'without = ["male-age", "female-age"]\n'
ALL_FOUR = 'without = ["mask", "gender", "male-age", "female-age"]\n'
HEADS = f"{ALL_FOUR}[tasks.heads]\n"
AGE = f"{AGES_APART}[tasks.age]\n"
BASE = "apart"
VARIANTS = {  # name -> (what it is, the recipe less the line that extends FIRST)
    BASE: ("four models a fold, ages by gender, cross-entropy", ""),
    "together": ("one age model for both genders", AGE),
    "age5": ("together, ages in five bins: 21, 30, 46, 58", f"{AGE}ages = {{ cuts = [21, 30, 46, 58] }}\n"),
    "age58": ("together, trained as >=60 from 58", f"{AGE}ages = {{ cuts = [30, 58] }}\n"),
    "heads": ("one model with 3+2+3 outputs", HEADS),
    "class18": ("one model with 18 classes", f"{ALL_FOUR}[tasks.class18]\n"),
    "soft-f1": ("together, 0.3 cross-entropy + 0.7 soft F1 for age", f"{AGE}loss = {{ ce = 0.3, f1 = 0.7 }}\n"),
    "cutmix": ("together, CutMix on half of the batches for age", f"{AGE}mix = {{ cutmix = 1.0, prob = 0.5 }}\n"),
    "heads-4": ("heads, 4 epochs", f"{HEADS}epochs = 4\n"),
    "heads-4-cutmix": (
        "heads, 4 epochs, CutMix on half of the batches",
        f"{HEADS}epochs = 4\nmix = {{ cutmix = 1.0, prob = 0.5 }}\n",
    ),
    "heads-2-photos": (
        "heads, 8 epochs of 2 photos a person, CutMix on half of the batches",
        f"{HEADS}epochs = 8\nsampler = {{ photos_per_person = 2 }}\nmix = {{ cutmix = 1.0, prob = 0.5 }}\n",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=Path("../shared/bench"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train-people", type=int, default=600)
    parser.add_argument("--eval-people", type=int, default=200)
    parser.add_argument("--size", default="288x384")
    parser.add_argument("--k", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", action="append", choices=list(VARIANTS), help="Train these only.")
    args = parser.parse_args()
    data = args.out / "data"
    build_data(args.source, data, args.train_people, args.eval_people, args.size)
    for name in args.only or VARIANTS:
        train(args, data, name)
    print_table(args.out, [n for n in VARIANTS if (args.out / n / "run.json").exists() and finished(args.out / n)])


def build_data(source: Path, data: Path, train_people: int, eval_people: int, size: str) -> None:
    """Build the real-photo benchmark if it is not there yet."""
    if not data.exists():
        build = [sys.executable, source / "build_benchmark.py", data, "--size", size]
        people = ["--train-people", train_people, "--eval-people", eval_people]
        subprocess.run([*map(str, build + people)], check=True)


def train(args: argparse.Namespace, data: Path, name: str) -> None:
    """Split into folds and train what is not trained yet."""
    run, recipe = args.out / name, args.out / f"{name}.toml"
    (args.out / "first.toml").write_text(FIRST)
    recipe.write_text(f'extends = "first.toml"\n{VARIANTS[name][1]}')
    maskens("folds", "--data", data, "--run", run, "--k", args.k)
    reuse = [] if name == BASE else ["--reuse", args.out / BASE]
    weights = args.source / "tf_efficientnet_lite0.in1k.safetensors"
    maskens("train", "--run", run, "--recipe", recipe, "--weights", weights, "--jobs", args.jobs, *reuse)


def finished(folder: Path) -> bool:
    """Whether every job of a run is done."""
    run = load_run(folder)
    return bool(run.recipe_hash) and all(
        (run.job_folder(t, f) / "oof.npz").exists() for t in run_recipe(run).tasks for f in range(run.k)
    )


def print_table(out: Path, names: list[str]) -> None:
    """Out-of-fold F1 of every finished variant, and its difference to the base on the same draws of people."""
    base = drawn(out / BASE, "flip", "best")
    k = load_run(out / BASE).k
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {k} folds\n")
    print("| variant | what | macro F1 | against the first | mask | gender | age | last epochs | minutes |")
    print("|---|---|---|---|---|---|---|---|---|")
    rows: list[tuple[str, str, Path, Tta]] = [(n, VARIANTS[n][0], out / n, "flip") for n in names]
    rows.insert(1, (f"{BASE}, no TTA", "the same models, photos not mirrored", out / BASE, "none"))
    for name, what, folder, tta in rows:
        found = drawn(folder, tta, "best")
        f1, gain = interval(found[SCORED_PARTS[0]]), interval(found[SCORED_PARTS[0]] - base[SCORED_PARTS[0]])
        against = f"{gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f}) {gain.significance}"
        parts = " | ".join(f"{found[part][0]:.3f}" for part in SCORED_PARTS[1:])
        last = drawn(folder, tta, "last")[SCORED_PARTS[0]][0]
        jobs = [json.loads(f.read_text()) for f in folder.glob("*/fold*/job.json")]
        minutes = sum(job["seconds"] for job in jobs) / 60
        if (name, tta) == (BASE, "flip"):
            against = ""
        print(
            f"| {name} | {what} | {f1.value:.3f} ({f1.low:.3f} to {f1.high:.3f}) | {against} | {parts} | {last:.3f} "
            f"| {minutes:.0f} |"
        )


def drawn(folder: Path, tta: Tta, epoch: Epoch) -> dict[str, FloatArray]:
    """Macro F1 of the whole and of each part: float64 (1 + draws,), everybody first."""
    blend = load_blend([load_run(folder)], None, epoch)
    data, decision = blend.data, blend.decide(blend.plain(tta))
    ids, first = np.unique([p.group for p in data.people], return_index=True)
    person = np.searchsorted(ids, np.array([p.group for p in data.people])[data.photo_person[blend.rows]])
    present, person = np.unique(person, return_inverse=True)  # all, unless some folds are not trained
    weights = draw_people(strata(data.people)[first][present])
    confusions = person_confusions(data.classes[blend.rows], decision.classes, person)
    return {part: f1.mean(axis=1) for part, f1 in drawn_parts(weights, confusions).items()}


def maskens(*arguments: object) -> None:
    print("maskens", *arguments, flush=True)
    command = [sys.executable, "-c", "import cli; cli.main()", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
