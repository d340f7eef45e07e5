"""One photo from its file, as models want it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ensemble.recipes.geometry import Geometry
from folds.data.decode import Pixels, read_sizes, resize_and_crop
from folds.data.faces import crop_to_face, detector_fault
from folds.errors import MaskensError


class LoadedPhoto(NamedTuple):
    """A photo in some geometries."""

    sizes: tuple[Pixels, ...]  # uint8 (height, width, 3) each
    face: bool  # False: a crop around the face was wanted, and none was found


def load_photo(path: Path, geometries: Sequence[Geometry]) -> LoadedPhoto:
    """A photo in each geometry; the file is read once.

    Raises:
        MaskensError: it can't be read.
    """
    return in_geometries(read_sizes(path, decoded_sizes(geometries)), geometries)


def decoded_sizes(geometries: Sequence[Geometry]) -> list[tuple[int, int] | None]:
    """At which size a photo is decoded for each geometry: `at_least` of `folds.data.decode.read_sizes`."""
    return [g.decoded if g.reduced else None for g in geometries]


def in_geometries(photos: Sequence[Pixels], geometries: Sequence[Geometry]) -> LoadedPhoto:
    """A photo that was decoded at `decoded_sizes`, uint8 (h, w, 3) each, in each geometry."""
    found = [resize(photo, g) for photo, g in zip(photos, geometries, strict=True)]
    return LoadedPhoto(tuple(photo for photo, _ in found), all(face for _, face in found))


def resize(photo: Pixels, geometry: Geometry) -> tuple[Pixels, bool]:
    """A decoded photo, resized and cropped.

    Args:
        photo: uint8 (h, w, 3) RGB.

    Returns:
        (uint8 (height, width, 3), False where a face was to be cut out and there is none).
    """
    if geometry.crop == "face":
        return crop_to_face(photo, geometry.resize)
    return resize_and_crop(photo, geometry.resize, geometry.crop), True


def refuse_without_detector(geometries: Iterable[Geometry]) -> None:
    """Refuse crops around faces where none can be found.

    Raises:
        MaskensError: with what to install.
    """
    fault = detector_fault() if any(g.crop == "face" for g in geometries) else ""
    if fault:
        raise MaskensError(f'models are to be shown crops around faces (crop = "face"): {fault}')


def no_face_note(without: int, photos: int) -> str:
    """What to say of photos without a face, where one was to be cut out."""
    return f"no face found on {without:,} of {photos:,} photos ({without / photos:.1%}): these are resized whole"
