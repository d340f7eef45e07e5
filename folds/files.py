"""What files hold: text, JSON, CSV, arrays, checksums; all written as of `folds/replacing.py`."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from folds.errors import MaskensError
from folds.replacing import replacing, sync

SEAL = "sha256"  # the key of a record's own checksum
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # with which a cell begins that spreadsheets would run


def write_text(path: Path, text: str) -> None:
    """Replace `path` with UTF-8 text, atomically. Raises MaskensError as `replacing` does."""
    with replacing(path) as handle:
        handle.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Replace `path` with indented JSON, atomically."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Indented JSON with a line end."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: it can't be read.
        ValueError: it is no JSON in UTF-8, or nested deeper than anything that we write.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def sealed(record: Mapping[str, Any], *free: str) -> dict[str, Any]:
    """A record for JSON with its own sha256, by which `unsealed` tells whether it was edited.

    Args:
        free: keys that may be edited.
    """
    return {**record, SEAL: _seal(record, free)}


def unsealed(record: Any, *free: str) -> dict[str, Any]:
    """What `sealed` was given.

    Raises:
        ValueError: it was edited, or is no record.
    """
    if not isinstance(record, dict):
        raise ValueError("it is no table of keys")
    if record.get(SEAL) != _seal(record, free):
        raise ValueError("it was edited or damaged after it was made; put it back as it was")
    return {key: value for key, value in record.items() if key != SEAL}


def _seal(record: Mapping[str, Any], free: Sequence[str]) -> str:
    return sha256(json.dumps({k: v for k, v in record.items() if k not in (SEAL, *free)}, sort_keys=True))


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """CSV with `\\n` line ends, as one string."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()


def listing_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """`csv_text` for people, who open it in a spreadsheet: text that would run there as a formula gets an apostrophe in
    front, as OWASP advises ("CSV Injection"). `as_typed` takes it off again."""
    return csv_text(header, ([_no_formula(cell) for cell in row] for row in rows))


def _no_formula(cell: object) -> object:
    if not isinstance(cell, str) or not cell.startswith(FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def as_typed(cell: str) -> str:
    """A cell of a list as it was before `listing_text`."""
    return cell[1:] if cell[:1] == "'" and cell[1:].startswith(FORMULA) else cell


def lfs_fault(start: bytes) -> str:
    """What is wrong with a file that starts with these bytes, if it is a pointer of Git LFS; "" if it is none."""
    return "it is a Git LFS pointer, not the file itself. Fetch it with: git lfs pull" * start.startswith(LFS_POINTER)


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
    """Hex digest of a file, without reading all of it into memory.

    Raises:
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_text(path: Path) -> str:
    """Hex digest of a text file, the same with `\\n` and with the `\\r\\n` that Git on Windows makes of it; "" if there
    is no file.

    Raises:
        OSError: it can't be read.
    """
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
    """Hex digest of lines joined by newlines, without joining them in memory."""
    digest = hashlib.sha256()
    for number, line in enumerate(lines):
        digest.update(f"\n{line}".encode() if number else line.encode())
    return digest.hexdigest()


def replace_keeping(path: Path, text: str) -> Path | None:
    """Replace `path` as `write_text` does, but keep what was there as `name.1.ext`, `name.2.ext`, ...

    Returns:
        Where the earlier file is kept; None if there was none, or the same text.
    """
    if not path.exists() or path.read_bytes() == text.encode():
        write_text(path, text)
        return None
    aside, before = _beside(path), path.read_bytes()
    try:
        with replacing(aside) as handle:
            handle.write(before)
        write_text(path, text)
    except MaskensError:
        if path.read_bytes() == before:  # the earlier file is still in its place
            aside.unlink(missing_ok=True)
        raise
    return aside


def set_aside(path: Path) -> Path:
    """Rename `path` to the first free of `name.1.ext`, `name.2.ext`, ...; returns where it is now.

    Raises:
        MaskensError: if the system refuses.
    """
    aside = _beside(path)
    try:
        moved = path.rename(aside)
        sync(path.parent)
        return moved
    except OSError as error:
        raise MaskensError(f"can't rename {path}: {error.strerror or error}.") from error


def leave(path: Path, text: str) -> Path | None:
    """Leave `path` with this text, or without a file if it is empty; returns where another text is kept."""
    if text:
        return replace_keeping(path, text)
    return set_aside(path) if path.exists() else None


def _beside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    return aside


def save_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Replace a compressed .npz, atomically."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    with replacing(path) as handle:
        handle.write(buffer.getbuffer())
