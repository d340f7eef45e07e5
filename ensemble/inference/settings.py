"""How new photos are predicted: views, hardware, cache, and what saves work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ensemble.decision.anytime import Budget
from ensemble.decision.tuning import Fitted
from ensemble.jobs.hardware import Hardware
from ensemble.models.engine import AS_TRAINED, EngineOptions
from ensemble.recipes.tta_sets import TtaSet
from ensemble.recipes.tta_views import Tta


@dataclass(frozen=True)
class InferenceSettings:
    """All that an inference does the same for every photo."""

    tta: Tta | TtaSet  # the name of a shipped set of views, or a set
    hardware: Hardware
    cache: Path | None = None  # folder of decoded photos; None decodes at each access
    engine: EngineOptions = AS_TRAINED
    early_exit: Fitted | None = None  # what the joint decision rests on: the age models of a gender are evaluated only
    # where they can change it; None evaluates all models on all photos
    budget: Budget | None = None  # photos leave the ensemble once their class is unlikely to change; it needs
    # `early_exit`, for what the decision rests on; None makes all passes that could change one
    partial: Path | None = None  # a file that keeps what was done; interrupted, the same call goes on from it
    shards: Path | None = None  # folder, with several processes: what each has done; where it is interrupted, likewise
    retries: int = 0  # how often a shard whose process or node is lost is done anew
