"""The ensemble of a run as ONNX: one graph a task, checked against torch on photos, and decision.json."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ensemble.data.cache import load_photo, refuse_without_detector
from ensemble.decision.joint import column_temperatures, joint_log_probabilities, mean_logits, most_probable
from ensemble.decision.members import Ensemble, Member
from ensemble.jobs.card import ModelCard
from ensemble.metrics.heads import bin_logits, head_decisions
from ensemble.models.build import load_checkpoint, to_input
from ensemble.models.heads import to_bin_logits
from ensemble.models.onnx_graph import trace
from ensemble.models.runtime import configure_process
from ensemble.models.torch_engine import TorchEngine
from ensemble.models.tta import apply_view, stack_views
from ensemble.recipes.schema import Preprocessing
from ensemble.recipes.tasks import ONLY_GENDER, OutputSpec, Part
from ensemble.recipes.views import TtaSet
from folds.errors import MaskensError, first_line
from folds.faces import AROUND, EYE_LEVEL, EYES_APART, EYES_AT, EYES_IN_BOX, SEARCHED, SECOND_THRESHOLDS
from folds.files import read_json, replacing_folder, write_json
from folds.labels import AGES, CLASS_NAMES, FORMULA, GENDERS, MASKS, AnyFloatArray
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
LABELS: dict[Part, Sequence[str]] = {"mask": MASKS, "gender": GENDERS, "age": AGES, "class": CLASS_NAMES}
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


def task_record(members: Sequence[Member], tta: TtaSet) -> dict[str, Any]:
    """A task in decision.json and in the metadata of its ONNX file, in plain JSON types."""
    task, card = members[0].task, members[0].card
    target, shown = card.target, card.preprocessing
    genders = [GENDERS[ONLY_GENDER[target.predicts]]] if target.predicts in ONLY_GENDER else GENDERS
    ages = [f"{gender} age" for gender in genders]  # ages are one factor for each gender
    return {
        "file": f"{task}.onnx",
        "predicts": target.predicts,
        "folds": ["full" if m.fold == FULL else m.fold for m in members],
        "views": list(tta.views),
        **({"view_weights": list(tta.weights)} if tta.weights else {}),
        "decode": "reduced" if shown.reduced else "full",
        "resize": list(shown.resize),
        "crop": list(shown.crop) if isinstance(shown.crop, tuple) else shown.crop,
        "age_cuts": list(target.cuts),
        "age_bands": list(target.bands),
        "age_head": target.age_head,
        "heads": [
            {
                "part": head.part,
                "columns": [head.bins.start, head.bins.stop],
                "names": target.names[head.part],
                "bin_labels": list(head.bin_labels),
                "labels": list(LABELS[head.part]),
                "factors": ages if head.part == "age" else [head.part],
            }
            for head in target.heads
        ],
        "task_hash": card.task_hash,
        "folds_hash": card.folds_hash,
        "timm": [
            {
                "file": f"timm/{task}-{fold_folder(m.fold)}.safetensors",
                "model": m.card.model,
                "num_classes": m.card.target.width,
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
    """The models of a task's folds as one: uint8 (batch, height, width, 3) -> float32 (batch, bins).

    Heads that are no softmax over their bins are made one, so that they need no other rule.
    """

    def __init__(
        self, models: Sequence[nn.Module], cards: Sequence[ModelCard], tta: TtaSet, temperatures: AnyFloatArray | None
    ) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.cards, self.tta = cards, tta
        self.temperatures = None if temperatures is None else torch.tensor(temperatures, dtype=torch.float)

    def forward(self, photos: Tensor) -> Tensor:
        views, weights = self.tta.views, self.tta.weights or [1.0] * len(self.tta.views)
        found = []
        for model, card in zip(self.models, self.cards, strict=True):
            x = to_input(photos, card.mean, card.std, CPU)
            # the views as one batch: the graph then holds each model once, and is traced in half the time
            found.append(model(stack_views(x, views, (card.mean, card.std))).float())
        each = torch.unflatten(torch.stack(found), 1, (len(views), -1))  # (folds, views, batch, width)
        shares = torch.tensor([weight / sum(weights) for weight in weights])
        mean = (each.mean(0) * shares.view(-1, 1, 1)).sum(0)
        mean = mean if self.temperatures is None else mean / self.temperatures
        return to_bin_logits(mean, self.cards[0].target.heads)


def export(
    ensemble: Ensemble,
    of: PhotoSet,
    folder: Path,
    views: TtaSet,
    offsets: Sequence[float],
    photos: int,
    tolerance: float,
    threads: int,
    on_progress: Progress | None = None,
) -> Export:
    """Write the models of a run as ONNX files, once each agrees with torch; `folder` is replaced as a whole.

    Args:
        ensemble: its temperatures go into the graphs.
        views: go into the graphs, too.
        offsets: (18,), of the classes' log probabilities; they go into decision.json.
        of: the photos on which both are compared.
        photos: how many of them, spread evenly.
        tolerance: largest accepted absolute difference of a logit.
        threads: for torch and onnxruntime.

    Raises:
        MaskensError: views that are not merged by their mean, a model that can't be exported or differs by more than
            the tolerance, an unreadable photo, a folder that can't be written or holds other files. Nothing is left
            behind then.
    """
    refuse_foreign_export(folder)
    if views.merge != "mean":
        raise MaskensError(
            f"the views are merged by '{views.merge}', and an exported graph gives the mean of their logits: "
            "choose another --tta, or drop the tuning: --no-tuning"
        )
    configure_process(threads)
    targets = {task: target.in_bins for task, target in ensemble.targets.items()}
    by_task = {t: [m for m in ensemble.members if m.task == t] for t in targets}
    shapes = {task: found[0].card.preprocessing for task, found in by_task.items()}
    refuse_without_detector(shapes.values())
    shown = _sample(of, photos, list(dict.fromkeys(shapes.values())))
    records = {task: task_record(found, views) for task, found in by_task.items()}
    exported, ours, theirs = [], {}, {}
    with replacing_folder(folder) as build:
        (build / "timm").mkdir()
        for task, found in by_task.items():
            path, inputs, heads = build / f"{task}.onnx", shown[shapes[task]], targets[task].heads
            fitted = ensemble.temperatures.get(task)
            scale = column_temperatures(fitted, ensemble.targets[task]) if fitted else None
            ours[task] = _write_graph(path, found, records[task], views, scale, inputs)
            theirs[task] = _run_graph(path, inputs, threads)
            difference = _difference(ours[task], theirs[task], ensemble.targets[task])
            if not difference <= tolerance:  # nor may it be NaN
                raise MaskensError(
                    f"{task}: logits of onnxruntime and torch differ by up to {difference:.2g} over {len(inputs)} "
                    f"photos, and --tolerance is {tolerance:g}. Nothing was written to {folder}."
                )
            pairs = zip(head_decisions(ours[task], heads), head_decisions(theirs[task], heads), strict=True)
            exported.append(
                ExportedTask(
                    task,
                    folds=tuple(m.fold for m in found),
                    views=views.views,
                    input=shapes[task].shape[:2],
                    bytes=sum(p.stat().st_size for p in build.glob(f"{path.name}*")),
                    difference=difference,
                    differing=int(np.logical_or.reduce([a != b for a, b in pairs]).sum()),
                )
            )
            for member, copy in zip(found, records[task]["timm"], strict=True):
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
    first, second = (
        most_probable(
            joint_log_probabilities({t: v[None, None] for t, v in logits.items()}, targets) + np.array(offsets)
        )
        for logits in (ours, theirs)
    )
    return Export(tuple(exported), len(first), int((first != second).sum()))


def _difference(ours: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64], target: OutputSpec) -> float:
    """The largest absolute difference of a logit. That of a log probability is taken in proportion to its size: one of
    -500, a bin that is out of the question, carries the rounding of all cuts before it."""
    found = np.abs(ours - theirs)
    for head in target.heads:
        if head.kind != "softmax":
            found[:, head.bins] /= np.maximum(1, np.abs(ours[:, head.bins]))
    return float(found.max())


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


def _write_graph(
    path: Path,
    members: Sequence[Member],
    record: Mapping[str, Any],
    tta: TtaSet,
    temperatures: AnyFloatArray | None,
    photos: Pixels,
) -> npt.NDArray[np.float64]:
    """Write a task's graph with its metadata; returns torch's own logits of the bins, float64 (photos, bins)."""
    loaded = [load_checkpoint(m.path, CPU) for m in members]
    views = []  # as `infer` makes them
    for model, card in loaded:
        engine = TorchEngine(model, len(photos))
        inputs = [to_input(torch.from_numpy(b), card.mean, card.std, CPU) for b in _batches(photos)]
        batches = [[apply_view(x, view, (card.mean, card.std)) for x in inputs] for view in tta.views]
        logits = torch.stack([torch.cat([engine.logits(x) for x in of_view]) for of_view in batches])
        views.append(logits.numpy())
    whole = TaskEnsemble([model for model, _ in loaded], [card for _, card in loaded], tta, temperatures).eval()
    try:
        program = trace(whole, torch.from_numpy(photos))
    except Exception as error:  # an architecture may defy tracing in any way it likes
        raise MaskensError(
            f"{record['file']}: {members[0].card.model} can't be exported: {first_line(error)}"
        ) from error
    metadata = {"maskens": library_versions()["maskens"], "task": members[0].task, **SPECIFICATION, **record}
    program.model.metadata_props.update({k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()})
    weights = sum(t.numel() * t.element_size() for t in whole.state_dict().values())
    program.save(path, external_data=weights > SINGLE_FILE)
    return bin_logits(mean_logits(np.stack(views), temperatures, tta.weights), members[0].card.target.heads)


def _run_graph(path: Path, photos: Pixels, threads: int) -> npt.NDArray[np.float64]:
    """Logits of the photos by onnxruntime, float64 (photos, bins)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    logits = np.concatenate([session.run(["logits"], {"photos": batch})[0] for batch in _batches(photos)])
    return logits.astype(np.float64)
