"""timm models with a new head: initial weights, input normalisation, saving and loading checkpoints."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import timm
import timm.data
import torch
from torch import Tensor, nn

from ensemble.jobs.card import ModelCard, Normalisation, card_metadata, damaged_checkpoint, read_card
from ensemble.models.runtime import quiet
from ensemble.models.weights_file import read_weights
from ensemble.recipes.schema import TaskRecipe
from folds.errors import MaskensError, did_you_mean, first_line, refuse
from folds.files import replacing

ANSWERING = 4.0  # seconds in which the hub must answer


def to_device(model: nn.Module, device: torch.device) -> nn.Module:
    """The model on its device in channels_last memory, the order of photos: faster convolutions on CPU and GPU."""
    return model.to(device).to(memory_format=torch.channels_last)


def normalisation(model: nn.Module) -> Normalisation:
    """What the model's weights were trained with."""
    config = timm.data.resolve_model_data_config(model)
    return tuple(config["mean"]), tuple(config["std"])


def to_input(photos: Tensor, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> Tensor:
    """Photos uint8 (batch, height, width, 3) -> a model's input, float32 (batch, 3, height, width) on `device`, in
    channels_last memory, the photos' own order."""
    x = photos.to(device, non_blocking=True).permute(0, 3, 1, 2).float()
    scale = torch.tensor(std, device=device).mul_(255).view(1, 3, 1, 1)
    shift = torch.tensor(mean, device=device).mul_(255).view(1, 3, 1, 1)
    return x.sub_(shift).div_(scale)


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
    """A trained model in eval mode on `device`, and its card. Raises MaskensError: missing, damaged, or not fitting
    its own card."""
    card = read_card(path)
    try:
        model: nn.Module = timm.create_model(card.model, num_classes=card.output_spec.width, **card.model_args)
        model.load_state_dict(safetensors.torch.load_file(path))
    except Exception as error:  # timm and its models may refuse arguments in any way they like
        raise damaged_checkpoint(path, error) from error
    return to_device(model, device).eval(), card


def create(task: TaskRecipe, initial_weights: bool = True, notes: list[str] | None = None) -> nn.Module:
    """A timm model with one logit a class of the task.

    A new classifier gets torch's default initial weights. timm starts EfficientNets' with a spread of 1/sqrt(classes),
    not 1/sqrt(features): with 2 or 3 classes the first logits are wild, and a short training starts by undoing that.

    Args:
        initial_weights: load the recipe's weights (hub or file); False when a checkpoint follows.
        notes: a note on a file of weights is added to these.

    Raises:
        MaskensError: unknown model (near names suggested), weights that are unavailable or don't fit.
    """
    from_file = initial_weights and bool(task.weights)
    from_hub = initial_weights and task.pretrained and not from_file
    if from_hub:
        refuse_unreachable([task.model])
    try:
        with torch.random.fork_rng(devices=[], enabled=from_file):
            model: Any = _build(task, from_hub)
    except Exception as error:
        raise MaskensError(_why(task, error)) from error
    if from_file:
        model = _filled(task, model, notes)
    if initial_weights:
        head = model.get_classifier() if hasattr(model, "get_classifier") else None
        if isinstance(head, nn.Linear) and model.pretrained_cfg.get("num_classes") != task.output_spec.width:
            head.reset_parameters()
    return model  # type: ignore[no-any-return]


def _build(task: TaskRecipe, pretrained: bool, state: dict[str, Tensor] | None = None) -> Any:
    with quiet():  # timm names all layers that are missing in weights of another model
        return timm.create_model(
            task.model,
            pretrained=pretrained,
            num_classes=task.output_spec.width,
            pretrained_cfg_overlay={"state_dict": state} if state else None,
            **task.model_args,
        )


def _filled(task: TaskRecipe, blank: nn.Module, notes: list[str] | None) -> Any:
    """The model with the weights of the task's file. timm itself never opens the file.

    timm is not strict when the head is new, so layers are compared with those of `blank`, the model from the same
    random numbers and no file: none may be left at its random start. timm may rename a file's keys.
    """
    state, note = read_weights(Path(task.weights), task.weights_sha256, blank.state_dict().keys())
    unfit = f"the weights {task.weights} don't fit {task.model}:"
    try:
        with torch.random.fork_rng(devices=[]):
            model = _build(task, True, state)
    except Exception as error:
        raise MaskensError(f"{unfit} {first_line(error)}") from error
    model.pretrained_cfg.pop("state_dict", None)  # else it stays in memory
    heads = model.pretrained_cfg["classifier"]
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    start = dict(blank.named_parameters())
    weights = {n: w for n, w in model.named_parameters() if w.ndim > 1 and not n.startswith(heads)}
    unfilled = [n for n, w in weights.items() if torch.equal(w, start[n])]
    if unfilled:
        raise MaskensError(f"{unfit} {len(unfilled)} of {len(weights)} layers are missing, e.g. {unfilled[0]}")
    if note and notes is not None:
        notes.append(note)
    return model


def refuse_unreachable(models: Sequence[str], advice: str = "") -> None:
    """Refuse now where weights are neither in the hub's cache nor reachable: a download would retry for a minute.
    Raises MaskensError with all models whose weights are missing, and where the files are."""
    import huggingface_hub
    from huggingface_hub import constants

    names = ("model.safetensors", "pytorch_model.bin")
    missing: dict[str, str] = {}
    for model in models:
        hub = _hub_id(model)
        if hub and not any(isinstance(huggingface_hub.try_to_load_from_cache(hub, n), str) for n in names):
            missing[model] = weights_address(model)
    if missing and (constants.HF_HUB_OFFLINE or not _answers(constants.ENDPOINT)):
        refuse(
            [f"{model}: {url}" for model, url in missing.items()],
            f"the hub can't be reached, and these ImageNet weights are not in {constants.HF_HUB_CACHE}",
            f"{advice}Fetch a file on another machine and name it with --weights FILE (or TASK=FILE), or start from "
            "random weights with --no-pretrained",
        )


def weights_address(model: str) -> str:
    """URL of a model's ImageNet weights on the hub."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{_hub_id(model)}/resolve/main/model.safetensors"


def _hub_id(model: str) -> str | None:
    config = timm.get_pretrained_cfg(model) if timm.is_model(model.partition(".")[0]) else None
    return config.hf_hub_id if config else None


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=ANSWERING).close()
    except urllib.error.HTTPError:  # an answer, too
        return True
    except (OSError, ValueError):
        return False
    return True


def _why(task: TaskRecipe, error: Exception) -> str:
    name, _, tag = task.model.partition(".")
    if not timm.is_model(name):
        return f"timm has no model '{name}'{did_you_mean(name, timm.list_models())}"
    tags = [m.partition(".")[2] for m in timm.list_pretrained(f"{name}.*")]
    if tag and tag not in tags:
        return f"timm has no weights '{tag}' for {name}; it has {', '.join(tags) or 'none'}"
    if task.pretrained and isinstance(error, OSError):
        from huggingface_hub import constants

        return (
            f"the weights of {task.model} can't be fetched into {constants.HF_HUB_CACHE} ({first_line(error)}). Name "
            f"another folder with the environment variable HF_HOME or a file with --weights FILE, "
            f"{weights_address(task.model)}, or start from random weights with --no-pretrained"
        )
    return f"{task.model} can't be built: {first_line(error)}"
