"""Losses against their plain formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ensemble.metrics.heads import head_decisions
from ensemble.recipes.schema import Ages, Loss
from ensemble.recipes.tasks import AgeHead, OutputSpec
from ensemble.training.losses import focal, label_targets, soft_macro_f1, target_tables, task_loss
from folds.labels import age_band

MASK, HEADS = OutputSpec("mask"), OutputSpec("heads")
YEARS = Ages.model_validate({"cuts": "years"})
Batch = tuple[torch.Tensor, torch.Tensor]


def one_hot(labels: list[list[int]] | torch.Tensor, spec: OutputSpec) -> torch.Tensor:
    return label_targets(torch.as_tensor(labels), target_tables(spec))


def loss(own: Loss, spec: OutputSpec, logits: torch.Tensor, targets: torch.Tensor, *counts: torch.Tensor) -> float:
    return float(task_loss(own, spec.heads, logits, targets, counts))


@pytest.fixture
def batch() -> Batch:
    rng = np.random.default_rng(3)
    targets = np.eye(3)[rng.integers(0, 3, 7)]
    targets[0] = [0.2, 0.5, 0.3]  # a soft one, as mixup makes
    return torch.from_numpy(rng.normal(size=(7, 3))), torch.from_numpy(targets)


def test_soft_f1_is_the_plain_formula(batch: Batch) -> None:
    logits, targets = (t.numpy() for t in batch)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    scores = []
    for truth, found in zip(targets.T, p.T, strict=True):
        right = (truth * found).sum()
        scores.append(2 * right / (truth.sum() + found.sum()))
    assert float(soft_macro_f1(*batch)) == pytest.approx(1 - np.mean(scores), abs=1e-6)
    certain = one_hot([[0], [1], [2], [0]], MASK)
    assert float(soft_macro_f1(certain * 50, certain)) == pytest.approx(0, abs=1e-5)
    assert float(soft_macro_f1(certain.roll(1, dims=1) * 50, certain)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("own", [soft_macro_f1, lambda x, t: focal(x, t, 2.0).mean()], ids=["soft F1", "focal"])
def test_gradients_are_those_of_finite_differences(batch: Batch, own: object) -> None:
    logits, targets = batch
    assert torch.autograd.gradcheck(lambda x: own(x, targets), logits.requires_grad_(), atol=1e-6)  # type: ignore[operator]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.5, 2.0, 3.0)])
def test_focal_is_the_plain_formula(batch: Batch, gamma: float, weights: tuple[float, ...]) -> None:
    logits, targets = (t.numpy() for t in batch)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    even = np.array(weights) / np.mean(weights)  # only their ratios count
    plain = (-even * targets * (1 - p) ** gamma * np.log(p)).sum(axis=1).mean()
    found = loss(Loss(ce=0, focal=1.5, gamma=gamma, class_weights=weights), MASK, *batch)
    assert found == pytest.approx(1.5 * plain, rel=1e-5)
    certain = torch.tensor([[80.0, 0, 0]], requires_grad=True)
    focal(certain, torch.tensor([[1.0, 0, 0]]), gamma).sum().backward()
    assert certain.grad is not None and bool(certain.grad.isfinite().all())


def test_the_mix_weighs_its_terms_and_smooths_labels(batch: Batch) -> None:
    logits, targets = (t.float() for t in batch)
    plain = 0.3 * F.cross_entropy(logits, targets) + 0.7 * soft_macro_f1(logits, targets)
    assert loss(Loss(ce=0.3, f1=0.7), MASK, logits, targets) == pytest.approx(float(plain), rel=1e-5)
    smooth, weights = targets * 0.7 + 0.3 / 3, torch.tensor([0.5, 2.0, 3.0]) * 3 / 5.5
    plain = -(smooth * weights * logits.log_softmax(dim=1)).sum(dim=1).mean()
    found = loss(Loss(label_smoothing=0.3, class_weights=(0.5, 2.0, 3.0)), MASK, logits, targets)
    assert found == pytest.approx(float(plain), rel=1e-5)


def test_an_ordinal_head_learns_by_binary_cross_entropy_on_conditional_subsets() -> None:
    """CORN's loss: cut k is learned from those who have reached cut k - 1."""
    spec, photos = OutputSpec("age", (21, 30, 46, 58), (0, 0, 1, 1, 2), "ordinal"), 40
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(photos, 4, generator=generator)
    labels = torch.randint(0, 5, (photos, 1), generator=generator)
    plain = torch.zeros(())
    for k in range(4):
        subset = labels[:, 0] >= k
        reached = (labels[subset, 0] > k).float()
        plain += F.binary_cross_entropy_with_logits(logits[subset, k], reached, reduction="sum") / photos
    assert loss(Loss(), spec, logits, one_hot(labels, spec)) == pytest.approx(float(plain), rel=1e-5)


@pytest.mark.parametrize("kind", ["softmax", "ordinal", "regression"])
def test_each_kind_of_age_head_learns_the_age(kind: AgeHead) -> None:
    """Straight from one input that is the age; also from targets that are spread."""
    output_spec = OutputSpec("age", YEARS.cuts, YEARS.bin_bands, kind)
    years = torch.arange(18, 75)
    bins = torch.from_numpy(age_band(years.numpy(), YEARS.cuts))[:, None]
    for sigma in (0.0, 2.0):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(1, 32), torch.nn.Tanh(), torch.nn.Linear(32, output_spec.width))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
        truth = label_targets(years[:, None] if sigma else bins, target_tables(output_spec, sigma))
        x = (years[:, None] - 45) / 15
        for _ in range(300):
            optimizer.zero_grad()
            task_loss(Loss(), output_spec.heads, model(x), truth).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        found = head_decisions(model(x).detach().numpy(), output_spec.heads)[0]
        assert (found == age_band(years.numpy())).mean() > 0.9


def test_heads_have_their_own_terms_and_weights() -> None:
    targets = one_hot([[0, 1, 2], [2, 0, 1], [1, 1, 0]], HEADS)
    logits = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    mix = Loss.model_validate(
        {"ce": 0.5, "heads": {"age": {"weight": 3, "f1": 0.25, "class_weights": [1, 1, 4]}, "gender": {"weight": 0.5}}}
    )
    owns = (Loss(ce=0.5), Loss(ce=0.5), Loss(ce=0.5, f1=0.25, class_weights=(1, 1, 4)))
    expected = 0.0
    for head, share, own in zip(HEADS.heads, (1, 0.5, 3), owns, strict=True):
        alone = OutputSpec(head.part)  # type: ignore[arg-type]
        expected += share * loss(own, alone, logits[:, head.columns], targets[:, head.columns])
    assert loss(mix, HEADS, logits, targets) == pytest.approx(expected, rel=1e-5)


def test_uncertainty_weighs_heads_by_how_well_they_do() -> None:
    """The optimal log variance of a head is the one at which its weighted loss is a half."""
    targets = one_hot([[0, 1, 2], [2, 0, 1]], HEADS)
    logits = targets * torch.tensor([9.0] * 3 + [1.0] * 2 + [0.0] * 3)
    losses = torch.stack([F.cross_entropy(logits[:, h.columns], targets[:, h.columns]) for h in HEADS.heads])
    s = (2 * losses).log().requires_grad_()
    task_loss(Loss(), HEADS.heads, logits, targets, log_variances=s).backward()  # type: ignore[no-untyped-call]
    assert s.grad is not None and s.grad.tolist() == pytest.approx([0, 0, 0], abs=1e-6)
    even = task_loss(Loss(), HEADS.heads, logits, targets, log_variances=torch.zeros(3))
    assert float(even) == pytest.approx(loss(Loss(), HEADS, logits, targets), rel=1e-6)


def test_bands_are_evened_out_however_finely_ages_are_learned() -> None:
    """Five bins in three bands: a band's bins share its prior and its weight. Validation has neither."""
    spec = OutputSpec("age", (20, 30, 45, 60), (0, 0, 1, 1, 2))
    counts = torch.tensor([10.0, 50.0, 20.0, 15.0, 5.0])
    logits, targets = torch.randn(4, 5, generator=torch.Generator().manual_seed(2)), torch.eye(5)[[0, 2, 3, 4]]
    prior = torch.tensor([0.6, 0.6, 0.35, 0.35, 0.05]).log()
    adjusting = Loss(ce=1, f1=0.5, logit_adjustment=1.5)
    plain = F.cross_entropy(logits + 1.5 * prior, targets) + 0.5 * soft_macro_f1(logits, targets)
    assert loss(adjusting, spec, logits, targets, counts) == pytest.approx(float(plain), rel=1e-5)
    assert loss(adjusting, spec, logits, targets) == loss(Loss(ce=1, f1=0.5), spec, logits, targets)
    weights = 0.1 / (1 - 0.9 ** torch.tensor([60.0, 35.0, 5.0]))
    weights = (weights / (weights @ torch.tensor([0.6, 0.35, 0.05])))[[0, 0, 1, 1, 2]]  # as three bands would have
    balanced = loss(Loss(ce=1, class_balanced=0.9), spec, logits, targets, counts)
    assert balanced == pytest.approx(float(F.cross_entropy(logits, targets, weights)), rel=1e-5)


@pytest.mark.parametrize("own", [Loss(ce=1, label_smoothing=0.1), Loss(focal=1, gamma=2), Loss(f1=1)])
def test_a_head_learns_nothing_from_photos_without_its_label(own: Loss) -> None:
    labels = torch.tensor([[0, 1, -1], [2, -1, 0], [1, 0, 2], [-1, -1, 1]])
    logits = torch.randn(4, 8, generator=torch.Generator().manual_seed(1), requires_grad=True)
    targets = one_hot(labels, HEADS)
    found = task_loss(own, HEADS.heads, logits, targets, partial=True)
    alone = 0.0
    for i, head in enumerate(HEADS.heads):
        rows, spec = labels[:, i] >= 0, OutputSpec(head.part)  # type: ignore[arg-type]
        alone += loss(own, spec, logits[rows][:, head.columns].detach(), one_hot(labels[rows, i, None], spec))
    assert float(found.detach()) == pytest.approx(alone, abs=1e-6)
    (gradient,) = torch.autograd.grad(found, logits)
    assert not gradient[0, 5:].any() and not gradient[1, 3:5].any() and not gradient[3, :5].any()
    assert gradient[3, 5:].any()


def test_photos_that_were_mixed_count_by_what_is_known_of_them() -> None:
    logits = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    known, mixed = one_hot([[1], [2]], MASK), one_hot([[1], [-1]], MASK) * torch.tensor([[1.0], [0.0]])
    mixed[1] = 0.25 * known[0]  # a quarter of the first photo, the rest of one without a label
    expected = (F.cross_entropy(logits[:1], known[:1]) + 0.25 * F.cross_entropy(logits[1:], known[:1])) / 1.25
    assert float(task_loss(Loss(ce=1), MASK.heads, logits, mixed, partial=True)) == pytest.approx(float(expected))
    nothing = task_loss(Loss(ce=1, f1=1), MASK.heads, logits.requires_grad_(), torch.zeros(2, 3), partial=True)
    (gradient,) = torch.autograd.grad(nothing, logits)
    assert torch.isfinite(nothing.detach())
    assert not gradient.any()
