"""Is one student as good as the ensemble that taught it? And does its out-of-fold score hold on new people?

    python benchmarks/distil.py --run TEACHER --source ../shared/bench --out DIR

TEACHER is a finished run on the real-photo benchmark, such as of

    python ../shared/bench/build_benchmark.py d600 --train-people 600 --eval-people 200 --size 288x384
    maskens folds --data d600 --run TEACHER --k 10
    maskens train --run TEACHER --recipe quick --weights ../shared/bench/tf_efficientnet_lite0.in1k.safetensors

Trains a student and, in the same folds and from the same seed, a plain model of the same recipe, a few minutes a model;
run again, it resumes where it stopped, also with more folds. TEACHER is read only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from real_photos import People, gained, initial_weights, machine, maskens, parse, print_heads

from ensemble.decision.joint import most_probable
from ensemble.decision.members import load_ensembles
from ensemble.decision.oof_ensemble import load_oof_ensemble
from ensemble.metrics.scores import interval
from folds.labels import FloatArray
from folds.run_folder import Run, load_run

STUDENT = 'extends = "quick"\n[tasks.heads]\nepochs = 5\n'
TTA = {1: "none", 2: "flip"}  # views -> their name


def main() -> None:
    parser = parse(__doc__, eval_people=200, fold="0..2", alpha=0.5, temperature=1.0, jobs=2)
    parser.add_argument("--run", type=Path, required=True, help="the teacher")
    parser.add_argument("--recipe", type=Path, help="the student's; default: quick with five epochs")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    recipe = args.recipe or args.out / "student.toml"
    if not args.recipe:
        recipe.write_text(STUDENT)
    teacher = load_run(args.run)
    shared = ("--recipe", recipe, *initial_weights(args), "--fold", args.fold, "--jobs", args.jobs, "--yes")
    student, plain = args.out / "student", args.out / "plain"
    soft = ("--alpha", args.alpha, "--temperature", args.temperature)
    maskens("distil", "--run", args.run, "--out", student, *soft, *shared)
    same = ("--folds-file", teacher.folds_file, "--seed", teacher.seed)
    maskens("folds", "--data", teacher.data, "--run", plain, *same)
    maskens("train", "--run", plain, *shared)
    for run, name in ((args.run, "teacher"), (student, "student"), (plain, "plain")):
        csv = args.out / f"{name}.csv"
        if name != "teacher":  # there may be more folds than before
            csv.unlink(missing_ok=True)
        if not csv.exists():
            options = ("--no-tuning", "--tta", "flip", "--allow-missing", "--cache", args.out / ".cache")
            maskens("infer", "--run", run, "--out", csv, *options)
    print(f"{machine()}; alpha {args.alpha:g}, temperature {args.temperature:g}\n")
    print_table(args.out, teacher, load_run(student), load_run(plain))


def on_new_people(run: Run, logits: Path, people: People, views: int) -> tuple[FloatArray, dict[int, FloatArray]]:
    """(macro F1 of all models together, of each fold's by itself), on each draw of people, everybody first."""
    blend = load_oof_ensemble([run], None, "best")
    (ensemble,) = load_ensembles([run], blend.plain(TTA[views]), allow_missing=True)
    with np.load(logits) as z:
        found = {task: z[f"logits/{task}"][:, :views] for task in ensemble.output_specs}
    each = {f: people.macro_f1(most_probable(ensemble.joint(found, f))) for f in ensemble.complete_folds}
    return people.macro_f1(most_probable(ensemble.joint(found))), each


def print_table(out: Path, teacher: Run, student: Run, plain: Run) -> None:
    runs = {"teacher": teacher, "student": student, "plain": plain}
    blend = load_oof_ensemble(list(runs.values()), None, "best")
    inside, count = People.held_out(blend), len(list(blend.trained))
    with np.load(out / "teacher.logits.npz") as z:
        aside = People.new(Path(teacher.data), z["ids"].tolist())
    oof = {
        (name, views): inside.macro_f1(most_probable(joint))
        for views, tta in TTA.items()
        for name, joint in zip(runs, blend.class_log_probs(blend.plain(tta)), strict=True)
    }
    new = {
        (name, views): on_new_people(run, out / f"{name}.logits.npz", aside, views)
        for name, run in runs.items()
        for views in TTA
    }
    whole = new["teacher", 2][0]
    print_heads("models", "passes", "out-of-fold", "new people", "against the ensemble")

    def row(what: str, passes: int, out_of_fold: FloatArray | None, f1: FloatArray) -> None:
        shown = "" if out_of_fold is None else f"{interval(out_of_fold):.3f}"
        print(f"| {what} | {passes} | {shown} | {interval(f1):.3f} | {gained(f1 - whole)} |")

    row("the ensemble", 2 * teacher.k, oof["teacher", 2], whole)
    one = {key: np.mean(list(each.values()), axis=0) for key, (_, each) in new.items()}  # mean over the folds
    row("one model of it, one view", 1, oof["teacher", 1], one["teacher", 1])
    for views in TTA:
        for name in ("student", "plain"):
            row(f"{name}, one fold, views: {views}", views, oof[name, views], one[name, views])
    for name in ("student", "plain"):
        row(f"{name}, {count} folds, views: 2", 2 * count, None, new[name, 2][0])
    print("\nstudent against plain:")
    for views in TTA:
        inner, outer = (of["student", views] - of["plain", views] for of in (oof, one))
        beyond = f"out-of-fold beyond new people {gained(inner - outer)}"
        print(f"- views: {views}: out-of-fold {gained(inner)}, new people {gained(outer)}; {beyond}")


if __name__ == "__main__":
    main()
