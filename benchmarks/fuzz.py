"""Bad data by the hundred: does each input give the right result, or one message and exit code 2?

    python benchmarks/fuzz.py --inputs 2000

Photos are generated, and a tiny run is trained, tuned and used once. Then CSVs, recipes, the run's own files and photos
are spoiled, one at a time and each in a way drawn from the seed, and given to the commands that read them.
`benchmarks/hostile` says how, and what is right.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import get_args

from hostile import photos, recipes, run_files, tables
from hostile.judge import Result, Verdict
from hostile.workplace import Workplace, make_workplace

Fuzz = Callable[[Random, Workplace], Verdict]

KINDS: Mapping[str, Fuzz] = {
    "train.csv": tables.train_csv,
    "info.csv": tables.info_csv,
    "folds of one's own": tables.own_folds_csv,
    "folds.csv of a run": run_files.run_folds_csv,
    "fixes": tables.fixes_csv,
    "merged ids": tables.merges_csv,
    "submission": tables.submission_csv,
    "recipe": recipes.recipe,
    "recipe.toml of a run": run_files.run_recipe,
    "run.json": run_files.run_json,
    "job.json": run_files.job_json,
    "tuning.json": run_files.tuning_json,
    "model.safetensors": run_files.checkpoint,
    "model.safetensors, resealed": run_files.resealed_checkpoint,
    "oof.npz": run_files.job_logits,
    "oof.npz, resealed": run_files.resealed_logits,
    "tuning.oof.npz": run_files.tuned_logits,
    "eval.npz": run_files.eval_logits,
    "initial weights": run_files.initial_weights,
    "last.pt": run_files.interrupted_state,
    "decoded photos": run_files.photo_cache,
    "photo in order": photos.whole_photo,
    "photo, spoiled": photos.spoiled_photo,
    "decompression bomb": photos.bomb,
    "no photo": photos.no_photo,
    "photo to predict": photos.photo_to_predict,
}
COLUMNS = ("right result", "refused with exit 2", "tracebacks", "silent wrong results")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS, action="append", help="only these kinds; may be repeated")
    args = parser.parse_args()
    kinds = args.kind or list(KINDS)
    counts: defaultdict[str, Counter[Result]] = defaultdict(Counter)
    seconds: defaultdict[str, float] = defaultdict(float)
    bad = []
    with tempfile.TemporaryDirectory() as folder:
        place = make_workplace(Path(folder))
        for number in range(args.inputs):
            kind = kinds[number % len(kinds)]
            started = time.perf_counter()
            verdict = KINDS[kind](Random(f"{args.seed} {kind} {number}"), place)
            seconds[kind] += time.perf_counter() - started
            counts[kind][verdict.result] += 1
            if verdict.result in ("traceback", "wrong"):
                bad.append(f"{kind}, input {number}: {verdict.result}: {verdict.detail}")
                print(bad[-1], file=sys.stderr, flush=True)
    print(f"| kind of input | inputs | {' | '.join(COLUMNS)} |\n|---|{'---|' * (len(COLUMNS) + 1)}")
    for kind in kinds:
        print(_row(kind, counts[kind]))
    print(_row("all", sum(counts.values(), Counter())))
    print({k: round(v / max(1, counts[k].total()), 3) for k, v in seconds.items()}, file=sys.stderr)
    sys.exit(1 if bad else 0)


def _row(name: str, counts: Counter[Result]) -> str:
    return f"| {name} | {counts.total()} | {' | '.join(str(counts[result]) for result in get_args(Result))} |"


if __name__ == "__main__":
    main()
