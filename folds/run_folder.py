"""The run folder: everything one ensemble needs, and the checks that its parts belong together."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from folds.corrections import Merge, describe_fixes, fixes_csv, merged_csv, read_fixes, read_merges
from folds.errors import MaskensError, did_you_mean_folder, refuse, typed
from folds.files import replacing, sha256, sha256_of_text, write_or_set_aside
from folds.labels import CLASSES, IntArray
from folds.layout import read_train
from folds.people import NO_LISTS, Fix, Lists, TrainData, class_counts, kept_skipped
from folds.ranges import FULL, fold_folder
from folds.records import read_record, write_record
from folds.splits import folds_csv, read_folds, what_changed
from folds.table import read_table

LIBRARIES = (
    *("maskens", "torch", "timm", "albumentations", "ttach"),
    *("scikit-learn", "joblib", "numpy", "opencv-python-headless", "pillow"),
)


@functools.cache
def library_versions() -> dict[str, str]:
    """Installed version of each library that decides a result."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


RUN_FILE, RECIPE, PRECISION = "run.json", "recipe.toml", "precision.json"
MODEL, OOF, LAST = "model.safetensors", "oof.npz", "last.pt"  # of a job; the other names are in `ensemble.jobs.job`
FORBID_EXTRA = {"extra": "forbid"}  # for pydantic, which is imported only where a record is read


class FileIn:
    """The path of a file in the folder of a run or job."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, place: Any, owner: type[Any]) -> Path:
        return Path(place.folder / self.name)


@dataclass(frozen=True)
class Run:
    """The record in run.json, and where the files of a run are. `folder` is not written: a run may be moved."""

    __pydantic_config__ = FORBID_EXTRA

    folder: Path
    data: str  # relative to `folder` if it was named relative, so that both can be copied together
    fingerprint: str
    folds_hash: str
    k: int
    seed: int
    class_photos: tuple[int, ...]  # photos of each class in training, the prior that submissions are compared with
    fixes: str = "none"  # of which lists, like "14 labels of 11 people (8 gender, 6 mask) from core"
    fixes_hash: str = ""  # sha256 of fixes.csv; "" if no labels are fixed
    recipe_hash: str = ""
    merged_hash: str = ""  # sha256 of merged.csv; "" if no ids are merged
    photos: str = ""  # the list of labelled photos, relative like `data`; "": the data folder's own table
    extra: tuple[str, ...] = ()  # lists of extra photos, relative like `data`
    extra_hash: str = ""  # of `TrainData`
    columns: tuple[str, ...] = ()  # how lists are read, with `labels`: the options as typed
    labels: tuple[str, ...] = ()
    skipped_hash: str = ""  # of the photos in skipped.csv; "" if none is skipped
    created: str = ""
    versions: dict[str, str] = dataclasses.field(default_factory=dict, hash=False)

    record_file = FileIn(RUN_FILE)
    folds_file = FileIn("folds.csv")
    fixes_file = FileIn("fixes.csv")
    merged_file = FileIn("merged.csv")
    skipped_file = FileIn("skipped.csv")
    recipe_file = FileIn(RECIPE)
    submission_file = FileIn("submission.csv")
    eval_file = FileIn("eval.npz")  # logits of the photos to predict
    oof_file = FileIn(OOF)  # pooled out-of-fold logits
    report_file = FileIn("report.html")
    pseudo_record = FileIn("pseudo.json")
    soft_record = FileIn("soft_targets.json")
    deadline_file = FileIn("deadline.json")

    @property
    def recorded_data(self) -> Path:
        """Where its data were when it was made; a relative path is seen from the working folder."""
        return self._recorded(self.data)

    def _recorded(self, path: str) -> Path:
        return Path(path if os.path.isabs(path) else os.path.relpath(self.folder.resolve() / path))

    @property
    def lists(self) -> Lists:
        """What describes its labelled photos."""
        photos = self._recorded(self.photos) if self.photos else None
        return Lists(photos, tuple(map(self._recorded, self.extra)), self.columns, self.labels)

    def data_folder(self, named: Path | str | None = None) -> Path:
        """Where its data are: as named, else as recorded. Raises MaskensError: nothing is there, though the labelled
        photos are."""
        if named:
            return Path(named)
        data = self.recorded_data
        if not data.exists() and not self.photos:
            raise MaskensError(
                f"{self.folder} has its data in {data}, where nothing is. Name where they are now with --data DIR; "
                f"to store that in the run: maskens folds --run {typed(self.folder)} --data DIR"
            )
        return data

    def soft_file(self, fold: int) -> Path:
        return self.folder / "soft_targets" / f"fold{fold}.npz"

    def job_folder(self, task: str, fold: int) -> Path:
        """Where a job's files are. Raises MaskensError: a link, as in another's run, leads out of the run's folder."""
        found = self.folder / task / fold_folder(fold)
        if not Path(os.path.realpath(found)).is_relative_to(os.path.realpath(self.folder)):
            raise MaskensError(f"{found} leads out of the run's folder through a link. Put a folder in its place.")
        return found

    def jobs_on_disk(self) -> list[Path]:
        """Folders of jobs that have something to lose: a whole epoch at least."""
        places = (f"*/{job}/{name}" for job in ("fold*", fold_folder(FULL)) for name in (LAST, MODEL))
        return sorted({file.parent for place in places for file in self.folder.glob(place)})


def start_run(folder: Path, data: TrainData, folds: IntArray, k: int, seed: int, write: bool = True) -> tuple[Run, str]:
    """Write run.json, folds.csv, fixes.csv and merged.csv; the run, and a note on earlier folds and lists or "".

    Without `write` nothing is written, and the run is what it would be.

    Raises MaskensError: the folder holds something else, or models trained on other folds or labels.
    """
    refuse_foreign(folder)
    folds_text, fixes_text, merged = folds_csv(data, folds), fixes_csv(data.fixes), merged_csv(data)
    run = Run(
        folder,
        _recorded(data.root, folder),
        data.fingerprint,
        sha256(folds_text),
        k,
        seed,
        tuple(class_counts(data)),
        f"{describe_fixes(data)} from {', '.join(sorted({f.source for f in data.fixes}))}" if fixes_text else "none",
        sha256(fixes_text) if fixes_text else "",
        merged_hash=sha256(merged) if merged else "",
        **_recorded_lists(data.lists, folder),
        extra_hash=data.extra_hash,
        **_made_now(),
    )
    notes = []
    if has_run(folder):
        old = load_run(folder)
        if old.fixes_hash == run.fixes_hash:
            run = dataclasses.replace(run, fixes=old.fixes)  # with the names of the first lists
        if not differing(old, run, "folds", "seed", "data", "extra photos"):
            found = _recorded_lists(data.lists, folder) | {"data": run.data}
            run = dataclasses.replace(old, **found, fixes=run.fixes, fixes_hash=run.fixes_hash)
            notes.append("the same folds were there already")
        elif run.jobs_on_disk():
            raise MaskensError(
                f"{folder} has models trained on other {differing(old, run, *SHARED)} (k={old.k}, seed {old.seed}, "
                f"label fixes: {old.fixes}). Name another run folder with --run DIR, and for the same split of people "
                f"--folds-file {typed(old.folds_file)}; or delete this one."
            )
    if not write:
        return run, "\n".join(notes)
    save_run(run)  # first: if the disk is full after it, the next start writes the lists
    texts = [(run.fixes_file, fixes_text), (run.merged_file, merged)]
    if sha256_of_text(run.folds_file) != run.folds_hash:
        texts.insert(0, (run.folds_file, folds_text))
    if not run.skipped_hash:
        texts.append((run.skipped_file, ""))
    for file, text in texts:
        if aside := write_or_set_aside(file, text):
            notes.append(f"the earlier {file.name} is kept as {aside}")
    return run, "\n".join(notes)


def _recorded(data: Path, folder: Path) -> str:
    """How a run in `folder` records where its data are: relative to itself if they were named relative."""
    return str(data.resolve()) if data.is_absolute() else os.path.relpath(data, folder.resolve())


def _recorded_lists(lists: Lists, folder: Path) -> dict[str, Any]:
    """How a run in `folder` records them."""
    photos = _recorded(lists.photos, folder) if lists.photos else ""
    extra = tuple(_recorded(table, folder) for table in lists.extra)
    return {"photos": photos, "extra": extra, "columns": lists.columns, "labels": lists.labels}


def _made_now() -> dict[str, Any]:
    return {"created": datetime.now(UTC).isoformat(timespec="seconds"), "versions": library_versions()}


def save_run(run: Run) -> None:
    """Write run.json, atomically."""
    write_record(run.record_file, run, "data", without=("folder",))  # both may be moved


def refuse_foreign(folder: Path, option: str = "--run") -> None:
    """Raise MaskensError for a folder that is neither empty nor a run; `option` is the one that named it."""
    foreign = folder.exists()
    if folder.is_dir():
        foreign = not has_run(folder) and any(not p.name.startswith(".") for p in folder.iterdir())
    if foreign:
        raise MaskensError(
            f"{folder} is not a run folder: it has no run.json{did_you_mean_folder(folder, RUN_FILE)}. "
            f"Name another or a new one with {option} DIR."
        )


def load_run(folder: Path) -> Run:
    """Read run.json. Raises MaskensError: no run there, not a run folder, or a run.json that was damaged or edited."""
    path = folder / RUN_FILE
    if not path.exists():
        refuse_foreign(folder)
        near = did_you_mean_folder(folder, RUN_FILE)
        first = f"Make the folds first: maskens folds --run {typed(folder)}"
        raise MaskensError(f"there is no run in {folder} yet{near}. {first}")
    return read_record(path, Run, "data", check=_refuse_impossible, folder=folder)


def _refuse_impossible(run: Run) -> None:
    photos = run.class_photos
    if len(photos) != CLASSES or min(photos) < 0 or not 2 <= run.k <= sum(photos):
        raise ValueError(f"k {run.k} and class_photos {photos} are no folds of photos of {CLASSES} classes")


def has_run(folder: Path) -> bool:
    return (folder / RUN_FILE).exists()


def refuse_removed(run: Run) -> None:
    """Raise MaskensError for a run that is gone: writing now would leave a part of it."""
    if not has_run(run.folder):
        raise MaskensError(f"{run.folder} was removed or moved meanwhile: nothing more is saved there.")


def find_run(folder: Path) -> Run | None:
    return load_run(folder) if has_run(folder) else None


def kept_folds(run: Run, data: TrainData) -> IntArray | None:
    """The run's folds, if these are still its data and folds.csv is as it was made; else None."""
    intact = sha256_of_text(run.folds_file) == run.folds_hash
    return read_folds(run.folds_file, data)[0] if intact and data.fingerprint == run.fingerprint else None


def kept_fixes(run: Run) -> tuple[Fix, ...]:
    """The run's label fixes, empty if it has none. Raises MaskensError: fixes.csv is missing or was edited."""
    return read_fixes([str(run.fixes_file)]) if _kept(run.fixes_file, run.fixes_hash, "--fixes") else ()


def kept_merges(run: Run) -> tuple[Merge, ...]:
    """The run's merged ids, empty if it has none. Raises MaskensError: merged.csv is missing or was edited."""
    return read_merges([str(run.merged_file)]) if _kept(run.merged_file, run.merged_hash, "--merge") else ()


def _kept(file: Path, recorded: str, option: str) -> bool:
    """Whether a run has this list of corrections, and as it was written."""
    if sha256_of_text(file) != recorded:
        run = typed(file.parent)
        raise MaskensError(
            f"{file} is missing, was edited or is not of this run. Restore it: maskens folds --run {run} {option} FILE "
            f"({option} none for no list). To use it as it is: maskens folds --run NEW_DIR {option} {typed(file)}"
        )
    return bool(recorded)


def data_root(run: Run | None, named: Path | None) -> Path:
    """The data folder: as named, else that of the run; without a run, the folder `data`."""
    return run.data_folder(named) if run else named or Path("data")


def read_labelled(
    folder: Path,
    data_folder: Path | None,
    fixes: Sequence[str],
    seed: int | None,
    merge: Sequence[str] = (),
    lists: Lists = NO_LISTS,
) -> tuple[Run | None, TrainData, int]:
    """(the run in `folder` or None, its data with fixed labels and merged ids, the seed). Defaults are the run's;
    without a run, the folder `data`, no fixes, no merges and seed 42."""
    before = find_run(folder)
    chosen = read_fixes(fixes) if fixes else kept_fixes(before) if before else ()
    merges = read_merges(merge) if merge else kept_merges(before) if before else ()
    kept = before.lists if before else NO_LISTS
    names = [field.name for field in dataclasses.fields(Lists)]
    lists = Lists(**{name: getattr(lists, name) or getattr(kept, name) for name in names})
    found = read_train(data_root(before, data_folder), chosen, merges, lists)
    return before, found, seed if seed is not None else before.seed if before else 42


def read_run_data(run: Run, data_folder: Path | None = None) -> TrainData:
    """The run's data as they are now, with labels fixed, ids merged and photos skipped. Raises MaskensError: data
    missing, or fixes.csv, merged.csv or skipped.csv edited."""
    data = read_train(run.data_folder(data_folder), kept_fixes(run), kept_merges(run), run.lists)
    return dataclasses.replace(data, skipped=kept_skipped(run.skipped_file, run.skipped_hash))


def load_data(run: Run, data_folder: Path | None = None) -> tuple[TrainData, IntArray]:
    """The run's data, with labels fixed, ids merged and photos skipped, and its folds, int64 (people,).

    `data_folder` is where moved data are now. Raises MaskensError: data missing or changed since `maskens folds`, or
    folds.csv, fixes.csv, merged.csv or skipped.csv edited.
    """
    data = read_run_data(run, data_folder)
    if data.fingerprint != run.fingerprint:
        refuse(
            what_changed(run.folds_file, data) or ["some photo files have other names or sizes"],
            f"the data in {data.source} changed since `maskens folds` made {run.folder}",
            "Put the data back, or start a new run: maskens folds --run NEW_DIR",
        )
    if data.extra_hash != run.extra_hash:
        raise MaskensError(
            f"the extra photos in {', '.join(map(str, run.lists.extra))} changed since `maskens folds` made "
            f"{run.folder}. Put them back, or start a new run: maskens folds --run NEW_DIR"
        )
    if sha256_of_text(run.folds_file) != run.folds_hash:
        raise MaskensError(
            f"{run.folds_file} is missing or was edited. Put it back, or take a new run: maskens folds --run NEW_DIR "
            f"(with your own folds: --folds-file {typed(run.folds_file)})"
        )
    return data, read_folds(run.folds_file, data)[0]


SHARED = {
    "data": "fingerprint",
    "folds": "folds_hash",
    "seed": "seed",
    "label fixes": "fixes_hash",
    "extra photos": "extra_hash",
    "merged ids": "merged_hash",
    "skipped photos": "skipped_hash",
}
"""What runs may share -> the field that is then equal."""


def file_of(runs: Sequence[Run], file: Callable[[Run], Path]) -> Path:
    """The path of a file of a run, or of several as one ensemble: in the first."""
    path = file(runs[0])
    return path if len(runs) == 1 else path.with_name(f"blend-{path.name}")


def refuse_other_folds(runs: Sequence[Run]) -> None:
    """Raise MaskensError for runs that can't be one ensemble: named twice, of other photos, or split into other folds.
    Label fixes may differ."""
    first = runs[0]
    if len({r.folder.resolve() for r in runs}) < len(runs):
        raise MaskensError("a run is named twice; name each once.")
    problems = []
    for other in runs[1:]:
        tables = [read_table(run.folds_file, ("path", "fold", "bytes", "photos")) for run in (first, other)]
        photos, folds = [
            [{row["path"]: [row[c] for c in columns] for row in table} for table in tables]
            for columns in (("bytes", "photos"), ("fold",))
        ]
        if photos[0] != photos[1]:
            problems.append(f"{other.folder} was made from other photos than {first.folder}")
        elif folds[0] != folds[1]:
            problems.append(
                f"{other.folder} has other folds than {first.folder}: its models saw people it is scored on"
            )
    refuse(
        problems,
        "only runs on the same folds can be combined",
        f"Make one with: maskens folds --run NEW_DIR --folds-file {typed(first.folds_file)}",
    )


def differing(run: Run, other: Run, *names: str) -> str:
    """The names that two runs don't share, like "data and folds"; "" if they share all."""
    return " and ".join(n for n in names if getattr(run, SHARED[n]) != getattr(other, SHARED[n]))


def run_like(source: Run, folder: Path, data: TrainData) -> Run:
    """The run in `folder`, or a new one of the data, folds, seed, label fixes, merged ids and extra photos of `source`.
    Nothing is written. Raises MaskensError: the folder holds something else, or a run that differs in one of these."""
    refuse_foreign(folder, "--out")
    before = find_run(folder)
    if before is None:
        recorded = _recorded(data.root, folder)
        changes = _recorded_lists(source.lists, folder) | _made_now()
        return dataclasses.replace(source, folder=folder, data=recorded, recipe_hash="", **changes)
    unlike = differing(source, before, "data", "folds", "seed", "label fixes", "merged ids", "extra photos")
    if unlike:
        raise MaskensError(f"{folder} is a run with other {unlike} than {source.folder}. Name a new folder: --out DIR")
    return before


def write_run_like(run: Run, source: Run) -> None:
    """Write a run of `run_like` with the files of `source`, or those that it lacks."""
    if not has_run(run.folder):
        save_run(run)  # first: if the disk is full after it, the next start writes the rest
    for name in ("folds", "fixes", "merged", "skipped"):
        file: Path = getattr(run, f"{name}_file")
        if getattr(run, f"{name}_hash") and not file.exists():
            with replacing(file) as handle:
                handle.write((source.folder / file.name).read_bytes())
