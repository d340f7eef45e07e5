"""Predicting within a budget: photos leave the ensemble once their class is unlikely to change."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np

from ensemble.data.cache import DecodedPhotos
from ensemble.decision.anytime import AnytimeRule, Budget, choose_rule, leaves, margins, pass_order, scores_after_passes
from ensemble.decision.decide import Rule
from ensemble.decision.members import Ensemble
from ensemble.decision.tuning import Fitted
from ensemble.prediction.outputs import InferenceSettings
from ensemble.prediction.predictor import BatchInputs, EnsemblePredictor
from folds.errors import MaskensError
from folds.labels import IntArray

WHOLE = 512  # photos that all passes are made for, to choose the rule on
FEWEST = 3  # passes
MEMORY = 256e6  # bytes of pixels to hold at a time: the more photos, the fuller the batches of those that are left
ORDER = 0  # seed of the order of the photos: the first ones have to be like all


def check_budget(budget: Budget, ensembles: Sequence[Ensemble], rule: Rule, together: bool) -> None:
    """Refuse a budget of less than one pass, and any where passes could not be left out one by one.

    Args:
        together: whether photos of a person are decided together.

    Raises:
        MaskensError: with the reason.
    """
    first = ensembles[0]
    folds = first.complete_folds
    passes = len(folds) * len(first.tta.views)
    reasons = [
        (len(ensembles) > 1, "of one run, not of several"),
        (rule != "joint" or together, "with --decision joint, each photo by itself"),
        (any(first.folds(task) != folds for task in first.targets), "if every task has models of the same folds"),
        (first.tta.merge != "mean", "with views that are merged by their mean"),
        (passes < FEWEST, f"of {FEWEST} (folds times views) or more"),
    ]
    problems = [words for wrong, words in reasons if wrong]
    if problems:
        raise MaskensError(f"--budget can leave passes out only {', and '.join(problems)}.")
    least = math.ceil(1000 / passes) / 1000
    if budget.share and budget.share * passes < 1:
        raise MaskensError(
            f"--budget {budget.share:g} is less than one of the {passes} passes; give at least {least:g}."
        )


class AnytimePredictor(EnsemblePredictor):
    """Makes all passes for the first photos, chooses a rule on them, and lets the others leave by it.

    The photos come in random order, so that the first are a sample of all.
    """

    def __init__(
        self, ensembles: Sequence[Ensemble], photos: DecodedPhotos, settings: InferenceSettings, budget: Budget
    ) -> None:
        super().__init__(ensembles, photos, settings)
        self.budget = budget
        self.rule: AnytimeRule | None = None
        self.order = pass_order(len(ensembles[0].complete_folds), len(self.views))
        self._seconds = 0.0  # a photo, all passes made
        whole = -(-WHOLE // self._photos_together) * self._photos_together
        self._whole = min(whole, len(self.rows))

    @property
    def share(self) -> float:
        """Of all passes, how many were made."""
        shown = [np.isfinite(values[:, :, 0]) for values in self.outputs]
        return float(np.mean([s.mean() for s in shown]))

    @property
    def words(self) -> str:
        """What the budget came to."""
        if self.rule is None:
            return ""
        if self._whole == len(self.rows):
            why = f"the rule is chosen on the first {WHOLE} photos, and there are {self._whole}"
            return f"budget of {self.budget}: all passes were made, so no class changes: {why}"
        return f"budget of {self.budget}: {self.share:.0%} of the passes were made, which {self.rule}"

    @property
    def _photos_together(self) -> int:
        pixels = sum(int(np.prod(g.shape)) for g in self.photos.geometries)
        return int(np.clip(MEMORY / (4 * pixels * len(self.views)), 64, WHOLE))

    def _order(self, rows: IntArray) -> IntArray:
        return np.random.default_rng(ORDER).permutation(rows)

    def _predict_batch(self, group: Sequence[int], early_exit: Fitted | None, inputs: BatchInputs, rows: slice) -> None:
        if early_exit is None or len(group) < len(self.members):
            raise MaskensError("--budget needs all models in memory at a time; leave it out.")
        if self.rule is None and rows.start >= self._whole and self.budget.share:  # an interrupted inference goes on
            self.rule = self._choose(early_exit)
        if self.rule is not None:
            self._passes(group, early_exit, inputs, rows, self.rule)
            return
        began = time.perf_counter()
        self._forward([(n, None) for n in group], inputs, rows)
        self._seconds = (time.perf_counter() - began) / (rows.stop - rows.start)
        if rows.stop >= self._whole:
            self.rule = self._choose(early_exit)

    def _choose(self, fitted: Fitted) -> AnytimeRule:
        """The rule, on the first photos."""
        share = self.budget.share or min(1.0, (self.budget.seconds or 0) / self._seconds)
        scores = scores_after_passes(self.ensembles[0], self.by_task(slice(0, self._whole))[0])
        return choose_rule(scores + np.array(fitted.offsets), max(share, 1 / len(self.order)))

    def _passes(
        self, group: Sequence[int], fitted: Fitted, inputs: BatchInputs, rows: slice, rule: AnytimeRule
    ) -> None:
        """Pass after pass over the photos that are left."""
        folds = self.ensembles[0].complete_folds
        left = np.arange(rows.stop - rows.start)
        for done, (fold, view) in enumerate(self.order, start=1):
            models = [n for n in group if self.members[n].fold == folds[fold]]
            self._forward([(n, left) for n in models], inputs, rows, view)
            if done == len(self.order):
                return
            known = {task: values[:, :, left] for task, values in self.by_task(rows)[0].items()}
            scores = self.ensembles[0].scores(known) + np.array(fitted.offsets)
            left = left[~leaves(margins(scores), done, len(self.order), rule.threshold)]
            if not len(left):
                return
