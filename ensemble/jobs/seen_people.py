"""Whom a model was trained on, and initial weights that were trained on the very people who are to score them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors

from ensemble.jobs.spec import JobSpec, learned_rows
from folds.errors import MaskensError, refuse
from folds.files import sha256
from folds.labels import IntArray
from folds.people import Person, TrainData

KEY = 12  # hex digits


def person_key(person: Person) -> str:
    """12 hex digits that name a row of train.csv by its folder and its photos' sizes, whatever its labels and fold."""
    photos = (f"{name}:{size}" for name, size in zip(person.photos, person.bytes, strict=True))
    return sha256("\t".join([person.path, *photos]))[:KEY]


def trained_on(spec: JobSpec, data: TrainData, folds: IntArray) -> str:
    """For the card of a job: the keys of all people it learns from, and of those its initial weights were trained on.

    Args:
        folds: int64 (people,).
    """
    learned = {person_key(data.people[i]) for i in np.unique(data.photo_person[learned_rows(spec, data, folds)])}
    weights = spec.recipe.tasks[spec.task].of_fold(spec.fold).weights
    return "".join(sorted(learned | (_people_in(Path(weights)) if weights else set())))


def refuse_leaking_weights(specs: Sequence[JobSpec], data: TrainData, folds: IntArray) -> None:
    """Refuse jobs whose initial weights were trained on people whom they are to be scored on.

    Args:
        folds: int64 (people,).

    Raises:
        MaskensError: naming tasks, files and folds.
    """
    keys = np.array([person_key(p) for p in data.people])
    known: dict[str, set[str]] = {}
    found: dict[tuple[str, str], tuple[set[int], int]] = {}
    for spec in specs:
        weights = spec.recipe.tasks[spec.task].of_fold(spec.fold).weights
        if weights and weights not in known:
            known[weights] = _people_in(Path(weights))
        both = set(keys[folds == spec.fold]) & known[weights] if weights else set()
        if both:
            before, count = found.get((spec.task, weights), (set(), 0))
            fresh = spec.fold not in before
            found[spec.task, weights] = before | {spec.fold}, count + len(both) * fresh
    problems = [
        f"tasks.{task}: {weights} was trained on {count} people of fold {', '.join(map(str, sorted(numbers)))}"
        for (task, weights), (numbers, count) in found.items()
    ]
    advice = (
        "Give each fold the weights of a run's same fold with --weights RUN (same folds), train only the folds whose "
        "people the file has not seen with --fold, or name weights that have seen none of them"
    )
    refuse(problems, "initial weights that have seen the people they are scored on make scores too high", advice)


def _people_in(weights: Path) -> set[str]:
    """Whom the card in a file of weights names; none for files without one, and for files that are gone."""
    try:
        with safetensors.safe_open(weights, framework="np") as file:
            metadata = file.metadata() or {}
    except (OSError, safetensors.SafetensorError):
        return set()
    if "maskens" not in metadata:
        return set()
    try:
        people = json.loads(metadata["maskens"])["card"]["people"]
        return {people[i : i + KEY] for i in range(0, len(people), KEY)}
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise MaskensError(
            f"the weights {weights} have a damaged card, so whom they were trained on is not known"
        ) from error
