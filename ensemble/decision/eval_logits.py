"""eval.npz: the logits behind a submission, with the classes that were decided on and how."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.decision.joint import Rule
from ensemble.decision.members import Ensemble
from ensemble.decision.tuning import DecisionParams
from ensemble.jobs.oof import Logits
from folds.files import load_npz, save_npz, sha256_of_arrays
from folds.labels import IntArray
from folds.people import EvalData
from folds.ranges import FULL


@dataclass(frozen=True)
class EvalLogits:
    """What `save_logits` wrote."""

    ids: list[str]
    classes: IntArray  # (photos,), 0..17
    record: Mapping[str, Any]  # rule, skipped and oof_hashes are None in a file that lacks them
    arrays: Mapping[str, Any]  # all but the record

    def logits(self, task: str) -> Logits:
        """float32 (folds, views, photos, width). Raises KeyError: no such task, or the file is of several runs."""
        return np.asarray(self.arrays[f"logits/{task}"])

    def of_folds(self, task: str) -> Logits:
        """`logits` without those of FULL, which come last."""
        return self.logits(task)[: sum(fold != FULL for fold in self.record["folds"][task])]


def read_logits(path: Path) -> EvalLogits:
    """What `save_logits` wrote. Raises any exception if the file is missing or damaged."""
    arrays = load_npz(path)
    record = dict.fromkeys(("rule", "skipped", "oof_hashes")) | json.loads(str(arrays.pop("record")))
    return EvalLogits(arrays["ids"].tolist(), arrays["classes"], record, arrays)


def save_logits(
    path: Path,
    data: EvalData,
    ensembles: Sequence[Ensemble],
    logits: Sequence[Mapping[str, Logits]],
    fitted: DecisionParams,
    classes: IntArray,
    rule: Rule | None,
) -> None:
    """Replace the logits behind a submission: image ids, and `logits/<task>` float32 (folds, views, photos, width); of
    several runs `run0/logits/<task>` and so on; NaN where a photo was not shown to a model. Classes are int64
    (photos,). The rule is that by which the logits became these classes; None where something else took part, as votes
    do."""
    arrays: dict[str, Any] = {"ids": np.array(data.ids), "classes": classes}
    folds: dict[str, list[int]] = {}
    for number, (ensemble, found) in enumerate(zip(ensembles, logits, strict=True)):
        prefix = f"run{number}/" if len(ensembles) > 1 else ""
        arrays |= {f"{prefix}logits/{task}": values for task, values in found.items()}
        folds |= {f"{prefix}{task}": ensemble.folds(task) for task in found}
    record = {
        "fingerprint": data.photos.fingerprint,
        "views": fitted.views.views,
        "folds": folds,
        "rule": rule,
        "fitted": fitted.model_dump(mode="json"),
        "runs": [str(e.members[0].run) for e in ensembles],
        "oof_hashes": [run.oof_hash for run in fitted.runs],  # which models these are
        "skipped": data.skipped_ids,  # shown to no model
        "sha256": sha256_of_arrays(arrays),
    }
    save_npz(path, arrays | {"record": json.dumps(record)})
