"""Photos as a model wants them: device, memory order, normalisation."""

from __future__ import annotations

import timm
import timm.data
import torch
from torch import Tensor, nn


def to_device(model: nn.Module, device: torch.device) -> nn.Module:
    """The model on its device in channels_last memory, the order in which photos come: faster for
    convolutions on CPU and GPU alike."""
    return model.to(device).to(memory_format=torch.channels_last)


Normalisation = tuple[tuple[float, float, float], tuple[float, float, float]]
"""(mean, std) per RGB channel on a 0..1 scale."""


def normalisation(model: nn.Module) -> Normalisation:
    """(mean, std) per RGB channel on a 0..1 scale, as the model's weights were trained with."""
    config = timm.data.resolve_model_data_config(model)
    return tuple(config["mean"]), tuple(config["std"])


def to_input(photos: Tensor, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> Tensor:
    """Photos as the model wants them; the arithmetic runs on the device.

    Args:
        photos: uint8 (batch, height, width, 3).

    Returns:
        float32 (batch, 3, height, width) on `device`, in channels_last memory (the photos' own order).
    """
    x = photos.to(device, non_blocking=True).permute(0, 3, 1, 2).float()
    scale = torch.tensor(std, device=device).mul_(255).view(1, 3, 1, 1)
    shift = torch.tensor(mean, device=device).mul_(255).view(1, 3, 1, 1)
    return x.sub_(shift).div_(scale)
