"""Training speed of a job beside a bare loop that feeds ready tensors to the same model in the same run.

    python benchmarks/training_speed.py [--recipe quick] [--workers N] [--rounds 3]

Each round times, one after the other in this process: the bare loop over batches that lie ready as normalised
float tensors, and a job's own epoch (read, augment, batch, normalise, train) on the same photos. Generated
photos, weights from scratch, the recipe's last task.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from ensemble.augment import Augment
from ensemble.cache import Photos, open_photos
from ensemble.job import JobSpec, _Job, geometry
from ensemble.loader import EpochBatches, train_loader
from ensemble.losses import one_hot, task_loss
from ensemble.models import create, normalisation, place, to_input
from ensemble.optimise import make_optimizer
from ensemble.process import settle
from ensemble.recipe import with_weights
from ensemble.recipe_file import load_recipe
from ensemble.sampling import EpochPhotos, epoch_photos
from ensemble.train import Hardware, plan
from ensemble.trainer import Trainer
from folds.layout import read_train
from folds.run import start_run
from folds.sample import write_sample
from folds.split import make_folds


def bare(job: _Job, photos: Photos) -> float:
    """Photos a second of the plain loop."""
    model = place(create(job.recipe), job.device).train()
    mean, std = normalisation(model)
    optimizer = make_optimizer(model, job.recipe.optimizer)
    ready = []
    for batch in EpochBatches(shown(job), job.recipe.batch_size, (0,)):
        rows = [i for _, i, _ in batch]
        x = to_input(torch.from_numpy(np.stack([photos[i][0] for i in rows])), mean, std, job.device)
        ready.append((x, one_hot(torch.from_numpy(job.labels[rows]), job.target.heads).to(job.device)))

    def epoch() -> None:
        for x, truth in ready:
            loss = task_loss(job.recipe.loss, job.target.heads, model(x), truth)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        if job.device.type == "cuda":
            torch.cuda.synchronize()

    return rate(epoch, sum(len(x) for x, _ in ready))


def maskens(job: _Job, photos: Photos, workers: int) -> float:
    """Photos a second of a job's epoch."""
    model = place(create(job.recipe), job.device)
    mean, std = normalisation(model)
    batches = EpochBatches(shown(job), job.recipe.batch_size, job.seed)
    trainer = Trainer(job.recipe, model, mean, std, job.device, job.seed, len(batches))
    loader = train_loader(photos, job.labels, batches, Augment(job.recipe.augment), job.seed, workers)
    return rate(lambda: trainer.epoch(0, loader, lambda *told: None), len(batches) * job.recipe.batch_size)


def shown(job: _Job) -> EpochPhotos:
    """The photos of the job's epoch."""
    return epoch_photos(job.recipe.sampler, job.recipe.ages.cuts, job.data, job.train_rows)


def rate(epoch: object, photos: int) -> float:
    """Photos a second of the second of two epochs; the first warms up."""
    assert callable(epoch)
    epoch()
    started = time.perf_counter()
    epoch()
    return photos / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="quick")
    parser.add_argument("--people", type=int, default=150)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    hardware = Hardware(args.device, args.workers)
    settle(hardware.job_threads)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_sample(root / "data", args.people, eval_people=1, size=(96, 128))
        data = read_train(root / "data")
        folds = make_folds(data, 3, seed=0)
        run, _ = start_run(root / "run", data, folds, 3, seed=0)
        recipe = with_weights(load_recipe(args.recipe), [], no_pretrained=True)
        spec: JobSpec = plan(run, recipe, list(recipe.tasks)[-1:], [0], hardware, root / "cache")[0]
        job = _Job(dataclasses.replace(spec), data, folds)
        photos = open_photos(data.root, data.files, data.fingerprint, [geometry(job.recipe)], spec.cache, 2)
        pairs = [(bare(job, photos), maskens(job, photos, hardware.job_workers)) for _ in range(args.rounds)]
    print(f"{platform.machine()}, {args.device}, {hardware.job_threads} threads, {hardware.job_workers} workers,")
    print(f"torch {torch.__version__}, {job.recipe.model}, {job.recipe.input_size}, batch {job.recipe.batch_size}\n")
    print("| | photos/s, median (min-max) |\n|---|---|")
    for name, values in zip(("bare loop on ready tensors", "maskens"), zip(*pairs, strict=True), strict=True):
        print(f"| {name} | {statistics.median(values):.0f} ({min(values):.0f}-{max(values):.0f}) |")
    ratios = [m / b for b, m in pairs]
    print(f"| ratio, round by round | {statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f}) |")


if __name__ == "__main__":
    main()
