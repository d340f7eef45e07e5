"""Simulated, not measured: many jobs on many workers that share one disk and one command.

    python benchmarks/simulate_cluster.py [--measured benchmarks/cluster_measured.json]

FILE is what backends.py and job_io.py leave with --json; the one beside this script is what docs/scale.md is about.
First the trainings that were measured are simulated, beside what they took. Then 1,000 trainings, and a million photos
predicted in shards, on 8, 64 and 512 workers. `cluster_model.py` says how. Some seconds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from cluster_model import Cluster, Work, simulate

from ensemble.inference.shards import EACH, LARGEST, SMALLEST


@dataclass(frozen=True)
class Assumed:
    """Figures of two cores from benchmarks/README.md (the first three), and what nobody measured."""

    job: float = 582.0  # seconds of a job of `best` on 2,700 people
    passes: float = 481.0  # a second through EfficientNet-Lite0 on photos of 128x96, decoding and all
    decoded: float = 1095.0  # photos a second into the cache, by one process
    faster: float = 10.0  # than these two cores, a GPU
    photo: float = 22_000.0  # bytes of a JPEG of 384x512; those of 384x288 measured have 12,400
    failures: float = 0.02  # workers lost, an hour of each
    worker: float = 0.10  # USD an hour of two cores
    gpu: float = 1.00  # USD an hour of a GPU with the cores that feed it
    disk: float = 0.30  # USD a GB and month


PHOTOS, TRAINED, EPOCHS = 18_900, 176 * 132 * 3, 2  # of the job of `best`: photos, bytes of each in the cache
MODEL = 13.6e6  # bytes of its model.safetensors
MILLION, PASSES, SHOWN = 1_000_000, 10, 128 * 96 * 3  # photos; passes a photo: five models, flip; bytes in the cache
OPENING, DECODERS = 4, 2  # operations to open and read a photo's file; threads of the command that do
WORKERS = (8, 64, 512)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    beside = Path(__file__).with_name("cluster_measured.json")
    parser.add_argument("--measured", type=Path, default=beside)
    for name, text in (("bandwidth", "bytes/s"), ("answers", "operations/s"), ("latency", "seconds")):
        default = getattr(Cluster, name)
        parser.add_argument(f"--{name}", type=float, default=default, help=f"of the shared disk, {text}; {default:g}")
    for name, default in vars(Assumed()).items():
        parser.add_argument(f"--{name}", type=float, default=default, help=f"{default:g}")
    args = parser.parse_args()
    assumed = Assumed(**{name: getattr(args, name) for name in vars(Assumed())})
    measured = json.loads(args.measured.read_text())
    print(f"figures of {args.measured.name}; assumed: {assumed}\n")
    print_check(measured)
    base = Cluster(
        1,
        args.bandwidth,
        answers=args.answers,
        latency=args.latency,
        send=sending(measured),
        look=measured["job_io"]["look_seconds"],
        look_operations=measured["job_io"]["counts"]["a look at a status"][0],
        failures=assumed.failures,
    )
    print(f"\nshared disk: {base.bandwidth / 1e6:.0f} MB/s, {base.answers:.0f} operations/s, {base.latency * 1e3:g} ms")
    print(f"the command: {1e3 * base.send:.1f} ms to send a job, {1e6 * base.look:.0f} µs to look at one\n")
    for faster, price, kind in ((1.0, assumed.worker, "two cores"), (assumed.faster, assumed.gpu, "a GPU")):
        train = training(measured, assumed, faster)
        looking = replace(base, looks_at=train.jobs)
        rows = [(str(n), train, replace(looking, workers=n)) for n in WORKERS]
        print_table(f"1,000 jobs of `best`, workers with {kind}: {train.seconds:.0f} s a job", rows, price)
        shards = {n: inference(measured, assumed, faster, n, base.latency) for n in WORKERS}
        rows = [(str(n), work, replace(base, workers=n)) for n, work in shards.items()]
        rows += [(f"{n}, --cache none", decoding_apart(work, assumed), at) for (n, work, at) in rows]
        print_table(f"a million photos, workers with {kind}", rows, price)
    most = replace(looking, workers=WORKERS[-1])
    print_table(
        f"1,000 jobs on {most.workers} workers with a GPU, with one thing changed", changes(train, most), assumed.gpu
    )
    monthly = assumed.disk * (train.kept + MILLION * (assumed.photo + SHOWN)) / 1e9
    print(f"the disk itself, photos and caches: about {monthly:.0f} USD a month")


def changes(train: Work, most: Cluster) -> list[tuple[str, Work, Cluster]]:
    """What could be done about it, one thing at a time."""
    return [
        ("as above", train, most),
        ("nodes whose memory does not hold the cache", replace(train, kept=0.0, read=EPOCHS * train.kept), most),
        ("the cache on each node's own disk beforehand", replace(train, kept=0.0), most),
        ("a disk of four times the bandwidth", train, replace(most, bandwidth=4 * most.bandwidth)),
        ("status files every ten seconds", replace(train, operations=train.operations / 10), most),
        ("the command looks only at jobs under way", train, replace(most, looks_at=most.workers)),
        ("jobs of ten minutes", replace(train, seconds=600.0), most),
        ("no worker is lost", train, replace(most, failures=0.0)),
    ]


def sending(measured: dict[str, Any]) -> float:
    """Seconds of packing, sending and unpacking a job's data: by loky, whose calls take no time else."""
    calls = measured["backends"]["calls"]["loky"]
    return float(max(0.001, median(calls["data"]) - median(calls["empty"])))


def training(measured: dict[str, Any], assumed: Assumed, faster: float) -> Work:
    """1,000 jobs of `best`."""
    counts, cached = measured["job_io"]["counts"], measured["job_io"]["folders"].get("the cache", [0.0])
    seconds = assumed.job / faster
    further = (EPOCHS - 1) * counts["each further epoch"][0]
    few = max(0.0, counts["a job of one epoch"][0] + further - EPOCHS * cached[0])  # photos are bytes, read ahead
    by_the_clock = counts["a status file"][0] + 2 * counts["a look for a stop file"][0]
    return Work(
        1000,
        seconds,
        spread(measured),
        starting(measured),
        read=0.0,
        written=EPOCHS * MODEL * per_epoch(measured),
        operations=by_the_clock + few / seconds,
        save=min(300.0, seconds / EPOCHS),
        once=PHOTOS / assumed.decoded,
        kept=PHOTOS * TRAINED,  # one file for all jobs
    )


def inference(measured: dict[str, Any], assumed: Assumed, faster: float, workers: int, latency: float) -> Work:
    """A million photos in shards, as `maskens infer --jobs` makes them: the command decodes all of them first."""
    photos = min(max(MILLION / (EACH * workers), SMALLEST), LARGEST)
    seconds = photos * PASSES / assumed.passes / faster
    decoding = MILLION / DECODERS * (DECODERS / assumed.decoded + OPENING * latency)
    return Work(
        round(MILLION / photos),
        seconds,
        spread(measured),
        starting(measured),
        read=photos * SHOWN + PASSES / 2 * MODEL,
        written=photos * PASSES * 8 * 4,  # logits: 3 + 2 + 3, float32
        operations=photos / seconds + 2,  # a photo from the cache; looks for a stop file
        save=seconds,
        once=decoding,
        at_once=max(2, round(faster)),  # threads that read
    )


def decoding_apart(work: Work, assumed: Assumed) -> Work:
    """The same with `--cache none`: each worker decodes its own photos while it predicts."""
    photos = MILLION / work.jobs
    operations = OPENING * photos / work.seconds + 2
    return replace(work, once=0.0, read=photos * assumed.photo + PASSES / 2 * MODEL, operations=operations)


def spread(measured: dict[str, Any]) -> float:
    jobs = way(measured, "sequential", 1)["jobs"]
    return float(stdev(jobs) / fmean(jobs))


def starting(measured: dict[str, Any]) -> float:
    """Seconds of a process on a node until it has imported all."""
    return float(median(measured["backends"]["calls"]["dask"]["imports"]))


def per_epoch(measured: dict[str, Any]) -> float:
    """Bytes that a job writes in an epoch that is its best so far, as times of its model."""
    return float(measured["job_io"]["counts"]["a job of one epoch"][2]) / float(measured["job_io"]["model_bytes"])


def way(measured: dict[str, Any], name: str, workers: int) -> dict[str, Any]:
    found: Sequence[dict[str, Any]] = measured["backends"]["ways"]
    return next(each for each in found if (each["name"], each["workers"]) == (name, workers))


def print_check(measured: dict[str, Any]) -> None:
    """The trainings that were measured, simulated: jobs take what `sequential` took, all else was measured apart."""
    alone, command = way(measured, "sequential", 1), measured["backends"]["command"]
    jobs = len(alone["jobs"])
    body = max(fmean(alone["jobs"]), (alone["wall"] - command) / jobs)  # where other work came in between
    print(f"{jobs} jobs of {body:.2f} s\n\n| backend | workers | simulated, s | measured, s | ratio |")
    print("|---|---|---|---|---|")
    for found in measured["backends"]["ways"]:
        if calls := measured["backends"]["calls"].get(found["name"]):
            once = command + calls["ready"]
            work = Work(jobs, body, spread(measured), median(calls["imports"]), 0.0, 0.0, 0.0, 0.0, once)
            stays = found["name"] == "loky"
            if stays:  # a process imports once, which the calls measured as their longest
                work = replace(work, start=max(calls["imports"]))
            cluster = Cluster(found["workers"], send=sending(measured), start_once=stays)
            wall = simulate(work, cluster).wall
            cells = (found["name"], str(found["workers"]), f"{wall:.1f}", f"{found['wall']:.1f}")
            print("|", " | ".join(cells), f"| {wall / found['wall']:.2f} |")


def print_table(title: str, rows: Sequence[tuple[str, Work, Cluster]], price: float) -> None:
    print(f"**{title}**\n\n{HEADS}")
    for name, work, cluster in rows:
        print_row(name, work, cluster, price)
    print(flush=True)


COLUMNS = ("workers", "wall", "computing", "largest loss", "MB/s asked", "operations/s asked", "workers lost", "USD")
HEADS = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"


def print_row(name: str, work: Work, cluster: Cluster, price: float) -> None:
    found = simulate(work, cluster)
    reads = work.read + work.kept * min(1.0, cluster.workers / work.jobs)
    asked = cluster.workers * (reads + work.written) / (work.start + work.seconds) / 1e6
    usd = cluster.workers * found.wall / 3600 * price
    wall = f"{found.wall / 3600:.1f} h" if found.wall > 7200 else f"{found.wall / 60:.1f} min"
    cells = (name, wall, f"{found.shares['computing']:.0%}", found.bottleneck, f"{asked:,.0f}")
    print("|", " | ".join([*cells, f"{found.operations:,.0f}", str(found.lost), f"{usd:,.0f}"]), "|")


if __name__ == "__main__":
    main()
