"""Models, from recipes to an 18-class CSV. The pipeline's steps are here by name: `ensemble.train(...)`.

Nothing heavy is imported before a step is used. docs/python.md shows them at work.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ensemble.commands.audit import audit as audit
    from ensemble.commands.check_submission import check_submission as check_submission
    from ensemble.commands.compare import compare as compare
    from ensemble.commands.distil import distil as distil
    from ensemble.commands.explore import explore as explore
    from ensemble.commands.export import export as export
    from ensemble.commands.folds import folds as folds
    from ensemble.commands.infer import infer as infer
    from ensemble.commands.predict import predict as predict
    from ensemble.commands.recommend import recommend as recommend
    from ensemble.commands.report import report as report
    from ensemble.commands.run import run as run
    from ensemble.commands.sample import sample as sample
    from ensemble.commands.score import score as score
    from ensemble.commands.serve import serve as serve
    from ensemble.commands.sweep import sweep as sweep
    from ensemble.commands.train import train as train
    from ensemble.commands.tune import tune as tune
    from ensemble.commands.verify import verify as verify


def __getattr__(name: str) -> Any:
    step = f"ensemble.commands.{name}"
    try:
        return getattr(import_module(step), name)
    except ModuleNotFoundError as error:
        if error.name != step:  # a library that is not installed
            raise
        raise AttributeError(f"module 'ensemble' has no attribute '{name}'") from None
