"""The ensemble of a run as ONNX: one graph a task, checked against torch on photos, and decision.json."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ensemble.data.cache import load_photo, refuse_without_detector
from ensemble.decision.joint import column_temperatures, joint_log_probabilities, mean_logits, most_probable
from ensemble.decision.members import Ensemble, preprocessings
from ensemble.jobs.hardware import Hardware
from ensemble.jobs.oof import Logits
from ensemble.metrics.heads import bin_logits, head_decisions
from ensemble.models.build import load_checkpoint, to_input
from ensemble.models.heads import to_bin_logits
from ensemble.models.onnx_graph import trace
from ensemble.models.runtime import configure_process
from ensemble.models.tta import stack_views
from ensemble.prediction.predictor import Predictor
from ensemble.recipes.schema import Preprocessing
from ensemble.recipes.tasks import ONLY_GENDER
from folds.errors import MaskensError, first_line
from folds.faces import AROUND, EYE_LEVEL, EYES_APART, EYES_AT, EYES_IN_BOX, SEARCHED, SECOND_THRESHOLDS
from folds.files import read_json, replacing_folder, write_json
from folds.labels import CLASS_NAMES, FIELDS, FORMULA, GENDERS, FloatArray
from folds.pages.html import refuse_strange_files
from folds.people import PhotoSet
from folds.photos import Pixels, Progress
from folds.ranges import FULL, fold_folder
from folds.run_folder import library_versions

DECISION = "decision.json"
MADE_BY = "maskens export"
SINGLE_FILE = 1_500_000_000  # bytes; larger weights go into `<name>.onnx.data`, as protobuf ends at 2 GiB
LARGEST_BATCH = 8  # of verified photos: a batch of 8 in two views already takes b3 more than a GB
CPU = torch.device("cpu")
LABELS = {**FIELDS, "class": CLASS_NAMES}  # of each part
SPECIFICATION = {
    "class": FORMULA,
    "input": "photos: uint8 (batch, height, width, 3), RGB, resized and cropped; normalisation, folds and views are "
    "inside. logits: float32 (batch, width), their mean over folds and views, weighted by view_weights if there are "
    "any; of an ordinal or regression head of ages the log probabilities of its bins",
    "decoding": "full: the whole photo; reduced: a JPEG at the smallest of 1/2, 1/4, 1/8 of its size at which neither "
    "side is below resize, twice resize where crop is face or eyes (Pillow's Image.draft, libjpeg's scale), all else "
    "whole; then turn upright by the EXIF orientation, as it is where EXIF is damaged; 16-bit grey divided by 257, "
    "transparency dropped, convert to RGB",
    "resizing": "resize to (height, width), where it shrinks both ways by averaging over areas (OpenCV's INTER_AREA), "
    "else bilinear (INTER_LINEAR); then cut the centre. A face is MTCNN's largest box, found on the photo at "
    f"{SEARCHED} pixels across if it is wider; without one its most certain box with thresholds {SECOND_THRESHOLDS} on "
    "the photo, on one with the lightness equalised (CLAHE, limit 2, 4 x 4 tiles), and on both mirrored; without that "
    f"the whole photo is resized. Where crop is face, cut out {AROUND:g} times the box's height, or what {AROUND:g} "
    "times its width asks for if that is more, in the ratio of resize, moved into the photo and made smaller to fit, "
    "and resize. Where crop is eyes, rotate, scale and shift so that the eyes lie level, their middle at half of the "
    f"width and {EYES_AT:g} of the height, apart by the smaller of {EYES_APART[0]:g} of the height and "
    f"{EYES_APART[1]:g} of the width; beyond the photo its edge pixels are repeated; eyes are taken to be "
    f"{EYES_IN_BOX[0]:g} to {EYES_IN_BOX[2]:g} of the box's width apart, and level, {EYES_IN_BOX[1]:g} apart, at "
    f"{EYE_LEVEL:g} of its height, where they tilt by more than 45 degrees or lie beside it",
    "rule": "log softmax over the columns of each head; add up the probabilities of columns of one label (bin_labels); "
    "take the mean of a factor's log probabilities over the heads that give it, and log softmax again; "
    "log p(mask) + log p(gender) + log p(age of that gender) for each class, averaged with the factor class where "
    "both are there; log softmax over the 18, plus class_offsets if there are any; the largest wins",
}
"""What a consumer can't read from shapes; goes into each file and into decision.json."""


def task_record(ensemble: Ensemble) -> dict[str, Any]:
    """An ensemble of one task in decision.json and in the metadata of its ONNX file, in plain JSON types."""
    members, tta, card = ensemble.members, ensemble.tta, ensemble.members[0].card
    task = card.task
    output_spec, shown = card.output_spec, card.preprocessing
    genders = [GENDERS[ONLY_GENDER[output_spec.predicts]]] if output_spec.predicts in ONLY_GENDER else GENDERS
    ages = [f"{gender} age" for gender in genders]  # ages are one factor for each gender
    return {
        "file": f"{task}.onnx",
        "predicts": output_spec.predicts,
        "folds": ["full" if m.fold == FULL else m.fold for m in members],
        "views": list(tta.views),
        **({"view_weights": list(tta.weights)} if tta.weights else {}),
        "decode": "reduced" if shown.reduced else "full",
        "resize": list(shown.resize),
        "crop": list(shown.crop) if isinstance(shown.crop, tuple) else shown.crop,
        "age_cuts": list(output_spec.cuts),
        "age_bands": list(output_spec.bands),
        "age_head": output_spec.age_head,
        "heads": [
            {
                "part": head.part,
                "columns": [head.bins.start, head.bins.stop],
                "names": output_spec.names[head.part],
                "bin_labels": list(head.bin_labels),
                "labels": list(LABELS[head.part]),
                "factors": ages if head.part == "age" else [head.part],
            }
            for head in output_spec.heads
        ],
        "task_hash": card.task_hash,
        "folds_hash": card.folds_hash,
        "timm": [
            {
                "file": f"timm/{task}-{fold_folder(m.fold)}.safetensors",
                "model": m.card.model,
                "num_classes": m.card.output_spec.width,
                "model_args": m.card.model_args,
                "mean": list(m.card.mean),
                "std": list(m.card.std),
            }
            for m in members
        ],
    }


def refuse_foreign_export(folder: Path) -> None:
    """Raise MaskensError for a path that is a file, or a folder with anything in it that no export wrote."""
    written: set[str] = set()
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        record = read_json(folder / DECISION)
        written = set(record["files"]) if record["made_by"] == MADE_BY else set()
    refuse_strange_files(folder, MADE_BY, written.__contains__)


@dataclass(frozen=True)
class ExportedTask:
    """A task's file, compared with torch."""

    task: str
    folds: tuple[int, ...]
    views: tuple[str, ...]
    input: tuple[int, int]  # (height, width)
    bytes: int  # with external weights
    difference: float  # largest absolute one of a logit
    differing: int  # photos of which a head's label differs


@dataclass(frozen=True)
class Export:
    """What an export wrote and how it was verified."""

    tasks: tuple[ExportedTask, ...]
    photos: int
    differing: int  # photos of which the class, 0..17, differs


class TaskEnsemble(nn.Module):
    """The models of one task's folds as one: uint8 (batch, height, width, 3) -> float32 (batch, bins).

    Heads that are no softmax over their bins are made one, so that they need no other rule.
    """

    def __init__(self, ensemble: Ensemble) -> None:
        super().__init__()
        self.models = nn.ModuleList(load_checkpoint(member.path, CPU)[0] for member in ensemble.members)
        self.cards, self.tta = [member.card for member in ensemble.members], ensemble.tta
        temperatures = logit_divisors(ensemble)
        self.temperatures = None if temperatures is None else torch.tensor(temperatures, dtype=torch.float)

    def forward(self, photos: Tensor) -> Tensor:
        views, weights = self.tta.views, self.tta.weights or [1.0] * len(self.tta.views)
        found = []
        for model, card in zip(self.models, self.cards, strict=True):
            x = to_input(photos, *card.normalisation, CPU)
            # the views as one batch: the graph then holds each model once, and is traced in half the time
            found.append(model(stack_views(x, views, card.normalisation)).float())
        each = torch.unflatten(torch.stack(found), 1, (len(views), -1))  # (folds, views, batch, width)
        shares = torch.tensor([weight / sum(weights) for weight in weights])
        mean = (each.mean(0) * shares.view(-1, 1, 1)).sum(0)
        mean = mean if self.temperatures is None else mean / self.temperatures
        return to_bin_logits(mean, self.cards[0].output_spec.heads)


def export(
    ensemble: Ensemble,
    of: PhotoSet,
    folder: Path,
    offsets: Sequence[float],
    photos: int,
    tolerance: float,
    hardware: Hardware,
    on_progress: Progress | None = None,
) -> Export:
    """Write the models of a run as ONNX files, once each agrees with torch; `folder` is replaced as a whole.

    Args:
        ensemble: its views and temperatures go into the graphs.
        offsets: (18,), of the classes' log probabilities; they go into decision.json.
        of: the photos on which both are compared.
        photos: how many of them, spread evenly.
        tolerance: largest accepted absolute difference of a logit.
        hardware: the CPU, on which both run.

    Raises:
        MaskensError: views that are not merged by their mean, a model that can't be exported or differs by more than
            the tolerance, an unreadable photo, a folder that can't be written or holds other files. Nothing is left
            behind then.
    """
    refuse_foreign_export(folder)
    if ensemble.tta.merge != "mean":
        raise MaskensError(
            f"the views are merged by '{ensemble.tta.merge}', and an exported graph gives the mean of their logits: "
            "choose another --tta, or drop the tuning: --no-tuning"
        )
    configure_process(hardware.job_threads)
    wanted = preprocessings([ensemble])
    refuse_without_detector(wanted)
    shown = _sample(of, photos, wanted)
    by_task = {
        task: dataclasses.replace(ensemble, members=tuple(m for m in ensemble.members if m.task == task))
        for task in ensemble.output_specs
    }
    records = {task: task_record(own) for task, own in by_task.items()}
    exported, ours, theirs = [], {}, {}
    with replacing_folder(folder) as build:
        (build / "timm").mkdir()
        for task, own in by_task.items():
            inputs = shown[own.members[0].card.preprocessing]
            path = build / records[task]["file"]
            _write_graph(path, own, records[task], inputs)
            ours[task], theirs[task] = _torch_logits(own, inputs, hardware), _graph_logits(path, inputs, hardware)
            done = _compared(own, path, ours[task], theirs[task])
            if not done.difference <= tolerance:  # nor may it be NaN
                raise MaskensError(
                    f"{task}: logits of onnxruntime and torch differ by up to {done.difference:.2g} over {len(inputs)} "
                    f"photos, and --tolerance is {tolerance:g}. Nothing was written to {folder}."
                )
            exported.append(done)
            for member, copy in zip(own.members, records[task]["timm"], strict=True):
                shutil.copyfile(member.path, build / copy["file"])
            if on_progress:
                on_progress(len(exported), len(by_task))
        files = sorted(p.relative_to(build).as_posix() for p in build.rglob("*") if not p.is_dir())
        decision = {
            "made_by": MADE_BY,
            "maskens": library_versions()["maskens"],
            **SPECIFICATION,
            "classes": CLASS_NAMES,
            "class_offsets": list(offsets) if any(offsets) else None,
            "tasks": records,
            "files": [*files, DECISION],
        }
        write_json(build / DECISION, decision)
    output_specs = {task: output_spec.in_bins for task, output_spec in ensemble.output_specs.items()}
    first, second = (
        most_probable(
            joint_log_probabilities({t: v[None, None] for t, v in logits.items()}, output_specs) + np.array(offsets)
        )
        for logits in (ours, theirs)
    )
    return Export(tuple(exported), len(first), int((first != second).sum()))


def _compared(ensemble: Ensemble, path: Path, ours: FloatArray, theirs: FloatArray) -> ExportedTask:
    """The graph of one task, by its logits of the bins and torch's, float64 (photos, bins).

    The difference of a log probability is taken in proportion to its size: one of -500, a bin that is out of the
    question, carries the rounding of all cuts before it.
    """
    card = ensemble.members[0].card
    differences = np.abs(ours - theirs)
    for head in card.output_spec.heads:
        if head.kind != "softmax":
            differences[:, head.bins] /= np.maximum(1, np.abs(ours[:, head.bins]))
    pairs = zip(*(head_decisions(logits, card.output_spec.in_bins.heads) for logits in (ours, theirs)), strict=True)
    return ExportedTask(
        card.task,
        folds=tuple(ensemble.folds(card.task)),
        views=ensemble.tta.views,
        input=card.preprocessing.shape[:2],
        bytes=sum(p.stat().st_size for p in path.parent.glob(f"{path.name}*")),
        difference=float(differences.max()),
        differing=int(np.logical_or.reduce([a != b for a, b in pairs]).sum()),
    )


def _sample(of: PhotoSet, photos: int, shapes: Sequence[Preprocessing]) -> dict[Preprocessing, Pixels]:
    """Readable photos spread evenly: preprocessing -> uint8 (photos, height, width, 3)."""
    rows = np.flatnonzero(of.readable)
    rows = rows[np.linspace(0, len(rows) - 1, min(photos, len(rows))).round().astype(int)]
    shown = [load_photo(of.path(of.files[row]), shapes).sizes for row in rows]
    return {shape: np.stack(photos) for shape, photos in zip(shapes, zip(*shown, strict=True), strict=True)}


def _batches(photos: Pixels) -> Iterator[Pixels]:
    """The photos in batches of 1, 2, 4, 8, 8, ...: a graph that holds for one size only would show."""
    start, size = 0, 1
    while start < len(photos):
        yield photos[start : start + size]
        start, size = start + size, min(2 * size, LARGEST_BATCH)


def logit_divisors(ensemble: Ensemble) -> FloatArray | None:
    """By what the temperatures divide each logit of an ensemble of one task, float64 (width,); None if it has none."""
    card = ensemble.members[0].card
    temperatures = ensemble.temperatures.get(card.task)
    return column_temperatures(temperatures, card.output_spec) if temperatures else None


def _torch_logits(ensemble: Ensemble, photos: Pixels, hardware: Hardware) -> FloatArray:
    """What `infer` computes with the models of one task: logits of the bins, float64 (photos, bins)."""
    predictor = Predictor([ensemble], hardware)
    inputs, logits = predictor.inputs([photos]), list[Logits]()
    for group in predictor.groups:
        predictor.hold(group, inputs)
        logits += predictor.forward(dict.fromkeys(group), inputs)
    mean = mean_logits(np.stack(logits), logit_divisors(ensemble), ensemble.tta.weights)
    return bin_logits(mean, ensemble.members[0].card.output_spec.heads)


def _write_graph(path: Path, ensemble: Ensemble, record: Mapping[str, Any], photos: Pixels) -> None:
    """Write the graph of one task with its metadata; the photos are an example of its input."""
    whole, card = TaskEnsemble(ensemble).eval(), ensemble.members[0].card
    try:
        program = trace(whole, torch.from_numpy(photos))
    except Exception as error:  # an architecture may defy tracing in any way it likes
        raise MaskensError(f"{path.name}: {card.model} can't be exported: {first_line(error)}") from error
    metadata = {"maskens": library_versions()["maskens"], "task": card.task, **SPECIFICATION, **record}
    program.model.metadata_props.update({k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()})
    weights = sum(t.numel() * t.element_size() for t in whole.state_dict().values())
    program.save(path, external_data=weights > SINGLE_FILE)


def _graph_logits(path: Path, photos: Pixels, hardware: Hardware) -> FloatArray:
    """What onnxruntime computes with a graph: logits of the bins, float64 (photos, bins)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = hardware.job_threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    logits = np.concatenate([session.run(["logits"], {"photos": batch})[0] for batch in _batches(photos)])
    return logits.astype(np.float64)
