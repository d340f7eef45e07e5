"""What `maskens audit` leaves behind: two lists as CSV, contact sheets, and a page that needs nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import joblib
import numpy as np

from ensemble.evaluation.audit import NAMES, Audit, LabelIssue, photos_csv, suspects_csv
from folds.errors import MaskensError
from folds.explore.merge_candidates import FILE, MergeCandidate, candidates_csv, candidates_sheet
from folds.files import sha256, sha256_of_text, write_text
from folds.labels import SHOTS
from folds.pages.contact_sheet import Cell, Sheet, save, thumbnails
from folds.pages.html import INDEX, refuse_foreign_page, render, write_page
from folds.photos import Pixels, Progress

GENERATOR = "maskens audit"

SUSPECTS, PHOTOS = "suspects.csv", "photos.csv"

OURS = re.compile(r"index\.html|(suspects|photos|merge-candidates)\.csv|(gender|age|mask|duplicates)(-\d+)?\.jpg")
LISTED = 200  # suspects in the page's table; suspects.csv has them all


def refuse_to_replace(folder: Path) -> None:
    """Refuse a folder that is not an audit's, or whose suspects.csv was worked on since.

    Raises:
        MaskensError: with what is in the way.
    """
    refuse_foreign_page(folder, GENERATOR, OURS)
    mine = folder / SUSPECTS
    if mine.exists() and sha256_of_text(mine) not in (folder / INDEX).read_text(errors="replace"):
        raise MaskensError(
            f"{mine} was edited since it was made and would be replaced. Move it, or name another with --out DIR."
        )


def write_audit(
    folder: Path,
    found: Audit,
    candidates: Sequence[MergeCandidate],
    title: str,
    note: str,
    top: int,
    workers: int,
    on_progress: Progress | None = None,
) -> None:
    """Write lists, sheets and page into an empty folder.

    Args:
        candidates: ids that may be one person.
        title: of the page.
        note: what limits the findings, "" if nothing does.
        top: most suspects of a field that are shown with their photos.
        workers: threads that read photos and draw.

    Raises:
        MaskensError: if the system refuses to write.
    """
    suspects = suspects_csv(found)
    write_text(folder / SUSPECTS, suspects)
    write_text(folder / PHOTOS, photos_csv(found))
    pairs = candidates_sheet(found.data, candidates, top, workers=workers)
    if candidates:
        write_text(folder / FILE, candidates_csv(found.data, candidates))
        save(folder, pairs)
    sheets = [s for s in audit_sheets(found, top, workers, on_progress) if s.cells]
    joblib.Parallel(n_jobs=workers, prefer="threads")(joblib.delayed(save)(folder, s) for s in sheets)
    html = render(
        "audit.html",
        generator=GENERATOR,
        title=title,
        note=note,
        found=found,
        ranking=found.suspects[:LISTED],
        sheets=sheets,
        candidates=candidates,
        pairs=pairs,
        hash=sha256(suspects),
    )
    write_page(folder, html)


def audit_sheets(found: Audit, top: int, workers: int, on_progress: Progress | None = None) -> list[Sheet]:
    """A sheet a field, a row a suspect: all seven photos of the person, with `titles`; those in doubt come first."""
    chosen = {f: [(n, s) for n, s in enumerate(found.suspects, start=1) if s.field == f][:top] for f in found.fields}
    rows = sorted({s.row for listed in chosen.values() for _, s in listed})
    data, files = found.data, found.data.files
    photos = [int(found.people[row]) * len(SHOTS) + shot for row in rows for shot in range(len(SHOTS))]
    pictures = thumbnails([data.photos.path(files[i]) for i in photos], workers, on_progress)
    thumbs = dict(zip(((row, shot) for row in rows for shot in range(len(SHOTS))), pictures, strict=True))
    return [
        Sheet(
            field,
            f"{field}: {len(listed)} of {found.counts[field]} suspects, highest score first",
            tuple(cell for _, s in listed for cell in _cells(found, s, thumbs)),
            columns=len(SHOTS),
            titles=tuple(
                f"{rank}.  {s.person.path}:  {s.change}  ({found.reason(s)}; score {s.score:.2f})" for rank, s in listed
            ),
        )
        for field, listed in chosen.items()
    ]


def _cells(found: Audit, suspect: LabelIssue, thumbs: dict[tuple[int, int], Pixels | None]) -> list[Cell]:
    """The person's photos, each with the probabilities of its given label and of the one that speaks against it."""
    predictions, names, row = found.fields[suspect.field], NAMES[suspect.field], suspect.row
    in_doubt = {d.photo: d.suggested for d in suspect.doubts}
    cells = []
    for shot in sorted(range(len(SHOTS)), key=lambda s: SHOTS[s] not in in_doubt):
        given = int(predictions.given[row, shot])
        other = in_doubt.get(SHOTS[shot], in_doubt.get("", int(predictions.predicted[row, shot])))
        labels = dict.fromkeys((given, other))
        p = np.exp(predictions.log_p[row, shot])
        words = [f"{names[n]} {p[n]:.2f}" for n in labels if np.isfinite(p[n])]
        cells.append(Cell(thumbs[row, shot], "\n".join([SHOTS[shot], *words]), f"{suspect.person.path} {SHOTS[shot]}"))
    return cells
