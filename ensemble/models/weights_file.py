"""Initial weights from a file of any tool: tensors alone, without the wrappers and prefixes that tools add."""

from __future__ import annotations

import argparse
import io
import pickle
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from folds.errors import MaskensError, first_line
from folds.files import lfs_fault, sha256

AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")  # as timm, these are preferred
KEYS = (*AVERAGED, "state_dict", "model", "model_state_dict", "model_state", "net", "network", "weights")
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.")
DEEPEST = 3  # tables in tables


def read_weights(path: Path, wanted_sha256: str, known: Collection[str]) -> tuple[dict[str, Tensor], str]:
    """The weights in a safetensors or torch file; no code in it is run.

    Args:
        wanted_sha256: of the file; "" for any.
        known: the names of the model's own tensors, which show whether a prefix is one too many.

    Returns:
        (name -> tensor, note): which of several sets was taken and which prefix was removed, "" if there is only one.

    Raises:
        MaskensError: it can't be read, is another file, or holds no weights or several ambiguous sets.
    """
    again = "name the run's initial weights again with --weights FILE"
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # a name with zero bytes
        why = getattr(error, "strerror", None) or error
        raise MaskensError(f"the weights {path} can't be read ({why}); {again}") from error
    if fault := lfs_fault(content):
        raise MaskensError(f"the weights {path} can't be read: {fault}")
    if wanted_sha256 not in ("", sha256(content)):
        raise MaskensError(f"{path} is not the file that this run began with; {again}")
    tables = _tables(_load(path, content))
    if not tables:
        raise MaskensError(f"the weights {path} can't be used: the file holds no table of named tensors")
    ranked = {name: min(KEYS.index(p) for p in parts) for name in tables if (parts := {*name.split(".")} & {*KEYS})}
    names = sorted(ranked, key=lambda name: ranked[name]) or list(tables)
    if not ranked and len(tables) > 1 and "" not in tables:
        raise MaskensError(
            f"the weights {path} hold several sets: {_listed(names)}. Save the one you mean alone: "
            f"torch.save(torch.load(FILE)[{names[0]!r}], NEW_FILE)"
        )
    key = names[0] if ranked or "" not in tables else ""
    tensors, prefix = _without_prefix(tables[key], known)
    notes = [f"'{key}' is used" + (f", not {_listed(names[1:])}" if len(ranked) > 1 else "")] if key else []
    notes += [f"the prefix '{prefix}' is removed from its names"] if prefix else []
    return tensors, f"weights {path}: {'; '.join(notes)}" if notes else ""


def _load(path: Path, content: bytes) -> Any:
    try:
        if path.suffix == ".safetensors" or content[8:9] == b"{":
            return safetensors.torch.load(content)
        with torch.serialization.safe_globals([argparse.Namespace]):  # timm's own checkpoints hold one
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a broken pickle may fail in any way
        fault = f"it is damaged, or neither safetensors nor a PyTorch checkpoint ({first_line(error)})"
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
            fault = (  # not torch's, which advises weights_only=False
                "it is damaged, or holds more than tensors, and loading that would run code. Whoever made it "
                "can save the weights alone: torch.save(model.state_dict(), FILE)"
            )
        raise MaskensError(f"the weights {path} can't be read: {fault}") from error


def _tables(loaded: Any, name: str = "", deeper: int = DEEPEST) -> dict[str, dict[str, Tensor]]:
    """The sets of named tensors in what was loaded, by where they are, like `model_ema.module`; "" is the top."""
    if not isinstance(loaded, Mapping):
        return {}
    inner = {k: v for k, v in loaded.items() if isinstance(k, str)}
    found = {name: tensors} if (tensors := {k: v for k, v in inner.items() if isinstance(v, Tensor)}) else {}
    for key, value in inner.items() if deeper else ():
        found |= _tables(value, f"{name}.{key}".strip("."), deeper - 1)
    return found


def _without_prefix(tensors: dict[str, Tensor], known: Collection[str]) -> tuple[dict[str, Tensor], str]:
    """Names without the prefixes that wrappers add, if more of them are then the model's own; and those prefixes."""
    found, removed = tensors, ""
    while prefix := next((p for p in PREFIXES if any(name.startswith(p) for name in found)), ""):
        bare = {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
        found = {name: value for name, value in found.items() if not name.startswith(prefix)} | bare
        removed += prefix
    better = len(known & found.keys()) > len(known & tensors.keys())
    return (found, removed) if better else (tensors, "")


def _listed(names: Collection[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
