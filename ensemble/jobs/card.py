"""The model card of a checkpoint: how to rebuild the model, its inputs, and the people it was trained on. No torch."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import safetensors
from pydantic import ConfigDict

from ensemble.jobs.spec import JobSpec, run_identity, training_rows
from ensemble.recipes.architecture import ModelArgs, ModelName
from ensemble.recipes.schema import Preprocessing
from ensemble.recipes.tasks import OutputSpec
from folds.errors import MaskensError, first_line, refuse, typed
from folds.files import lfs_pointer, sha256
from folds.labels import IntArray
from folds.people import Person, TrainData
from folds.records import type_adapter

FORMAT = 1
OUTPUT_SPEC = "target"  # the name of that field in a checkpoint
KEY = 12  # hex digits that name a person

Rgb = tuple[float, float, float]
Normalisation = tuple[Rgb, Rgb]
"""(mean, std) per channel on a 0..1 scale."""


@dataclass(frozen=True)
class ModelCard:
    """Everything needed to rebuild a model and feed it as in training; saved inside its checkpoint."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    model: ModelName
    model_args: ModelArgs
    output_spec: OutputSpec
    preprocessing: Preprocessing
    mean: Rgb  # of the model's inputs, each channel in 0..1
    std: Rgb
    task: str
    fold: int  # or FULL
    k: int
    task_hash: str  # of the task's recipe
    folds_hash: str
    seed: int
    people: str  # whom it was trained on: `person_key` of each row of train.csv, sorted and joined
    epoch: int  # from 1
    f1: float | None  # macro F1 of the held-out fold after that epoch; None of the model on everybody
    epochs: int | None = None  # that were planned, where a deadline left fewer than the recipe's

    @property
    def normalisation(self) -> Normalisation:
        """Of the model's inputs."""
        return self.mean, self.std


def job_card(
    spec: JobSpec, normalisation: Normalisation, people: str, epoch: int, f1: float | None, epochs: int | None = None
) -> ModelCard:
    """The card of a job's checkpoint; `people` is of `trained_on`, the others are as in the card."""
    recipe = spec.task_recipe
    return ModelCard(
        recipe.model,
        recipe.model_args,
        recipe.output_spec,
        recipe.preprocessing,
        *normalisation,
        **run_identity(spec.run, spec.recipe, spec.task, spec.fold),
        k=spec.run.k,
        people=people,
        epoch=epoch,
        f1=f1,
        epochs=epochs,
    )


def card_metadata(card: ModelCard) -> dict[str, str]:
    """The metadata that keep a card in a checkpoint: a single entry with sorted keys.

    safetensors writes several entries in random order, and equal trainings have to give equal files.
    """
    kept = asdict(card)
    kept[OUTPUT_SPEC] = kept.pop("output_spec")
    return {"maskens": json.dumps({"format": FORMAT, "card": kept}, sort_keys=True)}


def read_card(path: Path) -> ModelCard:
    """The card of a checkpoint without its weights. Raises MaskensError: missing, damaged, or not a checkpoint of
    ours."""
    try:
        found = json.loads(_metadata(path)["maskens"])
        if found["format"] != FORMAT:
            raise ValueError(f"its format is {found['format']}, not {FORMAT}")
        kept = dict(found["card"])
        kept["output_spec"] = kept.pop(OUTPUT_SPEC)
        card: ModelCard = type_adapter(ModelCard).validate_python(kept)
        return card
    except FileNotFoundError:
        raise MaskensError(f"there is no checkpoint {path}") from None
    except (OSError, safetensors.SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise damaged_checkpoint(path, error) from error


def damaged_checkpoint(path: Path, error: Exception) -> MaskensError:
    """What to raise of a checkpoint that can't be loaded; of one in a job's folder with the command that makes it
    again."""
    folder, task, run = path.parent, path.parent.parent, path.parent.parent.parent
    advice = "Name another file."
    if re.fullmatch(r"fold\d+|full", folder.name):
        fold = folder.name.removeprefix("fold")
        advice = f"Train that job again: maskens train --run {typed(run)} --task {task.name} --fold {fold} --restart"
    reason = lfs_pointer(path) or first_line(error)
    return MaskensError(f"the checkpoint {path} is damaged or not one of maskens' ({reason}). {advice}")


def _metadata(path: Path) -> dict[str, str]:
    """Raises FileNotFoundError, OSError or SafetensorError."""
    with safetensors.safe_open(path, framework="np") as file:
        return dict(file.metadata() or {})


def person_key(person: Person) -> str:
    """12 hex digits that name a row of train.csv by its folder and its photos' sizes, whatever its labels and fold."""
    photos = (f"{name}:{size}" for name, size in zip(person.photos, person.bytes, strict=True))
    return sha256("\t".join([person.path, *photos]))[:KEY]


def trained_on(spec: JobSpec, data: TrainData, folds: IntArray) -> str:
    """For the card of a job: the keys of all people it is trained on, and of those its initial weights were; `folds` is
    int64 (people,)."""
    people = np.unique(data.photo_person[training_rows(spec, data, folds)])
    return "".join(sorted({person_key(data.people[i]) for i in people} | _seen_by_weights(spec)))


def refuse_leaking_weights(specs: Sequence[JobSpec], data: TrainData, folds: IntArray) -> None:
    """Refuse jobs whose initial weights were trained on people of their fold; `folds` is int64 (people,). Raises
    MaskensError naming tasks, files and folds."""
    keys = np.array([person_key(p) for p in data.people])
    found: dict[tuple[str, str], dict[int, int]] = {}  # (task, weights) -> fold -> people of it
    for spec in specs:
        if both := set(keys[folds == spec.fold]) & _seen_by_weights(spec):
            weights = spec.task_recipe.of_fold(spec.fold).weights
            found.setdefault((spec.task, weights), {})[spec.fold] = len(both)
    problems = [
        f"tasks.{task}: {weights} was trained on {sum(counts.values())} people of fold "
        f"{', '.join(map(str, sorted(counts)))}"
        for (task, weights), counts in found.items()
    ]
    advice = (
        "Give each fold the weights of a run's same fold (--weights RUN, with the same folds), train only folds whose "
        "people the file was not trained on (--fold), or name other weights"
    )
    refuse(problems, "scores would be too high: initial weights were trained on the people who score them", advice)


def _seen_by_weights(spec: JobSpec) -> set[str]:
    """The keys of the people that a job's initial weights were trained on; none for files without a card."""
    weights = spec.task_recipe.of_fold(spec.fold).weights
    try:
        metadata = _metadata(Path(weights)) if weights else {}
    except (OSError, safetensors.SafetensorError):
        return set()
    if "maskens" not in metadata:
        return set()
    try:
        people = read_card(Path(weights)).people
    except MaskensError as error:
        raise MaskensError(f"the people that {weights} was trained on are not known: {error}") from error
    return {people[i : i + KEY] for i in range(0, len(people), KEY)}
