"""How soon the command line answers: --help, wrong options, folds for 2,700 people x 7 photos, and inference.

    python benchmarks/startup.py [--rounds 5]
    python benchmarks/startup.py --run RUN --images DIR [--photos 10 100 400 4000] [--rounds 3]

Whole processes, wall time, as the installed command starts (compiled once, at the first run), in turn with an
interpreter that does nothing and with the imports that a command can't do without. One run of each comes first and does
not count. The folds part lists 18,900 (empty-looking, but not empty) photo files in a temporary folder.

With a run: `predict` of one photo and `infer` of so many of DIR, which repeat if they are fewer, in the views of flip.
The first round, which does not count, leaves the graphs beside the run's checkpoints. `loop` is what one would write
instead: for each checkpoint timm's model in ttach's wrapper over a DataLoader of two workers, photos decoded anew, and
the mean of the logits.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from folds.labels import SHOTS

ROOT = Path(__file__).resolve().parent.parent
CLI = [sys.executable, "-c", "from cli import main; main()"]
IMPORTS = "python -c 'import torch, timm'"
HEADS = ("classifier", "fc", "head")  # of timm's models


def fake_data(root: Path, people: int) -> None:
    """A data folder in which every photo is one byte: folds does not open photos."""
    rng = np.random.default_rng(0)
    rows = ["id,gender,race,age,path"]
    for number in range(people):
        gender, age = ("male", "female")[number % 2], int(rng.choice([19, 25, 40, 55, 60]))
        path = f"{number:06}_{gender}_Asian_{age}"
        folder = root / "train" / "images" / path
        folder.mkdir(parents=True)
        for shot in SHOTS:
            (folder / f"{shot}.jpg").write_bytes(b"x")
        rows.append(f"{number:06},{gender},Asian,{age},{path}")
    (root / "train" / "train.csv").write_text("\n".join(rows) + "\n")


def wall(command: list[str], codes: tuple[int, ...] = (0,)) -> float:
    started = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": ""}
    done = subprocess.run(command, env=environment, capture_output=True)
    seconds = time.perf_counter() - started
    if done.returncode not in codes:
        sys.exit(done.stderr.decode())
    return seconds


def loop(run: Path, photos: Path) -> None:
    """A script that knows timm, ttach and the checkpoints, and not maskens."""
    import json

    import cv2
    import safetensors.torch
    import timm
    import torch
    import ttach
    from torch.utils.data import DataLoader

    class Photos(torch.utils.data.Dataset[torch.Tensor]):
        def __init__(self, height: int, width: int) -> None:
            self.files, self.size = sorted(photos.iterdir()), (width, height)

        def __len__(self) -> int:
            return len(self.files)

        def __getitem__(self, index: int) -> torch.Tensor:
            photo = cv2.cvtColor(cv2.imread(str(self.files[index])), cv2.COLOR_BGR2RGB)  # type: ignore[arg-type]
            return torch.from_numpy(cv2.resize(photo, self.size, interpolation=cv2.INTER_AREA)).permute(2, 0, 1)

    logits: dict[str, list[torch.Tensor]] = {}
    for path in sorted(run.glob("*/fold*/model.safetensors")):
        with safetensors.safe_open(path, "pt") as file:
            card = json.loads(file.metadata()["maskens"])["card"]
        tensors = safetensors.torch.load_file(path)
        width = next(len(t) for name, t in reversed(tensors.items()) if name.split(".")[0] in HEADS and t.ndim)
        model = timm.create_model(card["model"], num_classes=width, **card["model_args"])
        model.load_state_dict(tensors)
        tta = ttach.ClassificationTTAWrapper(model.eval(), ttach.aliases.hflip_transform(), merge_mode="mean")
        mean, std = (torch.tensor(card[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        loader = DataLoader(Photos(*card["preprocessing"]["resize"]), 32, num_workers=2)
        with torch.inference_mode():
            found = [tta((x.float() / 255 - mean) / std) for x in loader]
        logits.setdefault(card["task"], []).append(torch.cat(found))
    for task, values in logits.items():
        print(task, torch.stack(values).mean(0).argmax(1).bincount().tolist())


def inference_commands(run: Path, images: Path, counts: list[int], scratch: Path) -> dict[str, list[str]]:
    """What is timed with a run."""
    found = {IMPORTS: [sys.executable, "-c", "import torch, timm"]}
    shown = sorted(path for path in images.iterdir() if path.is_file())
    for count in (1, *counts):
        folder = scratch / f"{count}-photos"
        folder.mkdir()
        for number in range(count):
            source = shown[number % len(shown)]
            shutil.copyfile(source, folder / f"{number:05}{source.suffix}")
        for engine in ("torch", "onnxruntime", "openvino", "auto"):
            words = ["--run", str(run), "--tta", "flip", "--engine", engine]
            command = ["predict", str(folder)] if count == 1 else ["infer", "--photos", str(folder), "--cache", "none"]
            out = str(scratch / f"{engine}-{count}.csv")
            found[f"{command[0]}, {count} photos, {engine}"] = [*CLI, *command, *words, "--out", out]
        found[f"loop, {count} photos"] = [sys.executable, __file__, "--loop", str(folder), "--run", str(run)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--photos", type=int, nargs="+", default=[10, 100, 400, 4000])
    parser.add_argument("--loop", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.loop:
        loop(args.run, args.loop)
    elif args.run:
        with tempfile.TemporaryDirectory() as folder:
            commands = inference_commands(args.run, args.images, args.photos, Path(folder))
            show(timed({name: (words, (0,)) for name, words in commands.items()}, args.rounds), IMPORTS)
    else:
        show(command_times(args.rounds))


def command_times(rounds: int) -> dict[str, list[float]]:
    """Of commands that run no model."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        fake_data(data, 2700)
        commands = {
            "python -c pass": ([sys.executable, "-c", "pass"], (0,)),
            "python -c 'import typer, pydantic.types, rich.console'": (
                [sys.executable, "-c", "import typer, pydantic.types, rich.console"],
                (0,),
            ),
            "maskens --help": ([*CLI, "--help"], (0,)),
            "maskens train --nonsense": ([*CLI, "train", "--nonsense"], (2,)),
            "maskens train --fold x": ([*CLI, "train", "--fold", "x"], (2,)),
            "maskens folds, 18,900 photos": ([*CLI, "folds", "--data", str(data), "--run", f"{folder}/NEW"], (0,)),
        }
        return timed(commands, rounds)


def timed(commands: Mapping[str, tuple[list[str], tuple[int, ...]]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each command in each round but the first."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for round_ in range(rounds + 1):
        for name, (command, codes) in commands.items():
            seconds = wall([word.replace("NEW", f"run{round_}") for word in command], codes)
            if round_:
                times[name].append(seconds)
    return times


def show(times: dict[str, list[float]], base: str = "") -> None:
    """Print a table; with a base also how many times as long as that each takes."""
    print(
        f"| command | seconds, median (min-max) |{f' of `{base}` |' if base else ''}\n|---|---|{'---|' if base else ''}"
    )
    for name, values in times.items():
        median = statistics.median(values)
        ratio = f" {median / statistics.median(times[base]):.2f} |" if base else ""
        print(f"| `{name}` | {median:.2f} ({min(values):.2f}-{max(values):.2f}) |{ratio}")


if __name__ == "__main__":
    main()
