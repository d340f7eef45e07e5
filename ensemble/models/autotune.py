"""The precision to train in, chosen by timing, and torch.compile for training."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ensemble.jobs.locks import one_at_a_time
from ensemble.models.precision import FASTER, Precision, PrecisionOption, autocast, usable_precision
from ensemble.models.process import quiet
from folds.files import read_json, write_json

COMPILER = "inductor"  # torch's own
ROUNDS = 3  # steps timed each way, after one that warms up
LONGEST = 10.0  # seconds after which fewer will do

Forward = Callable[[Tensor], Any]
"""photos -> logits: a model, or what torch.compile makes of it."""

Autotuned = tuple[Precision, str]
"""(precision, what the user should know of it)."""


@dataclass(frozen=True)
class AutotuneCache:
    """What `auto` came to before in a run, for one task on one kind of machine: so all folds of it compute alike."""

    run: Path  # folder
    task_hash: str
    device: torch.device
    threads: int
    keep: bool = True  # what is measured now

    @property
    def file(self) -> Path:
        return self.run / "precision.json"

    @property
    def key(self) -> str:
        on_gpu = self.device.type == "cuda"
        chip = torch.cuda.get_device_name(self.device) if on_gpu else torch.backends.cpu.get_cpu_capability()
        return f"{self.task_hash}, {platform.machine()} {chip}, {self.threads} threads, torch {torch.__version__}"

    def read(self) -> Autotuned | None:
        """What was measured, or None where nothing was or the file can't be read."""
        match self._all().get(self.key):
            case {"precision": "fp32" | "bf16" | "fp16" as precision, "note": str(note)}:
                return precision, note
        return None

    def get_or_measure(self, measure: Callable[[], Autotuned]) -> Autotuned:
        """What was measured, by this job or by one that came before it; others wait meanwhile."""
        if not self.keep:
            return self.read() or measure()
        with one_at_a_time(self.run, "precision"):
            found = self.read()
            if found is None:
                found = measure()
                write_json(self.file, self._all() | {self.key: {"precision": found[0], "note": found[1]}})
            return found

    def _all(self) -> dict[str, Any]:
        try:
            found = read_json(self.file)
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def autotune_precision(
    model: nn.Module, x: Tensor, wanted: PrecisionOption, measured: AutotuneCache | None = None
) -> Autotuned:
    """The precision to train in, tried on one real batch; nothing of the model changes.

    Args:
        model: in train mode.
        x: float32 (batch, 3, height, width), on the model's device.
        measured: where `auto` looks for an earlier answer and leaves its own; None measures anew.
    """
    if wanted != "auto":
        return usable_precision(model, x, wanted)
    return measured.get_or_measure(lambda: measure(model, x)) if measured else measure(model, x)


def measure(model: nn.Module, x: Tensor) -> Autotuned:
    """bf16 (fp16 on a GPU without it) if the logits agree and a step is at least FASTER times as fast, else fp32.

    Arguments as of `autotune_precision`.
    """
    weak_gpu = x.device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    small: Precision = "fp16" if weak_gpu else "bf16"
    usable, note = usable_precision(model, x, small)
    if usable == "fp32":
        return usable, note
    exact, rough = step_seconds(model, x, "fp32", small)
    gain = exact / rough
    if gain < FASTER:
        return "fp32", f"precision auto: fp32, because {small} is {gain:.2f} times as fast"
    return small, f"precision auto: {small}, {gain:.2f} times as fast as fp32"


def step_seconds(model: nn.Module, x: Tensor, *ways: Precision) -> tuple[float, ...]:
    """Seconds of a forward and backward pass in each precision: the shortest of a few, in turn."""
    found: dict[Precision, list[float]] = {way: [] for way in ways}
    began = time.perf_counter()
    with unchanged(model, x.device):
        while len(found[ways[-1]]) <= ROUNDS and (len(found[ways[-1]]) < 2 or time.perf_counter() - began < LONGEST):
            for way in ways:
                started = time.perf_counter()
                _step(model, model, x, way)
                if x.device.type == "cuda":
                    torch.cuda.synchronize(x.device)
                found[way].append(time.perf_counter() - started)
    return tuple(min(found[way][1:]) for way in ways)


def compile_model(
    model: nn.Module, trial: Callable[[Forward], object], predicts: bool = False
) -> tuple[Forward, float, str]:
    """The model compiled, or itself where that fails.

    Compiled and plain model share their weights, so that checkpoints and averages of the plain one stay what they are.

    Args:
        trial: runs the compiled model once, on what it will be given.
        predicts: on a GPU torch then replays the passes as CUDA graphs (`mode="reduce-overhead"`; experimental: not
            tried on a GPU).

    Returns:
        (model, seconds that it took, why it is not compiled).
    """
    began = time.perf_counter()
    try:
        with quiet():
            if predicts and next(model.parameters()).device.type == "cuda":
                graphed = torch.compile(model, mode="reduce-overhead", dynamic=False)
                faster: Forward = lambda x: graphed(x).clone()  # noqa: E731 -- the next pass overwrites its output
            else:
                faster = torch.compile(model, backend=COMPILER, dynamic=False)
            trial(faster)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # no C++ compiler, or any of the many things that it does not know
        cause = str(getattr(error, "inner_exception", None) or error).strip().partition("\n")[0]
        return model, 0.0, cause or type(error).__name__
    return faster, time.perf_counter() - began, ""


def compile_for_training(model: nn.Module, x: Tensor, precision: Precision) -> tuple[Forward, str]:
    """The model compiled for batches like `x`, or itself, and a note of what happened.

    Arguments as of `autotune_precision`.
    """
    torch._dynamo.reset()  # it would give up after a few models of one process
    with unchanged(model, x.device):
        faster, seconds, failure = compile_model(model, lambda forward: _step(forward, model, x, precision))
    if failure:
        return model, f"not compiled, trains as without --compile: {failure}"
    return faster, f"compiled in {seconds:.0f} s"


def _step(forward: Forward, model: nn.Module, x: Tensor, precision: Precision) -> None:
    model.zero_grad(set_to_none=True)
    with autocast(x.device, precision):
        logits = forward(x)
    logits.float().square().mean().backward()


@contextlib.contextmanager
def unchanged(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Steps within leave no trace: batch norm's statistics and the random streams are as before, gradients gone."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            model.zero_grad(set_to_none=True)
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    buffer.copy_(before[name])
