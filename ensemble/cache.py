"""Photos decoded and resized once into a memory-mapped file that all jobs, epochs and models read."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from folds.decode import Pixels, Progress, fit, in_threads, read_photo
from folds.errors import MaskensError, refuse
from folds.files import sha256

BUILDING = ".building-"
SPARE = 64 * 2**20  # bytes of disk to leave free


@dataclass(frozen=True)
class Geometry:
    """The fixed steps from a photo to what augmentation and model see; sizes are (height, width)."""

    resize: tuple[int, int]
    crop: tuple[int, int] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        return (*(self.crop or self.resize), 3)


class Photos:
    """Indexable photos, each in one or more geometries: from memory maps, or decoded at each access.

    Pickles as paths only, so that worker processes share the page cache and not a copy.
    """

    def __init__(
        self, root: Path, files: Sequence[str], geometries: Sequence[Geometry], maps: Sequence[Path] | None
    ) -> None:
        self.root, self.files, self.geometries, self.maps = root, list(files), tuple(geometries), maps
        self._open: list[npt.NDArray[np.uint8]] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Pixels, ...]:
        """The photo in each geometry, uint8 (height, width, 3); the file is decoded at most once."""
        if self.maps is None:
            photo = read_photo(self.root / self.files[index])
            return tuple(fit(photo, g.resize, g.crop) for g in self.geometries)
        if self._open is None:
            self._open = [np.load(path, mmap_mode="r") for path in self.maps]
        return tuple(np.array(m[index]) for m in self._open)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": None}


def open_photos(
    root: Path,
    files: Sequence[str],
    fingerprint: str,
    geometries: Sequence[Geometry],
    cache: Path | None,
    workers: int,
    on_progress: Progress | None = None,
) -> Photos:
    """The photos in each geometry; what the cache lacks is decoded now, each photo once for all geometries.

    Args:
        fingerprint: of the files, names the cache together with the geometry.
        geometries: without repeats.
        cache: folder of the memory maps; None decodes at each access instead.
        workers: decoding threads.

    Raises:
        MaskensError: photos that can't be read (all listed), or too little disk (with figures).
    """
    if cache is None:
        return Photos(root, files, geometries, None)
    paths = {g: cache / f"{_key(fingerprint, g)}.npy" for g in geometries}
    missing = {g: p for g, p in paths.items() if not _complete(p, (len(files), *g.shape))}
    if missing:
        _build(root, files, missing, cache, workers, on_progress)
    return Photos(root, files, geometries, list(paths.values()))


def missing_bytes(cache: Path, files: Sequence[str], fingerprint: str, geometries: Sequence[Geometry]) -> int:
    """How much larger the cache would become; arguments as of `open_photos`."""
    lacking = [g for g in geometries if not _complete(cache / f"{_key(fingerprint, g)}.npy", (len(files), *g.shape))]
    return sum(len(files) * int(np.prod(g.shape)) for g in lacking)


def _key(fingerprint: str, geometry: Geometry) -> str:
    height, width, _ = geometry.shape
    return f"{height}x{width}-{sha256(f'{fingerprint} {geometry} v1')[:16]}"


def _complete(path: Path, shape: tuple[int, ...]) -> bool:
    try:
        return bool(np.load(path, mmap_mode="r").shape == shape)
    except (OSError, ValueError):
        return False


def _build(
    root: Path,
    files: Sequence[str],
    targets: dict[Geometry, Path],
    cache: Path,
    workers: int,
    on_progress: Progress | None,
) -> None:
    needed = sum(len(files) * int(np.prod(g.shape)) for g in targets)
    scratch: Path | None = None
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _remove_stale(cache)
        free = shutil.disk_usage(cache).free
        if needed + SPARE > free:
            raise MaskensError(
                f"the photo cache needs {needed / 1e9:.1f} GB in {cache}, where {free / 1e9:.1f} GB are free. "
                "Name a larger disk with --cache DIR, or decode at each access with --cache none (slower)."
            )
        scratch = Path(tempfile.mkdtemp(prefix=BUILDING, dir=cache))
        maps = {g: _new_map(scratch / p.name, (len(files), *g.shape)) for g, p in targets.items()}
        _refuse_unreadable(root, _fill(root, files, maps, workers, on_progress))
        for geometry, path in targets.items():
            maps[geometry].flush()
            os.replace(scratch / path.name, path)
    except OSError as error:
        raise MaskensError(f"can't write the photo cache in {cache}: {error.strerror or error}") from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def check_photos(root: Path, files: Sequence[str], workers: int, on_progress: Progress | None = None) -> None:
    """Decode every photo and keep none.

    Raises:
        MaskensError: photos that can't be read, all listed.
    """
    _refuse_unreadable(root, _fill(root, files, {}, workers, on_progress))


def _refuse_unreadable(root: Path, problems: Sequence[str]) -> None:
    advice = "Replace them (or take their rows out of the CSV) and run again."
    refuse(problems, f"photos in {root} can't be used", advice)


def _new_map(path: Path, shape: tuple[int, ...]) -> np.memmap[tuple[int, ...], np.dtype[np.uint8]]:
    """A memory map whose disk space is taken at once: running out of it later would kill the process."""
    mapped = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, path.stat().st_size)
    return mapped


def _remove_stale(cache: Path) -> None:
    """What a killed process left half built more than a day ago."""
    for folder in cache.glob(f"{BUILDING}*"):
        if time.time() - folder.stat().st_mtime > 24 * 3600:
            shutil.rmtree(folder, ignore_errors=True)


def _fill(
    root: Path,
    files: Sequence[str],
    maps: Mapping[Geometry, npt.NDArray[np.uint8]],
    workers: int,
    on_progress: Progress | None,
) -> list[str]:
    """Decode all files into the maps; returns one message for each that can't be read."""

    def one(index: int) -> str:
        try:
            photo = read_photo(root / files[index])
        except MaskensError as error:
            return str(error)
        for geometry, target in maps.items():
            target[index] = fit(photo, geometry.resize, geometry.crop)
        return ""

    return [problem for problem in in_threads(one, range(len(files)), workers, on_progress) if problem]
