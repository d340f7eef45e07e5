"""Which models predict which photos: all, those that can change a class, or as many as a budget allows."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np

from ensemble.decision.early_exit import (
    AnytimeRule,
    Budget,
    choose_rule,
    gender_to_evaluate,
    leaves,
    margins,
    pass_order,
    scores_after_passes,
    upper_bounds,
)
from ensemble.decision.joint import Rule
from ensemble.decision.members import Ensemble
from ensemble.decision.tuning import DecisionParams
from ensemble.jobs.oof import Logits
from ensemble.prediction.predictor import Batch, Predictor
from ensemble.recipes.tasks import ONLY_GENDER
from folds.errors import MaskensError
from folds.labels import GENDERS, IntArray

WHOLE = 512  # photos that make all passes, to choose the rule on
FEWEST = 3  # passes
MEMORY = 256e6  # bytes of pixels to hold at a time: the more photos, the fuller the batches of those that are left


class Strategy:
    """All models predict all photos."""

    def order(self, rows: IntArray) -> IntArray:
        """The photos in the order in which they are predicted."""
        return rows

    def batch_size(self, usual: int) -> int:
        """How many photos are read at a time."""
        return usual

    def __call__(self, batch: Batch) -> None:
        """Show a batch to the models in memory."""
        batch.show(dict.fromkeys(batch.predictor.engines))

    def describe(self, outputs: Sequence[Logits]) -> str:
        """Which passes were skipped, after the last batch; "" if there is nothing to report."""
        return ""


class EarlyExit(Strategy):
    """The age models of a gender predict only the photos whose class they can change by the joint decision."""

    def __init__(self, fitted: DecisionParams) -> None:
        self.fitted = fitted

    def __call__(self, batch: Batch) -> None:
        models = batch.predictor
        only = {n: ONLY_GENDER.get(m.card.output_spec.predicts) for n, m in enumerate(models.members)}
        batch.show({n: None for n, gender in only.items() if gender is None})
        evaluated = np.array([[g not in only.values() for g in range(len(GENDERS))]] * len(batch))
        for _ in GENDERS:
            gender = gender_to_evaluate(upper_bounds(models.ensembles, batch.by_task(), self.fitted), evaluated)
            here = {g: np.flatnonzero(gender == g) for g in range(len(GENDERS))}
            batch.show({n: here[g] for n, g in only.items() if g is not None and len(here[g])})
            for g, places in here.items():
                evaluated[places, g] = True


def check_budget(budget: Budget, ensembles: Sequence[Ensemble], rule: Rule, together: bool) -> None:
    """Raise MaskensError for a budget of less than one pass, and for any where passes can't be skipped one by one, as
    where photos of a person are decided `together`."""
    first = ensembles[0]
    folds = first.complete_folds
    passes = len(folds) * len(first.tta.views)
    reasons = [
        (len(ensembles) > 1, "of one run, not of several"),
        (rule != "joint" or together, "with --decision joint, each photo by itself"),
        (any(first.folds(task) != folds for task in first.output_specs), "if every task has models of the same folds"),
        (first.tta.merge != "mean", "with views that are merged by their mean"),
        (passes < FEWEST, f"of {FEWEST} (folds times views) or more"),
    ]
    if problems := [needs for wrong, needs in reasons if wrong]:
        raise MaskensError(f"{budget.option} can skip passes only {', and '.join(problems)}.")
    least = math.ceil(1000 / passes) / 1000
    if budget.fraction and budget.fraction * passes < 1:
        raise MaskensError(f"{budget.option} is less than one of the {passes} passes; give at least {least:g}.")


class WithinBudget(Strategy):
    """The first photos make all passes, and a rule is chosen on them by which the others leave.

    Photos come in random order, so that the first are a sample of all.
    """

    def __init__(self, budget: Budget, fitted: DecisionParams, predictor: Predictor, photos: int) -> None:
        self.budget, self.ensemble, self.offsets = budget, predictor.ensembles[0], np.array(fitted.offsets)
        self.rule: AnytimeRule | None = None
        views, pixels = len(predictor.views), sum(math.prod(p.shape) for p in predictor.preprocessings)
        self.passes = pass_order(len(self.ensemble.complete_folds), views)
        self._together = int(np.clip(MEMORY / (4 * pixels * views), 64, WHOLE))
        self._photos, self._whole = photos, min(-(-WHOLE // self._together) * self._together, photos)

    def order(self, rows: IntArray) -> IntArray:
        return np.random.default_rng(0).permutation(rows)

    def batch_size(self, usual: int) -> int:
        return self._together

    def describe(self, outputs: Sequence[Logits]) -> str:
        if self.rule is None:
            return ""
        if self._whole == self._photos:
            why = f"the rule needs the first {WHOLE} photos, and there are {self._whole}"
            return f"budget of {self.budget}: all forward passes made, no class changed: {why}"
        share = float(np.mean([np.isfinite(values[:, :, 0]).mean() for values in outputs]))
        return f"budget of {self.budget}: {share:.0%} of the forward passes made, which {self.rule}"

    def __call__(self, batch: Batch) -> None:
        if self.rule is None and batch.rows.start >= self._whole and self.budget.fraction:  # an interrupted inference
            self.rule = self._choose(batch, self.budget.fraction)
        if self.rule is not None:
            self._show(batch, self.rule)
            return
        began = time.perf_counter()
        super().__call__(batch)
        seconds = (time.perf_counter() - began) / len(batch)  # a photo, all passes made
        if batch.rows.stop >= self._whole:
            self.rule = self._choose(batch, self.budget.fraction or min(1.0, (self.budget.seconds or 0) / seconds))

    def _choose(self, batch: Batch, share: float) -> AnytimeRule:
        """The rule, on the first photos."""
        scores = scores_after_passes(self.ensemble, batch.by_task(slice(0, self._whole))[0])
        return choose_rule(scores + self.offsets, max(share, 1 / len(self.passes)))

    def _show(self, batch: Batch, rule: AnytimeRule) -> None:
        """Pass after pass over the photos that are left."""
        folds, models = self.ensemble.complete_folds, batch.predictor
        left = np.arange(len(batch))
        for done, (fold, view) in enumerate(self.passes, start=1):
            batch.show({n: left for n, m in enumerate(models.members) if m.fold == folds[fold]}, view)
            if done == len(self.passes):
                return
            known = {task: values[:, :, left] for task, values in batch.by_task()[0].items()}
            scores = self.ensemble.scores(known) + self.offsets
            left = left[~leaves(margins(scores), done, len(self.passes), rule.threshold)]
            if not len(left):
                return
