"""The whole ensemble by each engine and precision, beside what one would write instead.

    python benchmarks/engines.py --run RUN [--photos 420] [--rounds 3] [--no-oof]

Every way predicts the same eval photos in the views of flip, in a process of its own, in turns. All read photos that
are decoded already, from one cache: engines are compared here, not decoding. `per-checkpoint loop` and `ttach loop` are
those of inference_speed.py, one pass over the photos for each checkpoint, without loader processes.

`ready` is what comes before the first batch (loading, folding, conversion, checks, choosing), once a run; photos/s is
what comes after. `by CPU time` is the ratio of process times instead of wall times, which other work on the machine
moves less. Logits, and classes after the mean over models and views, are compared with torch in fp32.

Out-of-fold macro F1 over the 18 classes is measured: each model predicts the photos of its held-out fold, by the engine
and in the precision that `infer` would choose for it. With a budget there are no passes to skip then.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from inference_speed import DecisionVariant, by_itself, class_log_probs, mean_logits, parse, timm_way, ttach_way

from ensemble.data.cache import DecodedPhotos, open_photos
from ensemble.decision.early_exit import Budget
from ensemble.decision.joint import decide
from ensemble.decision.members import Member, load_ensembles, preprocessings
from ensemble.decision.oof_ensemble import load_oof_ensemble
from ensemble.decision.tuning import apply_tuning
from ensemble.jobs.hardware import Hardware
from ensemble.metrics.scores import macro_f1
from ensemble.models.array_views import array_views
from ensemble.models.build import load_checkpoint
from ensemble.models.engine import AS_TRAINED, BATCH, EngineOptions, engine_options
from ensemble.models.engine_choice import choose_engine
from ensemble.models.onnx_graph import OnnxGraphs
from ensemble.models.runtime import configure_process
from ensemble.prediction.inference import InferenceSettings, infer
from ensemble.prediction.predictor import Predictor
from ensemble.prediction.strategies import WHOLE
from ensemble.recipes.views import VIEWS
from folds.errors import MaskensError
from folds.labels import CLASSES
from folds.layout import read_eval
from folds.run_folder import Run, load_run

CPU = torch.device("cpu")
LOOPS: dict[str, Callable[[DecisionVariant, int], dict[str, np.ndarray]]] = {
    "per-checkpoint loop": timm_way,
    "ttach loop": ttach_way,
}
ENGINES: dict[str, EngineOptions] = {
    "maskens, torch fp32": AS_TRAINED,
    "torch bf16": EngineOptions("bf16"),
    "onnxruntime fp32": EngineOptions("fp32", engine="onnxruntime"),
    "openvino fp32": EngineOptions("fp32", engine="openvino"),
    "openvino bf16": EngineOptions("bf16", engine="openvino"),
    "torch fp32, --max-passes .5": AS_TRAINED,
    "openvino bf16, --max-passes .5": EngineOptions("bf16", engine="openvino"),
}
FIRST, BASE = "per-checkpoint loop", "maskens, torch fp32"


@dataclasses.dataclass(frozen=True)
class Cached(DecisionVariant):
    """A setting whose photos are decoded already."""

    cache: Path = Path()
    run: Run | None = None

    def photos(self, member: Member) -> DecodedPhotos:
        return open_photos(self.data, [member.card.preprocessing], self.cache, 2)


def one(way: str, setting: Cached, oof: bool, out: Path) -> None:
    """Go one way and leave what came of it."""
    arrays: dict[str, Any] = {}
    if way in LOOPS:
        torch.set_num_threads(setting.hardware.job_threads)
        wall, cpu = time.perf_counter(), time.process_time()
        logits = LOOPS[way](setting, 0)
        arrays |= {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "ready": 0.0}
        by_task: dict[str, list[np.ndarray]] = {}
        for m in setting.ensemble.members:
            by_task.setdefault(m.task, []).append(logits[f"{m.task} {m.fold}"])
        joint = setting.ensemble.joint({t: np.stack(v)[:, None].astype(np.float32) for t, v in by_task.items()})[None]
    else:
        joint, logits = _maskens(way, setting, arrays, oof)
    arrays["classes"] = decide(joint, setting.fitted.weights, setting.fitted.offsets).classes
    arrays |= {f"logits {name}": values for name, values in logits.items()}
    np.savez(out, **arrays)


def _maskens(way: str, setting: Cached, arrays: dict[str, Any], oof: bool) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    wanted = ENGINES[way]
    assert setting.run is not None
    engine = engine_options(wanted.engine, wanted.precision, False, "cpu")
    budget = Budget(fraction=0.5) if "--max-passes" in way else None
    early = setting.fitted if budget else None
    settings = InferenceSettings(setting.hardware, setting.cache, engine, early, budget)
    ready = [0.0, 0.0]
    load = Predictor.load

    def timed(*arguments: Any) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        load(*arguments)
        ready[:] = time.perf_counter() - wall, time.process_time() - cpu

    configure_process(setting.hardware.job_threads)
    with mock.patch.object(Predictor, "load", timed):
        wall, cpu = time.perf_counter(), time.process_time()
        found = infer([setting.ensemble], setting.data, settings)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    arrays |= {"seconds": wall - ready[0], "cpu": cpu - ready[1], "ready": ready[0], "notes": "; ".join(found.notes)}
    if oof and budget is None:
        arrays["f1"] = _out_of_fold(setting, settings)
    return class_log_probs(setting, found), mean_logits(setting, found)


def _out_of_fold(setting: Cached, settings: InferenceSettings) -> float:
    """Macro F1 over the 18 classes of the models that `infer` would predict with, each on its held-out fold."""
    assert setting.run is not None
    blend = load_oof_ensemble([setting.run], None, "best")
    (own,) = blend.runs
    views, graphs = VIEWS["flip"], OnnxGraphs()
    logits = {task: np.full((2, len(blend.rows), t.width), np.nan, np.float32) for task, t in own.output_specs.items()}
    for member in setting.ensemble.members:
        card, mine = member.card, blend.fold == member.fold
        photos = open_photos(blend.data.photos, [card.preprocessing], setting.cache, 2)
        model = load_checkpoint(member.path, CPU)[0]
        found, engine = [], None
        for batch in photos.batches(blend.rows[mine].tolist(), BATCH, 2):
            x = array_views(batch.photos[0], views, card.normalisation).transpose(0, 3, 1, 2)
            engine = engine or choose_engine(
                model, torch.from_numpy(x[: len(batch.faces)]), settings.engine, BATCH, graphs
            )
            found.append(engine.logits(x).reshape(len(views), len(batch.faces), -1))
        logits[member.task][:, mine] = np.concatenate(found, axis=1)
    whole = dataclasses.replace(blend, runs=(dataclasses.replace(own, logits=logits, views=views),))
    return macro_f1(blend.truth, whole.decide(whole.plain("flip")).classes, CLASSES)


def _setting(run: Run, args: argparse.Namespace) -> Cached:
    whole = read_eval(run.data_folder(args.data))
    fitted = apply_tuning([run], "flip", tuned=False).fitted
    (ensemble,) = load_ensembles([run], fitted, allow_missing=False)
    part = whole.photos.some(np.linspace(0, len(whole.ids) - 1, min(args.photos, len(whole.ids))).astype(np.int64))
    return Cached(ensemble, fitted, part, Hardware("cpu", None), Path(args.cache or run.folder.parent / ".cache"), run)


def main() -> None:
    parser = parse(__doc__, photos=420)
    parser.add_argument("--data", type=Path, help="where the eval photos are; default: the run's data")
    parser.add_argument("--no-oof", action="store_true", help="Without out-of-fold scores.")
    parser.add_argument(
        "--only", action="append", help="These ways of the table; the loop and torch fp32 have to be among them."
    )
    parser.add_argument("--cache", type=Path)
    args = parser.parse_args()
    setting = _setting(load_run(args.run), args)
    if args.way:
        return one(args.way, setting, not args.no_oof, args.out)
    open_photos(setting.data, preprocessings([setting.ensemble]), setting.cache, 2)
    found: dict[str, list[dict[str, Any]]] = {}
    left_out: dict[str, str] = {}
    for number in range(args.rounds):
        for way in (*LOOPS, *ENGINES):
            if args.only and way not in args.only:
                continue
            if "--max-passes" in way and len(setting.data.files) <= 2 * WHOLE:
                left_out[way] = f"its rule is chosen on {WHOLE} photos, which see all passes: --photos 1400 or more"
            if way in left_out:
                continue
            more = ["--no-oof"] if number else []
            try:
                found.setdefault(way, []).append(by_itself(way, *more))
            except RuntimeError as error:
                left_out[way] = str(error)
                continue
            print(f"{way}: {found[way][-1]['seconds']:.1f} s", file=sys.stderr)
    _table(found, left_out, setting)
    return None


def _table(found: dict[str, list[dict[str, Any]]], left_out: dict[str, str], setting: Cached) -> None:
    first, photos = setting.ensemble.members[0].card, len(setting.data.files)
    versions = ", ".join(f"{name} {_version(name)}" for name in ("torch", "onnxruntime", "openvino"))
    print(f"{platform.machine()}, {os.cpu_count()} cores, {setting.hardware.job_threads} threads, {versions}")
    print(f"load of the machine at the end: {os.getloadavg()[1]:.1f}")
    size = first.preprocessing.shape[:2]
    print(f"{len(setting.ensemble.members)} models ({first.model}, {size}), {photos} photos, flip\n")
    print("| way | ready, s | photos/s | ratio | by CPU time | logits differ by | classes changed | out-of-fold F1 |")
    print("|---|---|---|---|---|---|---|---|")
    base = found[BASE][0]
    for way, rounds in found.items():
        ratios = [
            statistics.median(float(a[key]) / float(b[key]) for a, b in zip(found[FIRST], rounds, strict=True))
            for key in ("seconds", "cpu")
        ]
        speed = photos / statistics.median(float(r["seconds"]) for r in rounds)
        keys = [key for key in rounds[0] if key.startswith("logits")]
        seen = [float(np.nanmax(np.abs(rounds[0][key] - base[key]))) for key in keys]
        changed = int((rounds[0]["classes"] != base["classes"]).sum())
        f1 = f"{float(rounds[0]['f1']):.4f}" if "f1" in rounds[0] else "-"
        cells = [f"{statistics.median(float(r['ready']) for r in rounds):.0f}", f"{speed:.1f}"]
        cells += [f"{r:.2f}" for r in ratios] + [f"{max(seen):.1e}" if seen else "-", f"{changed} of {photos}", f1]
        print(f"| {way} | {' | '.join(cells)} |")
    for way, reason in left_out.items():
        print(f"\nskipped: {way}: {reason}")
    for way, rounds in found.items():
        if "notes" in rounds[0]:
            print(f"\n{way}: {rounds[0]['notes']}")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    try:
        main()
    except MaskensError as error:
        sys.exit(str(error))
