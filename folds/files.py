"""Writing files so that no crash, full disk or second run loses what was there."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from folds.errors import MaskensError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path` only when the block ends well.

    The bytes go to a temporary file in the same folder and are renamed over `path` at the end, so that
    a reader sees the old file or the new one, never half of one, and a full disk leaves the old one.

    Raises:
        MaskensError: if the system refuses to write (no permission, no space), with its reason.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        with os.fdopen(descriptor, "wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        kept = " The file that was there is unchanged." if path.exists() else ""
        raise MaskensError(f"can't write {path}: {error.strerror or error}.{kept}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def write_text(path: Path, text: str) -> None:
    """Replace `path` with UTF-8 text, atomically. Raises MaskensError as `replacing` does."""
    with replacing(path) as handle:
        handle.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Replace `path` with indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """CSV with `\\n` line ends, as one string."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()


def sha256(data: bytes | str) -> str:
    """Hex digest of bytes or of a string's UTF-8."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def keep_previous(path: Path) -> Path | None:
    """Move an existing file aside as `name.1.ext`, `name.2.ext`, ... and return where; None if there was none."""
    if not path.exists():
        return None
    number = 1
    while (aside := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    try:
        os.replace(path, aside)
    except OSError as error:
        raise MaskensError(f"can't move {path} aside to {aside}: {error.strerror}") from error
    return aside
