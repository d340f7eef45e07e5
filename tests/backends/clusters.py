"""Real clusters on this machine, as somebody would start them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cli

QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(cli.__file__).parent), "OMP_NUM_THREADS": "1"}


@contextlib.contextmanager
def dask_cluster(folder: Path, workers: int = 2) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and workers without nannies, each a process of its own; yields (address, workers)."""
    known = folder / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    where = ["--host", "127.0.0.1", "--no-dashboard"]
    with contextlib.ExitStack() as stack:

        def start(*words: object) -> subprocess.Popen[bytes]:
            process = subprocess.Popen([*dask, *map(str, words)], env=_environment(), cwd=folder, **QUIET)  # type: ignore[call-overload]
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process  # type: ignore[no-any-return]

        start("scheduler", *where, "--port", 0, "--scheduler-file", known)
        while not known.exists():
            time.sleep(0.05)
        wanted = ["--scheduler-file", known, "--nthreads", 1, "--no-nanny"]
        address = json.loads(known.read_text())["address"]
        yield address, [start("worker", *where, *wanted) for _ in range(workers)]
