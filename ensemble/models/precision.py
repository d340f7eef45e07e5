"""Mixed precision chosen by timing, and torch.compile."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ensemble.jobs.hardware import machine
from ensemble.jobs.locks import lock_measurements
from ensemble.models.engine import FP32, Precision, PrecisionChoice, PrecisionOption, largest_difference, shortest
from ensemble.models.runtime import quiet
from folds.errors import MaskensError
from folds.files import read_json, write_json
from folds.run_folder import PRECISION

Forward = Callable[[Tensor], Any]
"""photos -> logits: a model, or what torch.compile or another engine makes of it."""

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
FASTER = 1.1  # minimum speed-up for which auto takes 16 bits
COMPILER = "inductor"  # torch's own
ROUNDS = 3  # training steps timed for each precision, after one that warms up
LONGEST = 10.0  # seconds after which fewer will do


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """The context of a forward pass; engines other than torch ignore it."""
    if precision not in TYPES:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=TYPES[precision])


def usable_precision(model: nn.Module, x: Tensor, wanted: Precision, any_difference: bool = False) -> PrecisionChoice:
    """The precision asked for, or fp32 with the reason.

    Logits of one real batch, float32 (batch, 3, height, width) on the model's device, must be finite and, unless
    `any_difference`, agree with fp32 to 5 % of the largest. The model is in eval mode meanwhile, so that nothing of it
    changes."""
    if wanted == "fp32":
        return FP32
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            exact = model(x).float()
            with autocast(x.device, wanted):
                rough = model(x).float()
    except torch.OutOfMemoryError:
        raise  # fp32 needs more still
    except RuntimeError as error:  # a layer without a kernel for this type
        return PrecisionChoice("fp32", 0.0, f"precision {wanted} falls back to fp32: {str(error).splitlines()[0]}")
    finally:
        model.train(training)
    difference, scale = float((rough - exact).abs().max()), float(exact.abs().max())
    if not bool(rough.isfinite().all()):
        why = "overflow"
    elif not difference <= (math.inf if any_difference else largest_difference(exact, wanted)):
        why = f"differ by {difference:.2g} of {scale:.2g}"
    else:
        return PrecisionChoice(wanted, difference, "")
    return PrecisionChoice("fp32", 0.0, f"precision {wanted} falls back to fp32: its logits {why}")


def choose_precision(
    model: nn.Module, x: Tensor, wanted: PrecisionOption, any_difference: bool = False
) -> PrecisionChoice:
    """The precision to predict in, tried on one real batch as in `usable_precision`.

    `auto` is bf16 (on a GPU fp16) if it is usable and at least FASTER times as fast as fp32, else fp32.
    """
    small: Precision = wanted if wanted != "auto" else "fp16" if x.device.type == "cuda" else "bf16"
    chosen = usable_precision(model, x, small, any_difference)
    if wanted != "auto" or chosen.precision == "fp32":
        return chosen
    slow, fast = (forward_seconds(model, x, way) for way in ("fp32", small))
    return FP32 if slow < FASTER * fast else chosen


def forward_seconds(model: Forward, x: Tensor, precision: Precision) -> float:
    """Seconds of the faster of two forward passes, after one that warms up."""

    def forward() -> object:
        with torch.inference_mode(), autocast(x.device, precision):
            return model(x).float().cpu()  # waits for a GPU

    forward()
    return shortest(forward, 2)


@dataclass(frozen=True)
class AutotuneCache:
    """What `auto` chose earlier in a run, for one task on one kind of machine, so that all folds compute alike."""

    run: Path  # folder
    task_hash: str
    device: torch.device
    threads: int
    keep: bool = True  # what is measured now

    def get_or_measure(self, measure: Callable[[], tuple[Precision, str]]) -> tuple[Precision, str]:
        """(precision, a note): what this job or one before it measured; others wait meanwhile. A damaged record is
        measured again."""
        key = f"{self.task_hash}, {machine(str(self.device), self.threads)}"
        with lock_measurements(self.run) if self.keep else contextlib.nullcontext():
            known = _measured(self.run)
            match known.get(key):
                case {"precision": "fp32" | "bf16" | "fp16" as precision, "note": str(note)}:
                    return precision, note
            precision, note = measure()
            if self.keep:
                write_json(self.run / PRECISION, known | {key: {"precision": precision, "note": note}})
            return precision, note


def _measured(run: Path) -> dict[str, Any]:
    """What was measured in a run; {} if the file is damaged."""
    try:
        return dict(read_json(run / PRECISION))
    except (OSError, ValueError, TypeError):
        return {}


def kept_batch(run: Path, key: str) -> int:
    """The fastest batch size that `keep_batch` has kept in a run; 0 if there is none."""
    match _measured(run).get(key):
        case {"batch": int(batch)} if batch > 0:
            return batch
    return 0


def keep_batch(run: Path, key: str, batch: int) -> None:
    """Keep what was measured, where the run's folder can be written."""
    with contextlib.suppress(MaskensError, OSError), lock_measurements(run):
        write_json(run / PRECISION, _measured(run) | {key: {"batch": batch}})


def autotune_precision(
    model: nn.Module, x: Tensor, wanted: PrecisionOption, measured: AutotuneCache | None
) -> tuple[Precision, str]:
    """(the precision to train in, a note), tried on one real batch `x`, float32 (batch, 3, height, width) on the device
    of the model, which is in train mode and does not change. `auto` finds an earlier answer in `measured` and stores
    its own there."""
    if wanted != "auto":
        usable = usable_precision(model, x, wanted)
        return usable.precision, usable.note
    return measured.get_or_measure(lambda: measure(model, x)) if measured else measure(model, x)


def measure(model: nn.Module, x: Tensor) -> tuple[Precision, str]:
    """(precision, a note): bf16 (fp16 on a GPU without it) if it is usable and a step is at least FASTER times as fast,
    else fp32."""
    weak_gpu = x.device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    small: Precision = "fp16" if weak_gpu else "bf16"
    usable = usable_precision(model, x, small)
    if usable.precision == "fp32":
        return "fp32", usable.note
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
        for done in range(1 + ROUNDS):
            if done >= 2 and time.perf_counter() - began > LONGEST:
                break
            for way in ways:
                started = time.perf_counter()
                _step(model, model, x, way)
                if x.device.type == "cuda":
                    torch.cuda.synchronize(x.device)
                found[way].append(time.perf_counter() - started)
    return tuple(min(found[way][1:]) for way in ways)


def compile_model(model: nn.Module, trial: Callable[[Forward], object]) -> tuple[Forward, float, str]:
    """(the model compiled, or itself where that fails; seconds of the compilation; why it is not compiled).

    Compiled and plain model share their weights, so checkpoints and averages of the plain one stay valid. `trial` runs
    the compiled model once, on what it will be given.
    """
    began = time.perf_counter()
    try:
        with quiet():
            compiled: Forward = torch.compile(model, backend=COMPILER, dynamic=False)
            trial(compiled)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # no C++ compiler, or any of the many things that it does not know
        cause = str(getattr(error, "inner_exception", None) or error).strip().partition("\n")[0]
        return model, 0.0, cause or type(error).__name__
    return compiled, time.perf_counter() - began, ""


def compile_for_training(model: nn.Module, x: Tensor, precision: Precision) -> tuple[Forward, str]:
    """The model compiled for batches like `x`, or itself, and a note of what happened."""
    torch._dynamo.reset()  # it would give up after a few models of one process
    with unchanged(model, x.device):
        faster, seconds, failure = compile_model(model, lambda forward: _step(forward, model, x, precision))
    note = f"not compiled, trains as without --compile: {failure}" if failure else f"compiled in {seconds:.0f} s"
    return faster, note


def _step(forward: Forward, model: nn.Module, x: Tensor, precision: Precision) -> None:
    model.zero_grad(set_to_none=True)
    with autocast(x.device, precision):
        logits = forward(x)
    logits.float().square().mean().backward()


@contextlib.contextmanager
def unchanged(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Restore batch norms' statistics and the random streams after steps within, and drop gradients."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            model.zero_grad(set_to_none=True)
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    buffer.copy_(before[name])
