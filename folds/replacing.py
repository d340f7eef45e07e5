"""Files and folders that take the place of others, so that no crash, full disk, power loss or second run loses what was
there."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from folds.errors import MaskensError

OLD = "old"  # in the temporary folder for a folder that is being replaced: what was there
CANT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EPERM}  # answers of file systems without it


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path` only when the block ends well.

    The bytes go to a temporary file in the same folder and are renamed over `path` at the end, so that
    a reader sees the old file or the new one, never half of one, and a full disk leaves the old one.

    Raises:
        MaskensError: if the system refuses to write (no permission, no space), with its reason.
    """
    temporary: Path | None = None
    renamed = False
    try:
        make_folder(path.parent)
        remove_abandoned(path)
        temporary = path.with_name(f"{temporary_prefix(path)}{secrets.token_hex(4)}.tmp")
        with temporary.open("xb") as handle:  # created by the process's umask; tempfile's would need a chmod
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
        renamed = True
        sync(path.parent)
    except OSError as error:
        kept = " The file that was there is unchanged." if path.exists() and not renamed else ""
        raise MaskensError(f"can't write {path}: {error.strerror or error}.{kept}") from error
    finally:
        if temporary is not None and not renamed:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """An empty folder that takes the place of `folder`, and of all that is in it, when the block ends well.

    It lies beside `folder` while it is filled, so that a reader finds the old one or the new one, and whatever
    stops the work leaves the old one.

    Raises:
        MaskensError: if the system refuses to write, with its reason.
    """
    target = folder.resolve()  # what a link names is replaced, not the link
    try:
        with scratch_beside(target) as scratch:
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
    except OSError as error:
        kept = " What was there is unchanged." if folder.exists() else ""
        raise MaskensError(f"can't write {folder}: {error.strerror or error}.{kept}") from error


@contextlib.contextmanager
def scratch_beside(path: Path) -> Iterator[Path]:
    """A folder beside `path`, private to the user, that is gone at the end. Raises OSError."""
    make_folder(path.parent)
    remove_abandoned(path)
    with tempfile.TemporaryDirectory(
        prefix=temporary_prefix(path), suffix=".tmp", dir=path.parent, ignore_cleanup_errors=True
    ) as scratch:
        yield Path(scratch)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, so that they outlive a power loss. Raises OSError."""
    missing = [] if folder.is_dir() else [p for p in (folder, *folder.parents) if not p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync(made.parent)


def sync(path: Path) -> None:
    """Have the disk keep a file's bytes, or the names in a folder, where the file system can do that.

    Raises:
        OSError: the disk fails.
    """
    if os.name == "nt":  # it opens no folder
        return
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in CANT_SYNC:
            raise


def temporary_prefix(path: Path) -> str:
    """How the names of temporary files and folders for `path` begin; `.tmp` ends them."""
    return f"{_host_prefix(path)}{os.getpid()}-"


def _host_prefix(path: Path) -> str:
    return f".{path.name}.{hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]}-"


def remove_abandoned(path: Path) -> None:
    """Remove the temporary files and folders for `path` of processes of this machine that were killed. A folder that
    such a process had moved aside, and not yet replaced, is put back.

    Raises:
        OSError: the folder of `path` can't be read.
    """
    begins = _host_prefix(path)
    with os.scandir(path.parent) as entries:
        left = [Path(e.path) for e in entries if e.name.startswith(begins) and e.name.endswith(".tmp")]
    if not left:
        return
    import psutil  # here, because hardly any write finds one

    for entry in left:
        owner = entry.name.removeprefix(begins).split("-")[0]
        if owner.isdecimal() and not psutil.pid_exists(int(owner)):
            with contextlib.suppress(OSError):
                if not entry.is_dir():
                    entry.unlink()
                    continue
                if (entry / OLD).exists() and not path.exists():
                    (entry / OLD).rename(path)
                shutil.rmtree(entry, ignore_errors=True)


def must_be_writable(path: Path) -> None:
    """Find out now whether `path` can be written later.

    Raises:
        MaskensError: it is a folder, or the system would refuse.
    """
    if path.is_dir():
        raise MaskensError(f"{path} is a folder; name a file.")
    try:
        make_folder(path.parent)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise MaskensError(f"can't write {path}: {error.strerror or error}.") from error


def still_there(path: Path) -> str:
    """Remove a file that is needed no more; what to say where the system refuses, "" where it is gone."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        return f"can't remove {path} ({error.strerror}); it is of an earlier attempt, delete it"
    return ""
