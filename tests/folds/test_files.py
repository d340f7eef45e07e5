"""Files that no crash, full disk or second run loses."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import folds.files
from folds.errors import MaskensError
from folds.files import csv_text, must_be_writable, replace_keeping, replacing, write_json, write_text


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_text_is_written_with_its_folders(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "note.txt"
    write_text(target, "é\n")
    assert target.read_bytes() == "é\n".encode()
    write_text(target, "new")
    assert target.read_text() == "new"
    assert os.listdir(target.parent) == ["note.txt"]


def test_json_comes_back_as_it_was(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None], "a": {"x": "é"}}
    write_json(tmp_path / "value.json", value)
    assert json.loads((tmp_path / "value.json").read_text()) == value


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    target = tmp_path / "scores.csv"
    write_text(target, "old")
    monkeypatch.setattr(os, call, full_disk)
    with pytest.raises(MaskensError, match=r"can't write .*scores\.csv: No space left on device\. .* is unchanged\.$"):
        write_text(target, "new")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["scores.csv"]


def test_a_full_disk_leaves_nothing_where_nothing_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(MaskensError, match=r"scores\.csv: No space left on device\.$"):
        write_text(tmp_path / "scores.csv", "new")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("interruption", [ZeroDivisionError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, interruption: type[BaseException]) -> None:
    target = tmp_path / "scores.csv"
    write_text(target, "old")
    with pytest.raises(interruption), replacing(target) as handle:
        handle.write(b"half of the ne")
        raise interruption
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["scores.csv"]


def test_what_a_killed_process_left_half_written_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    target = tmp_path / "scores.csv"
    code = "import os, sys; from pathlib import Path; from folds.files import replacing\n"
    code += f"with replacing(Path({str(target)!r})) as handle:\n  handle.write(b'half'); handle.flush(); os._exit(1)"
    root = Path(folds.files.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=False, cwd=root)
    assert [p.suffix for p in tmp_path.iterdir()] == [".tmp"]
    with replacing(target):
        write_text(tmp_path / "other.csv", "new")
        (ours,) = tmp_path.glob(".scores.csv.*")
        write_text(target, "new")
        assert ours.exists()
    assert sorted(os.listdir(tmp_path)) == ["other.csv", "scores.csv"]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "scores.csv"
    write_text(target, "old")
    with replacing(target) as handle:
        handle.write(b"new")
        handle.flush()
        assert target.read_text() == "old"
    assert target.read_text() == "new"


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("not a folder")
    with pytest.raises(MaskensError, match=r"can't write .*run/note\.txt"):
        write_text(tmp_path / "run" / "note.txt", "x")
    assert (tmp_path / "run").read_text() == "not a folder"


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_files_get_the_mode_that_the_umask_allows(tmp_path: Path, mask: int, mode: int) -> None:
    os.umask(mask)
    write_text(tmp_path / "note.txt", "x")
    assert stat.S_IMODE((tmp_path / "note.txt").stat().st_mode) == mode
    assert os.umask(mask) == mask


def test_earlier_files_are_kept_under_the_next_free_number(tmp_path: Path) -> None:
    target = tmp_path / "folds.csv"
    assert replace_keeping(target, "version 0") is None
    assert replace_keeping(target, "version 0") is None, "the same text needs no second copy"
    for number in (1, 2, 3):
        assert replace_keeping(target, f"version {number}") == tmp_path / f"folds.{number}.csv"
        assert target.read_text() == f"version {number}"
    assert [(tmp_path / f"folds.{n}.csv").read_text() for n in (1, 2, 3)] == ["version 0", "version 1", "version 2"]


@pytest.mark.parametrize("fails_at", [1, 2])
def test_when_the_disk_is_full_the_earlier_file_stays_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    (tmp_path / "folds.csv").write_text("old")
    calls = 0

    def full_in_time(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_in_time)
    with pytest.raises(MaskensError, match="No space left"):
        replace_keeping(tmp_path / "folds.csv", "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("folds.csv", "old")]


def test_a_place_that_cannot_be_written_is_found_out_beforehand(tmp_path: Path) -> None:
    must_be_writable(tmp_path / "new" / "out.csv")
    assert list((tmp_path / "new").iterdir()) == []
    with pytest.raises(MaskensError, match="is a folder"):
        must_be_writable(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(MaskensError, match="can't write"):
        must_be_writable(tmp_path / "file" / "out.csv")


def test_csv_text_quotes_what_needs_it() -> None:
    assert csv_text(("a", "b"), [(1, "x,y"), ("é", 'say "so"')]) == 'a,b\n1,"x,y"\né,"say ""so"""\n'
