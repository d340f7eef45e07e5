"""Model cards of checkpoints that no job has written."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from ensemble.jobs.card import ModelCard
from ensemble.recipes.schema import Preprocessing
from ensemble.recipes.tasks import OutputSpec

Part = TypeVar("Part", OutputSpec, Preprocessing)


def model_card(**changes: Any) -> ModelCard:
    """The card of a tiny model of the gender; `changes` are fields of it, its output spec or preprocessing."""
    values: dict[str, Any] = {
        "model": "test_resnet.r160_in1k",
        "model_args": {},
        "output_spec": changes_of(OutputSpec("gender"), changes),
        "preprocessing": changes_of(Preprocessing((32, 24)), changes),
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.25, 0.5),
        "task": "gender",
        "fold": 1,
        "k": 5,
        "task_hash": "r",
        "folds_hash": "f",
        "seed": 1,
        "people": "",
        "epoch": 2,
        "f1": 0.5,
    }
    return ModelCard(**values | changes)


def changes_of(part: Part, changes: dict[str, Any]) -> Part:
    """The part with its fields among the changes, which are taken out of them."""
    names = [field.name for field in dataclasses.fields(part)]
    return dataclasses.replace(part, **{name: changes.pop(name) for name in names if name in changes})
