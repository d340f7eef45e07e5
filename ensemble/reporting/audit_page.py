"""The folder of `maskens audit`: two lists as CSV, contact sheets, and a page."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from ensemble.evaluation.audit import Audit, LabelIssue, photos_csv, suspects_csv
from folds.errors import MaskensError
from folds.explore.duplicates import FILE, MergeCandidate, candidates_csv, candidates_sheet
from folds.files import sha256, sha256_of_text, write_text
from folds.labels import FIELDS, SHOTS
from folds.pages.contact_sheet import Cell, Sheet, save_sheets, thumbnails
from folds.pages.html import INDEX, refuse_foreign_page, render
from folds.photos import Progress

GENERATOR = "maskens audit"
SUSPECTS, PHOTOS = "suspects.csv", "photos.csv"
OURS = re.compile(r"index\.html|(suspects|photos|merge-candidates)\.csv|(gender|age|mask|duplicates)\.jpg")
LISTED = 200  # suspects in the page's table; suspects.csv has them all


def refuse_to_replace(folder: Path) -> None:
    """Raise MaskensError for a folder that is not an audit's, or whose suspects.csv was edited."""
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
        note: what limits the findings, or "".
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
        title=f"Likely label errors in {found.data.source}",
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
    """A sheet for each field with suspects, with a row for each suspect: its first photos; for a mask, all of the
    person's. Below each photo are the probabilities of its given label and of the most probable other one."""
    ranked = list(enumerate(found.suspects, start=1))
    chosen = {field: [(n, s) for n, s in ranked if s.field == field][:top] for field in found.fields}
    of_row: dict[str, list[int]] = {}
    for place, photo in enumerate(found.photos):
        of_row.setdefault(photo.person.path, []).append(place)

    def places(suspect: LabelIssue) -> dict[int, int]:
        """The photos to show -> the other label to show."""
        row = of_row[suspect.doubts[0].photo.person.path] if suspect.field == "mask" else []
        likeliest = found.fields[suspect.field].predicted
        shown = {d.place: d.suggested for d in suspect.doubts}
        return dict(list((shown | {i: int(likeliest[i]) for i in row if i not in shown}).items())[: len(SHOTS)])

    wanted = sorted({place for listed in chosen.values() for _, s in listed for place in places(s)})
    files = [found.data.photos.path(found.data.files[found.rows[place]]) for place in wanted]
    thumbs = dict(zip(wanted, thumbnails(files, workers, on_progress), strict=True))

    def cell(field: str, place: int, other: int) -> Cell:
        predictions, names, photo = found.fields[field], FIELDS[field], found.photos[place]
        p = np.exp(predictions.log_p[place])
        labels = dict.fromkeys((int(predictions.given[place]), other))
        name = photo.shot or PurePosixPath(photo.person.path).name
        lines = [name, *(f"{names[n]} {p[n]:.2f}" for n in labels)]
        return Cell(thumbs[place], "\n".join(lines), f"{photo.person.path} {photo.shot}".strip())

    sheets = []
    for field, listed in chosen.items():
        rows = [[cell(field, *shown) for shown in places(s).items()] for _, s in listed]
        if rows:
            cells, lengths = tuple(itertools.chain(*rows)), tuple(map(len, rows))
            title = f"{field}: {len(listed)} of {found.counts[field]} suspects, highest score first"
            titles = [f"{n}.  {s.who}:  {s.change}  ({found.reason(s)}; score {s.score:.2f})" for n, s in listed]
            sheets.append(Sheet(field, title, cells, titles=tuple(titles), lengths=lengths))
    return sheets
