"""What `maskens recommend` says: the data, the machine, what was measured, and why the choice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ensemble.reporting.plan_tables import time_words
from folds.labels import CLASS_NAMES, SHOTS
from folds.people import TrainData, class_counts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ensemble.jobs.hardware import Hardware
    from ensemble.training.recommend import Choice, Measured


def data_line(data: TrainData) -> str:
    """People, photos, and the class of which there is least."""
    counts = class_counts(data)
    rarest = int(np.argmin(counts))
    people = len({p.group for p in data.people})
    having = len({data.people[i].group for i in data.photo_person[data.classes == rarest].tolist()})
    return (
        f"{people} people, {len(data.files)} photos; the rarest class is '{CLASS_NAMES[rarest]}': "
        f"{counts[rarest]} photos of {having} people"
    )


def machine_line(hardware: Hardware) -> str:
    """Cores, or the GPU's name."""
    if hardware.device == "cpu":
        return f"{hardware.cores} CPU cores, no GPU used"
    import torch

    return f"a GPU: {torch.cuda.get_device_name(0)}"


def measured_line(measured: Measured, photos: int, k: int) -> str:
    """A candidate's speed, and what an epoch of all folds takes."""
    from ensemble.training.recommend import training_seconds

    cost = measured.cost
    epoch = training_seconds(cost, photos, k, 2) - training_seconds(cost, photos, k, 1)
    return f"{measured.candidate.words}: {1 / cost.train:.0f} photos/s, an epoch of {k} folds {time_words(epoch)}"


def choice_lines(choice: Choice, measured: Sequence[Measured], candidates: int, k: int, budget: float) -> list[str]:
    """Why it came to this.

    Args:
        measured: the largest first.
        candidates: how many there are.
        k: folds, had there been time.
    """
    from ensemble.training.recommend import ENOUGH, MOST

    lines = [f"chosen: {choice.candidate.words}, epochs {choice.epochs}, folds {choice.k}"]
    if choice.epochs < ENOUGH:
        lines.append(f"why: the smallest model, and even for that there is no time for {ENOUGH} epochs")
    elif choice.candidate == measured[0].candidate and len(measured) < candidates:
        lines.append("why: the largest that fits into the memory here")
    elif choice.candidate == measured[0].candidate:
        lines.append("why: the largest of all candidates, and there is time for it")
    else:
        lines.append(f"why: the largest with time for {ENOUGH} epochs; spare time goes into a larger model first")
    if choice.epochs == MOST:
        lines.append(f"no more than {MOST} epochs: a person's photos resemble each other, and models overfit")
    if choice.photos_per_person < len(SHOTS):
        lines.append(f"an epoch shows {choice.photos_per_person} of a person's {len(SHOTS)} photos, for want of time")
    if choice.k < k:
        lines.append(f"{choice.k} folds and not {k}, for want of time")
    within = f"of {time_words(budget)}" if choice.fits else f"and not {time_words(budget)}: nothing here is quicker"
    lines.append(f"training takes about {time_words(choice.seconds)} {within}")
    return lines
