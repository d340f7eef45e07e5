"""What one job reads, writes and asks of the disk that all nodes share.

    python benchmarks/job_io.py [--people 60] [--json benchmarks/cluster_measured.json]

The process of a job on a cluster's node, started as a scheduler's worker starts it, runs under strace: each system call
on a file of the run, the cache or the data is an operation, and what reads and writes return are bytes. A network file
system answers some of them from the node's memory, so they are the most that its server is asked. Trainings of one and
of three epochs tell what is once a job and what is once an epoch. What comes by the clock is counted by itself: status
files (once a second in an epoch), looks at a job's status (four a second by the command, for each job) and looks for a
stop file (two a second by the node). Linux with strace; about two minutes on two idle cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from backends import keep

from ensemble.backends.paths import pack
from ensemble.jobs.locks import lock_job_process
from ensemble.jobs.spec import JobSpec, geometry, learned_rows
from ensemble.jobs.status import read_status
from ensemble.jobs.stopping import stop_file
from ensemble.pipeline.sample import make_sample
from ensemble.pipeline.split import make_folds
from ensemble.pipeline.train import TrainOptions, plan_training, prepare
from ensemble.training.job import run_job

ROOT = Path(__file__).resolve().parent.parent
READS = {"read", "readv", "pread64", "preadv", "preadv2"}
WRITES = {"write", "writev", "pwrite64", "pwritev", "pwritev2"}
NEVER_SENT = {"lseek", "ioctl", "fcntl", "dup", "dup2", "dup3", "mmap"}  # to a server
LINE = re.compile(r"^(\d+) +(?:<\.\.\. (\w+) resumed>|(\w+)\()(.*)$")
ANSWER = re.compile(r"\) += (\d+)")
TIMES = 50  # of what is counted by itself

Traffic = dict[str, list[float]]  # folder -> operations, bytes read, bytes written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=60, help="of the generated photos, 7 each")
    parser.add_argument("--json", type=Path, help="where to leave the figures for simulate_cluster.py")
    args = parser.parse_args()
    if not shutil.which("strace"):
        sys.exit("this needs strace: apt-get install strace")
    os.environ["OMP_NUM_THREADS"] = "1"
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), args.people)
    print("| what | operations | bytes read | bytes written |\n|---|---|---|---|")
    for name, (operations, read, written) in found["counts"].items():
        print(f"| {name} | {operations:.1f} | {read:,.0f} | {written:,.0f} |")
    print("\n| of the job of one epoch, in | operations | bytes read | bytes written |\n|---|---|---|---|")
    for name, (operations, read, written) in found["folders"].items():
        print(f"| {name} | {operations:.0f} | {read:,.0f} | {written:,.0f} |")
    shown = "learns from {photos} photos and predicts {predicted}, each of {photo_bytes:,} bytes in the cache"
    print(f"\nthe job {shown.format(**found)}; its model has {found['model_bytes']:,}")
    print(
        f"a job on its way to a node: {found['call_bytes']:,} bytes, labels of {found['all_photos']} photos among them"
    )
    print(f"a look at a job's status: {1e6 * found['look_seconds']:.0f} µs of the command's time")
    if args.json:
        keep(args.json, "job_io", found)


def measure(root: Path, people: int) -> dict[str, Any]:
    """Figures of jobs on generated photos below `root`."""
    shared = root / "shared"
    make_sample(shared / "data", people, (96, 128))
    short, long = (planned(shared, name, epochs) for name, epochs in (("short", 1), ("long", 3)))
    spec, data, folds = short
    folders = traffic(root, run_job, *short)
    one, three = total(folders), total(traffic(root, run_job, *long))
    none, written = (total(traffic(root, write_statuses, spec, data, folds, times)) for times in (0, TIMES))
    seen = total(traffic(root, read_statuses, spec, TIMES))
    stops = total(traffic(root, look_for_stop, spec.run.folder, TIMES))
    counts = {
        "a job of one epoch": one,
        "each further epoch": [(b - a) / 2 for a, b in zip(one, three, strict=True)],
        "a status file": [(b - a) / TIMES for a, b in zip(none, written, strict=True)],
        "a look at a status": [each / TIMES for each in seen],
        "a look for a stop file": [each / TIMES for each in stops],
    }
    started = time.perf_counter()
    read_statuses(spec, 1000)
    look = (time.perf_counter() - started) / 1000
    started = time.perf_counter()
    call = pack((run_job, (spec, data, folds)))
    packing = time.perf_counter() - started
    learned = learned_rows(spec, data, folds)
    return {
        "counts": counts,
        "folders": dict(sorted(folders.items())),
        "photos": len(learned),
        "predicted": int((folds[data.photo_person] == spec.fold).sum()),
        "all_photos": len(data.files),
        "photo_bytes": spec_bytes(spec),
        "model_bytes": (spec.run.job_folder(spec.task, spec.fold) / "model.safetensors").stat().st_size,
        "call_bytes": len(call),
        "call_seconds": packing,
        "look_seconds": look,
    }


def planned(shared: Path, name: str, epochs: int) -> tuple[JobSpec, Any, Any]:
    """One job of a new run, its cache filled: the arguments of `run_job`."""
    run = shared / "runs" / name
    make_folds(shared / "data", run)
    changes = [f"tasks.*.epochs={epochs}"]
    options = TrainOptions(folds=[0], tasks=["mask"], recipe="demo", changes=changes, device="cpu", workers=0)
    plan = plan_training(run, options)
    prepare(plan)
    return plan.todo[0], plan.data, plan.folds


def spec_bytes(spec: JobSpec) -> int:
    height, width, channels = geometry(spec.recipe.tasks[spec.task]).shape
    return height * width * channels


def write_statuses(spec: JobSpec, data: Any, folds: Any, times: int) -> None:
    """What a job does once a second while it trains."""
    from ensemble.training.job_run import JobRun

    other = dataclasses.replace(spec, fold=1)
    with lock_job_process(other) as claim:
        job = JobRun(other, data, folds, claim)
        for number in range(times):
            job.report(epoch=number)


def read_statuses(spec: JobSpec, times: int) -> None:
    for _ in range(times):
        read_status(spec.run, spec.task, spec.fold)


def look_for_stop(run: Path, times: int) -> None:
    for _ in range(times):
        stop_file(run / ".locks", "token").exists()


def traffic(root: Path, function: Callable[..., Any], *args: Any) -> Traffic:
    """Call a function in the process of a cluster's node, under strace."""
    trace, answer = root / "trace", root / "answer"
    strace = ["strace", "-f", "-y", "-qq", "--seccomp-bpf", "-s", "0", "-e", "trace=%file,%desc", "-o", str(trace)]
    main = "from ensemble.backends.node_process import main; main()"
    done = subprocess.run(
        [*strace, sys.executable, "-c", main, str(answer)],
        input=pack((function, args)),
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])},
        cwd="/",
        capture_output=True,
    )
    if done.returncode:
        sys.exit(done.stderr.decode())
    found: Traffic = {}
    for call, path, answered in shared_calls(trace, root / "shared"):
        counts = found.setdefault(kind(path.relative_to(root / "shared")), [0.0, 0.0, 0.0])
        counts[0] += 1
        counts[1] += answered if call in READS else 0
        counts[2] += answered if call in WRITES else 0
    return found


def shared_calls(trace: Path, shared: Path) -> Iterator[tuple[str, Path, int]]:
    """(system call, file, what it returned) of each that concerns files below a folder."""
    named = re.compile(rf"{re.escape(str(shared))}[^\"<>]*")
    begun: dict[str, Path] = {}  # by thread
    for line in trace.read_text(errors="replace").splitlines():
        if not (found := LINE.match(line)):
            continue
        thread, resumed, started, rest = found.groups()
        path = begun.pop(thread, None) if resumed else (Path(at[0]) if (at := named.search(rest)) else None)
        if path is None or (resumed or started) in NEVER_SENT:
            continue
        if rest.endswith("<unfinished ...>"):
            begun[thread] = path
            continue
        answered = ANSWER.search(rest)
        yield resumed or started, path, int(answered[1]) if answered else 0


def kind(path: Path) -> str:
    """Which of the shared folders a file is in."""
    match path.parts:
        case ("data", *_):
            return "the data"
        case ("runs", ".cache", *_):
            return "the cache"
        case ("runs", _, ".locks", *_):
            return "the run's locks"
        case ("runs", _, _, _, *_):
            return "the job's folder"
    return "the run"


def total(found: Traffic) -> list[float]:
    return [sum(counts[n] for counts in found.values()) for n in range(3)]


if __name__ == "__main__":
    import job_io  # what travels to another process needs a name there

    job_io.main()
