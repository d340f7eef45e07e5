"""Likely label errors, as lists, contact sheets and a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ensemble.decision.blend import load_blend
from ensemble.evaluation.audit import NAMES, Audit
from ensemble.evaluation.audit import audit as find_suspects
from ensemble.jobs.oof import Checkpoint
from ensemble.pipeline.inputs import DEFAULT_RUN, Folder, OnProgress, part_of
from ensemble.recipes.views import Tta
from ensemble.reporting.audit_page import refuse_to_replace, write_audit
from folds.explore.merge_candidates import MergeCandidate, portrait_candidates
from folds.files import replacing_folder
from folds.run import Run, load_run


@dataclass(frozen=True)
class Audited:
    """What was found and where it lies."""

    audit: Audit
    candidates: tuple[MergeCandidate, ...]  # ids that may be one person
    run: Run
    folder: Path
    note: str  # what limits the findings, "" if nothing does


def audit(
    run: Folder = DEFAULT_RUN,
    *,
    data: Folder | None = None,
    tta: Tta = "flip",
    checkpoint: Checkpoint = "cross-fitted",
    fields: Sequence[str] = (),
    top: int = 24,
    out: Folder | None = None,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> Audited:
    """Rank the labels that models which never saw the person contradict.

    Args:
        fields: of gender, age, mask; empty is all.
        top: suspects on a field's contact sheet.
        out: folder of the page; None is `audit` in the run.
        workers: threads that open photos; None takes all cores.

    Raises:
        MaskensError: nothing trained, or a folder that is not an audit's to replace.
    """
    loaded = load_run(Path(run))
    folder = Path(out) if out else loaded.folder / "audit"
    refuse_to_replace(folder)
    blend = load_blend([loaded], Path(data) if data else None, checkpoint)
    found, decision = blend.data, blend.decide(blend.plain(tta))
    suspects = find_suspects(found, blend.rows, decision.log_probabilities, tuple(fields) or tuple(NAMES))
    note = "; ".join(blend.notes)
    candidates = portrait_candidates(found, workers or -1, part_of(on_progress, "looking for people with two ids"))
    with replacing_folder(folder) as build:
        title = f"Likely label errors in {found.root}"
        write_audit(
            build, suspects, candidates, title, note, top, workers or -1, part_of(on_progress, "opening photos")
        )
    return Audited(suspects, candidates, loaded, folder, note)
