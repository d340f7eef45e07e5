"""Deciding a person's photos together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from planned import HEADS, plan_run
from scipy.special import log_softmax, logsumexp

from ensemble.decision.joint import decide, most_probable, share_gender_and_age
from ensemble.decision.oof_ensemble import load_oof_ensemble
from ensemble.decision.tuning import apply_tuning
from ensemble.evaluation.evaluate import evaluate, plain_values
from ensemble.metrics.scores import macro_f1
from folds.labels import decode
from folds.layout import read_train

TOGETHER = "a person's photos together"
PHOTOS = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        arrays.arrays(np.float64, (n, 18), elements=st.floats(-20, 20)).map(lambda a: log_softmax(a, axis=1)),
        arrays.arrays(np.int64, n, elements=st.integers(0, 4)),
    )
)


def mask_part(log_p: np.ndarray) -> np.ndarray:
    return np.asarray(logsumexp(log_p.reshape(-1, 3, 6), axis=2))


def traits(log_p: np.ndarray) -> np.ndarray:
    return np.asarray(logsumexp(log_p.reshape(-1, 3, 6), axis=1))


@given(PHOTOS)
def test_the_mask_stays_a_photo_s_own_and_all_else_is_the_person_s(found: tuple[np.ndarray, np.ndarray]) -> None:
    log_p, person = found
    together = share_gender_and_age(log_p, person)
    assert np.exp(together).sum(axis=1) == pytest.approx(np.ones(len(log_p)))
    assert mask_part(together) == pytest.approx(mask_part(log_p), abs=1e-9)
    for who in np.unique(person):
        wanted = log_softmax(traits(log_p)[person == who].mean(axis=0))
        assert traits(together)[person == who] == pytest.approx(np.tile(wanted, (sum(person == who), 1)), abs=1e-9)


@given(PHOTOS)
def test_a_person_s_only_photo_is_left_as_it_is(found: tuple[np.ndarray, np.ndarray]) -> None:
    log_p = found[0]
    assert np.array_equal(share_gender_and_age(log_p, np.arange(len(log_p))), log_p)
    assert np.array_equal(decide(log_p[None]).classes, decide(log_p[None], person=np.arange(len(log_p))).classes)


@given(PHOTOS, st.integers(0, 10_000))
def test_what_was_not_seen_takes_from_the_person_and_gives_nothing(
    found: tuple[np.ndarray, np.ndarray], seed: int
) -> None:
    log_p, person = found
    seen = np.random.default_rng(seed).random(len(log_p)) < 0.6
    together = share_gender_and_age(log_p, person, seen)
    assert np.array_equal(together[seen], share_gender_and_age(log_p[seen], person[seen]))
    assert mask_part(together) == pytest.approx(mask_part(log_p), abs=1e-9)
    for row in np.flatnonzero(~seen):
        others = np.flatnonzero(seen & (person == person[row]))
        if len(others):
            assert traits(together)[row] == pytest.approx(traits(together)[others[0]], abs=1e-9)
        else:
            assert np.array_equal(together[row], log_p[row])


def test_runs_have_no_vote_on_what_they_did_not_see() -> None:
    log_p = np.log(np.full((2, 2, 18), 0.02) + 0.64 * np.eye(18)[0])  # two runs that say 0 of two photos
    seen, other = np.array([True, False]), np.array([5, 5])
    assert decide(log_p, rule="vote", votes=[other], seen=seen).classes.tolist() == [0, 5]
    assert decide(log_p, rule="vote", seen=seen).classes.tolist() == [0, 0], "there is nobody else"


def test_one_sure_photo_outweighs_two_that_hesitate_and_offsets_come_after() -> None:
    p = np.full((3, 18), 0.001)
    p[0, 4], p[1, 7], p[2, 13] = 0.98, 0.4, 0.4  # female 30-59; twice hesitantly male 30-59
    p[1, 10], p[2, 16] = 0.35, 0.35
    log_p = np.log(p / p.sum(axis=1, keepdims=True))
    person = np.zeros(3, dtype=np.int64)
    assert most_probable(log_p).tolist() == [4, 7, 13]
    assert decide(log_p[None], person=person).classes.tolist() == [4, 10, 16]
    offsets = [30.0 if c == 17 else 0.0 for c in range(18)]
    assert decide(log_p[None], offsets=offsets, person=person).classes.tolist() == [17] * 3


def test_a_score_tells_what_it_would_gain(make_data: Callable[..., Path], tmp_path: Path) -> None:
    data = read_train(make_data(tmp_path / "data", people=36))
    rng = np.random.default_rng(0)
    mask, gender, age = decode(data.classes)
    truth = np.concatenate([np.eye(n)[part] for n, part in ((3, mask), (2, gender), (3, age))], axis=1)
    run = plan_run(tmp_path / "run", data, {"heads": 2 * truth + rng.normal(size=truth.shape)}, recipe=HEADS)
    blend = load_oof_ensemble([run], None, "best")
    found = evaluate(blend, apply_tuning([run], [blend.runs[0].recipe], None))
    plain, together = found.settings[0], next(s for s in found.settings if s.name == TOGETHER)
    log_p = share_gender_and_age(found.decision.log_probabilities, blend.person)
    assert together.f1.value == pytest.approx(macro_f1(blend.truth, most_probable(log_p), 18), abs=1e-6)
    assert together.gain.significance == "better", "seven hesitant photos know more than one"
    assert found.score.f1 == pytest.approx(plain.f1.value, abs=1e-6), "the score itself is of each photo alone"
    assert TOGETHER in {s["name"] for s in plain_values(found)["settings"]}
