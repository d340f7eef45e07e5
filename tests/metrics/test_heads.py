from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ensemble.metrics.heads import bin_log_probabilities, bin_logits, head_log_probabilities
from ensemble.models.heads import to_bin_logits
from ensemble.recipes.schema import ALL_YEARS
from ensemble.recipes.tasks import AgeHead, OutputSpec, bands_of
from folds.labels import age_band

KINDS: tuple[AgeHead, ...] = ("softmax", "ordinal", "regression")
CUTS = st.lists(st.integers(1, 110), max_size=6, unique=True).map(lambda more: tuple(sorted({*more, 30, 60})))
SEEDS = st.integers(0, 10_000)


def age(kind: AgeHead, cuts: tuple[int, ...] = ALL_YEARS) -> OutputSpec:
    return OutputSpec("age", cuts, bands_of(cuts), kind)


def drawn(output_spec: OutputSpec, seed: int, spread: float = 3.0, photos: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, spread, (photos, output_spec.width))


@pytest.mark.parametrize("kind", KINDS)
@given(cuts=CUTS, seed=SEEDS, spread=st.sampled_from([0.1, 3.0, 50.0, 1e4]))
def test_bins_and_bands_are_probabilities(kind: AgeHead, cuts: tuple[int, ...], seed: int, spread: float) -> None:
    output_spec = age(kind, cuts)
    logits, head = drawn(output_spec, seed, spread), output_spec.heads[0]
    for log_p in (bin_log_probabilities(logits, head), head_log_probabilities(logits, head)):
        assert np.isfinite(log_p).all()
        assert np.exp(log_p).sum(axis=1) == pytest.approx(np.ones(4))
        assert log_p.max() <= 1e-12, "the bound that early exit rests on"


@pytest.mark.parametrize("kind", KINDS)
@given(cuts=CUTS, seed=SEEDS)
def test_bands_add_up_the_bins_between_the_scoring_cuts(kind: AgeHead, cuts: tuple[int, ...], seed: int) -> None:
    output_spec = age(kind, cuts)
    logits, head = drawn(output_spec, seed), output_spec.heads[0]
    bins, bands = np.exp(bin_log_probabilities(logits, head)), np.exp(head_log_probabilities(logits, head))
    firsts = (0, *cuts)  # the youngest age of each bin
    of_bin = np.array([age_band(first) for first in firsts])
    for band in range(3):
        assert bands[:, band] == pytest.approx(bins[:, of_bin == band].sum(axis=1), abs=1e-9)


@given(cuts=CUTS, seed=SEEDS)
def test_ordinal_ranks_never_contradict(cuts: tuple[int, ...], seed: int) -> None:
    """P(age >= cut) falls from cut to cut, and rises with each logit up to that cut."""
    output_spec = age("ordinal", cuts)
    logits, head = drawn(output_spec, seed, photos=1), output_spec.heads[0]
    assert output_spec.width == len(cuts)

    def reached(values: np.ndarray) -> np.ndarray:
        return np.exp(bin_log_probabilities(values, head))[0, ::-1].cumsum()[::-1][1:]

    before = reached(logits)
    assert (np.diff(before) <= 1e-12).all()
    for k in range(len(cuts)):
        higher = logits + np.eye(len(cuts))[k]
        assert (reached(higher)[k:] > before[k:]).all()
        assert reached(higher)[:k] == pytest.approx(before[:k])


@given(middle=st.floats(16, 79), scale=st.floats(0.5, 30))
def test_a_regression_is_the_logistic_distribution_between_the_cuts(middle: float, scale: float) -> None:
    logits = np.array([[(middle - 40) / 20, math.log(scale / 20)]])
    found = np.exp(head_log_probabilities(logits, age("regression").heads[0]))[0]
    below = [1 / (1 + math.exp(-(cut - middle) / scale)) for cut in (30, 60)]
    assert found == pytest.approx([below[0], below[1] - below[0], 1 - below[1]], abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cuts", [(30, 60), (21, 30, 46, 58), ALL_YEARS])
def test_torch_computes_what_numpy_does_with_finite_gradients(kind: AgeHead, cuts: tuple[int, ...]) -> None:
    output_spec = OutputSpec("heads", cuts, bands_of(cuts), kind)
    for spread in (1.0, 30.0):
        logits = drawn(output_spec, 0, spread).astype(np.float32)
        theirs = torch.from_numpy(logits).requires_grad_()
        found = to_bin_logits(theirs, output_spec.heads)
        ours = bin_logits(logits, output_spec.heads)
        for head, plain in zip(output_spec.heads, output_spec.in_bins.heads, strict=True):
            own = head_log_probabilities(logits, head)
            assert head_log_probabilities(ours, plain) == pytest.approx(own, abs=1e-9), "they decide as the heads' own"
        assert found.detach().numpy() == pytest.approx(ours, rel=1e-4, abs=1e-4)
        found.logsumexp(dim=1).sum().backward()
        assert bool(theirs.grad.isfinite().all())  # type: ignore[union-attr]
