"""One thing that was recomputed and held against what is recorded of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Check:
    """What is recorded of one thing, and what was found."""

    kind: str  # the same for all jobs
    item: str  # the one thing
    expected: str
    found: str
    ok: bool
    mend: str  # what to do if it is not


def same(kind: str, item: str, expected: Mapping[str, Any], found: Mapping[str, Any], mend: str) -> Check:
    """Compare the entries of `expected` with those of `found`; only what differs is in the words."""
    wrong = [key for key, value in expected.items() if found.get(key) != value]
    ours, theirs = (", ".join(f"{k} {values.get(k)}" for k in wrong or expected) for values in (expected, found))
    return Check(kind, item, ours, theirs, not wrong, mend)
