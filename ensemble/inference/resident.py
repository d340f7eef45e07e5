"""Models that stay in memory and predict photos as they come."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ensemble.data.load import refuse_without_detector
from ensemble.decision.members import Ensemble, geometries
from ensemble.decision.tuning import Fitted
from ensemble.inference.ensemble_predictor import groups_that_fit
from ensemble.inference.forward import BatchInputs, by_task, forward
from ensemble.inference.infer import Prediction
from ensemble.inference.predictions import PhotoPredictions, complete_folds, photo_predictions
from ensemble.jobs.hardware import Hardware
from ensemble.models.checkpoint import load_checkpoint
from ensemble.models.engine import AS_TRAINED, BATCH, CHECKED, fast_engine
from ensemble.models.process import configure_process
from folds.data.decode import Pixels
from folds.errors import MaskensError


class ResidentEnsemble:
    """All models of some runs, loaded and made fast once; what `infer` and `photo_predictions` say of photos.

    Not for two threads at once, and fastest in the thread that made it.
    """

    def __init__(self, ensembles: Sequence[Ensemble], fitted: Fitted, hardware: Hardware) -> None:
        """
        Args:
            fitted: for these ensembles, in their order.

        Raises:
            MaskensError: a checkpoint that can't be used, no complete fold, or models that don't fit into memory
                together.
        """
        self.ensembles, self.fitted, self.views = ensembles, fitted, fitted.tta_set.views
        self.device = torch.device(hardware.device)
        self.members = [m for ensemble in ensembles for m in ensemble.members]
        self.geometries = geometries(self.members)
        complete_folds(ensembles)
        refuse_without_detector(self.geometries)
        configure_process(hardware.job_threads)
        if len(groups_that_fit(self.members, self.device)) > 1:
            size = sum(m.path.stat().st_size for m in self.members) / 1e9
            raise MaskensError(
                f"{len(self.members)} models of {size:.1f} GB don't fit into the free memory together, and here all "
                "of them have to stay there; `maskens predict` and `maskens infer` load as many at a time as fit"
            )
        stand_ins = BatchInputs(
            [torch.from_numpy(np.stack(sizes)) for sizes in zip(*_noise(self.shapes), strict=True)],
            self.geometries,
            self.views,
            self.device,
        )
        try:
            self.engines = [
                fast_engine(load_checkpoint(m.path, self.device)[0], stand_ins.of(m), AS_TRAINED, BATCH)
                for m in self.members
            ]
        except torch.OutOfMemoryError:
            raise MaskensError("the GPU's memory is too small for the models; use --device cpu") from None
        self.predict(_noise(self.shapes))  # the first time takes longer than any other

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """Of a photo in each of `geometries`: (height, width, 3)."""
        return [g.shape for g in self.geometries]

    @property
    def notes(self) -> list[str]:
        """What could not be made faster, and why."""
        return list(dict.fromkeys(note for engine in self.engines for note in engine.notes))

    def predict(self, photos: Sequence[Sequence[Pixels]]) -> PhotoPredictions:
        """Decide on photos.

        Args:
            photos: not empty; each in all of `geometries`, uint8 of `shapes`.

        Raises:
            MaskensError: as `forward.forward`.
        """
        batch = [torch.from_numpy(np.stack(sizes)) for sizes in zip(*photos, strict=True)]
        inputs = BatchInputs(batch, self.geometries, self.views, self.device)
        outputs = forward([(m, engine, None) for m, engine in zip(self.members, self.engines, strict=True)], inputs)
        logits = by_task(self.ensembles, outputs)
        joints = np.stack([e.joint(found) for e, found in zip(self.ensembles, logits, strict=True)])
        return photo_predictions(self.ensembles, Prediction(joints, logits), self.fitted)


def _noise(shapes: Sequence[tuple[int, int, int]]) -> list[list[Pixels]]:
    """Stand-ins for photos, of which there are none yet: enough to hold a folded model against the one that was
    trained."""
    rng = np.random.default_rng(0)
    return [[rng.integers(0, 256, shape, np.uint8) for shape in shapes] for _ in range(CHECKED)]
