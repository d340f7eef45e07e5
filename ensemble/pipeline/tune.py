"""Fitting the decision on out-of-fold logits."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ensemble.decision.blend import load_blend
from ensemble.decision.fitting import STEPS
from ensemble.decision.fitting import tune as fit_steps
from ensemble.decision.tuning import Tuning, save_tuning, tuning_file
from ensemble.pipeline.inputs import DEFAULT_RUN, Folder, Folders, OnProgress, load_runs, part_of
from ensemble.recipes.loss import soft_f1_warnings
from folds.errors import MaskensError
from folds.files import must_be_writable

ASKED_FOR = ("view-weights", "weights")  # steps that are no part of a tuning unless they are named


@dataclass(frozen=True)
class Tuned:
    """What was fitted and kept."""

    tuning: Tuning
    path: Path
    earlier: Path | None  # where an earlier tuning is kept
    notes: tuple[str, ...]


def tune(
    runs: Folders = DEFAULT_RUN,
    *,
    data: Folder | None = None,
    steps: Collection[str] | None = None,
    weigh_runs: bool = False,
    keep_all: bool = False,
    on_progress: OnProgress | None = None,
) -> Tuned:
    """Fit views, temperatures, offsets and weights; what is worth more than noise is kept and used by `infer`.

    Args:
        steps: views, view-weights, temperatures, offsets; None is all but view-weights.
        weigh_runs: also weigh several runs by greedy selection; else they weigh alike.
        keep_all: keep what is fitted even if its gain is noise.

    Raises:
        MaskensError: one run to be weighed, too few people, nothing trained.
    """
    found = load_runs(runs)
    if weigh_runs and len(found) == 1:
        raise MaskensError("--blend weighs several runs: --run A --run B --blend.")
    wanted = {*(steps or (s for s in STEPS if s not in ASKED_FOR)), *(["weights"] if weigh_runs else [])}
    blend = load_blend(found, Path(data) if data else None, "cross-fitted")
    path = found[0].folder / tuning_file([member.untuned for member in blend.runs])
    must_be_writable(path)
    chosen = [s for s in STEPS if s in wanted]
    tuning, nested = fit_steps(blend, chosen, keep_all, on_step=part_of(on_progress, "fitting"))
    earlier = save_tuning(path, tuning, [blend.data.files[i] for i in blend.rows], nested)
    improper = [task for member in blend.runs for task in member.recipe.soft_f1_tasks if "temperatures" in chosen]
    warned = soft_f1_warnings(improper, "a temperature corrects its probabilities on average only")
    return Tuned(tuning, path, earlier, (*blend.notes, *warned))
