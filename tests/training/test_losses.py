from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from ensemble.metrics.heads import head_decisions
from ensemble.recipes.schema import Ages, Loss
from ensemble.recipes.tasks import AgeHead, OutputSpec
from ensemble.training.losses import (
    class_balanced_weights,
    effective_weights,
    focal,
    one_hot,
    soft_macro_f1,
    soft_targets,
    target_tables,
    task_loss,
)
from folds.labels import age_band

MASK, HEADS = OutputSpec("mask").heads, OutputSpec("heads").heads


def plain_soft_f1(logits: np.ndarray, targets: np.ndarray) -> float:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = powers / powers.sum(axis=1, keepdims=True)
    scores = []
    for c in range(logits.shape[1]):
        tp = (targets[:, c] * p[:, c]).sum()
        fp = ((1 - targets[:, c]) * p[:, c]).sum()
        fn = (targets[:, c] * (1 - p[:, c])).sum()
        precision, recall = tp / (tp + fp + 1e-7), tp / (tp + fn + 1e-7)
        scores.append(np.clip(2 * precision * recall / (precision + recall + 1e-7), 1e-7, 1 - 1e-7))
    return float(1 - np.mean(scores))


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(3)
    targets = np.eye(3)[rng.integers(0, 3, 7)]
    targets[0] = [0.2, 0.5, 0.3]  # a soft one, as mixup makes
    return torch.from_numpy(rng.normal(size=(7, 3))), torch.from_numpy(targets)


def test_soft_f1_is_the_plain_formula(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, targets = batch
    assert float(soft_macro_f1(logits, targets)) == pytest.approx(
        plain_soft_f1(logits.numpy(), targets.numpy()), abs=1e-9
    )


def test_soft_f1_has_the_gradient_of_finite_differences(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, targets = batch
    assert torch.autograd.gradcheck(lambda x: soft_macro_f1(x, targets), logits.requires_grad_(), atol=1e-6)


def test_a_certain_right_answer_costs_nothing_and_a_wrong_one_all() -> None:
    labels = torch.tensor([[0], [1], [2], [0]])
    targets = one_hot(labels, MASK)
    assert float(soft_macro_f1(targets * 50, targets)) == pytest.approx(0, abs=1e-5)
    assert float(soft_macro_f1(targets.roll(1, dims=1) * 50, targets)) == pytest.approx(1, abs=1e-5)


def test_the_mix_weighs_its_terms(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, targets = (t.float() for t in batch)
    ce = float(torch.nn.functional.cross_entropy(logits, targets))
    f1 = float(soft_macro_f1(logits, targets))
    found = float(task_loss(Loss(ce=0.3, f1=0.7), MASK, logits, targets))
    assert found == pytest.approx(0.3 * ce + 0.7 * f1, rel=1e-5)


def test_each_head_counts() -> None:
    labels = torch.tensor([[0, 1, 2], [2, 0, 1]])
    targets = one_hot(labels, HEADS)
    assert targets.shape == (2, 8)
    assert targets.sum(dim=1).tolist() == [3, 3]
    right = float(task_loss(Loss(), HEADS, targets * 9, targets))
    for head in HEADS:
        wrong = targets * 9
        wrong[:, head.columns] = wrong[:, head.columns].flip(1)
        wrong[:, head.columns] += torch.arange(wrong[:, head.columns].shape[1])
        assert float(task_loss(Loss(), HEADS, wrong, targets)) > right + 1


def plain_focal(logits: np.ndarray, targets: np.ndarray, gamma: float, weights: list[float]) -> float:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = powers / powers.sum(axis=1, keepdims=True)
    rows = [
        sum(-w * t * (1 - q) ** gamma * np.log(q) for w, t, q in zip(weights, row_t, row_p, strict=True))
        for row_t, row_p in zip(targets, p, strict=True)
    ]
    return float(np.mean(rows))


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 3.5])
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.5, 2.0, 3.0]])
def test_focal_is_the_plain_formula(
    batch: tuple[torch.Tensor, torch.Tensor], gamma: float, weights: list[float]
) -> None:
    logits, targets = batch
    mix = Loss(ce=0, focal=1.5, gamma=gamma, class_weights=tuple(weights))
    found = float(task_loss(mix, MASK, logits, targets))
    even = [w / np.mean(weights) for w in weights]  # only their ratios count
    assert found == pytest.approx(1.5 * plain_focal(logits.numpy(), targets.numpy(), gamma, even), rel=1e-5)


def test_focal_has_the_gradient_of_finite_differences(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, targets = batch
    assert torch.autograd.gradcheck(lambda x: focal(x, targets, 2.0), logits.requires_grad_(), atol=1e-6)


def test_focal_and_its_gradient_stay_finite_on_a_certain_answer() -> None:
    logits = torch.tensor([[80.0, 0, 0]], requires_grad=True)
    focal(logits, torch.tensor([[1.0, 0, 0]]), gamma=0.5).backward()
    assert bool(logits.grad.isfinite().all())  # type: ignore[union-attr]


def test_label_smoothing_and_class_weights_are_the_plain_formula(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, targets = batch
    smooth, weights = targets * 0.7 + 0.3 / 3, torch.tensor([0.5, 2.0, 3.0]) * 3 / 5.5
    plain = -(smooth * weights * logits.log_softmax(dim=1)).sum(dim=1).mean()
    found = task_loss(Loss(label_smoothing=0.3, class_weights=(0.5, 2.0, 3.0)), MASK, logits, targets)
    assert float(found) == pytest.approx(float(plain), rel=1e-5)
    assert float(found) != pytest.approx(float(task_loss(Loss(), MASK, logits, targets)), rel=1e-2)


@pytest.mark.parametrize("mix", [Loss(), Loss(ce=0, focal=1), Loss(ce=0, f1=1), Loss(label_smoothing=0.2)])
def test_every_loss_takes_the_shares_of_mixed_photos(mix: Loss) -> None:
    """With half of each of two labels, an undecided model does better than one that is sure of either."""
    shared = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]])
    undecided = task_loss(mix, MASK, torch.log(shared + 1e-4), shared)
    sure = task_loss(mix, MASK, torch.tensor([[9.0, 0, 0], [0, 9.0, 0]]), shared)
    assert float(undecided) < float(sure)


YEARS = Ages.model_validate({"cuts": "years"})


def test_an_ordinal_head_learns_by_binary_cross_entropy_on_conditional_subsets() -> None:
    """CORN's loss: cut k is learned from those who have reached cut k - 1."""
    cuts, photos = (21, 30, 46, 58), 40
    head = OutputSpec("age", cuts, (0, 0, 1, 1, 2), "ordinal").heads[0]
    generator = torch.Generator().manual_seed(0)
    logits, labels = (
        torch.randn(photos, 4, generator=generator),
        torch.randint(0, 5, (photos, 1), generator=generator),
    )
    plain = torch.zeros(())
    for k in range(4):
        subset = labels[:, 0] >= k
        reached = (labels[subset, 0] > k).float()
        plain += F.binary_cross_entropy_with_logits(logits[subset, k], reached, reduction="sum") / photos
    assert float(task_loss(Loss(), [head], logits, one_hot(labels, [head]))) == pytest.approx(float(plain), rel=1e-5)


@pytest.mark.parametrize("kind", ["softmax", "ordinal", "regression"])
def test_each_kind_of_age_head_learns_the_age(kind: AgeHead) -> None:
    """Straight from one input that is the age; also from targets that are spread."""
    target = OutputSpec("age", YEARS.cuts, YEARS.bands, kind)
    years = torch.arange(18, 75)
    bins = torch.from_numpy(age_band(years.numpy(), YEARS.cuts))[:, None]
    for sigma in (0.0, 2.0):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(1, 32), torch.nn.Tanh(), torch.nn.Linear(32, target.width))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
        truth = soft_targets(years[:, None] if sigma else bins, target_tables(target, sigma))
        x = (years[:, None] - 45) / 15
        for _ in range(300):
            optimizer.zero_grad()
            task_loss(Loss(), target.heads, model(x), truth).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        found = head_decisions(model(x).detach().numpy(), target.heads)[0]
        assert (found == age_band(years.numpy())).mean() > 0.9


def test_heads_have_their_own_terms_and_weights() -> None:
    labels = torch.tensor([[0, 1, 2], [2, 0, 1], [1, 1, 0]])
    targets = one_hot(labels, HEADS)
    logits = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    mix = Loss.model_validate(
        {"ce": 0.5, "heads": {"age": {"weight": 3, "f1": 0.25, "class_weights": [1, 1, 4]}, "gender": {"weight": 0.5}}}
    )

    def one(head: int, own: Loss) -> float:
        columns = HEADS[head].columns
        alone = OutputSpec(("mask", "gender", "age")[head])  # type: ignore[arg-type]
        return float(task_loss(own, alone.heads, logits[:, columns], targets[:, columns]))

    age = Loss(ce=0.5, f1=0.25, class_weights=(1, 1, 4))
    expected = one(0, Loss(ce=0.5)) + 0.5 * one(1, Loss(ce=0.5)) + 3 * one(2, age)
    assert float(task_loss(mix, HEADS, logits, targets)) == pytest.approx(expected, rel=1e-5)


def test_uncertainty_weighs_heads_by_how_well_they_do() -> None:
    """The optimal log variance of a head is the one at which its weighted loss is a half."""
    labels = torch.tensor([[0, 1, 2], [2, 0, 1]])
    targets = one_hot(labels, HEADS)
    logits = targets * torch.tensor([9.0] * 3 + [1.0] * 2 + [0.0] * 3)
    s = torch.zeros(3, requires_grad=True)
    assert task_loss(Loss(), HEADS, logits, targets, log_variances=s).item() == pytest.approx(
        float(task_loss(Loss(), HEADS, logits, targets)), rel=1e-6
    )
    optimizer = torch.optim.LBFGS([s], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        loss = task_loss(Loss(), HEADS, logits, targets, log_variances=s)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    optimizer.step(closure)
    losses = [float(F.cross_entropy(logits[:, h.columns], targets[:, h.columns])) for h in HEADS]
    assert s.tolist() == pytest.approx(np.log(2 * np.array(losses)).tolist(), abs=1e-2)
    assert s[0] < s[1] < s[2]


def test_logit_adjustment_adds_the_log_prior_to_the_logits_of_cross_entropy() -> None:
    counts = [torch.tensor([90.0, 9.0, 0.0])]
    logits, targets = torch.randn(5, 3, generator=torch.Generator().manual_seed(1)), torch.eye(3)[[0, 1, 2, 0, 0]]
    mix = Loss(ce=1, f1=0.5, logit_adjustment=1.5)
    prior = torch.tensor([0.9, 0.09, 0.01]).log()  # a class without a photo counts as having one
    expected = F.cross_entropy(logits + 1.5 * prior, targets) + 0.5 * soft_macro_f1(logits, targets)
    assert float(task_loss(mix, MASK, logits, targets, counts)) == pytest.approx(float(expected), rel=1e-5)
    plain = task_loss(Loss(ce=1, f1=0.5), MASK, logits, targets)
    assert float(task_loss(mix, MASK, logits, targets)) == float(plain), "validation goes without"


@given(st.lists(st.integers(0, 10_000), min_size=2, max_size=6), st.floats(0.5, 0.9999))
def test_class_balancing_weighs_the_rare_more_between_evenly_and_by_inverse_count(
    photos: list[int], beta: float
) -> None:
    weights = effective_weights(torch.tensor(photos, dtype=torch.float64), beta)
    n = np.maximum(photos, 1)
    assert weights.tolist() == pytest.approx(((1 - beta) / (1 - beta**n)).tolist())
    order = np.argsort(n)
    assert (np.diff(weights.numpy()[order]) <= 1e-12).all(), "the more photos, the less weight"
    assert (weights.numpy() >= 1 / n - 1e-9).all()


def test_class_balanced_weights_are_one_on_average_over_the_photos() -> None:
    """Else cross-entropy shrinks beside other terms and heads: most photos are of frequent classes."""
    counts = torch.tensor([1800.0, 360.0, 360.0])
    labels = torch.arange(3).repeat_interleave(counts.long())[:, None]
    logits, targets = torch.zeros(len(labels), 3), one_hot(labels, MASK)
    plain = task_loss(Loss(), MASK, logits, targets)
    balanced = task_loss(Loss(class_balanced=0.999), MASK, logits, targets, [counts])
    assert float(balanced) == pytest.approx(float(plain), rel=1e-5)
    empty = class_balanced_weights(torch.tensor([90.0, 10.0, 0.0]), 0.99)
    assert float(empty @ torch.tensor([0.9, 0.1, 0.0])) == pytest.approx(1)
    assert empty.isfinite().all()


def test_bands_are_evened_out_however_finely_ages_are_learned() -> None:
    """Five bins in three bands: a band's bins share its prior and its weight."""
    (head,) = OutputSpec("age", (20, 30, 45, 60), (0, 0, 1, 1, 2)).heads
    counts = [torch.tensor([10.0, 50.0, 20.0, 15.0, 5.0])]
    logits, targets = torch.randn(4, 5, generator=torch.Generator().manual_seed(2)), torch.eye(5)[[0, 2, 3, 4]]
    prior = torch.tensor([0.6, 0.6, 0.35, 0.35, 0.05]).log()
    adjusted = task_loss(Loss(ce=1, logit_adjustment=1.0), (head,), logits, targets, counts)
    assert float(adjusted) == pytest.approx(float(F.cross_entropy(logits + prior, targets)), rel=1e-5)
    weights = 0.1 / (1 - 0.9 ** torch.tensor([60.0, 35.0, 5.0]))
    weights = (weights / (weights @ torch.tensor([0.6, 0.35, 0.05])))[[0, 0, 1, 1, 2]]  # as three bands would have
    balanced = task_loss(Loss(ce=1, class_balanced=0.9), (head,), logits, targets, counts)
    expected = F.cross_entropy(logits, targets, weights)
    assert float(balanced) == pytest.approx(float(expected), rel=1e-5)
