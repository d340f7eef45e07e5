"""Mixed precision: arithmetic in 16 bits where the model stands it."""

from __future__ import annotations

import contextlib
from typing import Literal

import torch
from torch import Tensor, nn

Precision = Literal["fp32", "bf16", "fp16"]
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
TOLERANCE = 0.05  # of the largest logit


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """The context in which a model's forward pass runs."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=TYPES[precision])


def usable_precision(model: nn.Module, x: Tensor, asked: Precision) -> tuple[Precision, str]:
    """The precision asked for if the model stands it, else fp32 with the reason.

    Both ways predict one real batch; they must be finite and agree to 5 % of the largest logit. The model
    is in eval mode meanwhile, so that nothing of it changes.

    Args:
        x: float32 (batch, 3, height, width), on the model's device.

    Returns:
        (precision, message): the message is "" if all is well.
    """
    if asked == "fp32":
        return asked, ""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            exact = model(x).float()
            with autocast(x.device, asked):
                rough = model(x).float()
    except torch.OutOfMemoryError:
        raise  # fp32 needs more still
    except RuntimeError as error:  # a layer without a kernel for this type
        return "fp32", f"precision {asked} falls back to fp32: {str(error).splitlines()[0]}"
    finally:
        model.train(training)
    if not bool(rough.isfinite().all()):
        return "fp32", f"precision {asked} falls back to fp32: its logits overflow"
    difference, scale = float((rough - exact).abs().max()), float(exact.abs().max())
    if not difference <= TOLERANCE * scale:
        return "fp32", f"precision {asked} falls back to fp32: its logits differ by {difference:.2g} of {scale:.2g}"
    return asked, ""
