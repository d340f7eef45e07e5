"""What `maskens audit` leaves: two lists as CSV, contact sheets, and a page that needs nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ensemble.evaluation.audit import Audit, LabelIssue, photos_csv, suspects_csv
from folds.errors import MaskensError
from folds.explore.duplicates import FILE, MergeCandidate, candidates_csv, candidates_sheet
from folds.files import sha256, sha256_of_text, write_text
from folds.labels import FIELDS
from folds.pages.contact_sheet import Cell, Sheet, save_sheets, thumbnails
from folds.pages.html import INDEX, refuse_foreign_page, render
from folds.photos import Progress

GENERATOR = "maskens audit"
SUSPECTS, PHOTOS = "suspects.csv", "photos.csv"
OURS = re.compile(r"index\.html|(suspects|photos|merge-candidates)\.csv|(gender|age|mask|duplicates)\.jpg")
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
    note: str,
    top: int,
    workers: int,
    on_progress: Progress | None = None,
) -> None:
    """Write lists, sheets and page into an empty folder, in `workers` threads.

    Args:
        note: what limits the findings, "" if nothing does.
        top: most suspects of a field, and pairs of ids, that are shown with their photos.

    Raises:
        MaskensError: if the system refuses to write.
    """
    suspects = suspects_csv(found)
    write_text(folder / SUSPECTS, suspects)
    write_text(folder / PHOTOS, photos_csv(found))
    pairs = candidates_sheet(found.data, candidates[:top], workers)
    if candidates:
        write_text(folder / FILE, candidates_csv(candidates))
    sheets = audit_sheets(found, top, workers, on_progress)
    save_sheets(folder, [*sheets, pairs], workers)
    html = render(
        "audit.html",
        generator=GENERATOR,
        title=f"Likely label errors in {found.data.root}",
        note=note,
        found=found,
        ranking=found.suspects[:LISTED],
        sheets=sheets,
        candidates=candidates,
        pairs=pairs,
        hash=sha256(suspects),
    )
    write_text(folder / INDEX, html)


def audit_sheets(found: Audit, top: int, workers: int, on_progress: Progress | None = None) -> list[Sheet]:
    """A sheet a field with suspects, a row a suspect: all photos of its row of the table, those in doubt first.

    Below each photo are the probabilities of its given label and of the likeliest other one.
    """
    ranked = list(enumerate(found.suspects, start=1))
    chosen = {field: [(n, s) for n, s in ranked if s.field == field][:top] for field in found.fields}
    photos = {(s.row, shot) for listed in chosen.values() for _, s in listed for shot in range(len(s.person.photos))}
    first = np.searchsorted(found.data.photo_person, found.people)
    files = [found.data.files[int(first[row]) + shot] for row, shot in sorted(photos)]
    pictures = thumbnails([found.data.photos.path(file) for file in files], workers, on_progress)
    thumbs = dict(zip(sorted(photos), pictures, strict=True))

    def cell(suspect: LabelIssue, shot: int, in_doubt: dict[str, int]) -> Cell:
        predictions, names, place = found.fields[suspect.field], FIELDS[suspect.field], (suspect.row, shot)
        name = suspect.person.shots[shot]
        other = in_doubt.get(name, in_doubt.get("", int(predictions.predicted[place])))
        p = np.exp(predictions.log_p[place])
        labels = dict.fromkeys((int(predictions.given[place]), other))
        lines = [name, *(f"{names[n]} {p[n]:.2f}" for n in labels if np.isfinite(p[n]))]
        return Cell(thumbs[place], "\n".join(lines), f"{suspect.person.path} {name}".strip())

    sheets = []
    for field, listed in chosen.items():
        cells, titles = [], []
        for rank, s in listed:
            in_doubt = {d.photo: d.suggested for d in s.doubts}
            doubted = [n for n, shot in enumerate(s.person.shots) if shot in in_doubt]
            others = [n for n in range(len(s.person.shots)) if n not in doubted]
            cells += [cell(s, shot, in_doubt) for shot in doubted + others]
            titles.append(f"{rank}.  {s.person.path}:  {s.change}  ({found.reason(s)}; score {s.score:.2f})")
        if cells:
            title = f"{field}: {len(listed)} of {found.counts[field]} suspects, highest score first"
            sheets.append(Sheet(field, title, tuple(cells), columns=len(s.person.shots), titles=tuple(titles)))
    return sheets
