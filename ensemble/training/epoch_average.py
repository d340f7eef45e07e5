"""Averaged weights: a running mean over updates, and the mean of a job's last epochs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn


def ema_decay(decay: float, update: int) -> float:
    """The decay with which the weights after an update go into the running mean.

    It is corrected for the start as Adam's moments are (Kingma & Ba 2015): the mean always holds the weights of all
    updates so far in the proportions 1, decay, decay^2, ... from the last one back, and never the initial ones. So it
    has the same meaning in a job of 100 updates and of 100,000.

    Args:
        decay: of the recipe, 0 to 1.
        update: of the job, from 1; of the first one it is 0.
    """
    return decay * (1 - decay ** (update - 1)) / (1 - decay**update)


def ema_words(decay: float, updates: int) -> str:
    """Over how much of a job of so many updates the running mean reaches."""
    return (
        f"averages over about the last {min(1 / (1 - decay), updates):,.0f} of {updates:,} updates "
        f"(effective decay {ema_decay(decay, updates):.5g} at the end)"
    )


class EpochAverage:
    """The mean of the weights after each of the last epochs (Izmailov et al. 2018, "Averaging weights leads to wider
    optima"; Wortsman et al. 2022, "Model soups").

    Batch norm's statistics are measured anew and not averaged: those of the epochs belong to other activations than
    the mean weights make, however far apart the epochs are.
    """

    def __init__(self, model: nn.Module, epochs: int, last: int) -> None:
        """
        Args:
            epochs: of the job.
            last: how many of them are averaged.
        """
        self.averaged, self.first, self.last = AveragedModel(model), epochs - last, last

    @property
    def model(self) -> nn.Module | None:
        """The mean, once its last epoch is over; None before."""
        whole = int(self.averaged.n_averaged) == self.last
        return self.averaged.module if whole else None

    def add(self, epoch: int, model: nn.Module, photos: Iterable[Tensor]) -> None:
        """Take in the weights after an epoch, where they count.

        Args:
            epoch: from 0.
            photos: float32 (batch, 3, height, width), as they are learned from; read after the last epoch only.
        """
        if epoch < self.first:
            return
        self.averaged.update_parameters(model)
        if self.model is not None:
            update_bn(photos, self.model)

    def state(self) -> dict[str, Any]:
        """Tensors from which `load` goes on to the same mean."""
        return self.averaged.state_dict()

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.averaged.load_state_dict(state)
