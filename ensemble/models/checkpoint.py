"""Checkpoints: weights as safetensors with their model card, saved and loaded."""

from __future__ import annotations

from pathlib import Path

import safetensors
import safetensors.torch
import timm
import timm.data
import torch
from torch import nn

from ensemble.jobs.card import ModelCard, _damaged, card_metadata, read_card
from ensemble.models.inputs import to_device
from folds.errors import MaskensError
from folds.replacing import replacing


def save_checkpoint(path: Path, model: nn.Module, card: ModelCard) -> None:
    """Replace `path` by the model's weights (safetensors) with its card as metadata, atomically.

    Equal weights and cards give equal bytes. The file also loads in plain timm: its keys are the model's own.
    """
    # safetensors wants contiguous tensors; channels_last weights are not
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    data = safetensors.torch.save(tensors, card_metadata(card))
    with replacing(path) as handle:
        handle.write(data)


def load_checkpoint(path: Path, device: torch.device) -> tuple[nn.Module, ModelCard]:
    """A trained model in eval mode on `device`, and its card.

    Raises:
        MaskensError: missing, damaged, or not fitting its own card.
    """
    card = read_card(path)
    try:
        model: nn.Module = timm.create_model(card.model, num_classes=card.target.width, **card.model_args)
    except Exception as error:  # timm and its models may refuse arguments in any way they like
        raise MaskensError(_damaged(path, error)) from error
    load_weights(path, model)
    return to_device(model, device).eval(), card


def load_weights(path: Path, model: nn.Module) -> None:
    """Put a checkpoint's weights into a model.

    Raises:
        MaskensError: missing, damaged, or of another model.
    """
    try:
        model.load_state_dict(safetensors.torch.load_file(path))
    except (OSError, safetensors.SafetensorError, RuntimeError, ValueError) as error:
        raise MaskensError(_damaged(path, error)) from error
