"""`maskens serve` under load: latency and photos/s over loopback, beside the same models without a server.

    python benchmarks/serving.py --run RUN [--seconds 20] [--connections 1 4 16] [--photos 64] [--device auto]

The photos are the first of the run's eval part. A server process is started as a user starts it; each connection sends
one photo after another, each as the body of a request of its own, for so many seconds after some that don't count. The
client is another process on the same cores, and takes its share of them.

Without a server, in this process, before: `predict` is the Python call, with loading the models and opening each photo
once more; `models` are loaded already and see photos that are decoded already, together or one by one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from ensemble.commands.predict import predict
from ensemble.data.cache import load_photo
from ensemble.decision.members import choose_ensembles
from ensemble.jobs.hardware import Hardware, choose_device
from ensemble.models.engine import BATCH
from ensemble.prediction.photo_classifier import PhotoClassifier
from folds.layout import read_eval
from folds.run_folder import load_run

WARM_UP = 5.0  # seconds of load that do not count: torch prepares itself for each new size of a batch


@dataclass
class Load:
    """What some connections saw."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)  # seconds, of photos that were answered
    errors: int = 0


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, photo: bytes) -> int:
    """Send a photo, read the answer; its status. By hand: a client that takes more time would be measured itself."""
    head = (
        f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: {len(photo)}\r\n\r\n"
    )
    writer.write(head.encode() + photo)
    await writer.drain()
    answer = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", answer)
    assert length, answer
    await reader.readexactly(int(length[1]))
    return int(answer.split()[1])


async def one_connection(host: str, port: int, photos: Iterator[bytes], since: float, until: float, load: Load) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    with contextlib.closing(writer):
        while (started := time.perf_counter()) < until:
            try:
                status = await ask(reader, writer, next(photos))
            except (OSError, asyncio.IncompleteReadError):
                load.errors += 1
                return
            ended = time.perf_counter()
            if status != 200:
                load.errors += 1
            elif since <= ended < until:
                load.latencies.append(ended - started)


async def load_of(url: str, photos: Sequence[bytes], connections: int, seconds: float) -> Load:
    where = urlsplit(url)
    assert where.hostname and where.port
    load = Load(seconds)
    since = time.perf_counter() + WARM_UP
    endless = [cycle([*photos[n % len(photos) :], *photos[: n % len(photos)]]) for n in range(connections)]
    jobs = [one_connection(where.hostname, where.port, p, since, since + seconds, load) for p in endless]
    await asyncio.gather(*jobs)
    return load


@contextlib.contextmanager
def server(run: Path, device: str) -> Iterator[str]:
    """The URL of a server process; it must end as a stopped command does."""
    command = [sys.executable, "-m", "cli", "serve", "--run", str(run.resolve()), "--port", "0", "--device", device]
    root = Path(__file__).resolve().parents[1]
    process = subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": str(root)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    try:
        for line in process.stdout:
            if found := re.search(r"serving on (\S+)", line):
                yield found[1]
                break
        process.terminate()
        err = process.communicate(timeout=60)[1]
        assert process.returncode == 143, err
    finally:
        process.kill()
        process.wait()


def batches(url: str) -> tuple[float, float]:
    """(how many there were, photos in them) so far."""
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        text = answer.read().decode()
    count, total = (re.search(rf"^maskens_batch_photos_{what} (\S+)", text, re.M) for what in ("count", "sum"))
    assert count and total, text
    return float(count[1]), float(total[1])


def without_server(run: Path, files: Sequence[Path], device: str) -> list[tuple[str, float]]:
    """(way, photos/s)."""
    started = time.perf_counter()
    predict(files, run, device=device)
    rows = [("`predict`", len(files) / (time.perf_counter() - started))]
    chosen = choose_ensembles([load_run(run)], None, True, False)
    models = PhotoClassifier(chosen.ensembles, chosen.fitted, Hardware(choose_device(device), None))
    decoded = [load_photo(f, models.preprocessings).sizes for f in files]
    for size in (BATCH, 1):
        parts = [decoded[s : s + size] for s in range(0, len(decoded), size)]
        models.predict(parts[0])  # warms up
        started = time.perf_counter()
        for part in parts:
            models.predict(part)
        words = f"models, {size} photos together" if size > 1 else "models, photo by photo"
        rows.append((words, len(decoded) / (time.perf_counter() - started)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--photos", type=int, default=64)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()

    data = read_eval(Path(load_run(args.run).data))
    files = [data.photos.root / f for f in islice(data.photos.files, args.photos)]
    contents = [f.read_bytes() for f in files]
    size = np.mean([len(c) for c in contents])
    print(f"{platform.platform()}, {os.cpu_count()} cores; {len(files)} photos of {size:.0f} bytes")
    print("\n| without a server | photos/s |\n|---|---|")
    for way, speed in without_server(args.run, files, args.device):
        print(f"| {way} | {speed:.1f} |", flush=True)
    print("\n| connections | p50, ms | p99, ms | photos/s | photos a batch | errors |\n|---|---|---|---|---|---|")
    with server(args.run, args.device) as url:
        for connections in args.connections:
            before = batches(url)
            load = asyncio.run(load_of(url, contents, connections, args.seconds))
            count, total = (after - b for after, b in zip(batches(url), before, strict=True))
            p50, p99 = np.percentile(load.latencies, [50, 99]) * 1000 if load.latencies else (np.nan, np.nan)
            speed = len(load.latencies) / load.seconds
            print(
                f"| {connections} | {p50:.1f} | {p99:.1f} | {speed:.1f} | {total / count:.1f} | {load.errors} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
