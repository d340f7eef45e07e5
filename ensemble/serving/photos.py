"""From uploads to what `maskens predict` says of photos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ensemble.data.load import decoded_sizes, in_geometries
from ensemble.inference.predictions import prediction_records
from ensemble.inference.resident import ResidentEnsemble
from ensemble.models.process import give_back_memory
from ensemble.serving.uploads import Upload
from folds.data.decode import Pixels, decode_photo, resize_and_crop
from folds.data.photo_files import is_distorted
from folds.errors import MaskensError

FORMATS = ("JPEG", "PNG", "WEBP")  # what cameras and browsers send; some of Pillow's others start programs
LARGE = 4_000_000  # pixels from which on the memory of decoding is given back
PICTURE = 240  # pixels of the longer side of a photo shown on a page

Record = dict[str, Any]


@dataclass(frozen=True)
class ReadPhoto:
    """An upload, decoded."""

    sizes: tuple[Pixels, ...]  # in the geometries of the models, uint8 (height, width, 3) each
    distorted: bool
    picture: Pixels | None  # uint8 (h, w, 3), for a page


class PhotoAnswers:
    """Reads uploads, in any number of threads, and answers them.

    The models live in a thread of their own from the start. OpenMP keeps a pool of threads for every thread that has
    run torch, and where a second pool is left over, if only from loading, a batch took two to three times as long on
    two cores.
    """

    def __init__(self, load: Callable[[], ResidentEnsemble], aspect: float, megapixels: float) -> None:
        """
        Args:
            load: called once, in that thread; what it raises is raised here.
            aspect: height / width of the photos that the models were trained on.
            megapixels: above which a photo is refused.
        """
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="models")
        self._aspect, self._most_pixels = aspect, round(megapixels * 1e6)
        self._models = self._thread.submit(load).result()

    @property
    def notes(self) -> list[str]:
        """Of the models."""
        return self._models.notes

    def read(self, upload: Upload, picture: bool) -> ReadPhoto:
        """Decode an upload.

        Args:
            picture: whether a page is to show it.

        Raises:
            MaskensError: it can't be read.
        """
        large = True
        try:
            photo, pixels = self._decoded(upload, picture)
            large = pixels > LARGE
            return photo
        except MaskensError:
            raise
        except Exception as error:  # what decoders raise on bytes that were made to break them is no fixed list
            raise MaskensError(f"{upload.name} can't be read ({type(error).__name__})") from error
        finally:
            if large:
                give_back_memory()

    def _decoded(self, upload: Upload, picture: bool) -> tuple[ReadPhoto, int]:
        """The photo, and how many pixels it has whole."""
        wanted = decoded_sizes(self._models.geometries)
        extra = [(PICTURE, PICTURE)] if picture else []
        photo = decode_photo(upload.content, upload.name, [*wanted, *extra], FORMATS, self._most_pixels)
        loaded = in_geometries(photo.sizes[: len(wanted)], self._models.geometries)
        shown = _shrunk(photo.sizes[-1]) if picture else None
        height, width = photo.whole
        return ReadPhoto(loaded.sizes, is_distorted(height, width, self._aspect), shown), height * width

    def answer(self, photos: Sequence[ReadPhoto]) -> list[Record]:
        """A record a photo, as `prediction_records` makes them; `photo` is its place in the batch.

        Raises:
            MaskensError: as `ResidentEnsemble.predict`.
        """
        places = [str(n) for n in range(len(photos))]
        distorted = [place for place, photo in zip(places, photos, strict=True) if photo.distorted]
        found = self._thread.submit(self._models.predict, [p.sizes for p in photos]).result()
        return prediction_records(places, found, distorted)


def _shrunk(photo: Pixels) -> Pixels:
    height, width = photo.shape[:2]
    scale = min(1.0, PICTURE / max(height, width))
    return resize_and_crop(photo, (max(1, round(scale * height)), max(1, round(scale * width))), None)
