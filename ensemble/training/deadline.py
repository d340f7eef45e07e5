"""A training that ends by a deadline: which folds are begun, and with how many epochs. No torch."""

from __future__ import annotations

import dataclasses
import heapq
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ensemble.jobs.finished import is_done, job_epochs
from ensemble.jobs.job import JobStatus
from ensemble.jobs.spec import JobSpec, TimeLimit
from folds.ranges import FULL, in_short
from folds.records import read_record, write_record
from folds.run_folder import FORBID_EXTRA, Run

MARGIN = 1.1  # by which plans exceed the estimates: a job that is a little slower than measured loses no epoch


@dataclass(frozen=True)
class Deadline:
    """The record deadline.json of a run."""

    __pydantic_config__ = FORBID_EXTRA

    hours: float  # as they were given
    ends: datetime

    @property
    def timestamp(self) -> float:
        """Seconds since 1970."""
        return self.ends.timestamp()

    @classmethod
    def after(cls, hours: float, began: float) -> Deadline:
        """So many hours after `began`, in seconds since 1970."""
        return cls(hours, datetime.fromtimestamp(began + 3600 * hours, UTC))

    def __str__(self) -> str:
        return f"{self.ends.astimezone():%Y-%m-%d %H:%M:%S}"


def find_deadline(run: Run, hours: float) -> Deadline | None:
    """The run's deadline, if it is of as many hours. Raises MaskensError: deadline.json is damaged."""
    if not run.deadline_file.exists():
        return None
    found = read_record(run.deadline_file, Deadline, advice="Delete it to begin a new deadline.")
    return found if found.hours == hours else None


def save_deadline(run: Run, deadline: Deadline | None) -> None:
    """Write deadline.json, atomically, or remove it."""
    if deadline:
        write_record(run.deadline_file, deadline)
    else:
        run.deadline_file.unlink(missing_ok=True)


@dataclass(frozen=True)
class JobTime:
    """What a job that is left to do takes, in seconds."""

    start: float  # before its first epoch and after its last one
    epoch: float  # with validation
    most: int  # epochs that are left to do
    least: int = 1  # of them; 0: it has finished one, and could end with that

    def seconds(self, epochs: int) -> float:
        """With MARGIN."""
        return MARGIN * (self.start + epochs * self.epoch)


def slot_loads(seconds: Iterable[float], busy: Sequence[float]) -> list[float]:
    """When each slot is free again, if jobs that take so many seconds start one after the other in the slot that is
    free first; `busy` are the seconds until each slot is free."""
    slots = list(busy)
    heapq.heapify(slots)
    for each in seconds:
        heapq.heappush(slots, heapq.heappop(slots) + each)
    return slots


def seconds_of_jobs(jobs: Sequence[JobTime], epochs: Sequence[int], busy: Sequence[float]) -> float:
    """Seconds until jobs with so many epochs have ended; `busy` are the seconds until each slot is free."""
    return max(slot_loads((job.seconds(n) for job, n in zip(jobs, epochs, strict=True)), busy))


def fitting_epochs(jobs: Sequence[JobTime], seconds: float, busy: Sequence[float]) -> list[int] | None:
    """How many epochs each job of a fold gets, so that all of them end in time: the same fraction of each one's own, as
    far as whole epochs allow; None if not even the least does.

    Args:
        jobs: in the order in which they begin.
        seconds: until they have to have ended.
        busy: seconds until each slot is free.
    """
    epochs = [job.least for job in jobs]
    if seconds_of_jobs(jobs, epochs, busy) > seconds:
        return None
    while shorter := [i for i, job in enumerate(jobs) if epochs[i] < job.most]:
        i = min(shorter, key=lambda i: epochs[i] / jobs[i].most)
        epochs[i] += 1
        if seconds_of_jobs(jobs, epochs, busy) > seconds:
            epochs[i] -= 1
            break
    return epochs


def seconds_after(jobs: Sequence[JobTime], epochs: int, busy: Sequence[float]) -> float:
    """Seconds that have to be left when the first of these jobs ends after so many epochs, for the least epochs of the
    others; `busy` are the seconds until each slot is free."""
    whole = seconds_of_jobs(jobs, [epochs, *(job.least for job in jobs[1:])], busy)
    return whole - jobs[0].seconds(epochs)


@dataclass(frozen=True)
class InferenceTime:
    """What `maskens infer` takes, in seconds."""

    start: float  # whatever the models: starting, decoding, writing
    fold: float  # for the models of one fold

    def seconds(self, folds: int, slower: float = 1.0) -> float:
        """With MARGIN, where epochs take `slower` times as long as estimated; short ones do for other reasons, too."""
        return MARGIN * (self.start + folds * self.fold * min(max(1.0, slower), 3.0))


def fitting_folds(
    folds: Mapping[int, Sequence[JobTime]], seconds: float, infer: InferenceTime, slots: int, complete: int
) -> dict[int, list[int] | None]:
    """`fitting_epochs` of each fold, one after the other: each gets what those before it leave.

    Args:
        folds: the jobs of each fold that is not complete.
        seconds: until training and inference have to have ended.
        slots: jobs at a time.
        complete: further folds whose models predict.
    """
    found: dict[int, list[int] | None] = {}
    busy, predicting = [0.0] * slots, complete
    for fold, jobs in folds.items():
        found[fold] = epochs = fitting_epochs(jobs, seconds - infer.seconds(predicting + 1), busy)
        if epochs is not None:
            busy = slot_loads((job.seconds(n) for job, n in zip(jobs, epochs, strict=True)), busy)
            predicting += 1
    return found


def epochs_left(spec: JobSpec, restart: bool = False) -> int:
    """Epochs that are left of a job."""
    done = spec.job.status().epoch if spec.job.resumable and not restart else 0
    return job_epochs(spec, restart) - done


Key = tuple[str, int]  # task and fold


class Timetable:
    """Gives each job of a run its epochs and its limit when it begins, from what was estimated and what those before it
    took. Called from several threads.

    Args:
        times: what each job to train takes as estimated, in the order of training.
        ends: when training and inference have to have ended, in seconds since 1970.
        complete: folds that are complete already.
        slots: jobs at a time.
        decode: seconds until the first job begins.
    """

    def __init__(
        self,
        times: Mapping[Key, JobTime],
        ends: float,
        infer: InferenceTime,
        complete: Collection[int],
        slots: int,
        decode: float = 0.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.estimated, self.ends, self.infer, self.slots, self.now = dict(times), ends, infer, slots, now
        self.decode = decode
        self.predicting = set(complete)  # folds whose models will predict
        self.waiting = list(times)
        self.running: dict[Key, tuple[float, float, JobStatus]] = {}  # began, is expected to end, status before
        self.measured: dict[str, tuple[float, float]] = {}  # task -> (start, epoch) of its last job
        self.lock = threading.Lock()

    @property
    def folds(self) -> dict[int, list[JobTime]]:
        """The jobs that wait, by fold."""
        found: dict[int, list[JobTime]] = {}
        for task, fold in self.waiting:
            found.setdefault(fold, []).append(self._time(task, fold))
        return found

    def forecast(self) -> dict[int, dict[str, tuple[int, int]]]:
        """Fold -> task -> (epochs that the job would get, epochs that are left to do), before the first job begins."""
        seconds = self.ends - self.now() - self.decode
        fitting = fitting_folds(self.folds, seconds, self.infer, self.slots, len(self.predicting))
        found: dict[int, dict[str, tuple[int, int]]] = {}
        for task, fold in self.waiting:
            epochs, place = fitting[fold], len(found.setdefault(fold, {}))
            found[fold][task] = epochs[place] if epochs else 0, self.estimated[task, fold].most
        return found

    def least_seconds(self) -> tuple[float, float]:
        """(seconds for one epoch of a fold's jobs, of the fold that takes least; for all else), before the first job
        begins."""
        free = [0.0] * self.slots
        fold = min(seconds_of_jobs(jobs, [job.least for job in jobs], free) for jobs in self.folds.values())
        return fold, self.decode + self.infer.seconds(len(self.predicting) + 1)

    @property
    def too_short(self) -> bool:
        """Whether there is no time for any fold, before the first job begins."""
        return sum(self.least_seconds()) > self.ends - self.now()

    def _time(self, task: str, fold: int) -> JobTime:
        """As the last job of the task measured it; before that as estimated, and as much slower as other tasks are."""
        estimated = self.estimated[task, fold]
        start, epoch = self.measured.get(task, (estimated.start, estimated.epoch * self._slower))
        return dataclasses.replace(estimated, start=start, epoch=epoch)

    @property
    def _slower(self) -> float:
        """How many times as long as estimated epochs take, on average."""
        expected = {task: its.epoch for (task, _), its in self.estimated.items()}
        ratios = [epoch / expected[task] for task, (_, epoch) in self.measured.items() if expected[task]]
        return sum(ratios) / len(ratios) if ratios else 1.0

    def begin(self, spec: JobSpec) -> JobSpec | None:
        """The job with the epochs that it gets and its limit; None if its fold has no time any more."""
        with self.lock:
            key, now = (spec.task, spec.fold), self.now()
            if key not in self.waiting:
                return None
            self.waiting.remove(key)
            jobs = [self._time(*key), *(self._time(*k) for k in self.waiting if k[1] == spec.fold)]
            if spec.fold == FULL:  # the folds have decided on its epochs by now, and it needs all of them
                tasks = [spec.task, *(task for task, fold in self.waiting if fold == FULL)]
                left = [epochs_left(dataclasses.replace(spec, task=task)) for task in tasks]
                jobs = [dataclasses.replace(job, most=n, least=n) for job, n in zip(jobs, left, strict=True)]
            folds = self.predicting | {spec.fold}
            predicting = self.infer.seconds(len(folds), self._slower)
            busy = [max(0.0, end - now) for _, end, _ in self.running.values()]
            busy += [0.0] * (self.slots - len(busy))
            epochs = fitting_epochs(jobs, self.ends - predicting - now, busy)
            if epochs is None:
                self._give_up(spec.fold)
                return None
            self.predicting = folds
            status = spec.job.status()
            self.running[key] = now, now + jobs[0].seconds(epochs[0]), status
            planned = None if spec.job.resumable else epochs[0]  # its state says how many it began with
            starting = self.infer.seconds(0)  # which takes no longer where epochs do
            after = predicting - starting + seconds_after(jobs, epochs[0], busy)
            limit = TimeLimit(self.ends - starting, after, MARGIN * jobs[0].epoch)
            return dataclasses.replace(spec, epochs=planned, limit=limit)

    def end(self, spec: JobSpec) -> None:
        """A job that began has ended, in whatever way."""
        with self.lock:
            began, _, before = self.running.pop((spec.task, spec.fold))
            status = spec.job.status()
            if status.epoch > before.epoch:
                trained = status.seconds - before.seconds
                start = max(0.0, self.now() - began - trained)
                self.measured[spec.task] = start, trained / (status.epoch - before.epoch)
            if status.state == "stopped":  # it had no time for an epoch, so its fold will not be complete
                self._give_up(spec.fold)

    def _give_up(self, fold: int) -> None:
        self.waiting = [key for key in self.waiting if key[1] != fold]
        self.predicting.discard(fold)


def describe_folds(folds: Mapping[int, Mapping[str, tuple[int, int]]]) -> str:
    """What is less than the recipe wants, like "fold 2: 1 of 2 epochs; folds 3, 4: not trained"; "" if nothing is.
    Comes from fold -> task -> (epochs that it gets, epochs of the recipe)."""
    alike: dict[str, list[int]] = {}
    for fold, tasks in folds.items():
        counts = {f"{given} of {wanted} epochs" for given, wanted in tasks.values()}
        without = [task for task, (given, _) in tasks.items() if not given]
        if len(without) == len(tasks):
            text = "not trained"
        elif without:
            text = f"not complete, without {', '.join(without)}"
        elif len(counts) == 1:
            text = counts.pop()
        else:
            text = ", ".join(f"{task} {given} of {wanted}" for task, (given, wanted) in tasks.items()) + " epochs"
        if any(given < wanted for given, wanted in tasks.values()):
            alike.setdefault(text, []).append(fold)
    return "; ".join(f"{_name_folds(of)}: {text}" for text, of in alike.items())


def _name_folds(folds: Sequence[int]) -> str:
    names = [in_short([fold]) for fold in folds]
    return names[0] if names == ["full"] else f"fold{'s' if len(names) > 1 else ''} {', '.join(names)}"


def trained_epochs(jobs: Iterable[JobSpec]) -> dict[int, dict[str, tuple[int, int]]]:
    """Fold -> task -> (epochs that were trained, 0 if the job is not finished; epochs of the recipe, of the model on
    everybody its own)."""
    found: dict[int, dict[str, tuple[int, int]]] = {}
    for spec in jobs:
        trained = spec.job.status().epoch if is_done(spec) else 0
        wanted = spec.task_recipe.epochs
        found.setdefault(spec.fold, {})[spec.task] = trained, (trained or wanted) if spec.fold == FULL else wanted
    return found
