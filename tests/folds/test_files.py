"""Files that no crash, full disk or second run loses."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_command import python

from folds.errors import MaskensError
from folds.files import must_be_writable, replace_keeping, replacing, replacing_folder, write_text


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


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    target = tmp_path / "scores.csv"
    write_text(target, "old")
    monkeypatch.setattr(os, call, full_disk)
    with pytest.raises(MaskensError, match=r"can't write .*scores\.csv: No space left on device\.$"):
        write_text(target, "new")
    assert target.read_text() == "old"
    with pytest.raises(MaskensError, match=r"can't write .*other\.csv"):
        write_text(tmp_path / "other.csv", "new")
    assert os.listdir(tmp_path) == ["scores.csv"]


def test_a_reader_sees_the_old_file_and_an_interrupted_write_leaves_it(tmp_path: Path) -> None:
    target = tmp_path / "scores.csv"
    write_text(target, "old")
    with pytest.raises(KeyboardInterrupt), replacing(target) as handle:
        handle.write(b"half of the ne")
        handle.flush()
        assert target.read_text() == "old"
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["scores.csv"]


def killed_in(code: str) -> None:
    """Run code in a process that ends there and then."""
    head = "import os; from pathlib import Path; from folds.files import replacing, replacing_folder\n"
    assert python("-c", head + code).returncode == 9


def test_what_a_killed_process_left_half_written_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    target = tmp_path / "scores.csv"
    killed_in(f"with replacing(Path({str(target)!r})) as handle:\n  handle.write(b'half'); handle.flush(); os._exit(9)")
    assert [p.suffix for p in tmp_path.iterdir()] == [".tmp"]
    with replacing(target):
        write_text(tmp_path / "other.csv", "new")
        (ours,) = tmp_path.glob(".scores.csv.*")
        write_text(target, "new")
        assert ours.exists()
    assert sorted(os.listdir(tmp_path)) == ["other.csv", "scores.csv"]


@pytest.mark.parametrize("moved_aside", [False, True], ids=["while it is filled", "between the two renames"])
def test_a_folder_of_a_killed_process_is_removed_and_the_earlier_one_stays(tmp_path: Path, moved_aside: bool) -> None:
    target = tmp_path / "onnx"
    with replacing_folder(target) as build:
        write_text(build / "a.txt", "old")
    kill = "os._exit(9)" if not moved_aside else "real = Path.rename; Path.rename = fail"
    killed_in(
        "renames = []\n"
        "def fail(self, to):\n  renames.append(to)\n  if len(renames) == 2: os._exit(9)\n  return real(self, to)\n"
        f"with replacing_folder(Path({str(target)!r})) as build:\n  (build / 'a.txt').write_text('half'); {kill}"
    )
    assert len(os.listdir(tmp_path)) == (1 if moved_aside else 2), "it is beside, hidden"
    with pytest.raises(ZeroDivisionError), replacing_folder(target) as build:
        assert build.parent.parent == tmp_path
        assert len([p for p in tmp_path.iterdir() if p.name.startswith(".")]) == 1, "ours alone"
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["onnx"]
    assert (target / "a.txt").read_text() == "old"


def test_a_power_loss_does_not_take_what_was_reported_as_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Path] = []

    def keep(descriptor: int) -> None:
        node = os.fstat(descriptor).st_ino
        kept.extend(p for p in (tmp_path, *tmp_path.rglob("*")) if p.stat().st_ino == node)

    monkeypatch.setattr(os, "fsync", keep)
    write_text(tmp_path / "run" / "job.json", "x")
    assert kept[0].suffix == ".tmp"
    assert kept[1:] == [tmp_path / "run"], "the new name"
    with replacing_folder(tmp_path / "onnx") as build:
        (build / "graph").write_bytes(b"x")
        kept.clear()
    assert (kept[0].name, kept[-1]) == ("graph", tmp_path)


@pytest.mark.parametrize(("error", "reported"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_disk_that_fails_to_keep_a_name_is_reported_and_one_that_never_can_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, reported: bool
) -> None:
    def cant(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "fsync", cant)
    with (
        pytest.raises(MaskensError, match=r"can't write .*a\.csv: .*error\.$") if reported else contextlib.nullcontext()
    ):
        write_text(tmp_path / "a.csv", "x")
    assert os.listdir(tmp_path) == ["a.csv"]


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_files_get_the_mode_of_the_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mask: int, mode: int) -> None:
    os.umask(mask)
    with monkeypatch.context() as patch:  # threads share the umask, and some file systems refuse chmod
        for forbidden in ("umask", "chmod", "fchmod"):
            patch.setattr(os, forbidden, pytest.fail)
        write_text(tmp_path / "note.txt", "x")
        with replacing_folder(tmp_path / "folder"):
            pass
    assert stat.S_IMODE((tmp_path / "note.txt").stat().st_mode) == mode
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~mask


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
    for write in (must_be_writable, lambda path: write_text(path, "x")):
        with pytest.raises(MaskensError, match=r"can't write .*file/out\.csv"):
            write(tmp_path / "file" / "out.csv")
