"""Model cards of checkpoints that no job has written."""

from __future__ import annotations

from typing import Any

from ensemble.jobs.card import ModelCard


def model_card(**changes: Any) -> ModelCard:
    """The card of a tiny model of the gender; `changes` say what is otherwise."""
    values: dict[str, Any] = {
        "model": "test_resnet.r160_in1k",
        "model_args": {},
        "predicts": "gender",
        "cuts": (30, 60),
        "bands": (0, 1, 2),
        "task": "gender",
        "fold": 1,
        "k": 5,
        "resize": (32, 24),
        "crop": None,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.25, 0.5),
        "labels": {},
        "task_hash": "r",
        "folds_hash": "f",
        "seed": 1,
        "people": "",
        "epoch": 2,
        "f1": 0.5,
    }
    return ModelCard(**values | changes)
