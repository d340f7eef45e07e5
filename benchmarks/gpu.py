"""The whole ensemble on one GPU: photos/s of each way, and how busy the GPU is meanwhile.

    python benchmarks/gpu.py --run RUN [--photos 4200] [--rounds 3] [--no-compile] [--device cpu]

Every way predicts the same eval photos with the same checkpoints in the views of flip, in a process of its own, in
turns; timm's and ttach's loops are those of inference_speed.py, with as many loader processes as maskens would take.
Seconds are from the first checkpoint's loading to the last logit, decoding included. `over timm` is
the ratio of times within a round, its median over the rounds.

The GPU's busy share is nvidia-smi's utilization.gpu, the share of time in which some kernel ran: asked four times a
second, mean over the way (nan where it does not say). Without a GPU it is the CPU time of the process and its loaders
as a share of all cores, and the ways that need a GPU are left out, so that the script can be tried anywhere; what it
prints then says nothing of a GPU.

The second table takes maskens apart, one step after the other and each waited for: decoding into the cache, reading it,
copying and normalising, and the forward passes. What overlaps can save no more than the smaller ones.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import torch
from inference_speed import Setting, timm_way, ttach_way

from ensemble.data.cache import open_photos
from ensemble.data.loader import plain_batches
from ensemble.decision.members import geometries, load_ensembles
from ensemble.decision.tuning import apply_tuning
from ensemble.inference.forward import BatchInputs
from ensemble.inference.infer import infer
from ensemble.inference.settings import InferenceSettings
from ensemble.jobs.hardware import Hardware, choose_device
from ensemble.models.checkpoint import load_checkpoint
from ensemble.models.engine import AS_TRAINED, BATCH, EngineOptions, InferenceEngine, fast_engine
from ensemble.models.process import configure_process
from ensemble.recipes.run_recipe import run_recipe
from ensemble.recipes.tta_views import VIEWS
from folds.data.layout import read_eval
from folds.run import load_run

READ = 256  # photos read at a time, as the predictor does on a GPU
SAMPLED = 0.25  # seconds between two samples of the busy share


@dataclass(frozen=True)
class Way:
    """A way of maskens."""

    options: EngineOptions = AS_TRAINED
    cache: bool = True

    def missing(self, device: str, compiling: bool) -> str:
        """Why it can't be gone, or ""."""
        if not self.cache and device == "cpu":
            return "loader processes would take the model's cores on a CPU"
        return "--no-compile" if self.options.compile and not compiling else ""


LOOPS: dict[str, Callable[[Setting, int], dict[str, np.ndarray]]] = {"timm's loop": timm_way, "ttach's loop": ttach_way}
WAYS = {
    "maskens, fp32": Way(),
    "maskens, fp32, --cache none": Way(cache=False),
    "maskens, --precision auto": Way(EngineOptions("auto")),
    "maskens, --compile": Way(EngineOptions(compile=True)),
    "maskens, --precision auto --compile": Way(EngineOptions("auto", compile=True)),
}
TIMM = "timm's loop"


@dataclass
class Busy:
    """Share of the time that the GPU, or without one the CPU, is at work."""

    device: str
    share: float = float("nan")
    _samples: list[float] = field(default_factory=list)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        if self.device == "cpu":
            began, before = time.perf_counter(), sum(os.times()[:4])
            yield
            self.share = (sum(os.times()[:4]) - before) / (time.perf_counter() - began) / Hardware("cpu", None).cores
            return
        ended = threading.Event()
        sampler = threading.Thread(target=self._sample, args=(ended,))
        sampler.start()
        try:
            yield
        finally:
            ended.set()
            sampler.join()
        if self._samples:
            self.share = statistics.mean(self._samples) / 100

    def _sample(self, ended: threading.Event) -> None:
        chip = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        query = ["nvidia-smi", f"--id={chip}", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while shutil.which("nvidia-smi") and not ended.wait(SAMPLED):
            said = subprocess.run(query, capture_output=True, text=True, check=False).stdout
            with contextlib.suppress(ValueError):  # "[N/A]"
                self._samples.append(float(said))


def maskens(setting: Setting, way: Way) -> tuple[dict[str, np.ndarray], str]:
    """(logits of each model, what was out of the ordinary)."""
    with tempfile.TemporaryDirectory() as cache:
        settings = InferenceSettings("flip", setting.hardware, Path(cache) if way.cache else None, way.options)
        found = infer([setting.ensemble], setting.data, settings)
    logits = {
        f"{task} {fold}": values[place].mean(axis=0)
        for task, values in found.logits[0].items()
        for place, fold in enumerate(setting.ensemble.folds(task))
    }
    return logits, "; ".join(found.notes)


def one(name: str, setting: Setting, out: Path) -> None:
    """Go one way and leave its time, how busy it kept the machine, and the logits."""
    busy, notes = Busy(setting.hardware.device), ""
    configure = torch.set_num_threads if name in LOOPS else configure_process
    configure(setting.hardware.job_threads)
    if setting.hardware.device == "cuda":
        torch.zeros(1, device="cuda")  # torch's own start is no part of any way
    with busy.watched():
        began = time.perf_counter()
        if name in LOOPS:
            logits = LOOPS[name](setting, setting.hardware.job_workers)
        else:
            logits, notes = maskens(setting, WAYS[name])
        seconds = time.perf_counter() - began
    arrays = {f"logits {key}": values for key, values in logits.items()}
    np.savez(out, seconds=seconds, busy=busy.share, notes=notes, **arrays)  # type: ignore[arg-type]


def split(setting: Setting) -> dict[str, float]:
    """Seconds of each step, one after the other."""
    device, hardware = setting.device, setting.hardware
    configure_process(hardware.job_threads)
    found = dict.fromkeys(["decode", "read", "transfer", "prepare models", "forward"], 0.0)

    @contextlib.contextmanager
    def timed(step: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        if device.type == "cuda":
            torch.cuda.synchronize()
        found[step] += time.perf_counter() - began

    members = setting.ensemble.members
    engines: list[InferenceEngine] = []
    with tempfile.TemporaryDirectory() as cache:
        with timed("decode"):
            photos = open_photos(setting.data, geometries(members), Path(cache), hardware.decoding_threads)
        batches = plain_batches(photos, range(len(photos)), READ, 0, pin=device.type == "cuda")
        while True:
            with timed("read"):
                batch = next(batches, None)
            if batch is None:
                return found
            with timed("transfer"):
                inputs = BatchInputs(batch.photos, photos.geometries, VIEWS["flip"], device)
                for member in members:
                    inputs.made(member)
            if not engines:
                with timed("prepare models"):
                    for m in members:
                        model = load_checkpoint(m.path, device)[0]
                        engines.append(fast_engine(model, inputs.of(m), AS_TRAINED, BATCH))
            with timed("forward"):
                for member, engine in zip(members, engines, strict=True):
                    engine.logits(inputs.of(member))


def rounds(args: argparse.Namespace, ways: list[str]) -> Iterator[dict[str, dict[str, np.ndarray]]]:
    for _ in range(args.rounds):
        found = {}
        for way in ways:
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "out.npz"
                more = ["--photos", str(args.photos), "--device", args.device, "--way", way, "--out", str(out)]
                subprocess.run([sys.executable, __file__, "--run", str(args.run), *more], check=True)
                with np.load(out) as z:
                    found[way] = dict(z)
        yield found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=4200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--no-compile", action="store_true", help="leave out the ways that compile")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    run = load_run(args.run)
    recipe, whole = run_recipe(run), read_eval(run.data_folder())
    fitted = apply_tuning([run], [recipe], "flip", tuned=False).fitted
    (ensemble,) = load_ensembles([run], [recipe], fitted, allow_missing=False)
    part = whole.photos.some(range(min(args.photos, len(whole.ids))))
    setting = Setting(ensemble, fitted, part, Hardware(choose_device(args.device), None))
    if args.way:
        return one(args.way, setting, args.out)
    device = setting.hardware.device
    left_out = {name: why for name, way in WAYS.items() if (why := way.missing(device, not args.no_compile))}
    ways = [*LOOPS, *(name for name in WAYS if name not in left_out)]
    found = list(rounds(args, ways))
    count, card = len(part.files), ensemble.members[0].card
    chip = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} CPU, not a GPU"
    print(f"{chip}, {setting.hardware.job_threads} threads, {setting.hardware.job_workers} loader processes, ", end="")
    print(f"{psutil.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}")
    print(f"{len(ensemble.members)} models ({card.model}, {card.crop or card.resize}), {count} photos, flip\n")
    print(f"| way | photos/s, median (min-max) | over timm | {device} busy | logits differ by |")
    print("|---|---|---|---|---|")
    for way in ways:
        speeds = sorted(count / float(f[way]["seconds"]) for f in found)
        ratio = statistics.median(float(f[TIMM]["seconds"]) / float(f[way]["seconds"]) for f in found)
        busy = statistics.median(float(f[way]["busy"]) for f in found)
        keys = [key for key in found[0][way] if key.startswith("logits")]
        differ = max(float(np.abs(found[0][way][key] - found[0][TIMM][key]).max()) for key in keys)
        print(
            f"| {way} | {statistics.median(speeds):.1f} ({speeds[0]:.1f}-{speeds[-1]:.1f}) | {ratio:.2f} | {busy:.0%} "
            f"| {differ:.1e} |"
        )
    print("\n".join(f"\nleft out: {name} ({why})" for name, why in left_out.items()))
    for way in ways:
        if notes := str(found[0][way]["notes"]):
            print(f"\n{way}: {notes}")
    print("\n| step of maskens in fp32, each waited for | seconds | ms a photo |\n|---|---|---|")
    for step, seconds in split(setting).items():
        print(f"| {step} | {seconds:.2f} | {1000 * seconds / count:.2f} |")
    return None


if __name__ == "__main__":
    main()
