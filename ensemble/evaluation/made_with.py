"""What a run's jobs were trained with that moves the digits of a result: libraries, threads, device, precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ensemble.jobs.oof import job_names
from ensemble.jobs.status import read_status
from folds.run import Run
from folds.versions import library_versions

PLACES = ("device", "threads", "precision", "compiled")


def made_with(run: Run, jobs: Sequence[tuple[str, int]]) -> list[str]:
    """What finished jobs were trained with, in a line, and in a line each where they differ from one another or from
    the libraries that are installed.

    Floating point depends on all of these: with the same, on the same machine, a job gives the same bytes.
    """
    by_key = _by_key({job: s.record for job in jobs if (s := read_status(run, *job)).state == "done"})
    common = {key: next(iter(values)) for key, values in by_key.items() if len(values) == 1}
    lines = [f"the jobs were trained {_words(common)}"] if common else []
    for key, values in by_key.items():
        if len(values) > 1:
            which = "; ".join(f"{value} for {job_names(its)}" for value, its in values.items())
            lines.append(f"{key} differs: {which}")
    other = {k: v for k, v in library_versions().items() if k in common and common[k] != v}
    if other:
        lines.append(f"installed are {', '.join(f'{k} {v}' for k, v in other.items())}, which may give other digits")
    return lines


def _by_key(records: Mapping[tuple[str, int], Mapping[str, Any]]) -> dict[str, dict[str, list[tuple[str, int]]]]:
    """PLACES, then libraries -> value -> the jobs that have it; what a job's record does not say is left out."""
    found: dict[str, dict[str, list[tuple[str, int]]]] = {key: {} for key in (*PLACES, *library_versions())}
    for job, record in records.items():
        versions = record.get("versions")
        known = {key: record.get(key) for key in PLACES} | (versions if isinstance(versions, dict) else {})
        for key, values in found.items():
            if known.get(key) is not None:
                values.setdefault(str(known[key]), []).append(job)
    return found


def _words(common: Mapping[str, str]) -> str:
    places = [f"on {common['device']}"] if "device" in common else []
    if "threads" in common:
        places.append(f"with {common['threads']} thread{'' if common['threads'] == '1' else 's'} each")
    if "precision" in common:
        places.append(f"in {common['precision']}")
    if common.get("compiled") == "True":
        places.append("compiled")
    libraries = ", ".join(f"{key} {value}" for key, value in common.items() if key not in PLACES)
    return ", ".join([*places, f"by {libraries}"] if libraries else places)
