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
    from ensemble.commands.tune import tune
    from ensemble.commands.verify import verify
    from ensemble.pipeline.distil import DistilOptions, distil
    from ensemble.pipeline.sweep import compare_sweep, sweep
    from ensemble.pipeline.sweep_plan import SweepOptions
    from ensemble.pipeline.train import TrainOptions, train

__all__ = [
    "DistilOptions",
    "SweepOptions",
    "TrainOptions",
    "audit",
    "check_submission",
    "compare",
    "compare_sweep",
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

_MODULES = {
    "DistilOptions": "distil",
    "SweepOptions": "sweep_plan",
    "TrainOptions": "train",
    "compare_sweep": "sweep",
}


_STEPS = {
    "audit",
    "check_submission",
    "compare",
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
    "tune",
    "verify",
}  # a command and a call from one module of ensemble/commands


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'ensemble' has no attribute '{name}'")
    layer = "commands" if name in _STEPS else "pipeline"
    return getattr(import_module(f"ensemble.{layer}.{_MODULES.get(name, name)}"), name)
