"""Photos leave the ensemble when the passes that are left are unlikely to change their class."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.decision.anytime import (
    AnytimeRule,
    Budget,
    choose_budget,
    choose_rule,
    leaves,
    margins,
    pass_order,
    passes_made,
)
from ensemble.decision.joint import mean_logits
from folds.errors import MaskensError


def scores(seed: int, passes: int, photos: int, spread: float = 2.0) -> np.ndarray:
    """Of photos whose passes differ by chance: float64 (passes, photos, 18), means so far."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 3, (photos, 18))
    each = truth + rng.normal(0, spread, (passes, photos, 18))
    return np.cumsum(each, axis=0) / np.arange(1, passes + 1)[:, None, None]


@pytest.mark.parametrize(
    ("max_passes", "max_seconds", "budget"),
    [
        (".5", None, Budget(share=0.5)),
        (0.5, None, Budget(share=0.5)),
        ("all", 0.2, Budget(seconds=0.2)),
        ("all", None, None),
    ],
)
def test_budgets_are_read(max_passes: str | float, max_seconds: float | None, budget: Budget | None) -> None:
    assert choose_budget(max_passes, max_seconds) == budget


@pytest.mark.parametrize("max_passes", ["", "0", "1", "1.5", "-0.1", "nan", "half", "0.2s", "50%"])
def test_other_shares_of_passes_are_refused(max_passes: str) -> None:
    with pytest.raises(MaskensError, match=f"--max-passes {max_passes}: give all, or a fraction"):
        choose_budget(max_passes, None)


@pytest.mark.parametrize("max_seconds", [0, -1, float("nan"), float("inf")])
def test_seconds_that_are_no_time_are_refused(max_seconds: float) -> None:
    with pytest.raises(MaskensError, match=r"--max-seconds-per-photo .*: give a number above 0"):
        choose_budget("all", max_seconds)


def test_passes_and_seconds_exclude_each_other() -> None:
    with pytest.raises(MaskensError, match="--max-passes and --max-seconds-per-photo exclude each other"):
        choose_budget("0.5", 0.2)


@given(st.integers(2, 5), st.integers(1, 4))
def test_every_pass_comes_once_and_all_folds_before_another_view(folds: int, views: int) -> None:
    order = pass_order(folds, views)
    assert sorted(order) == [(fold, view) for fold in range(folds) for view in range(views)]
    assert [fold for fold, _ in order[:folds]] == list(range(folds))


@given(st.integers(0, 99), st.integers(3, 12), st.floats(0.4, 0.95))
def test_a_rule_keeps_to_its_share_and_says_what_it_changes(seed: int, passes: int, share: float) -> None:
    found = scores(seed, passes, 200)
    rule = choose_rule(found, share)
    made = passes_made(margins(found), rule.threshold)
    assert made.min() >= 1
    assert made.max() <= passes
    assert made.mean() <= share * passes
    assert rule.share == pytest.approx(made.mean() / passes)
    changed = found.argmax(axis=-1)[made - 1, np.arange(200)] != found[-1].argmax(axis=-1)
    assert rule.changed == changed.sum()
    assert rule.changed / 200 <= rule.changed_at_most <= 1


@given(st.integers(0, 99), st.integers(3, 12))
def test_a_larger_budget_makes_more_passes(seed: int, passes: int) -> None:
    found = scores(seed, passes, 100)
    thresholds = [choose_rule(found, share).threshold for share in (0.4, 0.6, 0.9)]
    assert thresholds == sorted(thresholds)


def test_what_is_told_holds_for_other_photos() -> None:
    found = scores(0, 10, 4000)
    rule = choose_rule(found[:, :2000], 0.5)
    others = found[:, 2000:]
    made = passes_made(margins(others), rule.threshold)
    changed = others.argmax(axis=-1)[made - 1, np.arange(2000)] != others[-1].argmax(axis=-1)
    assert made.mean() / 10 == pytest.approx(rule.share, abs=0.02)
    assert changed.mean() <= rule.changed_at_most + 0.01
    assert rule.changed > 0, "else the test says nothing"


def test_one_pass_after_the_other_leaves_the_same_photos_as_all_at_once() -> None:
    found = margins(scores(1, 6, 50))
    left, made = np.arange(50), np.full(50, 6)
    for done in range(1, 6):
        gone = leaves(found[done - 1][left], done, 6, 3.0)
        made[left[gone]] = done
        left = left[~gone]
    assert np.array_equal(made, passes_made(found, 3.0))


def test_no_change_seen_is_not_none_for_certain() -> None:
    rule = AnytimeRule(threshold=1.0, passes=10, share=0.5, changed=0, photos=512)
    assert rule.changed_at_most == pytest.approx(1 - 0.025 ** (1 / 512))
    assert str(rule) == "changes 0.0% of the classes (at most 0.7%), of 512 photos"
    assert AnytimeRule(1.0, 10, 0.5, 5, 5).changed_at_most == 1


@given(st.integers(0, 99), st.booleans(), st.booleans())
def test_a_mean_leaves_out_what_was_not_shown(seed: int, scaled: bool, weighed: bool) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(3, 2, 5, 4))
    temperatures = rng.uniform(0.5, 2, 4) if scaled else None
    weights = (0.3, 0.7) if weighed else ()
    partly = logits.copy()
    partly[2, :, 0] = np.nan  # a fold
    partly[:, 1, 1] = np.nan  # a view
    partly[:, :, 2] = np.nan  # the photo
    found = mean_logits(partly, temperatures, weights)
    without = mean_logits(logits[:2, :, :1], temperatures, weights)
    assert found[0] == pytest.approx(without[0])
    assert found[1] == pytest.approx(mean_logits(logits[:, :1, 1:2], temperatures)[0])
    assert np.isnan(found[2]).all()
    assert found[3:] == pytest.approx(mean_logits(logits, temperatures, weights)[3:])
