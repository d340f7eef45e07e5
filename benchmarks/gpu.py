"""The whole ensemble on one GPU: photos/s of each way, and how busy the GPU is meanwhile.

    python benchmarks/gpu.py --run RUN [--photos 4200] [--rounds 3] [--no-compile] [--device cpu]

Every way predicts the same eval photos with the same checkpoints in the views of flip, in a process of its own, in
turns; timm's and ttach's loops are those of inference_speed.py, with as many loader processes as maskens would take.
Seconds are from the first checkpoint's loading to the last logit, decoding included. `over timm` is the ratio of times
within a round, its median over the rounds. `busy` is nvidia-smi's utilization.gpu, the fraction of time in which some
kernel ran: asked four times a second, mean over the way (nan where it does not say).

With `--device cpu` the ways that need a GPU are skipped, so that the script can be tried anywhere.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from inference_speed import DecisionVariant, by_itself, mean_logits, parse, setting_of, shown, timm_way, ttach_way

from ensemble.models.engine import AS_TRAINED, EngineOptions
from ensemble.models.runtime import configure_process
from ensemble.prediction.inference import InferenceSettings, infer

SAMPLED = 0.25  # seconds between two samples of how busy the GPU is
TIMM, NO_CACHE = "timm's loop", "maskens, fp32, --cache none"
LOOPS: dict[str, Callable[[DecisionVariant, int], dict[str, np.ndarray]]] = {TIMM: timm_way, "ttach's loop": ttach_way}
WAYS = {
    "maskens, fp32": AS_TRAINED,
    NO_CACHE: AS_TRAINED,
    "maskens, --precision auto": EngineOptions("auto"),
    "maskens, --compile": EngineOptions(compile=True),
    "maskens, --precision auto --compile": EngineOptions("auto", compile=True),
}


@contextlib.contextmanager
def busy(samples: list[float]) -> Iterator[None]:
    """Sample how busy the GPU is, in percent."""
    ended = threading.Event()

    def sample() -> None:
        chip = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        query = ["nvidia-smi", f"--id={chip}", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while shutil.which("nvidia-smi") and not ended.wait(SAMPLED):
            answer = subprocess.run(query, capture_output=True, text=True, check=False).stdout
            with contextlib.suppress(ValueError):  # "[N/A]"
                samples.append(float(answer))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield
    finally:
        ended.set()
        sampler.join()


def one(name: str, setting: DecisionVariant, out: Path) -> None:
    """Go one way and leave its time, how busy it kept the GPU, and the logits."""
    samples, notes = list[float](), ""
    configure = torch.set_num_threads if name in LOOPS else configure_process
    configure(setting.hardware.job_threads)
    if setting.hardware.device == "cuda":
        torch.zeros(1, device="cuda")  # torch's own start is no part of any way
    with busy(samples), tempfile.TemporaryDirectory() as cache:
        began = time.perf_counter()
        if name in LOOPS:
            logits = LOOPS[name](setting, setting.hardware.job_workers)
        else:
            where = None if name == NO_CACHE else Path(cache)
            settings = InferenceSettings(setting.hardware, where, WAYS[name])
            found = infer([setting.ensemble], setting.data, settings)
            logits, notes = mean_logits(setting, found), "; ".join(found.notes)
        seconds = time.perf_counter() - began
    arrays = {f"logits {key}": values for key, values in logits.items()}
    share = statistics.mean(samples) / 100 if samples else np.nan
    np.savez(out, seconds=seconds, busy=share, notes=notes, **arrays)  # type: ignore[arg-type]


def main() -> None:
    parser = parse(__doc__, photos=4200)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--no-compile", action="store_true", help="skip the ways that compile")
    args = parser.parse_args()
    setting = setting_of(args, args.device)
    if args.way:
        one(args.way, setting, args.out)
        return
    device, members, count = setting.hardware.device, setting.ensemble.members, len(setting.data.files)
    skipped = {name for name, options in WAYS.items() if options.compile and args.no_compile}
    skipped |= {NO_CACHE} if device == "cpu" else set()  # loader processes would take the model's cores
    ways = [*LOOPS, *(name for name in WAYS if name not in skipped)]
    found = [{way: by_itself(way) for way in ways} for _ in range(args.rounds)]
    card = members[0].card
    chip = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} CPU, not a GPU"
    print(f"{chip}, {setting.hardware.job_threads} threads, {setting.hardware.job_workers} loader processes, ", end="")
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}")
    print(f"{len(members)} models ({card.model}, {card.preprocessing.shape[:2]}), {count} photos, flip\n")
    print("| way | photos/s, median (min-max) | over timm | GPU busy | logits differ by |\n|---|---|---|---|---|")
    for way in ways:
        speeds = [count / float(f[way]["seconds"]) for f in found]
        ratio = statistics.median(float(f[TIMM]["seconds"]) / float(f[way]["seconds"]) for f in found)
        share = statistics.median(float(f[way]["busy"]) for f in found)
        keys = [key for key in found[0][way] if key.startswith("logits")]
        differ = max(float(np.abs(found[0][way][key] - found[0][TIMM][key]).max()) for key in keys)
        print(f"| {way} | {shown(speeds, 1)} | {ratio:.2f} | {share:.0%} | {differ:.1e} |")
    for name in sorted(skipped):
        print(f"\nskipped: {name}")
    for way in ways:
        if notes := str(found[0][way].get("notes", "")):
            print(f"\n{way}: {notes}")


if __name__ == "__main__":
    main()
