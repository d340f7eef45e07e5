"""How time and memory grow with the number of photos: folds, filling the photo cache, predicting from it, training.

    python benchmarks/growth.py [--photos 2000 20000 200000] [--rounds 1] [--train-up-to 20000] [--dir DIR]

Each figure comes from a process of its own: `maskens folds` with 5 folds, decoding into the cache at 64x48 pixels,
`infer` with one tiny model from scratch on the filled cache, and `maskens train` of one job of the recipe demo for one
epoch, its own cache included. Photos are generated, 96x128 pixels, some hundreds of them linked under as many names as
it takes. Seconds and time a photo are of the work, without starting Python and importing; memory is the most that the
process ever held, and what the process held before it began.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from folds.data.labels import GENDERS, SHOTS
from folds.data.people import PhotoSet

ROOT = Path(__file__).resolve().parent.parent
PHASES = ("folds", "cache", "read", "train")
DISTINCT = 300
SIZE = (128, 96)  # (height, width)
AGES = (20, 25, 40, 55, 60)


def write_data(root: Path, people: int) -> None:
    """A data folder with 7 photos a person: hard links to a few hundred, copies where links can't be made."""
    rng = np.random.default_rng(0)
    (root / "distinct").mkdir(parents=True)
    for number in range(DISTINCT):
        blocks = Image.fromarray(rng.integers(0, 256, (16, 12, 3), dtype=np.uint8))
        blocks.resize(SIZE[::-1], Image.Resampling.BICUBIC).save(root / "distinct" / f"{number}.jpg", quality=90)
    rows = ["id,gender,race,age,path"]
    for number in range(people):
        gender, age = GENDERS[number % 2], AGES[number // 2 % len(AGES)]
        path = f"{number:06}_{gender}_Asian_{age}"
        folder = root / "train" / "images" / path
        folder.mkdir(parents=True)
        for shot, name in enumerate(SHOTS):
            _link(root / "distinct" / f"{(number * len(SHOTS) + shot) % DISTINCT}.jpg", folder / f"{name}.jpg")
        rows.append(f"{number:06},{gender},Asian,{age},{path}")
    (root / "train" / "train.csv").write_text("\n".join(rows) + "\n")


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links, or with too many to one file
        shutil.copyfile(source, target)


def one(phase: str, root: Path) -> None:
    """Do one phase in this process; print what it took as JSON."""
    work = {"folds": _folds, "cache": _cache, "read": _read, "train": _train}[phase](root)
    before, started = peak(), time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "peak": peak(), "before": before}))


def peak() -> float:
    """The most memory this process has held so far, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss of a child begins with the memory of its parent
        return next(int(v.split()[1]) for v in status.read_text().splitlines() if v.startswith("VmHWM")) / 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _maskens(*arguments: str) -> Callable[[], None]:
    import cli

    def command() -> None:
        sys.argv, stdout = ["maskens", *arguments], sys.stdout
        sys.stdout = sys.stderr
        try:
            cli.main()
        except SystemExit as stop:
            if stop.code:
                raise
        finally:
            sys.stdout = stdout

    return command


def _folds(root: Path) -> Callable[[], None]:
    return _maskens("folds", "--data", str(root / "data"), "--run", str(root / "run"), "--k", "5")


def _train(root: Path) -> Callable[[], None]:
    import ensemble.training.jobs  # noqa: F401

    return _maskens(
        "train",
        "--data",
        str(root / "data"),
        "--run",
        str(root / "run"),
        "--recipe",
        "demo",
        "--set",
        "tasks.*.epochs=1",
        "--task",
        "mask",
        "--fold",
        "0",
        "--quiet",
        "--restart",
        "--cache",
        tempfile.mkdtemp(dir=root),
    )


def _all_photos(root: Path) -> PhotoSet:
    from folds.data.layout import read_train

    return read_train(root / "data").photos


def _cache(root: Path) -> Callable[[], None]:
    from ensemble.data.cache import open_photos
    from ensemble.recipes.geometry import Geometry

    photos = _all_photos(root)
    shutil.rmtree(root / "cache", ignore_errors=True)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shape = Geometry((64, 48), None, True)

    def work() -> None:
        open_photos(photos, [shape], root / "cache", threads)

    return work


def _read(root: Path) -> Callable[[], None]:
    from ensemble.decision.members import Ensemble, Member
    from ensemble.inference.infer import infer
    from ensemble.inference.settings import InferenceSettings
    from ensemble.jobs.card import ModelCard
    from ensemble.jobs.hardware import Hardware
    from ensemble.models.checkpoint import save_checkpoint
    from ensemble.models.create import create
    from ensemble.models.inputs import normalisation
    from ensemble.recipes.schema import TaskRecipe

    task = TaskRecipe(predicts="heads", model="test_resnet.r160_in1k", pretrained=False, resize=(64, 48))  # type: ignore[call-arg]
    model = create(task)
    mean, std = normalisation(model)
    card = ModelCard(
        model=task.model,
        model_args={},
        predicts=task.predicts,
        cuts=task.ages.cuts,
        merge=task.ages.bands,
        task="heads",
        fold=0,
        k=1,
        resize=task.resize,
        crop=None,
        mean=mean,
        std=std,
        labels={},
        task_hash="",
        folds_hash="",
        seed=0,
        people="",
        epoch=1,
        f1=0.0,
        reduced=True,
    )
    path = root / "heads" / "fold0" / "model.safetensors"
    save_checkpoint(path, model, card)
    ensemble, photos = Ensemble((Member("heads", 0, path, card),), {}), _all_photos(root)

    def work() -> None:
        infer([ensemble], photos, InferenceSettings("none", Hardware("cpu", 0), root / "cache"))

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, nargs="+", default=[2_000, 20_000])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--train-up-to", type=int, default=20_000, help="photos")
    parser.add_argument("--dir", type=Path, help="where the photos are generated")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(args.one[0], Path(args.one[1]))
        return
    from folds.versions import library_versions

    names = ("torch", "timm", "numpy", "pillow", "joblib")
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items() if name in names)
    threads = os.environ.get("OMP_NUM_THREADS", "as many threads as cores")
    print(f"{platform.machine()}, {os.cpu_count()} cores, OMP_NUM_THREADS {threads}")
    print(f"{platform.system()}, Python {platform.python_version()}, {versions}")
    print(f"median of {args.rounds} (min-max)\n")
    print("| phase | photos | seconds | µs a photo | peak MB | MB before |")
    print("|---|---|---|---|---|---|")
    for asked in args.photos:
        people = max(30, round(asked / len(SHOTS)))
        photos = people * len(SHOTS)
        if args.dir:
            args.dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=args.dir) as folder:
            root = Path(folder)
            write_data(root / "data", people)
            for phase in PHASES if asked <= args.train_up_to else PHASES[:3]:
                rounds = [_child(phase, root) for _ in range(args.rounds)]
                seconds, most, before = ([r[key] for r in rounds] for key in ("seconds", "peak", "before"))
                each = 1e6 * statistics.median(seconds) / photos
                cells = (phase, f"{photos:,}", _spread(seconds, 2), f"{each:.0f}", _spread(most, 0), _spread(before, 0))
                print("|", " | ".join(cells), "|", flush=True)


def _spread(values: list[float], digits: int) -> str:
    middle, low, high = (f"{v:.{digits}f}" for v in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({low}-{high})" if len(values) > 1 else middle


def _child(phase: str, root: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", phase, str(root)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
