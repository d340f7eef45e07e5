"""Simulated, not measured: many jobs on many workers that share one disk and one command.

    python benchmarks/simulate_cluster.py

1,000 trainings, and a million photos predicted in shards, on 8, 64 and 512 workers. The figures below were measured
once on two cores (version 0.5) unless they are marked as assumed; docs/scale.md is about the result. Some seconds.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ensemble.prediction.inference import EACH, LARGEST, SMALLEST

JOB = 582.0  # seconds of a job of `best` on 2,700 people
SPREAD = 0.019  # standard deviation of a job's seconds by their mean
START = 0.0125  # seconds of a process that stays until it begins a job
JOB_OPERATIONS, CLOCK_OPERATIONS = 328.5, 31.0  # on shared files: of a job of two epochs, and each second of it
WRITTEN = 4.02  # bytes that an epoch writes, as times of its model
LOOK, LOOK_OPERATIONS = 326e-6, 14.0  # seconds of the command, and operations, to read a job's status
PASSES_A_SECOND = 481.0  # through EfficientNet-Lite0 on photos of 128x96, decoding and all
DECODED = 1095.0  # photos a second into the cache, by one process
PHOTO = 22_000.0  # assumed: bytes of a JPEG of 384x512
FAILURES = 0.02  # assumed: workers lost, an hour of each
GPU_FASTER = 10.0  # assumed: than two cores
CORES_USD, GPU_USD = 0.10, 1.00  # assumed: an hour of two cores, and of a GPU with the cores that feed it

PHOTOS, TRAINED, EPOCHS = 18_900, 176 * 132 * 3, 2  # of the job of `best`: photos, bytes of each in the cache
MODEL = 13.6e6  # bytes of its model.safetensors
MILLION, PASSES, SHOWN = 1_000_000, 10, 128 * 96 * 3  # photos; passes a photo: five models, flip; bytes in the cache
OPENING, DECODERS = 4, 2  # operations to open and read a photo's file; threads of the command that do
WORKERS = (8, 64, 512)
POLL = 0.25  # seconds between two rounds of looks

PHASES = ("starting", "reading", "computing", "writing")
STARTING, READING, COMPUTING, WRITING = range(len(PHASES))
COLUMNS = ("workers", "wall", "computing", "largest loss", "MB/s asked", "operations/s asked", "workers lost", "USD")


@dataclass(frozen=True)
class Work:
    """Jobs that are alike."""

    jobs: int
    seconds: float  # of computing, mean
    read: float = 0.0  # bytes, by each job
    written: float = 0.0
    operations: float = 0.0  # on shared files, a second of computing
    save: float = 0.0  # seconds of work that a lost worker loses at most
    once: float = 0.0  # seconds before the first job, by the command alone
    kept: float = 0.0  # bytes that a worker reads before its first job, and keeps in memory
    at_once: int = 1  # operations that a job waits for at the same time
    start: float = START
    spread: float = SPREAD


@dataclass(frozen=True)
class Cluster:
    """What jobs run on."""

    workers: int
    bandwidth: float = 1e9  # bytes/s of the shared disk, assumed
    network: float = 1.25e9  # bytes/s of a worker, assumed
    answers: float = 10_000.0  # operations/s of the shared disk, assumed
    latency: float = 0.0005  # seconds until the disk answers an operation, assumed
    send: float = 0.0122  # seconds of the command for each job that it sends
    looks_at: int = 0  # jobs whose status the command reads, one after the other
    failures: float = FAILURES  # of a worker, an hour
    repair: float = 300.0  # seconds until another takes its place, assumed


@dataclass(frozen=True)
class Result:
    """What a simulation came to."""

    wall: float
    shares: dict[str, float]  # of the workers' time: the phases and what they wait for
    operations: float  # a second, while all workers compute, looks among them
    lost: int  # workers

    @property
    def bottleneck(self) -> str:
        """What takes most of the workers' time that is not computing."""
        share, worst = max((share, name) for name, share in self.shares.items() if name != "computing")
        return f"{worst} ({share:.0%})" if share >= 0.05 else "none"


def simulate(work: Work, cluster: Cluster, seed: int = 0) -> Result:
    """Run the jobs on the cluster, from event to event; between two of them all speeds stand still.

    A worker takes the next job as soon as it is free and the command has sent it, starts a process, reads, computes and
    writes. Transfers share the disk's bandwidth evenly, none faster than a worker's network. While it computes, a job
    waits for each operation as long as the disk takes to answer, or for its share of what the disk can do. Workers are
    lost at random; their job starts again elsewhere from what it had saved.
    """
    rng, count = np.random.default_rng(seed), cluster.workers
    sigma = math.sqrt(math.log(1 + work.spread**2))
    seconds = work.seconds * rng.lognormal(-(sigma**2) / 2, sigma, work.jobs)
    rounds = 1 / (POLL + cluster.looks_at * (LOOK + LOOK_OPERATIONS * cluster.latency))  # of looks, a second
    look_operations = cluster.looks_at * LOOK_OPERATIONS * rounds
    send = cluster.send / (1 - cluster.looks_at * LOOK * rounds)
    queue = [np.array([work.start, work.read, s, work.written]) for s in seconds[::-1]]
    left = np.zeros((count, len(PHASES)))  # of the worker's job
    busy, fresh = np.zeros(count, bool), np.ones(count, bool)
    computed, down = np.zeros(count), np.zeros(count)  # seconds of its job; until when it is lost
    fails = rng.exponential(3600 / cluster.failures, count) if cluster.failures else np.full(count, np.inf)
    spent = dict.fromkeys([*PHASES, "slowed by operations", "waiting for the command", "lost", "idle at the end"], 0.0)
    now, sent, lost = 0.0, 0.0, 0
    while queue or busy.any():
        for worker in np.flatnonzero(~busy & (down <= now)):
            if not queue or sent > now + 1e-9:
                break
            left[worker], busy[worker], computed[worker] = queue.pop(), True, 0.0
            left[worker, READING] += work.kept * fresh[worker]
            fresh[worker], sent = False, now + send
        phase = np.where(busy, (left > 1e-9).argmax(1), -1)
        moving, computing = np.isin(phase, (READING, WRITING)), phase == COMPUTING
        asked = computing.sum() * work.operations
        alone = 1 / (1 + work.operations * cluster.latency / work.at_once)
        speed = min(alone, cluster.answers / (asked + look_operations)) if asked else 1.0
        rate = np.where(moving, min(cluster.network, cluster.bandwidth / max(1, moving.sum())), 1.0)
        rate = np.where(computing, speed, rate)
        remaining = np.where(busy, left[np.arange(count), phase], np.inf)
        until = [float((remaining / rate).min()), float(fails.min() - now)]
        until += [sent - now] if queue and (~busy & (down <= now)).any() else []
        until += [float(down[down > now].min() - now)] if (down > now).any() else []
        step = max(min(until), 1e-9)
        now += step
        left[busy, phase[busy]] -= (step * rate)[busy]
        computed[computing] += step * speed
        for number, name in enumerate(PHASES):
            spent[name] += step * (speed if number == COMPUTING else 1.0) * (phase == number).sum()
        spent["slowed by operations"] += step * (1 - speed) * computing.sum()
        free = ~busy & (down <= now - step)
        spent["waiting for the command" if queue else "idle at the end"] += step * free.sum()
        spent["lost"] += step * (~busy & ~free).sum()
        left[left < 1e-6] = 0.0
        busy &= left.any(1)
        for worker in np.flatnonzero(fails <= now):
            down[worker] = now + cluster.repair
            fails[worker] = down[worker] + rng.exponential(3600 / cluster.failures)
            fresh[worker], lost = True, lost + 1
            if busy[worker]:
                gone = min(computed[worker], rng.uniform(0, work.save))
                queue.append(np.array([work.start, work.read, left[worker, COMPUTING] + gone, work.written]))
                spent["computing"], spent["lost"] = spent["computing"] - gone, spent["lost"] + gone
                busy[worker], left[worker] = False, 0.0
    shares = {name: float(value / (count * now)) for name, value in spent.items()}
    return Result(now + work.once, shares, count * work.operations + look_operations, lost)


def training(faster: float) -> Work:
    """1,000 jobs of `best`."""
    seconds = JOB / faster
    return Work(
        1000,
        seconds,
        written=EPOCHS * MODEL * WRITTEN,
        operations=CLOCK_OPERATIONS + JOB_OPERATIONS / seconds,
        save=min(300.0, seconds / EPOCHS),
        once=PHOTOS / DECODED,
        kept=PHOTOS * TRAINED,  # one file for all jobs
    )


def inference(faster: float, cluster: Cluster) -> Work:
    """A million photos in shards, as `maskens infer --jobs` makes them: the command decodes all of them first."""
    photos = min(max(MILLION / (EACH * cluster.workers), SMALLEST), LARGEST)
    seconds = photos * PASSES / PASSES_A_SECOND / faster
    return Work(
        round(MILLION / photos),
        seconds,
        read=photos * SHOWN + PASSES / 2 * MODEL,
        written=photos * PASSES * 8 * 4,  # logits: 3 + 2 + 3, float32
        operations=photos / seconds + 2,  # a photo from the cache; looks for a stop file
        save=seconds,
        once=MILLION / DECODERS * (DECODERS / DECODED + OPENING * cluster.latency),
        at_once=max(2, round(faster)),  # threads that read
    )


def without_cache(work: Work) -> Work:
    """The same with `--cache none`: each worker decodes its own photos while it predicts."""
    photos = MILLION / work.jobs
    operations = OPENING * photos / work.seconds + 2
    return replace(work, once=0.0, read=photos * PHOTO + PASSES / 2 * MODEL, operations=operations)


def print_table(title: str, rows: Sequence[tuple[str, Work, Cluster]], price: float) -> None:
    print(f"**{title}**\n\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for name, work, cluster in rows:
        found = simulate(work, cluster)
        reads = work.read + work.kept * min(1.0, cluster.workers / work.jobs)
        asked = cluster.workers * (reads + work.written) / (work.start + work.seconds) / 1e6
        usd = cluster.workers * found.wall / 3600 * price
        wall = f"{found.wall / 3600:.1f} h" if found.wall > 7200 else f"{found.wall / 60:.1f} min"
        cells = [name, wall, f"{found.shares['computing']:.0%}", found.bottleneck, f"{asked:,.0f}"]
        print("|", " | ".join([*cells, f"{found.operations:,.0f}", str(found.lost), f"{usd:,.0f}"]), "|")
    print(flush=True)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for faster, price, kind in ((1.0, CORES_USD, "two cores"), (GPU_FASTER, GPU_USD, "a GPU")):
        train = training(faster)
        rows = [(str(n), train, Cluster(n, looks_at=train.jobs)) for n in WORKERS]
        print_table(f"1,000 jobs of `best`, workers with {kind}: {train.seconds:.0f} s a job", rows, price)
        rows = [(str(n), inference(faster, Cluster(n)), Cluster(n)) for n in WORKERS]
        rows += [(f"{name}, --cache none", without_cache(work), cluster) for name, work, cluster in rows]
        print_table(f"a million photos, workers with {kind}", rows, price)
    most = Cluster(WORKERS[-1], looks_at=train.jobs)
    changed = [
        ("as above", train, most),
        ("nodes whose memory does not hold the cache", replace(train, kept=0.0, read=EPOCHS * train.kept), most),
        ("the cache on each node's own disk beforehand", replace(train, kept=0.0), most),
        ("a disk of four times the bandwidth", train, replace(most, bandwidth=4 * most.bandwidth)),
        ("status files every ten seconds", replace(train, operations=train.operations / 10), most),
        ("the command looks only at jobs under way", train, replace(most, looks_at=most.workers)),
        ("jobs of ten minutes", replace(train, seconds=600.0), most),
        ("no worker is lost", train, replace(most, failures=0.0)),
    ]
    print_table(f"1,000 jobs on {most.workers} workers with a GPU, with one thing changed", changed, price)


if __name__ == "__main__":
    main()
