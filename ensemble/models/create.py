"""timm models with a new head, and their initial weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import timm.data
import torch
from torch import nn

from ensemble.models.process import quiet
from ensemble.recipes.schema import TaskRecipe
from folds.errors import MaskensError, did_you_mean, first_line
from folds.files import sha256


def create(task: TaskRecipe, initial_weights: bool = True) -> nn.Module:
    """A timm model with one logit a class of the task.

    Args:
        initial_weights: load the recipe's weights (hub or file); False when a checkpoint follows.

    Raises:
        MaskensError: unknown model (near names suggested), weights that are not to be had or don't fit.
    """
    from_file = initial_weights and bool(task.weights)
    if from_file:
        _same_weights(task)
    try:
        if initial_weights and task.pretrained and not from_file:
            _reach_hub(task.model)
        with torch.random.fork_rng(devices=[], enabled=from_file):
            model = _build(task, initial_weights and (task.pretrained or from_file))
    except Exception as error:
        raise MaskensError(_why(task, error)) from error
    if from_file:
        _refuse_unfilled(task, model)
    if initial_weights:
        _reset_new_head(model, task.target.width)
    return model


def _build(task: TaskRecipe, pretrained: bool) -> nn.Module:
    with quiet():  # timm names all layers that weights of another model leave out
        model: nn.Module = timm.create_model(
            task.model,
            pretrained=pretrained,
            num_classes=task.target.width,
            pretrained_cfg_overlay={"file": task.weights} if task.weights else None,
            **task.model_args,
        )
    return model


def _refuse_unfilled(task: TaskRecipe, model: Any) -> None:
    """Refuse a file that leaves layers at their random start: timm is not strict when the head is new.

    Layers are compared with those of a model from the same random numbers and no file, because timm may
    rename a file's keys as it loads them.
    """
    with torch.random.fork_rng(devices=[]):
        blank = _build(task, pretrained=False)
    heads = model.pretrained_cfg["classifier"]
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    start = dict(blank.named_parameters())
    weights = {n: w for n, w in model.named_parameters() if w.ndim > 1 and not n.startswith(heads)}
    unfilled = [n for n, w in weights.items() if torch.equal(w, start[n])]
    if unfilled:
        raise MaskensError(
            f"the weights {task.weights} don't fit {task.model}: they leave {len(unfilled)} of {len(weights)} "
            f"layers empty, e.g. {unfilled[0]}"
        )


def _reset_new_head(model: Any, classes: int) -> None:
    """Give a new classifier torch's default initial weights.

    timm starts EfficientNets' with a spread of 1/sqrt(classes), not 1/sqrt(features): with 2 or 3 classes
    the first logits are wild, and a short training starts by undoing that (benchmarks/head_init.py compares).
    """
    head = model.get_classifier() if hasattr(model, "get_classifier") else None
    if isinstance(head, nn.Linear) and model.pretrained_cfg.get("num_classes") != classes:
        head.reset_parameters()


def _same_weights(task: TaskRecipe) -> None:
    advice = "name the run's initial weights again with --weights FILE"
    try:
        content = Path(task.weights).read_bytes()
    except (OSError, ValueError) as error:  # a name with zero bytes
        fault = getattr(error, "strerror", None) or error
        raise MaskensError(f"can't read the weights {task.weights} ({fault}); {advice}") from error
    if task.weights_sha256 not in ("", sha256(content)):
        raise MaskensError(f"{task.weights} is not the file that this run began with; {advice}")


def _reach_hub(model: str) -> None:
    """Fail at once where the hub is out of reach; the download itself would first retry for a minute."""
    import huggingface_hub

    config = timm.get_pretrained_cfg(model)
    if config is None or not config.hf_hub_id:
        return
    names = ("model.safetensors", "pytorch_model.bin")
    if not any(isinstance(huggingface_hub.try_to_load_from_cache(config.hf_hub_id, n), str) for n in names):
        huggingface_hub.HfApi().model_info(config.hf_hub_id, timeout=10)


def _why(task: TaskRecipe, error: Exception) -> str:
    name, _, tag = task.model.partition(".")
    if not timm.is_model(name):
        return f"timm has no model '{name}'{did_you_mean(name, timm.list_models())}"
    tags = [m.partition(".")[2] for m in timm.list_pretrained(f"{name}.*")]
    if tag and tag not in tags:
        return f"timm has no weights '{tag}' for {name}; it has {', '.join(tags) or 'none'}"
    if task.weights:
        return f"the weights {task.weights} don't fit {task.model}: {first_line(error)}"
    if task.pretrained and _is_offline(error):
        return (
            f"the ImageNet weights of {task.model} are not on this machine and the hub can't be reached. "
            "Give a local file with --weights FILE, or start from random weights with --no-pretrained"
        )
    return f"{task.model} can't be built: {first_line(error)}"


def _is_offline(error: BaseException | None) -> bool:
    while error is not None:
        module = type(error).__module__.split(".")[0]
        if module in (
            "huggingface_hub",
            "httpx",
            "httpx2",
            "httpcore",
            "httpcore2",
            "requests",
            "urllib",
            "urllib3",
        ):
            return True
        if isinstance(error, (ConnectionError, TimeoutError)):
            return True
        error = error.__cause__ or error.__context__
    return False
