"""Is one student as good as the ensemble that taught it? And does its out-of-fold score hold on new people?

    python benchmarks/distil.py --run TEACHER --source ../shared/bench --out DIR

TEACHER is a finished run on the real-photo benchmark, such as of

    python ../shared/bench/build_benchmark.py d600 --train-people 600 --eval-people 200 --size 288x384
    maskens folds --data d600 --run TEACHER --k 10
    maskens train --run TEACHER --recipe quick --weights ../shared/bench/tf_efficientnet_lite0.in1k.safetensors

Trains a student and, in the same folds and from the same seed, a plain model of the same recipe, a few minutes a model;
run again, it goes on where it stopped, also with more folds. TEACHER is read only.
"""

from __future__ import annotations

import argparse
import functools
import os
import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from decisions import People, eval_people, told
from study import maskens

from ensemble.decision.blend import load_blend
from ensemble.decision.decide import most_probable
from ensemble.decision.members import Ensemble, load_ensembles
from ensemble.metrics.bootstrap import draw_people, interval
from folds.data.labels import FloatArray
from folds.run import Run, load_run

STUDENT = """
extends = "quick"
[tasks.heads]
epochs = 5
"""


@dataclass
class NewPeople:
    """What a run's models say of the people set aside, each fold's by itself."""

    run: Run
    logits: Path
    people: People

    @functools.cached_property
    def ensembles(self) -> dict[int, Ensemble]:
        """By the number of views."""
        blend = load_blend([self.run], None, "best")
        recipes, fitted = [blend.runs[0].recipe], {1: blend.plain("none"), 2: blend.plain("flip")}
        return {views: load_ensembles([self.run], recipes, f, allow_missing=True)[0] for views, f in fitted.items()}

    def joint(self, fold: int | None, views: int) -> FloatArray:
        """float64 (photos, 18), of one fold's models or of all together."""
        ensemble = self.ensembles[views]
        with np.load(self.logits) as z:
            found = {task: z[f"logits/{task}"][:, :views] for task in ensemble.targets}
        return ensemble.joint(found, fold)

    def f1(self, views: int, fold: int | None = None) -> FloatArray:
        """Macro F1 on each draw of people, everybody first, of one fold's models or of all together."""
        return self.people.f1(most_probable(self.joint(fold, views)))

    def mean_f1(self, views: int) -> FloatArray:
        """The same of one fold's models by themselves, the mean over the folds."""
        return np.asarray(np.mean([self.f1(views, fold) for fold in self.ensembles[views].complete_folds], axis=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="The teacher.")
    parser.add_argument("--source", type=Path, default=Path("../shared/bench"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", type=Path, help="The student's; by default quick with five epochs.")
    parser.add_argument("--fold", default="0..2", help="Folds to train, as of `maskens train`.")
    parser.add_argument("--alpha", type=float, default=0.5)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    recipe = args.recipe or args.out / "student.toml"
    if not args.recipe:
        recipe.write_text(STUDENT)
    teacher = load_run(args.run)
    weights = args.source / "tf_efficientnet_lite0.in1k.safetensors"
    shared = ("--recipe", recipe, "--weights", weights, "--fold", args.fold, "--jobs", args.jobs, "--yes")
    soft = ("--alpha", args.alpha, "--temperature", args.temperature)
    student, plain = args.out / "student", args.out / "plain"
    maskens("distil", "--run", args.run, "--out", student, *soft, *shared)
    same = ("--folds-file", teacher.folds_file, "--seed", teacher.seed)
    maskens("folds", "--data", teacher.data, "--run", plain, *same)
    maskens("train", "--run", plain, *shared)
    cache = ("--cache", args.out / ".cache")
    if not (args.out / "teacher.csv").exists():
        maskens("infer", "--run", args.run, "--untuned", "--tta", "flip", "--out", args.out / "teacher.csv", *cache)
    for run in (student, plain):
        options = ("--untuned", "--tta", "flip", "--allow-missing", "--out", run.with_suffix(".csv"), *cache)
        run.with_suffix(".csv").unlink(missing_ok=True)
        maskens("infer", "--run", run, *options)
    print_table(args, teacher, load_run(student), load_run(plain))


def print_table(args: argparse.Namespace, teacher: Run, student: Run, plain: Run) -> None:
    blend = load_blend([teacher, student, plain], None, "best")
    folds = list(blend.trained)
    inside = People(blend.truth, blend.person, draw_people(blend.stratum))
    aside = eval_people(Path(teacher.data), args.out / "teacher.logits.npz")
    oof = {
        views: [inside.f1(most_probable(joint)) for joint in blend.joints(blend.plain(tta))]
        for views, tta in ((1, "none"), (2, "flip"))
    }
    new = [
        NewPeople(r, args.out / f"{name}.logits.npz", aside)
        for r, name in ((teacher, "teacher"), (student, "student"), (plain, "plain"))
    ]
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; {len(folds)} of "
        f"{teacher.k} folds, alpha {args.alpha:g}, temperature {args.temperature:g}\n"
    )
    whole = new[0].f1(2)
    rows: list[tuple[str, int, FloatArray | None, FloatArray]] = [
        ("the ensemble", 2 * teacher.k, oof[2][0], whole),
        ("one model of it, one view", 1, oof[1][0], new[0].mean_f1(1)),
        ("student, one fold, one view", 1, oof[1][1], new[1].mean_f1(1)),
        ("plain, one fold, one view", 1, oof[1][2], new[2].mean_f1(1)),
        ("student, one fold, two views", 2, oof[2][1], new[1].mean_f1(2)),
        ("plain, one fold, two views", 2, oof[2][2], new[2].mean_f1(2)),
        (f"student, {len(folds)} folds, two views", 2 * len(folds), None, new[1].f1(2)),
        (f"plain, {len(folds)} folds, two views", 2 * len(folds), None, new[2].f1(2)),
    ]
    print("| models | passes | out-of-fold | new people | against the ensemble |\n|---|---|---|---|---|")
    for name, passes, out_of_fold, f1 in rows:
        shown = "" if out_of_fold is None else f"{interval(out_of_fold):.3f}"
        gain = "" if name == rows[0][0] else told(f1 - whole)
        print(f"| {name} | {passes} | {shown} | {interval(f1):.3f} | {gain} |")
    print("\nstudent against plain:")
    for n, what in ((2, "one view"), (4, "two views")):
        (_, _, ours, theirs_new), (_, _, plains, plain_new) = rows[n], rows[n + 1]
        assert ours is not None and plains is not None
        inner, outer = ours - plains, theirs_new - plain_new
        beyond = f"out-of-fold beyond new people {told(inner - outer)}"
        print(f"- {what}: out-of-fold {told(inner)}, new people {told(outer)}; {beyond}")
    each = [f"{new[1].f1(1, f)[0]:.3f} and {new[2].f1(1, f)[0]:.3f}" for f in folds]
    print(f"- each fold's model by itself, one view, new people, student and plain: {'; '.join(each)}")


if __name__ == "__main__":
    main()
