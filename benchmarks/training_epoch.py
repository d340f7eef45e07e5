"""How long an epoch of training takes: maskens, timm's way, the usual tutorial's way, and the limit of the hardware.

    python benchmarks/training_epoch.py [--recipe quick] [--data DIR] [--rounds 3] [--threads N] [--device cuda]

All learn the 18 classes with the recipe's model, size, batch size, AdamW and cross-entropy, from scratch, on the same
photos and threads. Each way runs in a process of its own, in turn; its first two batches warm up and don't count.

- limit: a bare loop over batches that lie ready as normalised tensors, in the same process as maskens, with the same
  fused AdamW and memory settings (ensemble/models/process.py);
- maskens: the job's own epoch (photo cache, the recipe's augmentation, loader, trainer); what decoding the photos for
  the cache takes beforehand, once for all epochs and jobs, is told apart;
- timm: create_dataset, create_loader (random resized crop of 0.8 to 1, flip, colour jitter, bilinear), its optimizer
  factory and the body of its train_one_epoch, without its augmentation policies. timm's train.py is not part of the
  package, so it can't be called. The processes have the memory settings that a user of timm would have: torch's own;
- tutorial: Pillow, torchvision's CenterCrop, Resize, ColorJitter, ToTensor and Normalize, and a plain loop that sums
  losses and hits as it goes. No channels_last, torch's own memory settings.

The last two decode each photo in each epoch, with 0 and with 1 loader process; the better one is compared. The files
lie in the system's page cache for all. maskens augments more (it also rotates and moves photos in recipe quick).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from ensemble.data.augment import Augment
from ensemble.data.cache import DecodedPhotos, open_photos
from ensemble.data.loader import EpochBatches, train_loader
from ensemble.data.sampling import epoch_photos
from ensemble.jobs.spec import geometry
from ensemble.models.create import create
from ensemble.models.inputs import normalisation, to_device, to_input
from ensemble.models.process import configure_process
from ensemble.recipes.reading import load_recipe
from ensemble.recipes.schema import TaskRecipe
from ensemble.training.optimizer import make_optimizer
from ensemble.training.trainer import Trainer
from folds.data.layout import read_train
from folds.data.people import TrainData
from folds.sample import write_sample

WARM = 2  # batches
CLASSES = 18
EPOCHS = 2  # of maskens and of the limit, in turn
WAYS = ("maskens", "timm, 0 workers", "timm, 1 worker", "tutorial, 0 workers", "tutorial, 1 worker")


@dataclass(frozen=True)
class Task:
    """What all ways have in common."""

    recipe: TaskRecipe
    data: TrainData
    device: torch.device
    folder: Path  # for what a way needs on disk

    @property
    def batches(self) -> int:
        return len(self.data.files) // self.recipe.batch_size

    def model(self) -> nn.Module:
        made: nn.Module = timm.create_model(self.recipe.model, num_classes=CLASSES)
        return made.to(self.device).train()


class Clock:
    """When each batch of an epoch was done."""

    def __init__(self, task: Task) -> None:
        self.task, self.ends = task, list[float]()

    def __call__(self, *told: object) -> None:
        if self.task.device.type == "cuda":
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    @property
    def speed(self) -> float:
        """DecodedPhotos a second after the warm-up."""
        done = len(self.ends) - WARM
        return done * self.task.recipe.batch_size / (self.ends[-1] - self.ends[WARM - 1])


def maskens(task: Task, workers: int) -> dict[str, float]:
    """DecodedPhotos a second of the limit and of an epoch, and the seconds in which the cache is built."""
    recipe, data = task.recipe, task.data
    configure_process(torch.get_num_threads())
    with tempfile.TemporaryDirectory(dir=task.folder) as cache:
        started = time.perf_counter()
        photos = open_photos(data.photos, [geometry(recipe)], Path(cache), os.cpu_count() or 1)
        built = time.perf_counter() - started
        model = to_device(create(recipe), task.device)
        mean, std = normalisation(model)
        shown = epoch_photos(recipe.sampler, recipe.ages.cuts, data, np.arange(len(data.files)))
        batches = EpochBatches(shown, recipe.batch_size, (0,))
        labels = data.classes[:, None]
        loader = train_loader(
            photos, labels, batches, Augment(recipe.augment), (0,), workers, task.device.type == "cuda"
        )
        trainer = Trainer(recipe, model, mean, std, task.device, (0,), len(batches))
        whole = ready(task, photos, mean, std)
        limits, epochs = [], []
        for epoch in range(EPOCHS):
            limits.append(Clock(task))
            bare(task, whole, limits[-1])
            epochs.append(Clock(task))
            batches.epoch = epoch
            trainer.epoch(epoch, loader, epochs[-1])
        limit, speed = (statistics.harmonic_mean([c.speed for c in clocks]) for clocks in (limits, epochs))
        return {"limit": limit, "maskens": speed, "cache": built}


def ready(
    task: Task, photos: DecodedPhotos, mean: tuple[float, ...], std: tuple[float, ...]
) -> list[tuple[Tensor, Tensor]]:
    """The epoch's batches as tensors on the device."""
    size = task.recipe.batch_size
    found = []
    for start in range(0, task.batches * size, size):
        rows = np.arange(start, start + size)
        x = to_input(torch.from_numpy(np.stack([photos[int(i)][0] for i in rows])), mean, std, task.device)
        found.append((x, torch.from_numpy(task.data.classes[rows]).to(task.device)))
    return found


def bare(task: Task, batches: Iterable[tuple[Tensor, Tensor]], clock: Clock) -> None:
    """Nothing but the steps."""
    model = to_device(task.model(), task.device)
    optimizer = make_optimizer(model, task.recipe.optimizer)
    for x, y in batches:
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        clock()


def timms(task: Task, workers: int) -> dict[str, float]:
    """DecodedPhotos a second of timm's data set, loader, optimizer and loop."""
    from timm.data import create_dataset, create_loader, resolve_model_data_config
    from timm.optim import create_optimizer_v2
    from timm.utils import AverageMeter

    height, width = task.recipe.input_size
    model = task.model().to(memory_format=torch.channels_last)
    config = resolve_model_data_config(model)
    gpu = task.device.type == "cuda"
    loader = create_loader(
        create_dataset("", root=str(task.folder / "classes")),
        input_size=(3, height, width),
        batch_size=task.recipe.batch_size,
        is_training=True,
        use_prefetcher=gpu,
        scale=(0.8, 1.0),
        ratio=(0.9 * width / height, 1.1 * width / height),
        hflip=0.5,
        color_jitter=0.2,
        interpolation="bilinear",
        mean=config["mean"],
        std=config["std"],
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=gpu,
        device=task.device,
    )
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=1e-2)
    clock, losses = Clock(task), AverageMeter()
    for x, y in loader:
        x, y = x.to(task.device).contiguous(memory_format=torch.channels_last), y.to(task.device)
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        losses.update(loss.item(), len(x))
        clock()
    return {"speed": clock.speed}


def tutorials(task: Task, workers: int) -> dict[str, float]:
    """DecodedPhotos a second of a plain data set and loop."""
    from torchvision import transforms

    data, (height, width) = task.data, task.recipe.input_size
    with Image.open(data.root / data.files[0]) as first:
        whole = (first.height, first.width)
    steps = transforms.Compose(
        [
            transforms.CenterCrop(whole),
            transforms.Resize((height, width)),
            transforms.ColorJitter(0.1, 0.1, 0.1, 0.1),
            transforms.ToTensor(),
            transforms.Normalize((0.5, 0.5, 0.5), (0.2, 0.2, 0.2)),
        ]
    )

    class Files(torch.utils.data.Dataset[tuple[Tensor, int]]):
        def __len__(self) -> int:
            return len(data.files)

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            with Image.open(data.root / data.files[index]) as photo:
                return steps(photo.convert("RGB")), int(data.classes[index])

    loader = torch.utils.data.DataLoader(
        Files(), task.recipe.batch_size, shuffle=True, num_workers=workers, drop_last=True
    )
    model = task.model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    criterion, clock, loss_sum, hits = nn.CrossEntropyLoss(), Clock(task), 0.0, 0
    for x, y in loader:
        x, y = x.to(task.device), y.to(task.device)
        optimizer.zero_grad()
        logits = model(x)
        loss = criterion(logits, y)
        loss.backward()
        optimizer.step()
        loss_sum += loss.item()
        hits += int((logits.argmax(dim=-1) == y).sum())
        clock()
    return {"speed": clock.speed}


def one(way: str, task: Task, workers: int | None) -> dict[str, float]:
    """What a way finds in this process."""
    name, _, rest = way.partition(", ")
    if name == "maskens":
        gpu = min(8, max(1, (os.cpu_count() or 1) - 1))
        return maskens(task, workers if workers is not None else gpu if task.device.type == "cuda" else 0)
    return (timms if name == "timm" else tutorials)(task, int(rest[0]))


def link_classes(data: TrainData, folder: Path) -> None:
    """A folder for each class, as timm reads them."""
    for number, (file, label) in enumerate(zip(data.files, data.classes, strict=True)):
        link = folder / f"{label:02}" / f"{number:06}{Path(file).suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to((data.root / file).resolve())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="quick")
    parser.add_argument("--data", type=Path, help="a data folder; else photos of 384x512 are generated")
    parser.add_argument("--people", type=int, default=90)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--workers", type=int, help="of maskens; by default what it chooses")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    recipe = list(load_recipe(args.recipe).tasks.values())[-1]
    recipe = recipe.model_copy(
        update={"predicts": "class18", "pretrained": False, "mix": TaskRecipe.model_fields["mix"].default}
    )
    torch.set_num_threads(args.threads)
    if args.one:
        way, folder = args.one
        task = Task(recipe, read_train(args.data), torch.device(args.device), Path(folder))
        return print(json.dumps(one(way, task, args.workers)))
    with tempfile.TemporaryDirectory() as scratch:
        if args.data is None:
            args.data = Path(scratch) / "data"
            write_sample(args.data, args.people, eval_people=1, size=(512, 384))
        data = read_train(args.data)
        link_classes(data, Path(scratch) / "classes")
        found = [{way: measured(way, args, scratch) for way in WAYS} for _ in range(args.rounds)]
    show(found, args, recipe, len(data.files))
    return None


def measured(way: str, args: Any, scratch: str) -> dict[str, float]:
    """One way in a process of its own."""
    command = [sys.executable, __file__, "--one", way, scratch, "--recipe", args.recipe, "--data", str(args.data)]
    command += ["--threads", str(args.threads), "--device", args.device]
    command += ["--workers", str(args.workers)] if args.workers is not None else []
    result: dict[str, float] = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
    return result


def show(found: list[dict[str, dict[str, float]]], args: Any, recipe: TaskRecipe, photos: int) -> None:
    """Print photos a second, and how many times as fast maskens is, round by round."""
    rounds = [
        {"limit": f["maskens"]["limit"], "maskens": f["maskens"]["maskens"]}
        | {w: f[w]["speed"] for w in WAYS if w != "maskens"}
        | {"maskens, with building the cache": photos / (f["maskens"]["cache"] + photos / f["maskens"]["maskens"])}
        for f in found
    ]
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {args.device}, {args.threads} threads, Python "
        f"{platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}"
    )
    print(f"{recipe.model}, {recipe.input_size}, batch {recipe.batch_size}, {photos} photos, {args.rounds} rounds\n")
    print("| way | photos/s, median (min-max) | maskens against it |\n|---|---|---|")
    for way in rounds[0]:
        print(
            f"| {way} | {spread([r[way] for r in rounds], '.0f')} "
            f"| {spread([r['maskens'] / r[way] for r in rounds], '.2f')} |"
        )
    for name in ("timm", "tutorial"):
        best = [r["maskens"] / max(v for way, v in r.items() if way.startswith(name)) for r in rounds]
        print(f"\nagainst the better of {name}'s: {spread(best, '.2f')}")


def spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


if __name__ == "__main__":
    main()
