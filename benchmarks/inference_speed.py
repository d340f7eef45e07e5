"""The whole ensemble over the eval photos: maskens and what one would write instead.

    python benchmarks/inference_speed.py --run RUN [--photos 420] [--rounds 3]

RUN is trained and has an eval part; with age models of each gender (as of the recipe `demo`) it shows routing too.
Every way predicts the same photos with the same checkpoints, threads and views (flip), each in a process of its own:

- timm: timm's loader, as its inference.py has it: one pass over the photos for each checkpoint and view
- ttach: ttach's wrapper around each model, in a loop over torch's DataLoader
- maskens: photos decoded into a cache made anew, then all models; `routed`: age models only where they matter

The first two have the loader processes with which they are faster, and the C library's own allocator, as they come;
maskens keeps large blocks, as `configure_process` has it. Times are from the first checkpoint's loading to the last
logit, without Python's start.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import ttach
from timm.data import create_loader
from torch.utils.data import DataLoader, Dataset

from ensemble.data.cache import DecodedPhotos
from ensemble.decision.joint import decide
from ensemble.decision.members import Ensemble, Member, load_ensembles
from ensemble.decision.tuning import DecisionParams, apply_tuning
from ensemble.jobs.hardware import Hardware, choose_device
from ensemble.models.build import load_checkpoint
from ensemble.models.runtime import configure_process
from ensemble.prediction.inference import InferenceSettings, Prediction, infer
from ensemble.recipes.tasks import ONLY_GENDER
from folds.layout import read_eval
from folds.people import PhotoSet
from folds.run_folder import load_run

BATCH = 64


@dataclass(frozen=True)
class DecisionVariant:
    ensemble: Ensemble
    fitted: DecisionParams
    data: PhotoSet  # the first photos of an eval part
    hardware: Hardware

    @property
    def device(self) -> torch.device:
        return torch.device(self.hardware.device)

    def photos(self, member: Member) -> DecodedPhotos:
        return DecodedPhotos(self.data, [member.card.preprocessing])


def setting_of(args: argparse.Namespace, device: str) -> DecisionVariant:
    """The models of `--run`, and the first `--photos` of its eval part."""
    run = load_run(args.run)
    whole = read_eval(run.data_folder())
    fitted = apply_tuning([run], "flip", tuned=False).fitted
    (ensemble,) = load_ensembles([run], fitted, allow_missing=False)
    part = whole.photos.some(range(min(args.photos, len(whole.ids))))
    return DecisionVariant(ensemble, fitted, part, Hardware(choose_device(device), None))


def parse(doc: str | None, photos: int) -> argparse.ArgumentParser:
    """A parser with the options of all that compares ways to predict, each in a process of its own."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=photos)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    return parser


def by_itself(way: str, *options: str) -> dict[str, np.ndarray]:
    """What the script leaves when it is called with its own options, these and this way.

    Raises:
        RuntimeError: it fails; the last line that it wrote.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.npz"
        command = [sys.executable, *sys.argv, *options, "--way", way, "--out", str(out)]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        with np.load(out) as z:
            return dict(z)


def mean_logits(setting: DecisionVariant, found: Prediction) -> dict[str, np.ndarray]:
    """Of each model, over its views."""
    return {
        f"{task} {fold}": values[place].mean(axis=0)
        for task, values in found.by_run([setting.ensemble], len(setting.data.files))[0].items()
        for place, fold in enumerate(setting.ensemble.folds(task))
    }


def class_log_probs(setting: DecisionVariant, found: Prediction) -> np.ndarray:
    """float64 (1, photos, 18)."""
    (logits,) = found.by_run([setting.ensemble], len(setting.data.files))
    return setting.ensemble.joint(logits)[None]


def shown(values: Sequence[float], digits: int) -> str:
    """median (min-max)"""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


class OnePhoto(Dataset[tuple[np.ndarray, int]]):
    """A photo as the model's training saw it, uint8 (3, height, width), perhaps mirrored, and no label."""

    def __init__(self, photos: DecodedPhotos, mirrored: bool = False) -> None:
        self.photos, self.mirrored = photos, mirrored
        self.transform = None  # timm's loader sets it

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        photo = self.photos[index][0]
        return np.ascontiguousarray((photo[:, ::-1] if self.mirrored else photo).transpose(2, 0, 1)), 0


def timm_way(setting: DecisionVariant, workers: int) -> dict[str, np.ndarray]:
    found = {}
    for member in setting.ensemble.members:
        views = []
        for mirrored in (False, True):
            model, card = load_checkpoint(member.path, setting.device)
            loader = create_loader(
                OnePhoto(setting.photos(member), mirrored),
                (3, *card.preprocessing.shape[:2]),
                BATCH,
                mean=card.mean,
                std=card.std,
                num_workers=workers,
                use_prefetcher=True,
                device=setting.device,
            )
            with torch.inference_mode():
                views.append(torch.cat([model(x).cpu() for x, _ in loader]).numpy())
        found[f"{member.task} {member.fold}"] = np.mean(views, axis=0)
    return found


def ttach_way(setting: DecisionVariant, workers: int) -> dict[str, np.ndarray]:
    found = {}
    for member in setting.ensemble.members:
        model, card = load_checkpoint(member.path, setting.device)
        wrapper = ttach.ClassificationTTAWrapper(model, ttach.aliases.hflip_transform(), merge_mode="mean")
        mean, std = (torch.tensor(v, device=setting.device).view(1, 3, 1, 1) for v in (card.mean, card.std))
        logits = []
        with torch.no_grad():
            for x, _ in DataLoader(OnePhoto(setting.photos(member)), BATCH, num_workers=workers):
                logits.append(wrapper((x.to(setting.device).float() / 255 - mean) / std).cpu())
        found[f"{member.task} {member.fold}"] = torch.cat(logits).numpy()
    return found


def maskens(setting: DecisionVariant, routed: bool) -> tuple[dict[str, np.ndarray], np.ndarray, float]:
    with tempfile.TemporaryDirectory() as cache:
        early_exit = setting.fitted if routed else None
        settings = InferenceSettings(setting.hardware, Path(cache), early_exit=early_exit)
        found = infer([setting.ensemble], setting.data, settings)
    log_probs = class_log_probs(setting, found)
    classes = decide(log_probs, setting.fitted.weights, setting.fitted.offsets).classes
    own = zip(found.logits, setting.ensemble.members, strict=True)
    evaluated = [np.isfinite(values[0, :, 0]).mean() for values, m in own if m.card.output_spec.predicts in ONLY_GENDER]
    return mean_logits(setting, found), classes, float(np.mean(evaluated or [1.0]))


WAYS: dict[str, Callable[[DecisionVariant], object]] = {
    "timm, no workers": lambda s: timm_way(s, 0),
    "timm, 2 workers": lambda s: timm_way(s, 2),
    "ttach, no workers": lambda s: ttach_way(s, 0),
    "ttach, 2 workers": lambda s: ttach_way(s, 2),
    "maskens": lambda s: maskens(s, False),
    "maskens, routed": lambda s: maskens(s, True),
}


def one(way: str, setting: DecisionVariant, out: Path) -> None:
    """Go one way and leave its time, the logits and the classes."""
    if way.startswith("maskens"):
        configure_process(setting.hardware.job_threads)
    else:
        torch.set_num_threads(setting.hardware.job_threads)
    started = time.perf_counter()
    found = WAYS[way](setting)
    seconds = time.perf_counter() - started
    arrays: dict[str, object] = {}
    if isinstance(found, tuple):
        logits, arrays["classes"], arrays["asked"] = found
        arrays |= {f"logits {k}": v for k, v in logits.items()}
    elif isinstance(found, dict):
        arrays |= {f"logits {k}": v for k, v in found.items()}
    np.savez(out, seconds=seconds, **arrays)  # type: ignore[arg-type]


def main() -> None:
    args = parse(__doc__, photos=420).parse_args()
    setting = setting_of(args, "auto")
    if args.way:
        one(args.way, setting, args.out)
        return
    found = [{way: by_itself(way) for way in WAYS} for _ in range(args.rounds)]
    median = {w: statistics.median(float(f[w]["seconds"]) for f in found) for w in WAYS}
    fastest = [min((w for w in WAYS if w.startswith(name)), key=median.__getitem__) for name in ("timm", "ttach")]
    members = setting.ensemble.members
    first = members[0].card
    print(f"{platform.machine()}, {setting.hardware.device}, {setting.hardware.job_threads} threads, ", end="")
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores")
    size = first.preprocessing.shape[:2]
    print(f"{len(members)} models ({first.model}, {size}), {len(setting.data.files)} photos, flip\n")
    print("| way | seconds, median (min-max) | times maskens | times routed | logits differ by |")
    print("|---|---|---|---|---|")
    ours = found[0]["maskens"]
    for way in [*fastest, "maskens", "maskens, routed"]:
        seconds = [float(f[way]["seconds"]) for f in found]
        ratios = [
            shown([float(f[way]["seconds"]) / float(f[us]["seconds"]) for f in found], 2)
            for us in ("maskens", "maskens, routed")
        ]
        keys = [k for k in found[0][way] if k.startswith("logits")]
        worst = max(float(np.nanmax(np.abs(found[0][way][k] - ours[k]))) for k in keys)
        print(f"| {way} | {shown(seconds, 1)} | {' | '.join(ratios)} | {worst:.1e} |")
    routed = found[0]["maskens, routed"]
    other = int((routed["classes"] != ours["classes"]).sum())
    print(f"\nrouted: age models of one gender saw {float(routed['asked']):.0%} of the photos; {other} classes differ")


if __name__ == "__main__":
    main()
