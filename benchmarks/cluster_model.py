"""Jobs on workers that share one disk and one command: a simulation from event to event.

A worker takes the next job as soon as it is free and the command has sent it, starts a process, reads, computes and
writes. Transfers share the disk's bandwidth evenly, none faster than a worker's network. While it computes, a job waits
for each operation on a shared file as long as the disk takes to answer; once all ask for more than the disk can do,
they wait for their share. The command sends one job after the other, and looks at the status of every job in turn.
Workers are lost at random; their job starts again elsewhere from what it had saved.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

PHASES = ("starting", "reading", "computing", "writing")
STARTING, READING, COMPUTING, WRITING = range(len(PHASES))


@dataclass(frozen=True)
class Work:
    """Jobs that are alike."""

    jobs: int
    seconds: float  # of computing, mean
    spread: float  # standard deviation of it by the mean
    start: float  # seconds of a process until it has imported all
    read: float  # bytes, by each job
    written: float
    operations: float  # on shared files, a second of computing
    save: float  # seconds of work that a lost worker loses at most
    once: float = 0.0  # seconds before the first job, by the command alone
    kept: float = 0.0  # bytes that a worker reads before its first job, and keeps in memory
    at_once: int = 1  # operations that a job waits for at the same time


@dataclass(frozen=True)
class Cluster:
    """What jobs run on."""

    workers: int
    bandwidth: float = 1e9  # bytes/s of the shared disk
    network: float = 1.25e9  # bytes/s of a worker
    answers: float = 10_000.0  # operations/s of the shared disk
    send: float = 0.01  # seconds of the command for each job that it sends
    latency: float = 0.0005  # seconds until the disk answers an operation
    look: float = 60e-6  # seconds of the command's own for a look at a job's status
    look_operations: float = 5.0
    looks_at: int = 0  # jobs whose status the command looks at
    failures: float = 0.0  # of a worker, an hour
    repair: float = 300.0  # seconds until another takes its place
    start_once: bool = False  # processes that stay, as loky's do


@dataclass(frozen=True)
class Result:
    """What a simulation came to."""

    wall: float
    shares: dict[str, float]  # of the workers' time: the phases and slowed, waiting for the command, lost, idle
    transfer: float  # bytes/s over the wall time
    operations: float  # a second, while all workers compute, looks among them
    lost: int  # workers
    looking: float  # share of the command's computing

    @property
    def bottleneck(self) -> str:
        """What takes most of the workers' time that is not computing."""
        rest = {name: share for name, share in self.shares.items() if name != "computing"}
        worst = max(rest, key=lambda name: rest[name])
        return f"{worst} ({rest[worst]:.0%})" if rest[worst] >= 0.05 else "none"


POLL = 0.25  # seconds between two rounds of looks


def looks(cluster: Cluster) -> tuple[float, float]:
    """(share of the command's computing, operations a second) of looking at the jobs' status, one after the other."""
    each = cluster.look + cluster.look_operations * cluster.latency
    rounds = 1 / (POLL + cluster.looks_at * each)  # a second
    return cluster.looks_at * cluster.look * rounds, cluster.looks_at * cluster.look_operations * rounds


def simulate(work: Work, cluster: Cluster, seed: int = 0) -> Result:
    """Run the jobs on the cluster, from event to event; between two of them all speeds stand still."""
    rng = np.random.default_rng(seed)
    sigma = math.sqrt(math.log(1 + work.spread**2))
    seconds = work.seconds * rng.lognormal(-(sigma**2) / 2, sigma, work.jobs)
    looking, look_operations = looks(cluster)
    send = cluster.send / (1 - looking)
    queue = [np.array([work.start, work.read, s, work.written]) for s in seconds[::-1]]
    count = cluster.workers
    left = np.zeros((count, len(PHASES)))  # of the worker's job
    busy, started = np.zeros(count, bool), np.zeros(count, bool)
    computed = np.zeros(count)  # seconds
    down = np.zeros(count)  # until when
    fails = rng.exponential(3600 / cluster.failures, count) if cluster.failures else np.full(count, np.inf)
    spent = dict.fromkeys([*PHASES, "slowed by operations", "waiting for the command", "lost", "idle at the end"], 0.0)
    now, sent, lost = 0.0, 0.0, 0
    while queue or busy.any():
        for worker in np.flatnonzero(~busy & (down <= now)):
            if not queue or sent > now + 1e-9:
                break
            left[worker], busy[worker], computed[worker] = queue.pop(), True, 0.0
            if not started[worker]:
                left[worker, READING] += work.kept
            elif cluster.start_once:
                left[worker, STARTING] = 0.0
            started[worker] = True
            sent = now + send
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
            fails[worker] = now + cluster.repair + rng.exponential(3600 / cluster.failures)
            down[worker] = now + cluster.repair
            started[worker] = False
            lost += 1
            if busy[worker]:
                gone = min(computed[worker], rng.uniform(0, work.save))
                queue.append(np.array([work.start, work.read, left[worker, COMPUTING] + gone, work.written]))
                spent["computing"], spent["lost"] = spent["computing"] - gone, spent["lost"] + gone
                busy[worker], left[worker] = False, 0.0
    total = count * now
    shares = {name: float(value / total) for name, value in spent.items()}
    transfer = work.jobs * (work.read + work.written) / now
    return Result(now + work.once, shares, transfer, count * work.operations + look_operations, lost, looking)
