"""Models, from recipes to an 18-class CSV. The pipeline's steps are here by name: `ensemble.train(...)`.

Nothing heavy is imported before a step is used. docs/python.md shows them at work.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ensemble.commands.audit import audit
    from ensemble.commands.check_submission import check_submission
    from ensemble.commands.compare import compare
    from ensemble.commands.distil import distil
    from ensemble.commands.explore import explore
    from ensemble.commands.export import export
    from ensemble.commands.folds import folds
    from ensemble.commands.infer import infer
    from ensemble.commands.predict import predict
    from ensemble.commands.recommend import recommend
    from ensemble.commands.report import report
    from ensemble.commands.sample import sample
    from ensemble.commands.score import score
    from ensemble.commands.serve import serve
    from ensemble.commands.sweep import sweep
    from ensemble.commands.train import train
    from ensemble.commands.tune import tune
    from ensemble.commands.verify import verify

__all__ = [
    "audit",
    "check_submission",
    "compare",
    "distil",
    "explore",
    "export",
    "folds",
    "infer",
    "predict",
    "recommend",
    "report",
    "sample",
    "score",
    "serve",
    "sweep",
    "train",
    "tune",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'ensemble' has no attribute '{name}'")
    return getattr(import_module(f"ensemble.commands.{name}"), name)
