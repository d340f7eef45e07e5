from __future__ import annotations

import numpy as np
import pytest
import torch

from ensemble.losses import one_hot, soft_macro_f1, task_loss
from ensemble.recipe import Loss
from ensemble.tasks import heads


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
    targets = one_hot(labels, heads("mask"))
    assert float(soft_macro_f1(targets * 50, targets)) == pytest.approx(0, abs=1e-5)
    assert float(soft_macro_f1(targets.roll(1, dims=1) * 50, targets)) == pytest.approx(1, abs=1e-5)


def test_the_mix_weighs_its_terms(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, targets = (t.float() for t in batch)
    ce = float(torch.nn.functional.cross_entropy(logits, targets))
    f1 = float(soft_macro_f1(logits, targets))
    found = float(task_loss(Loss(ce=0.3, f1=0.7), heads("mask"), logits, targets))
    assert found == pytest.approx(0.3 * ce + 0.7 * f1, rel=1e-5)


def test_each_head_counts() -> None:
    labels = torch.tensor([[0, 1, 2], [2, 0, 1]])
    targets = one_hot(labels, heads("heads"))
    assert targets.shape == (2, 8)
    assert targets.sum(dim=1).tolist() == [3, 3]
    right = float(task_loss(Loss(), heads("heads"), targets * 9, targets))
    for head in heads("heads"):
        wrong = targets * 9
        wrong[:, head.columns] = wrong[:, head.columns].flip(1)
        wrong[:, head.columns] += torch.arange(wrong[:, head.columns].shape[1])
        assert float(task_loss(Loss(), heads("heads"), wrong, targets)) > right + 1
