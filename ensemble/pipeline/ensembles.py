"""The trained models of some runs with what was fitted for them, as photos from anywhere are predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ensemble.decision.members import Ensemble, load_ensembles
from ensemble.decision.tuning import Fitted, apply_tuning, weighted_runs
from ensemble.prediction.predictions import complete_folds
from ensemble.recipes.run_recipe import run_recipe
from ensemble.recipes.views import Tta
from folds.photo_files import training_aspect
from folds.run import Run, refuse_other_folds


@dataclass(frozen=True)
class ChosenEnsembles:
    """Which models predict, and how."""

    ensembles: list[Ensemble]
    fitted: Fitted  # for these ensembles, in their order
    aspect: float  # height / width of the photos that the models were trained on
    tuning: str  # in words

    @property
    def models(self) -> int:
        return sum(len(e.members) for e in self.ensembles)

    @property
    def words(self) -> str:
        """Models, views and tuning."""
        return f"{self.models} models, views: {self.fitted.tta}, {self.tuning}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the models."""
        return tuple(line for e in self.ensembles for line in e.notes)


def choose_ensembles(runs: Sequence[Run], tta: Tta | None, tuned: bool, allow_missing: bool) -> ChosenEnsembles:
    """The models of runs that are one ensemble; runs that were tuned to no weight are left out.

    Args:
        tta, tuned: as of `apply_tuning`.
        allow_missing: as of `load_ensembles`.

    Raises:
        MaskensError: models missing or damaged, no fold with a model of every task, runs of other folds.
    """
    refuse_other_folds(runs)
    recipes = [run_recipe(run) for run in runs]
    applied = apply_tuning(runs, recipes, tta, tuned)
    used, recipes, fitted = weighted_runs(runs, recipes, applied.fitted)
    ensembles = load_ensembles(used, recipes, fitted, allow_missing)
    complete_folds(ensembles)
    height, width = ensembles[0].members[0].card.resize
    return ChosenEnsembles(ensembles, fitted, training_aspect(used[0]) or height / width, applied.words)
