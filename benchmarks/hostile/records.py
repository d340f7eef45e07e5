"""The JSON that a run keeps of itself: run.json, job.json, tuning.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from hostile.judge import Ended, Verdict, command, judge
from hostile.mutations import DEEP, spoiled_text, spoiled_tree
from hostile.workplace import Workplace

INFORMATION = ("created", "versions", "data", "sha256")  # keys that decide nothing themselves
UNVERIFIED = "can't be verified"


def run_json(rng: Random, place: Workplace) -> Verdict:
    """A run.json that says something else is refused."""
    file = place.run / "run.json"
    before = json.loads(file.read_text())

    def changed(after: Any, scoring: bool) -> bool:
        return bool(_without(after, INFORMATION) != _without(before, INFORMATION))

    return _judged(rng, place, file, changed)


def job_json(rng: Random, place: Workplace) -> Verdict:
    """Of a job.json that says nothing of a finished job, or of its files, at least a word is said."""
    task, fold = rng.choice(("mask", "heads")), rng.randrange(2)
    file = place.run / task / f"fold{fold}" / "job.json"
    before = json.loads(file.read_text())

    def changed(after: Any, scoring: bool) -> bool:
        if not _get(after, "sha256"):  # it is as those of maskens 0.5, of which nothing is said
            return False
        said = [(_get(status, "state"), _get(status, "sha256")) for status in (before, after)]
        if scoring:  # which uses no models
            said = [(state, _get(sha256, "oof.npz")) for state, sha256 in said]
        return said[0] != said[1]

    return _judged(rng, place, file, changed)


def tuning_json(rng: Random, place: Workplace) -> Verdict:
    """A tuning.json that says something else is refused: what it holds is applied."""
    file = place.run / "tuning.json"
    before = json.loads(file.read_text())
    return _judged(
        rng, place, file, lambda after, scoring: _without(after, ("sha256",)) != _without(before, ("sha256",))
    )


def _judged(rng: Random, place: Workplace, file: Path, changed: Callable[[Any, bool], bool]) -> Verdict:
    """Spoil a file of the run and predict, or score, with it.

    Args:
        changed: whether what it says now, to scoring or predicting, is something else.
    """
    spoiled, score = spoiled_json(rng, file.read_text()), place.score
    scoring = rng.random() < 0.4
    out = place.scratch("submission.csv")
    with place.spoiled(file, spoiled):
        ended = command("score", "--run", place.run, "--json") if scoring else infer(place, out)

    def fault() -> str:
        if not scoring and out.read_bytes() != place.submission:
            return "another submission"
        if scoring and _without(json.loads(ended.out), ("notes",)) != _without(json.loads(score), ("notes",)):
            return "another score"
        try:
            after = json.loads(spoiled)
        except (ValueError, RecursionError):
            after = None
        return "nobody says that it was changed" if changed(after, scoring) and UNVERIFIED not in ended.out else ""

    return judge(ended, fault)


def infer(place: Workplace, out: Path) -> Ended:
    """Predict, with whatever the run holds."""
    return command("infer", "--run", place.run, "--out", out, "--workers", 0, "--device", "cpu")


def spoiled_json(rng: Random, text: str) -> bytes:
    """JSON with a value or its text otherwise."""
    if rng.random() < 0.03:
        return b"[" * DEEP + b"]" * DEEP
    if rng.random() < 0.03:
        return text.replace("{", '{"x": ' + "[" * DEEP + "]" * DEEP + ", ", 1).encode()
    if rng.random() < 0.65:
        return json.dumps(spoiled_tree(rng, json.loads(text)), indent=2).encode()
    return spoiled_text(rng, text)


def _without(record: Any, keys: tuple[str, ...]) -> Any:
    return {k: v for k, v in record.items() if k not in keys} if isinstance(record, dict) else record


def _get(record: Any, key: str) -> Any:
    return record.get(key) if isinstance(record, dict) else None
