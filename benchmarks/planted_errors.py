"""How many wrong labels does `maskens audit` find? Some are planted, models are trained on them, the audit ranks.

    python benchmarks/planted_errors.py --source ../shared/bench --out DIR

Needs the real-photo benchmark (its builder and weights lie in --source). In 1.5 % of the
people each, the gender is flipped, the age moved to another band by 15 years at least, and the masks of two photos
swapped. Seeded; run again, it resumes where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from real_photos import build_data, initial_weights, machine, maskens, parse, print_heads
from sklearn.metrics import average_precision_score

from ensemble.decision.joint import marginals
from ensemble.decision.oof_ensemble import load_oof_ensemble
from ensemble.evaluation.audit import audit
from ensemble.metrics.scores import PARTS
from folds.corrections import fixes_csv, read_fixes
from folds.files import write_text
from folds.labels import FIELDS, GENDERS, MASKS, SHOTS, FloatArray, IntArray, age_band
from folds.layout import read_train
from folds.people import Fix, TrainData
from folds.run_folder import load_run

SHARE = 0.015
FAR = 15  # years
Label = tuple[str, str, str]  # path, photo ("" if the field is not mask), field


@dataclass(frozen=True)
class Found:
    """What a ranking is worth."""

    planted: int
    precision: float  # of its first n, where n is the number planted
    recall: float  # of its first 2n
    average_precision: float
    chance: float  # what a random order would give for precision and average precision; for recall twice that


def worth(ranking: Sequence[Label], planted: Iterable[Label], candidates: int) -> Found:
    """Hold a ranking against the truth.

    Args:
        ranking: labels, most suspicious first, each once; those missing count as last, in no order.
        planted: those that are wrong; a value is no part of a label, so any suggestion counts as found.
        candidates: all labels that could be wrong.
    """
    wrong = set(planted)
    hits = np.array([label in wrong for label in ranking], dtype=bool)
    n = len(wrong)
    truth = np.zeros(candidates, dtype=bool)
    truth[: len(hits)] = hits
    truth[len(hits) : len(hits) + n - int(hits.sum())] = True
    score = np.zeros(candidates)
    score[: len(hits)] = np.arange(len(hits), 0, -1)
    average = float(average_precision_score(truth, score))
    return Found(n, float(hits[:n].sum()) / n, float(hits[: 2 * n].sum()) / n, average, n / candidates)


def plant(data: TrainData, share: float, seed: int) -> list[Fix]:
    """Wrong labels as fixes: of each kind in a share of the people, nobody with two kinds."""
    rng = np.random.default_rng(seed)
    each = max(1, round(share * len(data.people)))
    genders, ages, swaps = rng.permutation(len(data.people))[: 3 * each].reshape(3, each)
    oldest, youngest = max(p.age for p in data.people), min(p.age for p in data.people)
    years = np.arange(youngest, oldest + 1)
    planted = []
    for person in (data.people[i] for i in genders):
        old, new = GENDERS[person.gender], GENDERS[1 - person.gender]
        planted.append(Fix(person.path, "", "gender", old, new, "planted"))
    for person in (data.people[i] for i in ages):
        far = years[(abs(years - person.age) >= FAR) & (age_band(years) != age_band(person.age))]
        planted.append(Fix(person.path, "", "age", str(person.age), str(rng.choice(far)), "planted"))
    for person in (data.people[i] for i in swaps):
        pairs = [(a, b) for a in range(len(SHOTS)) for b in range(a) if person.masks[a] != person.masks[b]]
        for a, b in (pair := rng.choice(pairs), pair[::-1]):
            old, new = (MASKS[person.masks[i]] for i in (a, b))
            planted.append(Fix(person.path, SHOTS[a], "mask", old, new, "planted"))
    return planted


def single_photos(data: TrainData, rows: IntArray, log_p: FloatArray) -> list[Label]:
    """The plain ranking: every photo's labels by their probability as it is, a person's at the place of the lowest."""
    listed: list[tuple[float, Label]] = []
    for field, found, given in zip(PARTS, marginals(log_p), data.labels, strict=True):
        confidence = np.exp(found[np.arange(len(rows)), given[rows]])
        for row, value in zip(rows.tolist(), confidence.tolist(), strict=True):
            person, shot = divmod(row, len(SHOTS))
            listed.append((value, (data.people[person].path, SHOTS[shot] if field == "mask" else "", field)))
    return list(dict.fromkeys(label for _, label in sorted(listed)))


def main() -> None:
    parser = parse(__doc__, eval_people=20, recipe="quick", k=3, jobs=2, share=SHARE, seed=0)
    args = parser.parse_args()
    data, run, planted = build_data(args), args.out / "run", args.out / "planted.csv"
    if not planted.exists():
        write_text(planted, fixes_csv(plant(read_train(data), args.share, args.seed)))
    initial = initial_weights(args) if args.recipe == "quick" else ()
    maskens("folds", "--data", data, "--run", run, "--k", args.k, "--fixes", planted)
    maskens("train", "--run", run, "--recipe", args.recipe, "--jobs", args.jobs, *initial)
    maskens("audit", "--run", run)
    print_table(run, planted)


def print_table(folder: Path, planted: Path) -> None:
    """The audit compared with the plain ranking and chance, a row a field."""
    run = load_run(folder)
    blend = load_oof_ensemble([run], None, "best")
    data, log_p = blend.data, blend.decide(blend.plain("flip")).log_probabilities
    wrong = [(f.path, f.photo, f.field) for f in read_fixes([str(planted)])]
    rankings = {
        "audit": [(*label, s.field) for s in audit(data, blend.rows, log_p).suspects for label in s.labels],
        "single photos": single_photos(data, blend.rows, log_p),
    }
    possible = {field: len(data.files) if field == "mask" else len(data.people) for field in FIELDS}
    print(f"{machine()}, {run.k} folds, {len(data.people)} people\n")
    print_heads("labels", "planted", "ranking", "precision at n", "recall at 2n", "average precision")
    for name, fields in [*((f, {f}) for f in FIELDS), ("all", set(FIELDS))]:
        truth = [label for label in wrong if label[2] in fields]
        candidates = sum(possible[f] for f in fields)
        for kind, ranking in rankings.items():
            it = worth([label for label in ranking if label[2] in fields], truth, candidates)
            figures = f"{it.precision:.2f} | {it.recall:.2f} | {it.average_precision:.2f}"
            print(f"| {name} | {it.planted} | {kind} | {figures} |")
        print(f"| {name} | {it.planted} | chance | {it.chance:.2f} | {2 * it.chance:.2f} | {it.chance:.2f} |")


if __name__ == "__main__":
    main()
