"""Who is on new photos, as far as the ensemble's own models can tell people apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ensemble.data.cache import open_photos
from ensemble.data.loader import plain_batches
from ensemble.decision.grouping import LARGEST, Grouping, fit_grouping, group_photos
from ensemble.decision.members import Ensemble, Member, geometries
from ensemble.inference.predictions import complete_folds
from ensemble.inference.settings import InferenceSettings
from ensemble.models.checkpoint import load_checkpoint
from ensemble.models.embed import embed
from ensemble.models.engine import BATCH
from ensemble.models.inputs import to_input
from folds.data.decode import Progress
from folds.data.labels import IntArray
from folds.data.people import PhotoSet
from folds.errors import MaskensError
from folds.run import Run, load_data

PEOPLE = 300  # held-out people at most: half fit the threshold, the others tell what it is worth
FEWEST = 20


@dataclass(frozen=True)
class PersonFinder:
    """One fold's models, and photos of people that they never saw."""

    fold: int
    members: tuple[Member, ...]
    known: PhotoSet
    person: IntArray  # (known photos,), 0..people-1 in random order

    def fit(self, photos: int, settings: InferenceSettings, on_progress: Progress | None = None) -> Grouping:
        """Fit the threshold on known people.

        Args:
            photos: that are to be grouped.
        """
        return fit_grouping(self._embeddings(self.known, None, settings, on_progress), self.person, photos)

    def group(
        self, photos: PhotoSet, grouping: Grouping, settings: InferenceSettings, on_progress: Progress | None = None
    ) -> IntArray:
        """int64 (photos,), equal for photos that seem to show one person, from 0 up; of a skipped one it is nobody
        else's."""
        found = group_photos(self._embeddings(photos, settings.cache, settings, on_progress), grouping.threshold)
        person = np.arange(len(photos.files)) + len(found)
        person[photos.readable] = found
        return np.unique(person, return_inverse=True)[1].astype(np.int64)

    def _embeddings(
        self, photos: PhotoSet, cache: Path | None, settings: InferenceSettings, on_progress: Progress | None
    ) -> npt.NDArray[np.float32]:
        """float32 (readable photos, width), of length 1: those of all models side by side."""
        hardware, device = settings.hardware, torch.device(settings.hardware.device)
        wanted = geometries(self.members)
        decoded = open_photos(photos, wanted, cache, hardware.decoding_threads)
        models = [load_checkpoint(m.path, device)[0] for m in self.members]
        rows, found = np.flatnonzero(photos.readable).tolist(), list[npt.NDArray[np.float32]]()
        total = len(rows)
        for number, batch in enumerate(plain_batches(decoded, rows, BATCH, hardware.job_workers)):
            shown = dict(zip(wanted, batch.photos, strict=True))
            parts = [
                embed(model, to_input(shown[m.card.geometry], m.card.mean, m.card.std, device))
                for m, model in zip(self.members, models, strict=True)
            ]
            found.append((torch.cat(parts, dim=1) / len(parts) ** 0.5).cpu().numpy())
            if on_progress:
                on_progress(min((number + 1) * BATCH, total), total)
        return np.concatenate(found)


def person_finder(run: Run, ensembles: Sequence[Ensemble], photos: int, moved: Path) -> PersonFinder:
    """Check that photos can be grouped, and choose models and people.

    The first fold with all models embeds, because a threshold holds for the models that it was fitted with, and their
    held-out people are those whom it can be fitted on. Models of the mask alone are left out: they tell a person's
    photos apart.

    Args:
        run: whose people are known: the first of the ensemble.
        photos: how many there are to be grouped.
        moved: where the run's data are if they are no longer where they were.

    Raises:
        MaskensError: too many photos, too few people to fit a threshold on, data that are gone or changed.
    """
    if photos > LARGEST:
        raise MaskensError(
            f"--group-photos compares all pairs of photos, which takes too much memory for {photos}: at most {LARGEST} "
            "can be grouped. If it is known who is on them, name the column of info.csv with --person-column."
        )
    fold = complete_folds(ensembles)[0]
    of_fold = [m for e in ensembles for m in e.members if m.fold == fold]
    members = tuple(m for m in of_fold if m.card.predicts != "mask")
    data, folds = load_data(run, None if Path(run.data).is_dir() else moved)
    held_out = np.flatnonzero(folds == fold)
    groups = np.unique([data.people[i].group for i in held_out])
    if len(groups) < FEWEST:
        raise MaskensError(
            f"--group-photos fits on people that the models of fold {fold} never saw, at least {FEWEST}; there are "
            f"{len(groups)}. If it is known who is on the photos, use --person-column."
        )
    chosen = np.random.default_rng([run.seed, fold]).permutation(groups)[:PEOPLE]
    place = {group: n for n, group in enumerate(chosen.tolist())}
    of_row = np.array([place.get(p.group, -1) for p in data.people])[data.photo_person]
    rows = np.flatnonzero((of_row >= 0) & data.photos.readable)
    return PersonFinder(fold, members, data.photos.some(rows), of_row[rows])
