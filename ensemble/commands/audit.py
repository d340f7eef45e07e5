"""maskens audit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ensemble.commands.options import AuditOptions
from ensemble.commands.step import step
from ensemble.commands.terminal import Observer, Terminal
from ensemble.decision.oof_ensemble import load_oof_ensemble
from ensemble.evaluation import audit as auditing
from ensemble.reporting.audit_page import SUSPECTS, refuse_to_replace, write_audit
from ensemble.reporting.tables import suspects_table
from folds.errors import typed
from folds.explore.duplicates import FILE, MergeCandidate, portrait_candidates
from folds.files import replacing_folder
from folds.labels import FIELDS
from folds.pages.html import INDEX
from folds.run_folder import Run, load_run


@dataclass(frozen=True)
class Audited:
    """What was found and where it lies."""

    audit: auditing.Audit
    candidates: tuple[MergeCandidate, ...]  # ids that may be one person
    run: Run
    folder: Path
    note: str  # what limits the findings, "" if nothing does


def _print(done: Audited, options: AuditOptions, terminal: Terminal) -> None:
    found, folder = done.audit, done.folder
    terminal.note([done.note] if done.note else [])
    again = f"maskens folds --run NEW --data {typed(found.data.root)}{done.run.lists.as_options}"
    kept = f" --merge {typed(done.run.merged_file)}" if done.run.merged_hash else ""
    kept += f" --fixes {typed(done.run.fixes_file)}" if found.data.fixes else ""
    if done.candidates:
        pairs = f"{len(done.candidates)} pairs of ids may be one person: nearly the same photo, see {folder / FILE}"
        terminal.note([pairs], "warning")
        terminal.next(f"copy the rows that show one person to same.csv, then  {again}{kept} --merge same.csv")
    counts = ", ".join(f"{n} {name}" for name, n in found.counts.items())
    if found.suspects:
        terminal.print(suspects_table(found))
    terminal.say(
        f"{len(found.suspects)} suspects{f' ({counts})' if counts else ''} among {found.people} people "
        f"({options.checkpoint} epochs, views: {options.tta})",
        "bold",
    )
    terminal.say(f"saved: {folder / INDEX}, lists and contact sheets beside it")
    if found.suspects:
        again += f" --folds-file {typed(done.run.folds_file)}{kept} --fixes mine.csv"
        terminal.next(f"copy the rows of {folder / SUSPECTS} that you believe to mine.csv, then  {again}")


@step(AuditOptions, show=_print, first="run")
def audit(options: AuditOptions, observer: Observer) -> Audited:
    """
    Raises:
        MaskensError: nothing trained, or a folder that is not an audit's to replace.
    """
    run, workers = load_run(options.run[0]), options.workers or -1
    folder = options.out or run.folder / "audit"
    refuse_to_replace(folder)
    oof = load_oof_ensemble([run], options.data, options.checkpoint)
    data, decision = oof.data, oof.decide(oof.plain(options.tta))
    suspects = auditing.audit(data, oof.rows, decision.log_probabilities, options.field or tuple(FIELDS))
    note = "; ".join(oof.notes)
    with observer.progress() as on_progress:
        candidates = portrait_candidates(data, workers, partial(on_progress, "looking for people with two ids"))
        with replacing_folder(folder) as build:
            opened = partial(on_progress, "opening photos")
            write_audit(build, suspects, candidates, note, options.top, workers, opened)
    return Audited(suspects, candidates, run, folder, note)
