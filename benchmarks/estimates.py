"""What `--dry-run` says beforehand, beside what it took.

    python benchmarks/estimates.py --source ../shared/bench --out DIR

Two trainings and a prediction: generated faces with the recipe `demo`, and the real-photo benchmark (its builder and
weights lie in --source, or --data names one that is built) with `quick`, 3 folds. About ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from pathlib import Path

from study import build_data, maskens

from ensemble.decision.members import load_ensembles
from ensemble.decision.tuning import apply_tuning
from ensemble.inference.estimate import estimate_inference
from ensemble.inference.settings import InferenceSettings
from ensemble.jobs.hardware import Hardware
from ensemble.jobs.plan import plan
from ensemble.recipes.run_recipe import RecipeChange, resolve_recipe, run_recipe
from ensemble.training.estimate import estimate_training
from folds.data.layout import read_eval
from folds.run import load_data, load_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=Path("../shared/bench"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="A real-photo benchmark that is there already.")
    args = parser.parse_args()
    real, weights = args.data or args.out / "real", str(args.source / "tf_efficientnet_lite0.in1k.safetensors")
    build_data(args.source, real, 600, 200, "288x384")
    maskens("sample", args.out / "drawn", "--people", 90, "--size", "192x256")
    rows = [
        ("train, demo, 20 jobs", *training(args.out / "demo", args.out / "drawn", 5, "demo", [])),
        ("train, quick, 3 jobs", *training(args.out / "quick", real, 3, "quick", [weights])),
        ("infer --tta flip, quick, 3 models", *inference(args.out / "quick")),
    ]
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| what | estimated, s | took, s | ratio | the probe itself, s |\n|---|---|---|---|---|")
    for what, estimated, took, probed in rows:
        print(f"| {what} | {estimated:.0f} | {took:.0f} | {estimated / took:.2f} | {probed:.0f} |")


def training(folder: Path, data: Path, k: int, recipe: str, weights: list[str]) -> tuple[float, float, float]:
    """(estimated, took, probed) in seconds; the latter as a whole process, which also starts and checks."""
    maskens("folds", "--run", folder, "--data", data, "--k", k)
    run, hardware = load_run(folder), Hardware("cpu", None)
    resolved = resolve_recipe(run, RecipeChange(recipe, weights=weights))
    specs = plan(run, resolved, list(resolved.tasks), list(range(k)), hardware, folder / "cache")
    started = time.perf_counter()
    found = estimate_training(specs, *load_data(run), hardware, restart=False)
    probed = time.perf_counter() - started
    options = [o for w in weights for o in ("--weights", w)]
    started = time.perf_counter()
    maskens("train", "--run", folder, "--recipe", recipe, "--cache", folder / "cache", *options)
    return found.seconds, time.perf_counter() - started, probed


def inference(folder: Path) -> tuple[float, float, float]:
    """As `training`."""
    run = load_run(folder)
    recipe, data, cache = run_recipe(run), read_eval(run.data_folder()), folder / "cache"
    fitted = apply_tuning([run], [recipe], "flip", tuned=False).fitted
    started = time.perf_counter()
    settings = InferenceSettings("flip", Hardware("cpu", None), cache)
    seconds, _ = estimate_inference(load_ensembles([run], [recipe], fitted, False), data.photos, settings)
    probed = time.perf_counter() - started
    started = time.perf_counter()
    maskens("infer", "--run", folder, "--tta", "flip", "--cache", cache)
    return seconds, time.perf_counter() - started, probed


if __name__ == "__main__":
    main()
