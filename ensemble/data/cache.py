"""Photos decoded and resized once into a file that all jobs, epochs and models read."""

from __future__ import annotations

import errno
import functools
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ensemble.recipes.schema import Preprocessing
from folds.errors import MaskensError, refuse
from folds.faces import crop_photo, detector_fault
from folds.files import replacing, sha256, write_text
from folds.people import SKIP_ADVICE, PhotoSet, read_skipped, skipped_csv
from folds.photos import Pixels, Progress, decode_file, in_threads

BUILDING = ".building-"
SPARE = 64 * 2**20  # bytes of disk to leave free

FaceFlags = npt.NDArray[np.bool_]  # (photos,): False where a crop around the face was wanted and no face was found


class LoadedPhoto(NamedTuple):
    sizes: tuple[Pixels, ...]  # uint8 (height, width, 3) each
    face: bool  # False: a crop around the face was wanted, and no face was found


def load_photo(path: Path, preprocessings: Sequence[Preprocessing]) -> LoadedPhoto:
    """A photo in each preprocessing; the file is read once. Raises MaskensError if it can't be read."""
    return in_preprocessings(decode_file(path, decoded_sizes(preprocessings) or [None]).sizes, preprocessings)


def decoded_sizes(preprocessings: Sequence[Preprocessing]) -> list[tuple[int, int] | None]:
    """The size that a photo is decoded at for each preprocessing: `at_least` of `folds.photos.decode_photo`."""
    return [g.decoded if g.reduced else None for g in preprocessings]


def in_preprocessings(photos: Sequence[Pixels], preprocessings: Sequence[Preprocessing]) -> LoadedPhoto:
    """A photo that was decoded at `decoded_sizes`, uint8 (h, w, 3) RGB each, in each preprocessing."""
    found = [crop_photo(photo, g.resize, g.crop) for photo, g in zip(photos, preprocessings, strict=False)]
    return LoadedPhoto(tuple(photo for photo, _ in found), all(face for _, face in found))


def resized_whole(photo: LoadedPhoto, preprocessings: Sequence[Preprocessing]) -> bool:
    """Whether a photo is resized without regard to its shape, and not cropped around its face, in a preprocessing."""
    return not photo.face or not all(g.finds_face for g in preprocessings)


def refuse_without_detector(preprocessings: Iterable[Preprocessing]) -> None:
    """Refuse crops around faces where the detector is not installed. Raises MaskensError with what to install."""
    fault = detector_fault() if any(g.finds_face for g in preprocessings) else ""
    if fault:
        raise MaskensError(f'the models need crops around faces (crop = "face" or "eyes"): {fault}')


def no_face_note(without: int, photos: int) -> str:
    return f"no face found on {without:,} of {photos:,} photos ({without / photos:.1%}): these are resized whole"


class PhotoBatch(NamedTuple):
    """A batch of photos, as arrays or as tensors."""

    photos: tuple[Any, ...]  # for each preprocessing uint8 (batch, height, width, 3)
    faces: Any  # bool (batch,): False where a crop around the face was wanted and no face was found


class DecodedPhotos:
    """Indexable photos, each in one or more preprocessings: from the cache's files, or decoded at each access.

    Skipped photos must not be asked for: in the cache they are black.
    Pickles as paths only, so that worker processes share the page cache and not a copy.
    """

    def __init__(
        self, photos: PhotoSet, preprocessings: Sequence[Preprocessing], cached: Sequence[Path] | None = None
    ) -> None:
        self.photos, self.preprocessings, self.cached = photos, tuple(preprocessings), cached

    @property
    def files(self) -> Sequence[str]:
        return self.photos.files

    def __len__(self) -> int:
        return len(self.photos.files)

    def __getitem__(self, index: int) -> tuple[Pixels, ...]:
        """The photo in each preprocessing, uint8 (height, width, 3). Raises MaskensError if it can't be read."""
        return self.load(index).sizes

    def load(self, index: int) -> LoadedPhoto:
        """The photo in each preprocessing, and whether its face was found. Raises MaskensError if it can't be read."""
        if self.cached is None:
            return load_photo(self.photos.path(self.files[index]), self.preprocessings)
        try:
            return LoadedPhoto(tuple(file[index] for file in self._open), bool(self.faces[index]))
        except (OSError, ValueError) as error:
            raise MaskensError(f"the photo cache is missing or damaged ({error}): run again to rebuild it") from error

    def batches(self, indices: Sequence[int], size: int, workers: int) -> Iterator[PhotoBatch]:
        """The photos at `indices`, in that order, `size` at a time, decoded by so many threads unless they are cached.
        Raises MaskensError: a photo that can't be read."""
        for start in range(0, len(indices), size):
            batch = indices[start : start + size]
            try:
                found = map(self.load, batch) if self.cached else in_threads(self.load, batch, workers)
                sizes, faces = zip(*found, strict=True)
            except MaskensError as error:
                raise error if self.cached else MaskensError(f"{error}. {SKIP_ADVICE}") from None
            yield PhotoBatch(tuple(map(np.stack, zip(*sizes, strict=True))), np.array(faces))

    @functools.cached_property
    def faces(self) -> FaceFlags:
        """Of cached photos. Raises OSError or ValueError if the cache is missing or damaged."""
        faces = np.ones(len(self), np.bool_)
        for preprocessing, path in zip(self.preprocessings, self.cached or (), strict=True):
            if preprocessing.finds_face:
                faces &= np.load(_faces_file(path), allow_pickle=False)
        return faces

    @functools.cached_property
    def _open(self) -> list[PixelFile]:
        return [PixelFile(path) for path in self.cached or ()]

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("faces", "_open")}


def open_photos(
    photos: PhotoSet,
    preprocessings: Sequence[Preprocessing],
    cache: Path | None,
    workers: int,
    on_progress: Progress | None = None,
) -> DecodedPhotos:
    """The photos in each preprocessing; what the cache lacks is decoded now, each file read once for all.

    Args:
        preprocessings: without repeats.
        cache: folder of the decoded photos; None decodes at each access instead.
        workers: decoding threads.

    Raises:
        MaskensError: photos that can't be read (all listed) and that `photos` does not skip, or too little disk (with
            figures).
    """
    refuse_without_detector(preprocessings)
    if cache is None:
        return DecodedPhotos(photos, preprocessings)
    if missing := _missing(photos, preprocessings, cache):
        _build(photos, missing, cache, workers, on_progress)
    return DecodedPhotos(photos, preprocessings, [_pixel_file(cache, photos, g) for g in preprocessings])


def skip_unreadable(
    photos: PhotoSet,
    preprocessings: Sequence[Preprocessing],
    cache: Path | None,
    workers: int,
    on_progress: Progress | None = None,
    write: bool = True,
) -> PhotoSet:
    """The photos, with those that can't be read among the skipped ones; `open_photos` takes the others.

    The cache keeps a list of them. Those listed are tried again each time; once one of them can be read, all photos
    are tried: nothing that was mended stays skipped.

    Args:
        preprocessings: without repeats.
        cache: folder of the decoded photos, if there is one.
        workers: decoding threads.
        write: fill the cache on the way, so that each file is read once for both; else all are opened, none is kept.

    Raises:
        MaskensError: none can be read, or too little disk.
    """
    refuse_without_detector(preprocessings)

    def readable(photos: PhotoSet) -> PhotoSet:
        return photos.without(_decode_all(photos, preprocessings, workers, on_progress)[1])

    if cache is None:
        return readable(photos)
    listed = cache / f"skipped-{sha256(photos.fingerprint)[:16]}.csv"
    try:
        known = read_skipped(listed)
    except MaskensError:
        known = {}
    some = photos.some([row for row, file in enumerate(photos.files) if file in known])
    if len(_decode_all(some, [], 1)[1]) == int(some.readable.sum()):
        photos = photos.without({file: known[file] for file in some.files})
    if not write:
        return readable(photos) if _missing(photos, preprocessings, cache) else photos
    while missing := _missing(photos, preprocessings, cache):  # again, if more can't be read than were listed
        photos = _build(photos, missing, cache, workers, on_progress, skip=True)
    if photos.skipped:
        write_text(listed, skipped_csv(photos.skipped))
    return photos


def decode_photos(
    photos: PhotoSet,
    preprocessings: Sequence[Preprocessing],
    cache: Path | None,
    workers: int,
    on_progress: Progress | None = None,
) -> FaceFlags:
    """Decode every photo into the cache, by `open_photos`; without a cache just look whether all can be read. Raises
    MaskensError: photos that can't be read (all listed) and that `photos` does not skip, or too little disk."""
    if cache is not None:
        return open_photos(photos, preprocessings, cache, workers, on_progress).faces
    refuse_without_detector(preprocessings)
    faces, unreadable = _decode_all(photos, preprocessings, workers, on_progress)
    _refuse_unreadable(photos, unreadable)
    return faces


def missing_bytes(photos: PhotoSet, preprocessings: Sequence[Preprocessing], cache: Path | None) -> int:
    """How much larger the cache would become."""
    return _bytes(photos, _missing(photos, preprocessings, cache)) if cache else 0


def _bytes(photos: PhotoSet, preprocessings: Sequence[Preprocessing]) -> int:
    return sum(len(photos.files) * int(np.prod(g.shape)) for g in preprocessings)


def _missing(photos: PhotoSet, preprocessings: Sequence[Preprocessing], cache: Path) -> list[Preprocessing]:
    """Those that the cache has no whole file of."""

    def complete(preprocessing: Preprocessing) -> bool:
        path, count = _pixel_file(cache, photos, preprocessing), len(photos.files)
        try:
            flags = np.load(_faces_file(path), allow_pickle=False) if preprocessing.finds_face else photos.files
            return PixelFile(path).shape == (count, *preprocessing.shape) and len(flags) == count
        except Exception:  # whatever a damaged file raises: it is rebuilt
            return False

    return [g for g in preprocessings if not complete(g)]


def _pixel_file(cache: Path, photos: PhotoSet, preprocessing: Preprocessing) -> Path:
    """Where photos of one preprocessing lie. The name depends on which of them are skipped and black in it, so that a
    cache with holes is never taken for a whole one, nor for one with other holes."""
    height, width, _ = preprocessing.shape
    version = 2 if preprocessing.finds_face else 1  # of how pixels are made
    of = "\n".join([f"{photos.version} {preprocessing} v{version}", *sorted(photos.skipped)])
    without = f"-without{len(photos.skipped)}" if photos.skipped else ""
    return cache / f"{height}x{width}-{sha256(of)[:16]}{without}.npy"


def _faces_file(path: Path) -> Path:
    """The `FaceFlags` of a file of crops around faces."""
    return path.with_suffix(".faces.npy")


def _build(
    photos: PhotoSet,
    targets: Sequence[Preprocessing],
    cache: Path,
    workers: int,
    on_progress: Progress | None,
    skip: bool = False,
) -> PhotoSet:
    """Write the cache's file of each preprocessing; with `skip`, return the photos with those that can't be read among
    the skipped ones. Raises MaskensError: photos that can't be read (all listed; with `skip` only if it is all of
    them), or too little disk."""
    needed, scratch = _bytes(photos, targets), None
    try:
        cache.mkdir(parents=True, exist_ok=True)
        for folder in cache.glob(f"{BUILDING}*"):  # what a killed process left
            if time.time() - folder.stat().st_mtime > 24 * 3600:
                shutil.rmtree(folder, ignore_errors=True)
        free = shutil.disk_usage(cache).free
        if needed + SPARE > free:
            raise MaskensError(
                f"the photo cache needs {needed / 1e9:.1f} GB in {cache}, where {free / 1e9:.1f} GB are free. "
                "Name a larger disk with --cache DIR, or decode at each access with --cache none (slower)."
            )
        scratch = Path(tempfile.mkdtemp(prefix=BUILDING, dir=cache))
        files = [create_pixel_file(scratch / f"{n}.npy", (len(photos.files), *g.shape)) for n, g in enumerate(targets)]

        def keep(index: int, sizes: Sequence[Pixels]) -> None:
            for file, photo in zip(files, sizes, strict=True):
                file[index] = photo

        faces, unreadable = _decode_all(photos, targets, workers, on_progress, keep)
        if skip:
            photos = photos.without(unreadable)
        else:
            _refuse_unreadable(photos, unreadable)
        for file, preprocessing in zip(files, targets, strict=True):
            file.flush()
            path = _pixel_file(cache, photos, preprocessing)
            if preprocessing.finds_face:
                with replacing(_faces_file(path)) as handle:
                    np.save(handle, faces)
            os.replace(file.path, path)
        return photos
    except OSError as error:
        raise MaskensError(f"can't write the photo cache in {cache}: {error.strerror or error}") from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def _decode_all(
    photos: PhotoSet,
    preprocessings: Sequence[Preprocessing],
    workers: int,
    on_progress: Progress | None = None,
    keep: Callable[[int, Sequence[Pixels]], None] = lambda index, sizes: None,
) -> tuple[FaceFlags, dict[str, str]]:
    """Load all photos that are not skipped and hand them to `keep`; returns (faces, file -> why it can't be read). The
    reason lacks the photo's path, as data may be moved."""
    faces = np.ones(len(photos.files), np.bool_)

    def problem(index: int) -> str:
        path = photos.path(photos.files[index])
        try:
            sizes, faces[index] = load_photo(path, preprocessings)
            keep(index, sizes)
        except MaskensError as error:
            return str(error).removeprefix(f"{path} ")
        return ""

    rows = np.flatnonzero(photos.readable).tolist()
    found = zip(rows, in_threads(problem, rows, workers, on_progress), strict=True)
    return faces, {photos.files[row]: wrong for row, wrong in found if wrong}


def _refuse_unreadable(photos: PhotoSet, unreadable: dict[str, str]) -> None:
    problems = [f"{photos.path(file)} {why}" for file, why in unreadable.items()]
    refuse(problems, f"photos in {photos.root} can't be used", SKIP_ADVICE)


class PixelFile:
    """uint8 (photos, height, width, 3) on disk, indexable by photo.

    Reads and writes name their place in the file, so that processes and threads share the system's page cache but no
    file position. Pages of a memory map would count as memory of every process that has touched them.
    """

    def __init__(self, path: Path, writable: bool = False) -> None:
        """Open a file of `create_pixel_file`. Raises OSError, or ValueError: it is cut off, or not such a file."""
        self.path = path
        with path.open("rb") as handle:
            if np.lib.format.read_magic(handle) != (1, 0):
                raise ValueError(f"{path} is not of the .npy version 1.0")
            try:
                self.shape, columns_first, dtype = np.lib.format.read_array_header_1_0(handle)
            except Exception as error:  # numpy parses it as Python, with all the errors of that
                raise ValueError(f"{path} has a damaged header") from error
            self._start, self._photo = handle.tell(), int(np.prod(self.shape[1:]))
        whole = self._start + self.shape[0] * self._photo
        if columns_first or dtype != np.uint8 or len(self.shape) != 4 or path.stat().st_size != whole:
            raise ValueError(f"{path} does not hold photos of uint8, or not all of them")
        self._file = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def __getitem__(self, index: int) -> Pixels:
        """The photo, uint8 (height, width, 3), in memory of its own. Raises OSError."""
        photo = np.empty(self.shape[1:], np.uint8)
        if os.preadv(self._file, [photo.data], self._place(index)) != self._photo:
            raise OSError(errno.EIO, f"{self.path} has become shorter")
        return photo

    def __setitem__(self, index: int, photo: Pixels) -> None:
        if photo.shape != self.shape[1:] or photo.dtype != np.uint8:
            raise ValueError(f"a photo of {photo.dtype} {photo.shape} is not one of uint8 {self.shape[1:]}")
        if os.pwrite(self._file, np.ascontiguousarray(photo).data, self._place(index)) != self._photo:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def flush(self) -> None:
        """Write to the disk what is still in memory."""
        os.fsync(self._file)

    def _place(self, index: int) -> int:
        if not 0 <= index < self.shape[0]:
            raise IndexError(f"photo {index} of {self.shape[0]}")
        return self._start + index * self._photo


def create_pixel_file(path: Path, shape: tuple[int, int, int, int]) -> PixelFile:
    """A new file for (photos, height, width, 3). Its disk space is taken at once, where the system can."""
    with path.open("xb") as handle:
        np.lib.format.write_array_header_1_0(handle, {"descr": "|u1", "fortran_order": False, "shape": shape})
        size = handle.tell() + int(np.prod(shape))
        handle.truncate(size)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle.fileno(), 0, size)
    return PixelFile(path, writable=True)
