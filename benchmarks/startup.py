"""How soon the command line answers: --help, wrong options, folds for 2,700 people x 7 photos, inference and training.

    python benchmarks/startup.py [--rounds 5]
    python benchmarks/startup.py --run RUN --images DIR [--photos 10 100 400 4000] [--engines auto] [--rounds 3]

Whole processes, wall time, as the installed command starts (compiled once, at the first run), in turn with an
interpreter that does nothing and with the imports that a command can't do without. One run of each comes first and does
not count. The folds part lists 18,900 (empty-looking, but not empty) photo files in a temporary folder.

With a run, which was trained on a data folder: `predict` of one photo and `infer` of so many of DIR, which repeat if
they are fewer, in the views of flip. The first `predict` leaves the graphs beside the run's checkpoints; more than 100
photos are predicted in counted rounds only. `loop` is what one would write instead: for each checkpoint timm's model in
ttach's wrapper over a DataLoader of two workers, photos decoded anew, and the mean of the logits.

`train, first update` begins the run's recipe anew on its data, in a new folder and with the run's photo cache, and ends
when the job says that it is training. Last come the ratios that matter, and the seconds that `auto` assumes
(ensemble/models/engine.py) as they are here.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from folds.labels import SHOTS
from folds.run_folder import load_run

Measure = Callable[[int], float]
"""A round -> seconds."""

ROOT = Path(__file__).resolve().parent.parent
CLI = [sys.executable, "-c", "from cli import main; main()"]
IMPORTS = "python -c 'import torch, timm'"
MORE_IMPORTS = "python -c 'import torch, timm, albumentations'"
FIRST_UPDATE = "train, first update"
ENGINES = ("torch", "onnxruntime", "openvino", "auto")
MANY = 100  # photos
LEAST = {400: 4, 4000: 5}  # photos -> times as fast as the loop: the goals
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


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": ""}


def process(*command: str, codes: tuple[int, ...] = (0,)) -> Measure:
    """A whole process; NEW in its words is another name in each round."""

    def measure(number: int) -> float:
        words = [word.replace("NEW", f"run{number}") for word in command]
        started = time.perf_counter()
        done = subprocess.run(words, env=environment(), capture_output=True)
        seconds = time.perf_counter() - started
        if done.returncode not in codes:
            sys.exit(done.stderr.decode())
        return seconds

    return measure


def first_update(run: Path, scratch: Path) -> Measure:
    """From the command to its job's first update, which changes the state in job.json; then the command is killed."""
    before = load_run(run)
    files = (before.record_file, before.recipe_file, before.folds_file, before.fixes_file, before.merged_file)

    def measure(number: int) -> float:
        new = scratch / f"train{number}"
        new.mkdir()
        for file in filter(Path.exists, files):
            shutil.copyfile(file, new / file.name)
        options = ["--run", str(new), "--data", str(before.data_folder()), "--cache", str(run.parent / ".cache")]
        started = time.perf_counter()
        with subprocess.Popen(
            [*CLI, "train", *options, "--fold", "0", "--yes"],
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as training:
            while not any('"training"' in status.read_text() for status in new.glob("*/*/job.json")):
                if training.poll() is not None:
                    sys.exit(training.communicate()[1].decode())
                time.sleep(0.005)
            seconds = time.perf_counter() - started
            training.kill()
        return seconds

    return measure


def assumed(run: Path) -> None:
    """Print what the constants of ensemble/models/engine.py are here."""
    began = time.perf_counter()
    import torch

    from ensemble.models.build import load_checkpoint
    from ensemble.models.onnx_graph import OnnxGraphs
    from ensemble.models.torch_engine import fold_conv_bn

    loaded = [load_checkpoint(path, torch.device("cpu")) for path in sorted(run.glob("*/fold*/model.safetensors"))]
    model, card = loaded[0]
    x = torch.rand(2, 3, *card.preprocessing.shape[:2])
    folded, _ = fold_conv_bn(model, x)
    found = {"STARTING": time.perf_counter() - began}
    began = time.perf_counter()
    OnnxGraphs().of(folded, x)
    found["TRACING"] = time.perf_counter() - began
    print(json.dumps(found))


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


def with_models(
    run: Path, images: Path, counts: Sequence[int], engines: Sequence[str], scratch: Path
) -> dict[str, Measure]:
    """What is timed with a run."""
    found = {IMPORTS: process(sys.executable, "-c", "import torch, timm")}
    found[MORE_IMPORTS] = process(sys.executable, "-c", "import torch, timm, albumentations")
    found[FIRST_UPDATE] = first_update(run, scratch)
    shown = sorted(path for path in images.iterdir() if path.is_file())
    for count in (1, *counts):
        folder = scratch / f"{count}-photos"
        folder.mkdir()
        names = [f"{number:05}{shown[number % len(shown)].suffix}" for number in range(count)]
        for number, name in enumerate(names):
            if number < len(shown):
                shutil.copyfile(shown[number], folder / name)
            else:
                (folder / name).symlink_to(names[number % len(shown)])
        for engine in engines:
            words = ["--run", str(run), "--tta", "flip", "--engine", engine]
            command = ["predict", str(folder)] if count == 1 else ["infer", "--photos", str(folder), "--cache", "none"]
            out = str(scratch / f"{engine}-{count}.csv")
            found[shown_as(count, engine)] = process(*CLI, *command, *words, "--out", out)
        found[shown_as(count)] = process(sys.executable, __file__, "--loop", str(folder), "--run", str(run))
    return found


def shown_as(count: int, engine: str = "") -> str:
    """The name of a row."""
    what = "loop" if not engine else "predict" if count == 1 else "infer"
    return ", ".join(filter(None, (what, f"{count} photos", engine)))


def commands(scratch: Path) -> dict[str, Measure]:
    """What is timed without a run: no model runs."""
    data = scratch / "data"
    fake_data(data, 2700)
    light = "import typer, pydantic.types, rich.console"
    return {
        "python -c pass": process(sys.executable, "-c", "pass"),
        f"python -c '{light}'": process(sys.executable, "-c", light),
        "maskens --help": process(*CLI, "--help"),
        "maskens train --nonsense": process(*CLI, "train", "--nonsense", codes=(2,)),
        "maskens train --fold x": process(*CLI, "train", "--fold", "x", codes=(2,)),
        "maskens folds, 18,900 photos": process(*CLI, "folds", "--data", str(data), "--run", f"{scratch}/NEW"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--photos", type=int, nargs="+", default=[10, 100, 400, 4000])
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--loop", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--assumed", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.loop:
        loop(args.run, args.loop)
    elif args.assumed:
        assumed(args.run)
    else:
        with tempfile.TemporaryDirectory() as folder:
            if not args.run:
                show(timed(commands(Path(folder)), args.rounds))
                return
            many = [shown_as(count, engine) for count in args.photos if count > MANY for engine in ("", *args.engines)]
            times = timed(
                with_models(args.run, args.images, args.photos, args.engines, Path(folder)), args.rounds, many
            )
        show(times, IMPORTS)
        show_goals({name: statistics.median(values) for name, values in times.items()}, args.photos, args.engines)
        show_assumed(args.run, args.rounds)


def timed(measures: Mapping[str, Measure], rounds: int, counted_only: Collection[str] = ()) -> dict[str, list[float]]:
    """Seconds of each in each round but the first, which those of `counted_only` skip."""
    times: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(rounds + 1):
        for name, measure in measures.items():
            if number:
                times[name].append(measure(number))
            elif name not in counted_only:
                measure(number)
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


def show_goals(seconds: Mapping[str, float], counts: Sequence[int], engines: Sequence[str]) -> None:
    """Print the ratios that there are goals for."""
    least = min(seconds[shown_as(1, engine)] for engine in engines) / seconds[IMPORTS]
    print(f"\npredict of one photo by the fastest engine: {least:.2f} of `{IMPORTS}` (goal: under 0.33)")
    ratio = seconds[FIRST_UPDATE] / seconds[MORE_IMPORTS]
    print(f"{FIRST_UPDATE}: {ratio:.2f} of `{MORE_IMPORTS}` (goal: at most 1.5)")
    for count in counts:
        faster = [f"{engine} {seconds[shown_as(count)] / seconds[shown_as(count, engine)]:.1f}" for engine in engines]
        goal = f" (goal: {LEAST[count]})" if count in LEAST else ""
        print(f"infer of {count:,} photos, times as fast as the loop: {', '.join(faster)}{goal}")


def show_assumed(run: Path, rounds: int) -> None:
    """Print what `assumed` finds in new processes."""
    command = [sys.executable, __file__, "--assumed", "--run", str(run)]
    found = [json.loads(subprocess.check_output(command, env=environment())) for _ in range(rounds)]
    here = ", ".join(f"{name} {statistics.median(each[name] for each in found):.1f}" for name in found[0])
    print(f"seconds that `auto` assumes in ensemble/models/engine.py, here: {here}")


if __name__ == "__main__":
    main()
