from __future__ import annotations

import numpy as np
import pytest
import torch

from ensemble.recipes.loss import Loss
from ensemble.recipes.tasks import Target
from ensemble.training.losses import focal, one_hot, soft_macro_f1, task_loss

MASK, HEADS = Target("mask").heads, Target("heads").heads


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
