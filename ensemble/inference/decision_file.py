"""decision.json: all that it takes to get from the logits of an export's graphs to one of the 18 classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ensemble.decision.members import Member
from ensemble.recipes.tasks import ONLY_GENDER, Head, Part, Predicts
from ensemble.recipes.tta_sets import TtaSet
from folds.data.faces import AROUND, SEARCHED
from folds.data.labels import AGES, CLASS_NAMES, FORMULA, GENDERS, MASKS
from folds.files import read_json, write_json
from folds.pages.html import SYSTEM_FILES, refuse_file, refuse_strange_files
from folds.versions import library_versions

DECISION = "decision.json"
MADE_BY = "maskens export"
LABELS: dict[Part, Sequence[str]] = {"mask": MASKS, "gender": GENDERS, "age": AGES, "class": CLASS_NAMES}
WORDS = {
    "class": FORMULA,
    "input": "photos: uint8 (batch, height, width, 3), RGB, resized and cropped; normalisation, folds and views are "
    "inside. logits: float32 (batch, width), their mean over folds and views, weighed where there are view_weights; of "
    "an ordinal or regression head of ages the log probabilities of its bins",
    "decoding": "full: the whole photo; reduced: a JPEG at the smallest of 1/2, 1/4, 1/8 of its size at which neither "
    "side is below resize, twice resize where crop is face (Pillow's Image.draft, libjpeg's scale), all else whole; "
    "then turn upright by the EXIF orientation, as it is where EXIF is damaged; 16-bit grey divided by 257, "
    "transparency dropped, convert to RGB",
    "resizing": "resize to (height, width), where it shrinks both ways by averaging over areas (OpenCV's INTER_AREA), "
    "else bilinear (INTER_LINEAR); then cut the centre. Where crop is face, first cut out the face, then resize. The "
    f"face is MTCNN's largest box, found on the photo at {SEARCHED} pixels across if it is wider; cut out is "
    f"{AROUND:g} times its height, or what {AROUND:g} times its width asks for if that is more, in the ratio of "
    "resize, moved into the photo and made smaller to fit; the whole photo where no face is found",
    "rule": "log softmax over the columns of each head; add up the probabilities of columns that merge to one label; "
    "take the mean of a factor's log probabilities over the heads that give it, and log softmax again; "
    "log p(mask) + log p(gender) + log p(age of that gender) for each class, averaged with the factor class where "
    "both are there; log softmax over the 18, plus class_offsets if there are any; the largest wins",
}
"""What a consumer can't read from shapes; goes into each file and into decision.json."""


def task_record(members: Sequence[Member], tta: TtaSet) -> dict[str, Any]:
    """What decision.json and the metadata of its ONNX file say of a task, in plain JSON types."""
    task, card = members[0].task, members[0].card
    return {
        "file": f"{task}.onnx",
        "predicts": card.predicts,
        "folds": [m.fold for m in members],
        "views": list(tta.views),
        **({"view_weights": list(tta.weights)} if tta.weights else {}),
        "decode": "reduced" if card.reduced else "full",
        "resize": list(card.resize),
        "crop": list(card.crop) if isinstance(card.crop, tuple) else card.crop,
        "age_cuts": list(card.cuts),
        "age_merge": list(card.merge),
        "age_head": card.age_head,
        "heads": [
            {
                "part": head.part,
                "columns": [head.bins.start, head.bins.stop],
                "names": card.target.names[head.part],
                "merge": list(head.merge),
                "labels": list(LABELS[head.part]),
                "factors": _factors(card.predicts, head),
            }
            for head in card.target.heads
        ],
        "task_hash": card.task_hash,
        "folds_hash": card.folds_hash,
        "timm": [
            {
                "file": f"timm/{task}-fold{m.fold}.safetensors",
                "model": m.card.model,
                "num_classes": m.card.target.width,
                "model_args": m.card.model_args,
                "mean": list(m.card.mean),
                "std": list(m.card.std),
            }
            for m in members
        ],
    }


def _factors(predicts: Predicts, head: Head) -> list[str]:
    """Which terms of the sum over log probabilities a head gives; ages are one for each gender."""
    if head.part != "age":
        return [head.part]
    genders = [GENDERS[ONLY_GENDER[predicts]]] if predicts in ONLY_GENDER else GENDERS
    return [f"{gender} age" for gender in genders]


def write_decision(folder: Path, tasks: Mapping[str, Any], offsets: Sequence[float]) -> None:
    """Write decision.json, which also lists all files of the folder.

    Args:
        tasks: task -> its `task_record`.
        offsets: (18,), of the classes' log probabilities.
    """
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir())
    record = {"made_by": MADE_BY, "maskens": library_versions()["maskens"], **WORDS, "classes": CLASS_NAMES}
    write_json(
        folder / DECISION,
        {
            **record,
            "class_offsets": list(offsets) if any(offsets) else None,
            "tasks": tasks,
            "files": [*files, DECISION],
        },
    )


def refuse_foreign_export(folder: Path) -> None:
    """Refuse a folder that writing would do harm to.

    Raises:
        MaskensError: it is a file, or a folder with anything in it that no export wrote.
    """
    refuse_file(folder)
    files = (p for p in folder.rglob("*") if not p.is_dir() and p.name not in SYSTEM_FILES)
    refuse_strange_files(folder, sorted({p.relative_to(folder).as_posix() for p in files} - _written(folder)), MADE_BY)


def _written(folder: Path) -> set[str]:
    try:
        record = read_json(folder / DECISION)
        return set(record["files"]) if record["made_by"] == MADE_BY else set()
    except (OSError, ValueError, KeyError, TypeError):
        return set()
