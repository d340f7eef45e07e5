"""Inference in fp32 and in bf16: speed, logits, and whether the CSV is another.

    python benchmarks/inference_precision.py --run RUN

RUN is a trained run with an eval part, such as the one that estimates.py or real_photos.py leaves. Each precision
predicts it three times in turn, with warm caches.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from ensemble.decision.decide import decide
from ensemble.decision.members import load_ensembles
from ensemble.decision.tuning import apply_tuning
from ensemble.inference.infer import infer
from ensemble.inference.settings import InferenceSettings
from ensemble.jobs.hardware import Hardware, choose_device
from ensemble.models.engine import EngineOptions
from ensemble.models.precision import PrecisionOption
from ensemble.recipes.run_recipe import run_recipe
from folds.data.layout import read_eval
from folds.run import load_run

ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    args = parser.parse_args()
    run = load_run(args.run)
    recipe, data = run_recipe(run), read_eval(run.data_folder())
    fitted = apply_tuning([run], [recipe], "flip", tuned=False).fitted
    ensembles = load_ensembles([run], [recipe], fitted, allow_missing=False)
    hardware = Hardware(choose_device("auto"), None)
    seconds: dict[PrecisionOption, list[float]] = {"fp32": [], "bf16": [], "auto": []}
    found = {}
    settings = InferenceSettings("flip", hardware, args.run / "cache")
    infer(ensembles, data.photos, dataclasses.replace(settings, tta="none"))  # fills the cache
    for _ in range(ROUNDS):
        for kind in seconds:
            started = time.perf_counter()
            found[kind] = infer(ensembles, data.photos, dataclasses.replace(settings, engine=EngineOptions(kind)))
            seconds[kind].append(time.perf_counter() - started)
    classes = {kind: decide(found[kind].joints, fitted.weights, fitted.offsets).classes for kind in seconds}
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {hardware.device}")
    print(f"{len(ensembles[0].members)} models, {len(data.ids)} photos, flip; auto: {found['auto'].precision}\n")
    print(
        "| precision | photos/s, median (min-max) | against fp32, round by round | largest difference | other class |"
    )
    print("|---|---|---|---|---|")
    for kind, times in seconds.items():
        speeds = sorted(len(data.ids) / t for t in times)
        ratios = sorted(a / b for a, b in zip(seconds["fp32"], times, strict=True))
        difference = max(
            float(np.abs(values - found["fp32"].logits[0][task]).max())
            for task, values in found[kind].logits[0].items()
        )
        speed = f"{statistics.median(speeds):.0f} ({speeds[0]:.0f}-{speeds[-1]:.0f})"
        ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
        print(f"| {kind} | {speed} | {ratio} | {difference:.3f} | {(classes[kind] != classes['fp32']).sum()} |")


if __name__ == "__main__":
    main()
