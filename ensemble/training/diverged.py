"""A training whose loss became NaN or infinite: where that began."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ensemble.data.loader import EpochBatches
from ensemble.training.trainer import LossNotFinite

NAMED = 5  # photos of the batch


def not_finite(error: LossNotFinite, batches: EpochBatches, files: Sequence[str]) -> str:
    """What to say of it, with photos of the first such batch.

    Args:
        files: of all photos, by their indices in the batches.
    """
    keys = next(itertools.islice(batches, error.batch, None))
    shown = list(dict.fromkeys(files[index] for _, index, _ in keys))
    more = f" and {len(shown) - NAMED} more" if len(shown) > NAMED else ""
    return (
        f"the loss became {error.loss} in epoch {batches.epoch + 1}, first in batch {error.batch + 1} of "
        f"{len(batches)} ({', '.join(shown[:NAMED])}{more})"
    )
