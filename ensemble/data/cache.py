"""Photos decoded and resized once into a file that all jobs, epochs and models read."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ensemble.data.pixel_file import PixelFile, create
from ensemble.recipes.schema import Preprocessing
from folds.errors import MaskensError, refuse
from folds.faces import crop_to_face, detector_fault
from folds.files import replacing, sha256, write_text
from folds.people import SKIP_ADVICE, PhotoSet, read_skipped, skipped_csv
from folds.photos import Pixels, Progress, decode_file, in_threads, read_photo, resize_and_crop


class LoadedPhoto(NamedTuple):
    """A photo in some preprocessings."""

    sizes: tuple[Pixels, ...]  # uint8 (height, width, 3) each
    face: bool  # False: a crop around the face was wanted, and none was found


def load_photo(path: Path, preprocessings: Sequence[Preprocessing]) -> LoadedPhoto:
    """A photo in each preprocessing; the file is read once.

    Raises:
        MaskensError: it can't be read.
    """
    return in_preprocessings(decode_file(path, decoded_sizes(preprocessings)).sizes, preprocessings)


def decoded_sizes(preprocessings: Sequence[Preprocessing]) -> list[tuple[int, int] | None]:
    """At which size a photo is decoded for each preprocessing: `at_least` of `folds.photos.decode_photo`."""
    return [g.decoded if g.reduced else None for g in preprocessings]


def in_preprocessings(photos: Sequence[Pixels], preprocessings: Sequence[Preprocessing]) -> LoadedPhoto:
    """A photo that was decoded at `decoded_sizes`, uint8 (h, w, 3) each, in each preprocessing."""
    found = [resize(photo, g) for photo, g in zip(photos, preprocessings, strict=True)]
    return LoadedPhoto(tuple(photo for photo, _ in found), all(face for _, face in found))


def resize(photo: Pixels, preprocessing: Preprocessing) -> tuple[Pixels, bool]:
    """A decoded photo, resized and cropped.

    Args:
        photo: uint8 (h, w, 3) RGB.

    Returns:
        (uint8 (height, width, 3), False where a face was to be cut out and there is none).
    """
    if preprocessing.crop == "face":
        return crop_to_face(photo, preprocessing.resize)
    return resize_and_crop(photo, preprocessing.resize, preprocessing.crop), True


def refuse_without_detector(preprocessings: Iterable[Preprocessing]) -> None:
    """Refuse crops around faces where none can be found.

    Raises:
        MaskensError: with what to install.
    """
    fault = detector_fault() if any(g.crop == "face" for g in preprocessings) else ""
    if fault:
        raise MaskensError(f'models are to be shown crops around faces (crop = "face"): {fault}')


def no_face_note(without: int, photos: int) -> str:
    """What to say of photos without a face, where one was to be cut out."""
    return f"no face found on {without:,} of {photos:,} photos ({without / photos:.1%}): these are resized whole"


BUILDING = ".building-"
SPARE = 64 * 2**20  # bytes of disk to leave free


def missing_preprocessings(
    photos: PhotoSet, preprocessings: Sequence[Preprocessing], cache: Path
) -> list[Preprocessing]:
    """Those that the cache has no whole file of."""
    return [g for g in preprocessings if not _complete(pixel_file(cache, photos, g), g, len(photos.files))]


def pixel_file(cache: Path, photos: PhotoSet, preprocessing: Preprocessing) -> Path:
    """Where photos of one preprocessing lie. The name says which of them are skipped and black in it, so that a cache
    with holes is never taken for a whole one, nor for one with other holes."""
    height, width, _ = preprocessing.shape
    of = "\n".join([f"{photos.version} {preprocessing} v1", *sorted(photos.skipped)])
    without = f"-without{len(photos.skipped)}" if photos.skipped else ""
    return cache / f"{height}x{width}-{sha256(of)[:16]}{without}.npy"


def faces_file(path: Path) -> Path:
    """Beside photos of faces cut out: on which of them one was found, bool (photos,)."""
    return path.with_suffix(".faces.npy")


def _complete(path: Path, preprocessing: Preprocessing, photos: int) -> bool:
    try:
        whole = PixelFile(path).shape == (photos, *preprocessing.shape)
        return whole and (preprocessing.crop != "face" or len(np.load(faces_file(path), allow_pickle=False)) == photos)
    except Exception:  # whatever a damaged file raises: it is made anew
        return False


def build(
    photos: PhotoSet,
    targets: Sequence[Preprocessing],
    cache: Path,
    workers: int,
    on_progress: Progress | None,
    skip: bool = False,
) -> PhotoSet:
    """Write the cache's file of each preprocessing.

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
        for file, preprocessing in zip(building, targets, strict=True):
            file.flush()
            path = pixel_file(cache, photos, preprocessing)
            if preprocessing.crop == "face":
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
    refuse(list(problems.values()), f"photos in {photos.root} can't be used", SKIP_ADVICE)


def reasons(photos: PhotoSet, problems: dict[str, str]) -> dict[str, str]:
    """file -> why it can't be read, without its path, which may become another."""
    return {file: wrong.removeprefix(f"{photos.path(file)} ") for file, wrong in problems.items()}


def _remove_stale(cache: Path) -> None:
    """What a killed process left half built more than a day ago."""
    for folder in cache.glob(f"{BUILDING}*"):
        if time.time() - folder.stat().st_mtime > 24 * 3600:
            shutil.rmtree(folder, ignore_errors=True)


class DecodedPhotos:
    """Indexable photos, each in one or more preprocessings: from the cache's files, or decoded at each access.

    Those that `photos` skips are not to be asked for: in the cache they are black.
    Pickles as paths only, so that worker processes share the page cache and not a copy.
    """

    def __init__(
        self, photos: PhotoSet, preprocessings: Sequence[Preprocessing], cached: Sequence[Path] | None = None
    ) -> None:
        self.photos, self.preprocessings, self.cached = photos, tuple(preprocessings), cached
        self._open: list[PixelFile] | None = None
        self._faces: npt.NDArray[np.bool_] | None = None

    @property
    def files(self) -> Sequence[str]:
        return self.photos.files

    def __len__(self) -> int:
        return len(self.photos.files)

    def __getitem__(self, index: int) -> tuple[Pixels, ...]:
        """The photo in each preprocessing, uint8 (height, width, 3).

        Raises:
            MaskensError: it can't be read.
        """
        return self.load(index).sizes

    def load(self, index: int) -> LoadedPhoto:
        """The photo in each preprocessing, and whether its face was found.

        Raises:
            MaskensError: it can't be read.
        """
        if self.cached is None:
            return load_photo(self.photos.path(self.files[index]), self.preprocessings)
        try:
            if self._open is None:
                self._open = [PixelFile(path) for path in self.cached]
            return LoadedPhoto(tuple(file[index] for file in self._open), bool(self.faces[index]))
        except (OSError, ValueError) as error:
            raise MaskensError(f"the photo cache is gone or damaged ({error}): run again, it is made anew") from error

    @property
    def faces(self) -> npt.NDArray[np.bool_]:
        """Of cached photos, (photos,): False where a face was to be cut out and none was found.

        Raises:
            OSError, ValueError: the cache is gone or damaged.
        """
        if self._faces is None:
            self._faces = np.ones(len(self), np.bool_)
            for preprocessing, path in zip(self.preprocessings, self.cached or (), strict=True):
                if preprocessing.crop == "face":
                    self._faces &= np.load(faces_file(path), allow_pickle=False)
        return self._faces

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": None, "_faces": None}


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
    missing = missing_preprocessings(photos, preprocessings, cache)
    if missing:
        build(photos, missing, cache, workers, on_progress)
    return DecodedPhotos(photos, preprocessings, [pixel_file(cache, photos, g) for g in preprocessings])


def skip_unreadable(
    photos: PhotoSet,
    preprocessings: Sequence[Preprocessing],
    cache: Path | None,
    workers: int,
    on_progress: Progress | None = None,
    write: bool = True,
) -> PhotoSet:
    """The photos, with those that can't be read among the skipped ones; `open_photos` takes the others.

    A cache has a list of them beside its files. Those listed are tried again each time, and once one of them can be
    read, all photos are: nothing that was mended stays out.

    Args:
        preprocessings, cache, workers: as of `open_photos`.
        write: fill the cache on the way, so that each file is read once for both; else all are opened, none is kept.

    Raises:
        MaskensError: none can be read, or too little disk.
    """
    refuse_without_detector(preprocessings)
    found = photos.without(_listed(photos, cache)) if cache else photos
    if cache is None or not write:
        if cache is None or missing_preprocessings(found, preprocessings, cache):
            found = found.without(reasons(found, _open_all(found, preprocessings, workers, on_progress)[1]))
        return found
    while missing := missing_preprocessings(
        found, preprocessings, cache
    ):  # again, if more can't be read than were listed
        found = build(found, missing, cache, workers, on_progress, skip=True)
    if found.skipped:
        write_text(_list_file(photos, cache), skipped_csv(found.skipped))
    return found


def _list_file(photos: PhotoSet, cache: Path) -> Path:
    return cache / f"skipped-{sha256(photos.fingerprint)[:16]}.csv"


def _listed(photos: PhotoSet, cache: Path) -> dict[str, str]:
    """file -> why, of the photos that could not be read before, if that is still so of all of them."""
    try:
        listed = read_skipped(_list_file(photos, cache))
    except MaskensError:
        return {}
    some = photos.some([row for row, file in enumerate(photos.files) if file in listed])
    still = _open_all(some, [], workers=1)[1]
    return {file: listed[file] for file in some.files} if len(still) == int(some.readable.sum()) else {}


def missing_bytes(photos: PhotoSet, preprocessings: Sequence[Preprocessing], cache: Path | None) -> int:
    """How much larger the cache would become; arguments as of `open_photos`."""
    missing = missing_preprocessings(photos, preprocessings, cache) if cache else []
    return sum(len(photos.files) * int(np.prod(g.shape)) for g in missing)


def check_readable(
    photos: PhotoSet, preprocessings: Sequence[Preprocessing], workers: int, on_progress: Progress | None = None
) -> npt.NDArray[np.bool_]:
    """Decode every photo, in whole besides its preprocessings, and keep none.

    Returns:
        bool (photos,): False where a face was to be cut out and none was found.

    Raises:
        MaskensError: photos that can't be read, all listed.
    """
    refuse_without_detector(preprocessings)
    faces, problems = _open_all(photos, preprocessings, workers, on_progress)
    refuse_unreadable(photos, problems)
    return faces


def _open_all(
    photos: PhotoSet, preprocessings: Sequence[Preprocessing], workers: int, on_progress: Progress | None = None
) -> tuple[npt.NDArray[np.bool_], dict[str, str]]:
    """(as `check_readable`, file -> what is wrong with it)."""
    faces = np.ones(len(photos.files), np.bool_)
    cut = [g for g in preprocessings if g.crop == "face"]

    def one(index: int) -> None:
        path = photos.path(photos.files[index])
        read_photo(path)
        if cut:
            faces[index] = load_photo(path, cut).face

    return faces, each_photo(one, photos, workers, on_progress)
