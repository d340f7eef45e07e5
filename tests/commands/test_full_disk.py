"""A disk that fails while a command writes costs one message, and nothing that was there."""

from __future__ import annotations

import errno
import itertools
import os
import stat
from pathlib import Path

import pytest
from run_command import maskens, refused


def held(folder: Path) -> dict[Path, bytes]:
    """The files in a folder; photos, which no command writes, left out."""
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".jpg"}


@pytest.mark.parametrize(
    ("words", "writes", "error"),
    [
        ("report", 0, errno.ENOSPC),
        ("infer --tta none", 0, errno.ENOSPC),
        ("audit --workers 1", 2, errno.EIO),
        ("distil --run runs/default --out runs/student --set tasks.*.epochs=1", 2, errno.ENOSPC),
    ],
)
def test_a_disk_that_fails_costs_one_message_and_nothing_that_was_there(
    copy: Path, monkeypatch: pytest.MonkeyPatch, words: str, writes: int, error: int
) -> None:
    before, count = held(copy / "runs"), itertools.count()

    def fail(descriptor: int) -> None:
        """From this file on."""
        if stat.S_ISREG(os.fstat(descriptor).st_mode) and next(count) >= writes:
            raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        outcome = maskens(*words.split())
    refused(outcome, "can't write", os.strerror(error))
    after = held(copy / "runs")
    assert {path: after.get(path) for path in before} == before
    assert not [path for path in copy.rglob("*") if path.name.endswith(".tmp")]
