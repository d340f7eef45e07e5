"""Files and folders written so that no crash, full disk or second run loses what was there; checksums, CSV."""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import itertools
import json
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from folds.errors import MaskensError

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")  # with which a cell begins that spreadsheets would run
OLD = "old"  # in the temporary folder for a folder that is being replaced: what was there
CANT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EPERM}  # of file systems without fsync


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file that replaces `path` by a rename when the block ends without an error: a reader sees the old file
    or the new one, and a full disk leaves the old one. Raises MaskensError: the system refuses to write."""
    with refusing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        temporary = path.with_name(f"{_temporary_prefix(path)}{os.getpid()}-{secrets.token_hex(4)}.tmp")
        try:
            with temporary.open("xb") as handle:  # created by the process's umask; tempfile's would need a chmod
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync(path.parent)


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """An empty folder that replaces `folder` when the block ends without an error; otherwise the old one stays. Raises
    MaskensError: the system refuses to write."""
    target = folder.resolve()  # what a link names is replaced, not the link
    with refusing(folder), scratch_beside(target) as scratch:
        build, old = scratch / "new", scratch / OLD
        build.mkdir()
        yield build
        for path in build.rglob("*"):
            sync(path)
        if target.exists():
            target.rename(old)
        try:
            build.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
        sync(target.parent)


@contextlib.contextmanager
def refusing(path: Path, action: str = "write") -> Iterator[None]:
    """Raise an OSError of the block as a MaskensError that names `path`."""
    try:
        yield
    except OSError as error:
        raise MaskensError(f"can't {action} {path}: {error.strerror or error}.") from error


@contextlib.contextmanager
def scratch_beside(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, private to the user. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    prefix = f"{_temporary_prefix(path)}{os.getpid()}-"
    with tempfile.TemporaryDirectory(".tmp", prefix, path.parent, ignore_cleanup_errors=True) as scratch:
        yield Path(scratch)


def sync(path: Path) -> None:
    """fsync a file or folder, where the file system can. Raises OSError: it fails."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in CANT_SYNC:
            raise


def _temporary_prefix(path: Path) -> str:
    """The start of the names of temporary files and folders for `path` on this machine; the process's id follows."""
    return f".{path.name}.{sha256(socket.gethostname())[:8]}-"


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary files and folders for `path` of killed processes of this machine, and put back a folder that
    one had moved aside and not yet replaced."""
    prefix = _temporary_prefix(path)
    with os.scandir(path.parent) as entries:
        left = [Path(e.path) for e in entries if e.name.startswith(prefix) and e.name.endswith(".tmp")]
    if not left:
        return
    import psutil  # here, because hardly any write finds one

    for entry in left:
        owner = entry.name.removeprefix(prefix).split("-")[0]
        if owner.isdecimal() and not psutil.pid_exists(int(owner)):
            with contextlib.suppress(OSError):
                if not entry.is_dir():
                    entry.unlink()
                    continue
                if (entry / OLD).exists() and not path.exists():
                    (entry / OLD).rename(path)
                shutil.rmtree(entry, ignore_errors=True)


def must_be_writable(path: Path) -> None:
    """Check now that `path` can be written later. Raises MaskensError: it is a folder, or the system would refuse."""
    if path.is_dir():
        raise MaskensError(f"{path} is a folder; name a file.")
    with refusing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()


def write_text(path: Path, text: str) -> None:
    """Replace `path` with UTF-8 text, atomically. Raises MaskensError: the system refuses to write."""
    with replacing(path) as handle:
        handle.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Replace `path` with indented JSON, atomically."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Indented JSON with a line end."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises OSError, or ValueError: not JSON in UTF-8, or nested too deeply."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """CSV with `\\n` line ends, as one string."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()


def safe_csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """`csv_text` for people, who open it in a spreadsheet: text that would run there as a formula gets an apostrophe in
    front, as OWASP advises ("CSV Injection"). `unescape_cell` takes it off again."""
    return csv_text(header, ([_no_formula(cell) for cell in row] for row in rows))


def _no_formula(cell: object) -> object:
    if isinstance(cell, str) and cell.startswith(FORMULA_STARTS):
        try:
            float(cell)
        except ValueError:
            return f"'{cell}"
    return cell


def unescape_cell(cell: str) -> str:
    """A cell of a list as it was before `safe_csv`."""
    return cell[1:] if cell[:1] == "'" and cell[1:].startswith(FORMULA_STARTS) else cell


def lfs_fault(start: bytes) -> str:
    """An error message for a file that starts with these bytes, if it is a pointer of Git LFS; "" if it is none."""
    if start.startswith(LFS_POINTER):
        return "it is a Git LFS pointer, not the file itself. Fetch it with: git lfs pull"
    return ""


def lfs_pointer(path: Path) -> str:
    """`lfs_fault` of a file; "" if it can't be read."""
    try:
        with path.open("rb") as file:
            return lfs_fault(file.read(len(LFS_POINTER)))
    except OSError:
        return ""


def sha256(data: bytes | str) -> str:
    """Hex digest of bytes or of a string's UTF-8."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Hex digest of a file, without reading all of it into memory. Raises OSError: it can't be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_text(path: Path) -> str:
    """Hex digest of a text file, the same with `\\n` and with the `\\r\\n` that Git on Windows makes of it; "" if there
    is no file."""
    return sha256(path.read_bytes().replace(b"\r\n", b"\n")) if path.exists() else ""


def sha256_of_arrays(arrays: Mapping[str, Any]) -> str:
    """Hex digest of named arrays: names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def sha256_of_lines(lines: Iterable[str]) -> str:
    """Hex digest of lines joined by newlines."""
    return sha256("\n".join(lines))


def replace_keeping(path: Path, text: str) -> Path | None:
    """Replace `path` with UTF-8 text and keep the earlier file as `name.1.ext`, `name.2.ext`, ...; its path, or None if
    there was none or one of the same text."""
    before = path.read_bytes() if path.exists() else None
    aside = None if before in (None, text.encode()) else _free_name(path)
    try:
        if aside and before is not None:
            with replacing(aside) as handle:
                handle.write(before)
        write_text(path, text)
    except MaskensError:
        if aside and path.read_bytes() == before:  # the earlier file is still in its place
            aside.unlink(missing_ok=True)
        raise
    return aside


def write_or_set_aside(path: Path, text: str) -> Path | None:
    """`replace_keeping`; an empty text leaves no file: the earlier one is renamed. Raises MaskensError: the system
    refuses."""
    if text:
        return replace_keeping(path, text)
    if not path.exists():
        return None
    with refusing(path, "rename"):
        moved = path.rename(_free_name(path))
        sync(path.parent)
    return moved


def _free_name(path: Path) -> Path:
    numbered = (path.with_name(f"{path.stem}.{number}{path.suffix}") for number in itertools.count(1))
    return next(aside for aside in numbered if not aside.exists())


def save_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Replace a compressed .npz, atomically."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    with replacing(path) as handle:
        handle.write(buffer.getbuffer())


def load_npz(path: Path) -> dict[str, Any]:
    """The arrays of an .npz. Raises OSError, or whatever else a damaged file raises."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)
