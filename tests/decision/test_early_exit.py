"""Photos that need fewer models: age models that can't change a class are skipped, and a budget of passes is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cards import model_card
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.decision.early_exit import (
    DECIDED,
    AnytimeRule,
    choose_rule,
    gender_to_evaluate,
    margins,
    passes_needed,
    upper_bounds,
)
from ensemble.decision.joint import mean_of_runs, most_probable
from ensemble.decision.members import Ensemble, Member
from ensemble.decision.tuning import DecisionParams, RunTuning
from ensemble.recipes.tasks import ONLY_GENDER, OutputSpec, Predicts
from ensemble.recipes.views import SETS as TTA_SETS
from ensemble.recipes.views import TtaMerge, TtaSet

FLIP = TTA_SETS["flip"]
MERGES: tuple[TtaMerge, ...] = ("gmean", "max")
FOUR: tuple[Predicts, ...] = ("mask", "gender", "male-age", "female-age")
SETS: list[tuple[Predicts, ...]] = [
    FOUR,
    ("heads", "male-age", "female-age"),
    ("mask", "gender", "age", "female-age"),
    ("heads", "age", *FOUR),
    ("class18", *FOUR),
    ("heads",),
]


def an_ensemble(
    tasks: tuple[Predicts, ...], folds: int, temperatures: dict[str, list[float]], tta: TtaSet = FLIP
) -> Ensemble:
    found = [
        Member(t, f, Path(), model_card(predicts=t, task=t, fold=f, k=folds), "") for t in tasks for f in range(folds)
    ]
    return Ensemble(tuple(found), temperatures, tta)


def fitted(weights: list[float], offsets: list[float]) -> DecisionParams:
    runs = tuple(RunTuning(run=str(n), made_of="", oof_hash="", weight=w) for n, w in enumerate(weights))
    return DecisionParams(tta="flip", runs=runs, offsets=tuple(offsets))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(SETS), min_size=1, max_size=3),
    st.integers(0, 10_000),
    st.sampled_from([0.3, 2.0, 12.0]),
    st.sampled_from([0.0, 1.0]),
    st.booleans(),
    st.sampled_from(
        [FLIP, TtaSet(views=FLIP.views, weights=(3, 1)), *(TtaSet(views=FLIP.views, merge=m) for m in MERGES)]
    ),
)
def test_random_logits_get_the_class_that_everybody_asked_would_give(
    kinds: list[tuple[Predicts, ...]], seed: int, spread: float, tuned: float, warm: bool, tta: TtaSet
) -> None:
    """Whoever is not evaluated holds NaN; the others' say alone must give the same class."""
    rng, photos, folds = np.random.default_rng(seed), 60, 2
    heats = {t: rng.uniform(0.5, 3, len(OutputSpec(t).heads)).tolist() for t in FOUR} if warm else {}
    ensembles = [an_ensemble(k, folds, {t: h for t, h in heats.items() if t in k}, tta) for k in kinds]
    full = [
        {t: rng.normal(0, spread, (folds, 2, photos, OutputSpec(t).width)).astype(np.float32) for t in k} for k in kinds
    ]
    rule = fitted(rng.uniform(0.2, 1, len(kinds)).tolist(), (tuned * rng.normal(0, 1, 18)).tolist())
    seen = [{t: np.where(t in ONLY_GENDER, np.nan, v).astype(np.float32) for t, v in logits.items()} for logits in full]
    evaluated = np.ones((photos, 2), bool)
    for task, gender in ONLY_GENDER.items():
        evaluated[:, gender] &= not any(task in k for k in kinds)
    rounds = 0
    while (gender := gender_to_evaluate(upper_bounds(ensembles, seen, rule), evaluated)).max() != DECIDED:
        rounds += 1
        for task, g in ONLY_GENDER.items():
            for ours, theirs in zip(seen, full, strict=True):
                if task in ours:
                    ours[task][:, :, gender == g] = theirs[task][:, :, gender == g]
            evaluated[gender == g, g] = True
    assert rounds <= 2

    def classes(logits: list[dict[str, np.ndarray]]) -> np.ndarray:
        class_log_probs = np.stack([e.joint(found) for e, found in zip(ensembles, logits, strict=True)])
        return most_probable(mean_of_runs(class_log_probs, rule.weights) + np.array(rule.offsets))

    assert (classes(seen) == classes(full)).all()


def test_a_sure_gender_needs_one_age_model_and_an_unsure_one_both() -> None:
    ensemble = an_ensemble(FOUR, 1, {})
    nothing = np.full((1, 1, 2, 3), np.nan, np.float32)
    mask = np.zeros((1, 1, 2, 3), np.float32)
    gender = np.array([[[[5.0, -5.0], [0.01, 0.0]]]], np.float32)  # sure of a man; a toss-up
    logits = {"mask": mask, "gender": gender, "male-age": nothing.copy(), "female-age": nothing.copy()}
    rule, evaluated = fitted([1.0], [0.0] * 18), np.zeros((2, 2), bool)
    assert gender_to_evaluate(upper_bounds([ensemble], [logits], rule), evaluated).tolist() == [0, 0]
    logits["male-age"][:] = 0.0
    evaluated[:, 0] = True
    assert gender_to_evaluate(upper_bounds([ensemble], [logits], rule), evaluated).tolist() == [DECIDED, 1]
    evaluated[:] = True
    assert gender_to_evaluate(upper_bounds([ensemble], [logits], rule), evaluated).tolist() == [DECIDED, DECIDED]


def test_classes_of_whom_nobody_asked_are_ruled_out() -> None:
    ensemble = an_ensemble(FOUR, 1, {})
    flat = np.zeros((1, 1, 1, 3), np.float32)
    logits = {"mask": flat, "gender": flat[..., :2], "male-age": flat, "female-age": np.full_like(flat, np.nan)}
    p = np.exp(ensemble.joint(logits)).reshape(3, 2, 3)
    assert p[:, 1].max() == 0.0
    assert p.sum() == pytest.approx(1.0)


def scores(seed: int, passes: int, photos: int, spread: float = 2.0) -> np.ndarray:
    """Of photos whose passes differ by chance: float64 (passes, photos, 18), means so far."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 3, (photos, 18))
    each = truth + rng.normal(0, spread, (passes, photos, 18))
    return np.cumsum(each, axis=0) / np.arange(1, passes + 1)[:, None, None]


@given(st.integers(0, 99), st.integers(3, 12), st.floats(0.4, 0.95))
def test_a_rule_keeps_to_its_share_and_says_what_it_changes(seed: int, passes: int, share: float) -> None:
    found = scores(seed, passes, 200)
    rule = choose_rule(found, share)
    made = passes_needed(margins(found), rule.threshold)
    assert made.min() >= 1
    assert made.max() <= passes
    assert made.mean() <= share * passes
    changed = found.argmax(axis=-1)[made - 1, np.arange(200)] != found[-1].argmax(axis=-1)
    assert rule.changed == changed.sum()
    assert rule.changed / 200 <= rule.changed_at_most <= 1


def test_no_change_seen_is_not_none_for_certain() -> None:
    rule = AnytimeRule(threshold=1.0, changed=0, photos=512)
    assert rule.changed_at_most == pytest.approx(1 - 0.025 ** (1 / 512))
    assert all(figure in str(rule) for figure in ("0.0%", "at most 0.7%", "512"))
    assert AnytimeRule(1.0, 5, 5).changed_at_most == 1
