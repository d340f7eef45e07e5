"""The mean of a job's last epochs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn


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
