"""A batch of photos shown to many models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ensemble.decision.members import Ensemble, Member
from ensemble.jobs.oof import Logits
from ensemble.models.engine import InferenceEngine
from ensemble.models.inputs import to_input
from ensemble.models.tta import stack_views, unstack_views
from ensemble.recipes.geometry import Geometry
from folds.data.labels import IntArray
from folds.errors import MaskensError


class BatchInputs:
    """A batch as models want it: normalised and in all views, made once for all models that want it alike."""

    def __init__(
        self, batch: Sequence[Tensor], geometries: Sequence[Geometry], views: Sequence[str], device: torch.device
    ) -> None:
        """
        Args:
            batch: for each geometry uint8 (photos, height, width, 3).
        """
        self.views = views
        self._photos = dict(zip(geometries, batch, strict=True))
        self._device = device
        self._made: dict[object, Tensor] = {}

    def of(self, member: Member, places: IntArray | None = None, view: int | None = None) -> Tensor:
        """float32 (views * photos, 3, height, width): of all photos, or of those at `places`; in all views, or one."""
        made = self.made(member)
        if places is None and view is None:
            return made
        count = len(made) // len(self.views)
        shown = np.arange(count) if places is None else places
        views = range(len(self.views)) if view is None else (view,)
        wanted = torch.from_numpy(np.concatenate([shown + v * count for v in views]))
        if self._device.type == "cuda":
            wanted = wanted.pin_memory()  # else the copy waits for all that the GPU has to do
        return made[wanted.to(self._device, non_blocking=True)].contiguous(memory_format=torch.channels_last)

    def made(self, member: Member) -> Tensor:
        """As `of`, of all photos in all views."""
        card = member.card
        key = (card.geometry, card.mean, card.std)
        if key not in self._made:
            normalisation = card.mean, card.std
            x = to_input(self._photos[card.geometry], *normalisation, self._device)
            self._made[key] = stack_views(x, self.views, normalisation)
        return self._made[key]


def forward(
    chosen: Sequence[tuple[Member, InferenceEngine, IntArray | None]],
    inputs: BatchInputs,
    view: int | None = None,
) -> list[Logits]:
    """Forward a batch through models. A GPU is waited for once.

    Args:
        chosen: models, each with the places of the photos in the batch that it sees; None for all.
        view: the one view that is shown; None for all.

    Returns:
        Of each model float32 (views, photos that it saw, width).

    Raises:
        MaskensError: a model gives no numbers, or not even one photo fits into the GPU's memory.
    """
    for member, _, _ in chosen:
        inputs.made(member)  # first, as what it copies to a GPU would wait for the models before it
    found = [engine.logits(inputs.of(member, places, view)) for member, engine, places in chosen]
    views = inputs.views if view is None else inputs.views[view : view + 1]
    arrays = [unstack_views(logits, views).cpu().numpy() for logits in found]
    for (member, _, _), values in zip(chosen, arrays, strict=True):
        if not np.isfinite(values).all():
            raise MaskensError(
                f"{member.path} gives logits that are not finite; "
                "train that job again with --restart, or predict with --precision fp32"
            )
    return arrays


def by_task(ensembles: Sequence[Ensemble], outputs: Sequence[Logits]) -> list[dict[str, Logits]]:
    """Of each run, task -> float32 (folds, views, photos, width).

    Args:
        outputs: of each model of each run in turn, float32 (views, photos, width).
    """
    left = iter(outputs)
    found = []
    for ensemble in ensembles:
        own: dict[str, list[Logits]] = {}
        for member in ensemble.members:
            own.setdefault(member.task, []).append(next(left))
        found.append({task: np.stack(values) for task, values in own.items()})
    return found
