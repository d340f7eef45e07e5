"""The model card of a checkpoint: all that it takes to rebuild the model and feed it; read without torch."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
from pydantic import ConfigDict, TypeAdapter

from ensemble.jobs.spec import JobSpec
from ensemble.recipes.architecture import ModelArgs, ModelName
from ensemble.recipes.schema import Crop, Preprocessing
from ensemble.recipes.tasks import AgeHead, OutputSpec, Part, Predicts
from folds.errors import MaskensError, first_line, typed
from folds.files import lfs_pointer

FORMAT = 1

Rgb = tuple[float, float, float]


@dataclass(frozen=True)
class ModelCard:
    """Everything needed to rebuild a model and feed it as in training; saved inside its checkpoint."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    model: ModelName
    model_args: ModelArgs
    predicts: Predicts
    cuts: tuple[int, ...]  # of the ages, in whole years
    merge: tuple[int, ...]  # age bin -> band
    task: str
    fold: int
    k: int
    resize: tuple[int, int]
    crop: Crop | None
    mean: Rgb
    std: Rgb
    labels: dict[Part, list[str]]  # part -> names of its classes, in the order of its bins
    task_hash: str  # of the task's recipe
    folds_hash: str
    seed: int
    people: str  # whom it was trained on: `person_key` of each row of train.csv, sorted and joined
    epoch: int
    f1: float
    age_head: AgeHead = "softmax"  # the only one there was up to maskens 0.5
    reduced: bool = False  # how its photos were decoded; cards of maskens 0.3 don't say, and then it was fully

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing(self.resize, self.crop, self.reduced)

    @property
    def target(self) -> OutputSpec:
        return OutputSpec(self.predicts, self.cuts, self.merge, self.age_head)


def job_card(spec: JobSpec, normalisation: tuple[Rgb, Rgb], people: str, epoch: int, f1: float) -> ModelCard:
    """The card of what a job has learned.

    Args:
        normalisation: mean and standard deviation of the model's inputs, of each channel in 0..1.
        people: as in the card.
        epoch: from 1.
        f1: macro F1 of the fold that is held out, after that epoch.
    """
    recipe, target = spec.recipe.tasks[spec.task], spec.recipe.tasks[spec.task].target
    return ModelCard(
        model=recipe.model,
        model_args=recipe.model_args,
        predicts=recipe.predicts,
        task=spec.task,
        fold=spec.fold,
        k=spec.run.k,
        resize=recipe.resize,
        crop=recipe.crop,
        reduced=recipe.decode == "reduced",
        mean=normalisation[0],
        std=normalisation[1],
        cuts=recipe.ages.cuts,
        merge=recipe.ages.bands,
        age_head=recipe.ages.head,
        labels=dict(target.names),
        task_hash=recipe.hash,
        folds_hash=spec.run.folds_hash,
        seed=spec.run.seed,
        people=people,
        epoch=epoch,
        f1=f1,
    )


def card_metadata(card: ModelCard) -> dict[str, str]:
    """The metadata that keep a card in a checkpoint: a single entry with sorted keys.

    safetensors writes several entries in random order, and equal trainings are to give equal files.
    """
    return {"maskens": json.dumps({"format": FORMAT, "card": asdict(card)}, sort_keys=True)}


def read_card(path: Path) -> ModelCard:
    """The card of a checkpoint without its weights.

    Raises:
        MaskensError: missing, damaged, or not a checkpoint of ours.
    """
    try:
        with safetensors.safe_open(path, framework="np") as file:
            record = _record(file.metadata() or {})
        return _adapter().validate_python(record)
    except FileNotFoundError:
        raise MaskensError(f"there is no checkpoint {path}") from None
    except (OSError, safetensors.SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise MaskensError(_damaged(path, error)) from error


@functools.cache
def _adapter() -> TypeAdapter[ModelCard]:
    return TypeAdapter(ModelCard)


def _record(metadata: Mapping[str, str]) -> dict[str, Any]:
    found = json.loads(metadata["maskens"])
    if found["format"] != FORMAT:
        raise ValueError(f"its format is {found['format']}, not {FORMAT}")
    return dict(found["card"])


def _damaged(path: Path, error: Exception) -> str:
    return (
        f"the checkpoint {path} is damaged or not one of maskens' ({lfs_pointer(path) or first_line(error)}). "
        f"Train that job again: maskens train --run {typed(path.parent.parent.parent)} "
        f"--task {path.parent.parent.name} --fold {path.parent.name.removeprefix('fold')} --restart"
    )
