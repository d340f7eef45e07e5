"""Pictures of a validation: confusion matrices and the photos with the highest loss."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt
from PIL import Image

from ensemble.data.cache import DecodedPhotos
from ensemble.metrics.heads import head_decisions, head_log_probabilities
from ensemble.recipes.tasks import WIDTHS, OutputSpec
from folds.labels import IntArray
from folds.pages.contact_sheet import Cell, Sheet, draw
from folds.photos import Pixels

WORST = 16
DPI = 100


def validation_pictures(
    title: str,
    photos: DecodedPhotos,
    rows: IntArray,
    target: OutputSpec,
    logits: npt.NDArray[np.float32],
    truth: IntArray,
) -> dict[str, Pixels]:
    """`confusion/<part>` for each head of a task, and `worst`; arguments as of `worst_photos`."""
    from sklearn.metrics import confusion_matrix

    names = OutputSpec(target.predicts).names  # of the scoring bands, whatever bins were trained
    found = {}
    for i, (head, decided) in enumerate(zip(target.heads, head_decisions(logits, target.heads), strict=True)):
        matrix = confusion_matrix(truth[:, i], decided, labels=range(WIDTHS[head.part]))
        found[f"confusion/{head.part}"] = draw_matrix(matrix, names[head.part], f"{title}: {head.part}")
    return found | {"worst": worst_photos(title, photos, rows, target, logits, truth)}


def draw_matrix(matrix: IntArray, names: Sequence[str], title: str) -> Pixels:
    """uint8 (height, width, 3): counts as figures, each row's shares as colour.

    Args:
        matrix: int (classes, classes), rows are the truth.
        names: of the classes.
    """
    from matplotlib.figure import Figure

    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    many = len(names) > 3
    side = (0.45 if many else 0.95) * len(names) + 1
    figure = Figure(figsize=(side + (2 if many else 1.2), side + (1.4 if many else 0)), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, fraction=0.046, label="share of the true label's photos")
    axes.set_xticks(range(len(names)), names, rotation=90 if many else 0)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    for row, column in np.ndindex(*matrix.shape):
        count, dark = matrix[row, column], shares[row, column] > 0.5
        colour = "white" if dark else "#1d2430" if count else "#c3c8d0"
        axes.text(column, row, f"{count}", ha="center", va="center", color=colour, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return np.array(Image.open(buffer).convert("RGB"), dtype=np.uint8)


def worst_photos(
    title: str,
    photos: DecodedPhotos,
    rows: IntArray,
    target: OutputSpec,
    logits: npt.NDArray[np.float32],
    truth: IntArray,
) -> Pixels:
    """A sheet of the photos with the highest loss against the true labels, all heads of the task together.

    Args:
        rows: int64 (n,), which of the photos were predicted.
        logits: float32 (n, width of the task).
        truth: int64 (n, heads), in the scoring bands.

    Returns:
        uint8 (height, width, 3).
    """
    log_p = [head_log_probabilities(logits, head) for head in target.heads]
    losses = -np.sum([np.take_along_axis(p, truth[:, [i]], axis=1)[:, 0] for i, p in enumerate(log_p)], axis=0)
    names = [*OutputSpec(target.predicts).names.values()]
    cells = []
    for place in np.argsort(-losses, kind="stable")[:WORST]:
        true = ", ".join(n[label] for n, label in zip(names, truth[place], strict=True))
        predicted = ", ".join(n[int(p[place].argmax())] for n, p in zip(names, log_p, strict=True))
        file = PurePosixPath(photos.files[rows[place]])
        probability = f"p(true) {np.exp(-losses[place]):.3g}"
        caption = (f"is {true}", f"as {predicted}", probability, file.parent.name, file.name)
        cells.append(Cell(photos[int(rows[place])][0], "\n".join(caption)))
    heading = f"{title}: the {len(cells)} photos with the highest loss"
    return np.asarray(draw(Sheet("worst", heading, tuple(cells))), dtype=np.uint8)
