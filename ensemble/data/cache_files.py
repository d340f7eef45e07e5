"""The files of the photo cache: which there are, and writing them."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ensemble.data.load import load_photo
from ensemble.data.pixel_file import PixelFile, create
from ensemble.recipes.geometry import Geometry
from folds.data.decode import Progress, in_threads
from folds.data.people import PhotoSet
from folds.data.skipped import ADVICE
from folds.errors import MaskensError, refuse
from folds.files import sha256
from folds.replacing import replacing

BUILDING = ".building-"
SPARE = 64 * 2**20  # bytes of disk to leave free


def missing_geometries(photos: PhotoSet, geometries: Sequence[Geometry], cache: Path) -> list[Geometry]:
    """Those that the cache has no whole file of."""
    return [g for g in geometries if not _complete(pixel_file(cache, photos, g), g, len(photos.files))]


def pixel_file(cache: Path, photos: PhotoSet, geometry: Geometry) -> Path:
    """Where photos of a geometry lie. The name says which of them are skipped and black in it, so that a cache with
    holes is never taken for a whole one, nor for one with other holes."""
    height, width, _ = geometry.shape
    of = "\n".join([f"{photos.version} {geometry} v1", *sorted(photos.skipped)])
    without = f"-without{len(photos.skipped)}" if photos.skipped else ""
    return cache / f"{height}x{width}-{sha256(of)[:16]}{without}.npy"


def faces_file(path: Path) -> Path:
    """Beside photos of faces cut out: on which of them one was found, bool (photos,)."""
    return path.with_suffix(".faces.npy")


def _complete(path: Path, geometry: Geometry, photos: int) -> bool:
    try:
        whole = PixelFile(path).shape == (photos, *geometry.shape)
        return whole and (geometry.crop != "face" or len(np.load(faces_file(path), allow_pickle=False)) == photos)
    except Exception:  # whatever a damaged file raises: it is made anew
        return False


def build(
    photos: PhotoSet,
    targets: Sequence[Geometry],
    cache: Path,
    workers: int,
    on_progress: Progress | None,
    skip: bool = False,
) -> PhotoSet:
    """Write the cache's file of each geometry.

    Args:
        skip: leave out photos that can't be read, and return the photos with these among the skipped ones.

    Raises:
        MaskensError: photos that can't be read (all listed; with `skip` only if it is all of them), or too little disk.
    """
    needed = sum(len(photos.files) * int(np.prod(g.shape)) for g in targets)
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
        building = [create(scratch / f"{n}.npy", (len(photos.files), *g.shape)) for n, g in enumerate(targets)]
        faces = np.ones(len(photos.files), np.bool_)

        def one(index: int) -> None:
            sizes, faces[index] = load_photo(photos.path(photos.files[index]), targets)
            for file, photo in zip(building, sizes, strict=True):
                file[index] = photo

        problems = each_photo(one, photos, workers, on_progress)
        if skip:
            photos = photos.without(reasons(photos, problems))
        else:
            refuse_unreadable(photos, problems)
        for file, geometry in zip(building, targets, strict=True):
            file.flush()
            path = pixel_file(cache, photos, geometry)
            if geometry.crop == "face":
                with replacing(faces_file(path)) as handle:
                    np.save(handle, faces)
            os.replace(file.path, path)
        return photos
    except OSError as error:
        raise MaskensError(f"can't write the photo cache in {cache}: {error.strerror or error}") from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def each_photo(
    function: Callable[[int], None], photos: PhotoSet, workers: int, on_progress: Progress | None
) -> dict[str, str]:
    """Call a function that decodes the photo of an index for each that is not skipped; file -> what was wrong."""

    def problem(index: int) -> str:
        try:
            function(index)
        except MaskensError as error:
            return str(error)
        return ""

    rows = np.flatnonzero(photos.readable).tolist()
    found = zip(rows, in_threads(problem, rows, workers, on_progress), strict=True)
    return {photos.files[row]: wrong for row, wrong in found if wrong}


def refuse_unreadable(photos: PhotoSet, problems: dict[str, str]) -> None:
    """Refuse what `each_photo` found, if anything. Raises MaskensError with all of it."""
    refuse(list(problems.values()), f"photos in {photos.root} can't be used", ADVICE)


def reasons(photos: PhotoSet, problems: dict[str, str]) -> dict[str, str]:
    """file -> why it can't be read, without its path, which may become another."""
    return {file: wrong.removeprefix(f"{photos.path(file)} ") for file, wrong in problems.items()}


def _remove_stale(cache: Path) -> None:
    """What a killed process left half built more than a day ago."""
    for folder in cache.glob(f"{BUILDING}*"):
        if time.time() - folder.stat().st_mtime > 24 * 3600:
            shutil.rmtree(folder, ignore_errors=True)
