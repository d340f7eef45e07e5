"""Photos in one file: whoever asks, and from however many processes, gets the photo of that number."""

from __future__ import annotations

import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import ensemble.data.pixel_file
from ensemble.data.cache import DecodedPhotos
from ensemble.data.loader import plain_batches
from ensemble.data.pixel_file import POSITIONED, PixelFile, create
from ensemble.recipes.schema import Preprocessing
from folds.people import PhotoSet

SHAPE = (400, 4, 3, 3)


def photo(number: int) -> np.ndarray:
    return np.full(SHAPE[1:], number % 251, np.uint8) + np.arange(3, dtype=np.uint8)


@pytest.fixture(params=[True, False], ids=["positioned", "mapped"])
def path(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file filled by eight threads in disorder; and once as where the system can't read at a place."""
    monkeypatch.setattr(ensemble.data.pixel_file, "POSITIONED", POSITIONED and request.param)
    file = create(tmp_path / "photos.npy", SHAPE)
    order = np.random.default_rng(0).permutation(len(file)).tolist()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: file.__setitem__(i, photo(i)), order))
    file.flush()
    return tmp_path / "photos.npy"


def test_it_is_a_plain_npy_file(path: Path) -> None:
    whole = np.load(path)
    assert (whole.shape, whole.dtype) == (SHAPE, np.uint8)
    assert all(np.array_equal(whole[i], photo(i)) for i in range(len(whole)))


def test_a_photo_is_the_readers_own(path: Path) -> None:
    file = PixelFile(path)
    file[7][:] = 0
    assert np.array_equal(file[7], photo(7))
    with pytest.raises(IndexError):
        file[400]


def test_what_is_no_photo_of_the_file_is_not_written(tmp_path: Path) -> None:
    file = create(tmp_path / "photos.npy", SHAPE)
    for wrong in (np.zeros((3, 4, 3), np.uint8), np.zeros(SHAPE[1:], np.float32)):
        with pytest.raises(ValueError, match="is not one of uint8"):
            file[0] = wrong


def _read(photos: DecodedPhotos, seed: int) -> bool:
    rows = np.random.default_rng(seed).integers(0, SHAPE[0], 1500)
    return all(np.array_equal(photos[i][0], photo(i)) for i in rows)


@pytest.mark.skipif(sys.platform != "linux", reason="jobs' workers are forked on Linux alone")
def test_forked_processes_that_share_an_open_file_read_the_right_photos(path: Path) -> None:
    photos = DecodedPhotos(PhotoSet(path.parent, [""] * SHAPE[0], ""), [Preprocessing(SHAPE[1:3])], [path])
    assert np.array_equal(photos[3][0], photo(3))  # open before the fork
    with multiprocessing.get_context("fork").Pool(6) as pool:
        assert all(pool.starmap(_read, [(photos, seed) for seed in range(12)]))


def test_batches_hold_the_right_photos_and_no_process_is_started_for_them(path: Path) -> None:
    photos = DecodedPhotos(PhotoSet(path.parent, [""] * SHAPE[0], ""), [Preprocessing(SHAPE[1:3])], [path])
    assert np.array_equal(photos[3][0], photo(3))
    rows = np.random.default_rng(1).permutation(SHAPE[0])
    found = []
    for batch in plain_batches(photos, rows.tolist(), 32, workers=2):
        assert not multiprocessing.active_children()
        found.append(batch.photos[0].numpy())
    assert np.array_equal(np.concatenate(found), np.stack([photo(i) for i in rows]))


def test_open_photos_travel_as_their_path(path: Path) -> None:
    photos = DecodedPhotos(PhotoSet(path.parent, [""] * SHAPE[0], ""), [Preprocessing(SHAPE[1:3])], [path])
    assert np.array_equal(photos[3][0], photo(3))
    assert np.array_equal(pickle.loads(pickle.dumps(photos))[5][0], photo(5))


@pytest.mark.parametrize("content", [np.zeros((2, 3, 3)), np.zeros((2, 4, 3, 3)), np.zeros((2, 4), np.uint8)])
def test_other_arrays_are_refused(tmp_path: Path, content: np.ndarray) -> None:
    np.save(tmp_path / "other.npy", content)
    with pytest.raises(ValueError, match="does not hold photos"):
        PixelFile(tmp_path / "other.npy")


def test_a_damaged_header_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "photos.npy", np.zeros((2, 4, 3, 3), np.uint8))
    content = (tmp_path / "photos.npy").read_bytes()
    for before, after in ((b"}", b" "), (b"'shape'", b"'shap\\'"), (b"(2, 4", b"(2.5,"), (b"|u1", b"|u\0")):
        (tmp_path / "photos.npy").write_bytes(content.replace(before, after, 1))
        with pytest.raises(ValueError, match=r"photos\.npy"):
            PixelFile(tmp_path / "photos.npy")


GROWTH = """
import sys
from pathlib import Path
import numpy as np
from ensemble.data.pixel_file import create
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
file, photo = create(Path(sys.argv[1]), (150, 512, 384, 3)), np.zeros((512, 384, 3), np.uint8)
file[0] = photo
before = peak()
for i in range(150):
    file[i] = photo
    file[i]
print((peak() - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's own account of a process")
def test_neither_filling_nor_reading_adds_the_file_to_the_memory_of_the_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", GROWTH, str(tmp_path / "photos.npy")]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (tmp_path / "photos.npy").stat().st_size > 88e6
    assert int(found.stdout) < 20  # MB
