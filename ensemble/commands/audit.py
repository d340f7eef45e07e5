"""maskens audit."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensemble.commands.options import (
    DEFAULT_RUNS,
    CheckpointOption,
    DataOption,
    QuietOption,
    RunOption,
    ViewsOption,
    WorkersOption,
)
from ensemble.commands.step import step
from ensemble.commands.terminal import Observer, Terminal
from folds.errors import typed

if TYPE_CHECKING:
    from ensemble.evaluation.audit import Audit
    from folds.explore.merge_candidates import MergeCandidate
    from folds.run_folder import Run


class FieldChoice(StrEnum):
    gender = "gender"
    age = "age"
    mask = "mask"


@dataclass(frozen=True)
class Options:
    """Whose labels are looked at, and what is shown of them."""

    tta: ViewsOption = "flip"
    checkpoint: CheckpointOption = "cross-fitted"
    field: Annotated[
        list[FieldChoice] | None,
        typer.Option("--field", help="Only these labels; may be repeated."),
    ] = None
    top: Annotated[
        int, typer.Option("--top", metavar="N", min=1, max=200, help="Suspects on a field's contact sheet.")
    ] = 24
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where lists, sheets and page go; by default audit in the run."),
    ] = None
    run: RunOption = DEFAULT_RUNS
    data: DataOption = None
    workers: WorkersOption = None
    quiet: QuietOption = False


@dataclass(frozen=True)
class Audited:
    """What was found and where it lies."""

    audit: Audit
    candidates: tuple[MergeCandidate, ...]  # ids that may be one person
    run: Run
    folder: Path
    note: str  # what limits the findings, "" if nothing does


def _print(done: Audited, options: Options, terminal: Terminal) -> None:
    from ensemble.reporting.audit_page import SUSPECTS
    from ensemble.reporting.tables import suspects_table
    from folds.explore.merge_candidates import FILE
    from folds.pages.html import INDEX

    found, folder = done.audit, done.folder
    if done.note:
        terminal.say(done.note, "yellow")
    earlier = f"--fixes {typed(done.run.fixes_file)} " if found.data.fixes else ""
    merged = f"--merge {typed(done.run.merged_file)} " if done.run.merged_hash else ""
    if done.candidates:
        pairs = f"{len(done.candidates)} pairs of ids" if len(done.candidates) > 1 else "a pair of ids"
        terminal.say(f"warning: {pairs} may be one person: nearly the same photo, see {folder / FILE}", "yellow")
        terminal.say(
            "next: look at them, copy the rows that show one person to same.csv, then  "
            f"maskens folds --run NEW --data {typed(found.data.root)} {earlier}{merged}--merge same.csv",
            "dim",
        )
    views = f"{options.checkpoint} epochs, views: {options.tta}"
    if not found.suspects:
        terminal.say(f"no suspects: no label of {len(found.people)} people is unlikely ({views})", "bold")
        terminal.say(f"saved: {folder / INDEX}, lists and contact sheets beside it")
        return
    terminal.print(suspects_table(found))
    counts = ", ".join(f"{n} {name}" for name, n in found.counts.items())
    terminal.say(f"{len(found.suspects)} suspects ({counts}) among {len(found.people)} people ({views})", "bold")
    terminal.say(f"saved: {folder / INDEX}, lists and contact sheets beside it")
    terminal.say(
        f"next: look at them, copy the rows of {folder / SUSPECTS} that you believe to mine.csv, then  "
        f"maskens folds --run NEW --data {typed(found.data.root)} --folds-file {typed(done.run.folds_file)} {merged}"
        f"{earlier}--fixes mine.csv",
        "dim",
    )


@step(Options, show=_print, first="run")
def audit(options: Options, observer: Observer) -> Audited:
    """Likely label errors, ranked: what models that never saw the person say against the labels. A list to look at.

    Example:  maskens audit --field gender --top 48
    \f
    Raises:
        MaskensError: nothing trained, or a folder that is not an audit's to replace.
    """
    from ensemble.decision.blend import load_oof_ensemble
    from ensemble.evaluation.audit import NAMES
    from ensemble.evaluation.audit import audit as find_suspects
    from ensemble.reporting.audit_page import refuse_to_replace, write_audit
    from folds.explore.merge_candidates import portrait_candidates
    from folds.files import replacing_folder
    from folds.run_folder import load_run

    run, workers = load_run(options.run[0]), options.workers or -1
    folder = options.out or run.folder / "audit"
    refuse_to_replace(folder)
    blend = load_oof_ensemble([run], options.data, options.checkpoint)
    data, decision = blend.data, blend.decide(blend.plain(options.tta))
    suspects = find_suspects(data, blend.rows, decision.log_probabilities, options.field or tuple(NAMES))
    note, title = "; ".join(blend.notes), f"Likely label errors in {data.root}"
    with observer.progress() as on_progress:
        candidates = portrait_candidates(data, workers, partial(on_progress, "looking for people with two ids"))
        with replacing_folder(folder) as build:
            opened = partial(on_progress, "opening photos")
            write_audit(build, suspects, candidates, title, note, options.top, workers, opened)
    return Audited(suspects, candidates, run, folder, note)
