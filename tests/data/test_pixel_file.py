"""Photos in one file: every reader, in any process, gets the photo of that number."""

from __future__ import annotations

import multiprocessing
import pickle
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ensemble.data.cache import DecodedPhotos, PixelFile, create_pixel_file
from ensemble.data.loader import plain_batches
from ensemble.recipes.schema import Preprocessing
from folds.people import PhotoSet

SHAPE = (400, 4, 3, 3)


def photo(number: int) -> np.ndarray:
    return np.full(SHAPE[1:], number % 251, np.uint8) + np.arange(3, dtype=np.uint8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file filled by eight threads in disorder."""
    file = create_pixel_file(tmp_path / "photos.npy", SHAPE)
    order = np.random.default_rng(0).permutation(SHAPE[0]).tolist()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: file.__setitem__(i, photo(i)), order))
    file.flush()
    return tmp_path / "photos.npy"


@pytest.fixture
def photos(path: Path) -> DecodedPhotos:
    """Opened before it is forked or pickled."""
    found = DecodedPhotos(PhotoSet(path.parent, [""] * SHAPE[0], ""), [Preprocessing(SHAPE[1:3])], [path])
    assert np.array_equal(found[3][0], photo(3))
    return found


def test_it_is_a_plain_npy_file_and_a_photo_is_the_readers_own(path: Path) -> None:
    whole, file = np.load(path), PixelFile(path)
    assert (whole.shape, whole.dtype) == (SHAPE, np.uint8)
    file[7][:] = 0
    assert all(np.array_equal(whole[i], photo(i)) and np.array_equal(file[i], photo(i)) for i in range(len(whole)))
    with pytest.raises(IndexError):
        file[400]


def test_what_is_no_photo_of_the_file_is_not_written(tmp_path: Path) -> None:
    file = create_pixel_file(tmp_path / "photos.npy", SHAPE)
    for wrong in (np.zeros((3, 4, 3), np.uint8), np.zeros(SHAPE[1:], np.float32)):
        with pytest.raises(ValueError, match="is not one of uint8"):
            file[0] = wrong


def _read(photos: DecodedPhotos, seed: int) -> bool:
    rows = np.random.default_rng(seed).integers(0, SHAPE[0], 1500)
    return all(np.array_equal(photos[i][0], photo(i)) for i in rows)


@pytest.mark.skipif(sys.platform != "linux", reason="jobs' workers are forked on Linux alone")
def test_forked_processes_that_share_an_open_file_read_the_right_photos(photos: DecodedPhotos) -> None:
    with multiprocessing.get_context("fork").Pool(6) as pool:
        assert all(pool.starmap(_read, [(photos, seed) for seed in range(12)]))
    assert _read(pickle.loads(pickle.dumps(photos)), 0)


def test_batches_hold_the_right_photos_and_no_process_is_started_for_them(photos: DecodedPhotos) -> None:
    rows = np.random.default_rng(1).permutation(SHAPE[0])
    found = []
    for batch in plain_batches(photos, rows.tolist(), 32, workers=2):
        assert not multiprocessing.active_children()
        found.append(batch.photos[0].numpy())
    assert np.array_equal(np.concatenate(found), np.stack([photo(i) for i in rows]))


@pytest.mark.parametrize("content", [np.zeros((2, 4, 3, 3)), np.zeros((2, 4), np.uint8)])
def test_other_arrays_are_refused(tmp_path: Path, content: np.ndarray) -> None:
    np.save(tmp_path / "other.npy", content)
    with pytest.raises(ValueError, match="does not hold photos"):
        PixelFile(tmp_path / "other.npy")


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's own account of a process")
def test_neither_filling_nor_reading_adds_the_file_to_the_memory_of_the_process(tmp_path: Path) -> None:
    def mapped() -> int:
        return sum(map(int, re.findall(r"Rss(?:File|Shmem):\s+(\d+) kB", Path("/proc/self/status").read_text())))

    file, photo = create_pixel_file(tmp_path / "photos.npy", (40, 512, 384, 3)), np.ones((512, 384, 3), np.uint8)
    before = mapped()
    for i in range(40):
        file[i] = photo
        assert file[i].all()
    assert (tmp_path / "photos.npy").stat().st_size > 23e6
    assert mapped() - before < 5000
