from __future__ import annotations

import numpy as np
import pytest
import torch

from ensemble.data.loader import mix_batch
from ensemble.recipes.schema import Mix
from ensemble.recipes.tasks import OutputSpec
from ensemble.training.losses import label_targets, target_tables

HEADS = OutputSpec("heads").heads
BATCH, HEIGHT, WIDTH = 6, 16, 12


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Photo i has the value i everywhere, so that a pixel tells where it came from."""
    x = torch.arange(BATCH, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 3, HEIGHT, WIDTH).clone()
    labels = torch.tensor([[i % 3, i % 2, (i + 1) % 3] for i in range(BATCH)])
    return x, label_targets(labels, target_tables(OutputSpec("heads")))


def mixed(key: int = 0, **recipe: object) -> tuple[torch.Tensor, torch.Tensor]:
    return mix_batch(Mix.model_validate(recipe), *batch(), (key,))


def shares(x: torch.Tensor) -> torch.Tensor:
    """Share of the partner in photo 0, whose partner is the last: from the mean of its pixels."""
    return x[0].mean() / (BATCH - 1)


def test_nothing_is_mixed_by_default() -> None:
    x, targets = mixed()
    assert torch.equal(x, batch()[0])
    assert torch.equal(targets, batch()[1])


@pytest.mark.parametrize("recipe", [{"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 0.5, "cutmix": 0.5}])
def test_targets_are_mixed_in_the_shares_of_the_photos(recipe: dict[str, float]) -> None:
    plain = batch()[1]
    for key in range(20):
        x, targets = mixed(key, **recipe)
        share = float(shares(x))
        assert torch.allclose(targets, plain * (1 - share) + plain.flip(0) * share, atol=1e-5)
        for head in HEADS:
            assert torch.allclose(targets[:, head.columns].sum(dim=1), torch.ones(BATCH))


def test_mixup_blends_and_cutmix_cuts() -> None:
    blended, _ = mixed(mixup=1.0)
    assert blended[0].unique().numel() == 1
    assert 0 < float(blended[0, 0, 0, 0]) < BATCH - 1
    cut = next(x for x, _ in (mixed(key, cutmix=1.0) for key in range(9)) if x[0].unique().numel() == 2)
    assert cut[0].unique().tolist() == [0, BATCH - 1]


def test_half_face_swaps_a_left_or_a_right_half() -> None:
    sides = set()
    for key in range(20):
        x, targets = mixed(key, half_face=True)
        left, right = x[0, :, :, : WIDTH // 2], x[0, :, :, WIDTH // 2 :]
        assert left.unique().numel() == right.unique().numel() == 1
        assert {float(left[0, 0, 0]), float(right[0, 0, 0])} == {0, BATCH - 1}
        sides.add(float(left[0, 0, 0]))
        assert torch.allclose(targets, (batch()[1] + batch()[1].flip(0)) / 2)
    assert sides == {0, BATCH - 1}


@pytest.mark.parametrize("recipe", [{"mixup": 1.0}, {"half_face": True}])
def test_prob_is_the_share_of_mixed_batches(recipe: dict[str, object]) -> None:
    untouched = [torch.equal(mixed(key, prob=0.3, **recipe)[1], batch()[1]) for key in range(200)]
    assert 0.6 < np.mean(untouched) < 0.8


def test_the_key_alone_decides_and_numpys_global_stream_is_left_alone() -> None:
    np.random.seed(5)
    expected = np.random.rand()
    np.random.seed(5)
    first = mixed(3, cutmix=1.0)
    assert np.random.rand() == expected
    again, other = mixed(3, cutmix=1.0), mixed(4, cutmix=1.0)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[1], other[1])
