from __future__ import annotations

import collections
import multiprocessing
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeData
from noise_photos import noise_photos
from PIL import Image

import ensemble.data.cache
from ensemble.data.cache import DecodedPhotos, open_photos
from ensemble.data.loader import plain_batches
from ensemble.recipes.schema import Preprocessing
from folds.errors import MaskensError
from folds.layout import read_eval, read_train
from folds.people import EvalData, PhotoSet, TrainData
from folds.photos import DecodedPhoto, Pixels, decode_file, read_photo, resize_and_crop

SMALL, CROPPED = Preprocessing((16, 12)), Preprocessing((20, 16), (12, 10))
FILES = [f"{i}.png" for i in range(6)]
JPEGS = [f"{i}.jpg" for i in range(3)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return noise_photos(tmp_path / "photos", FILES)


@pytest.fixture
def jpegs(tmp_path: Path) -> Path:
    folder = tmp_path / "jpegs"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for name in JPEGS:
        Image.fromarray(rng.integers(0, 256, (150, 110, 3), dtype=np.uint8)).save(folder / name)
    return folder


@pytest.mark.parametrize("cached", [True, False])
def test_photos_are_what_decoding_and_fitting_give_and_each_file_is_read_once(
    root: Path, tmp_path: Path, cached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: collections.Counter[str] = collections.Counter()
    progress: list[tuple[int, int]] = []

    def counting(path: Path, at_least: Sequence[tuple[int, int] | None]) -> DecodedPhoto:
        read[path.name] += 1
        return decode_file(path, at_least)

    monkeypatch.setattr(ensemble.data.cache, "decode_file", counting)
    cache, photos = tmp_path / "cache" if cached else None, PhotoSet(root, FILES, "print")
    for _ in range(2 if cached else 1):  # a second opening finds the cache
        opened = open_photos(photos, [SMALL, CROPPED], cache, 2, lambda *done: progress.append(done))
        assert len(opened) == 6
        for i, name in enumerate(FILES):
            whole = read_photo(root / name)
            small, cropped = opened[i]
            assert np.array_equal(small, resize_and_crop(whole, (16, 12), None))
            assert np.array_equal(cropped, resize_and_crop(whole, (20, 16), (12, 10)))
    assert read == dict.fromkeys(FILES, 1)
    assert progress == ([(i, 6) for i in range(1, 7)] if cached else [])


@pytest.mark.parametrize("workers", [0, 2])
def test_photos_without_a_cache_are_decoded_by_as_many_processes_as_asked_for(root: Path, workers: int) -> None:
    photos = open_photos(PhotoSet(root, FILES, ""), [SMALL], None, 1)
    found, children = [], 0
    for batch in plain_batches(photos, range(6), 2, workers):
        children = max(children, len(multiprocessing.active_children()))
        found += list(batch.photos[0].numpy())
    assert children == workers
    assert np.array_equal(np.stack(found), np.stack([photos[i][0] for i in range(6)]))


@pytest.mark.parametrize("cached", [True, False])
def test_pixels_depend_on_photo_and_preprocessing_alone(jpegs: Path, tmp_path: Path, cached: bool) -> None:
    def shown(*preprocessings: Preprocessing) -> list[tuple[Pixels, ...]]:
        cache = tmp_path / f"cache{len(list(tmp_path.iterdir()))}" if cached else None
        photos = open_photos(PhotoSet(jpegs, JPEGS, "print"), preprocessings, cache, workers=2)
        assert not cache or len(list(cache.glob("*.npy"))) == len(preprocessings)
        return [photos[i] for i in range(len(JPEGS))]

    expected = {
        Preprocessing((70, 50), None, True): ((75, 55), None),
        Preprocessing((16, 12), (12, 12), True): ((19, 14), (12, 12)),
        Preprocessing((16, 12), None, True): ((19, 14), None),
        Preprocessing((16, 12)): ((150, 110), None),
    }
    together = shown(*expected)
    for number, (preprocessing, (decoded, crop)) in enumerate(expected.items()):
        for name, photos, alone in zip(JPEGS, together, shown(preprocessing), strict=True):
            size = preprocessing.resize if preprocessing.reduced else None
            photo = decode_file(jpegs / name, [size]).sizes[0]
            assert photo.shape[:2] == decoded
            assert np.array_equal(photos[number], alone[0])
            assert np.array_equal(photos[number], resize_and_crop(photo, preprocessing.resize, crop))


def test_a_cache_that_loses_its_end_while_it_is_read_is_named(root: Path, tmp_path: Path) -> None:
    photos = open_photos(PhotoSet(root, FILES, "print"), [SMALL], tmp_path / "cache", workers=1)
    assert photos[5][0].shape == (16, 12, 3)
    (file,) = (tmp_path / "cache").glob("*.npy")
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(MaskensError, match=r"photo cache is missing or damaged.*run again"):
        photos[5]
    with pytest.raises(MaskensError, match=r"photo cache is missing or damaged.*run again"):
        DecodedPhotos(PhotoSet(root, FILES, ""), [SMALL], [file])[0]


def test_a_photo_replaced_by_one_of_the_same_size_is_decoded_anew(tmp_path: Path, make_data: MakeData) -> None:
    data = make_data(tmp_path / "data", people=6)

    def pixels(read: Callable[[Path], TrainData | EvalData], some: bool = False) -> np.ndarray:
        photos = read(data).photos
        return open_photos(photos.some([0]) if some else photos, [SMALL], tmp_path / "cache", workers=1)[0][0]

    for read in (read_train, read_eval):
        before, photos = (pixels(read), pixels(read, some=True)), read(data).photos
        file = photos.path(photos.files[0])
        other = Image.fromarray(255 - read_photo(file))
        size = file.stat().st_size
        other.save(file, quality=20)
        file.write_bytes(file.read_bytes().ljust(size, b"\0"))
        assert read(data).photos.fingerprint == photos.fingerprint
        assert not np.array_equal(before[0], pixels(read))
        assert not np.array_equal(before[1], pixels(read, some=True))


@pytest.mark.parametrize("length", [0, 5, 100, 200, -1])
def test_a_damaged_cache_is_made_anew(root: Path, tmp_path: Path, length: int) -> None:
    cache = tmp_path / "cache"
    whole = open_photos(PhotoSet(root, FILES, "print"), [SMALL], cache, workers=1)[3][0]
    (file,) = cache.glob("*.npy")
    file.write_bytes(file.read_bytes()[:length])
    assert np.array_equal(open_photos(PhotoSet(root, FILES, "print"), [SMALL], cache, workers=1)[3][0], whole)


def test_all_unreadable_photos_are_listed_and_no_cache_is_left(root: Path, tmp_path: Path) -> None:
    for name in FILES[1:3]:
        data = (root / name).read_bytes()
        (root / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(MaskensError) as caught:
        open_photos(PhotoSet(root, FILES, "print"), [SMALL], tmp_path / "cache", workers=2)
    assert all(str(root / name) in str(caught.value) for name in FILES[1:3])
    assert str(root / FILES[0]) not in str(caught.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_too_little_disk_is_refused_with_figures(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(MaskensError, match=r"needs 0\.0 GB in .* 0\.0 GB are free.*--cache none"):
        open_photos(PhotoSet(root, FILES, "print"), [SMALL], tmp_path / "cache", workers=1)
    assert list((tmp_path / "cache").iterdir()) == []
