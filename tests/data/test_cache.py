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
def test_photos_are_what_decoding_and_fitting_give(root: Path, tmp_path: Path, cached: bool) -> None:
    photos = open_photos(
        PhotoSet(root, FILES, "print"), [SMALL, CROPPED], tmp_path / "cache" if cached else None, workers=2
    )
    assert len(photos) == 6
    for i, name in enumerate(FILES):
        whole = read_photo(root / name)
        small, cropped = photos[i]
        assert np.array_equal(small, resize_and_crop(whole, (16, 12), None))
        assert np.array_equal(cropped, resize_and_crop(whole, (20, 16), (12, 10)))


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
def test_each_file_is_read_once_for_all_geometries(
    root: Path, tmp_path: Path, cached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: collections.Counter[str] = collections.Counter()

    def counting(path: Path, at_least: Sequence[tuple[int, int] | None]) -> DecodedPhoto:
        read[path.name] += 1
        return decode_file(path, at_least)

    monkeypatch.setattr(ensemble.data.cache, "decode_file", counting)
    for _ in range(2 if cached else 1):  # a second opening finds the cache
        photos = open_photos(
            PhotoSet(root, FILES, "print"), [SMALL, CROPPED], tmp_path / "cache" if cached else None, workers=1
        )
        assert [len(photos[i]) for i in range(6)] == [2] * 6
    assert read == dict.fromkeys(FILES, 1)


@pytest.mark.parametrize("cached", [True, False])
def test_pixels_depend_on_photo_and_geometry_alone(jpegs: Path, tmp_path: Path, cached: bool) -> None:
    def shown(*preprocessings: Preprocessing) -> list[tuple[Pixels, ...]]:
        cache = tmp_path / f"cache{len(list(tmp_path.iterdir()))}" if cached else None
        photos = open_photos(PhotoSet(jpegs, JPEGS, "print"), preprocessings, cache, workers=2)
        return [photos[i] for i in range(len(JPEGS))]

    large, small, exact = (
        Preprocessing((70, 50), None, True),
        Preprocessing((16, 12), (12, 12), True),
        Preprocessing((16, 12)),
    )
    together = shown(large, small, exact)
    for number, preprocessing in enumerate((large, small, exact)):
        for photos, alone in zip(together, shown(preprocessing), strict=True):
            assert np.array_equal(photos[number], alone[0])
    whole, half, eighth = ([decode_file(jpegs / f, [s]).sizes[0] for f in JPEGS] for s in (None, (70, 50), (16, 12)))
    assert [p.shape[:2] for p in (whole[0], half[0], eighth[0])] == [(150, 110), (75, 55), (19, 14)]
    for i, photos in enumerate(together):
        assert np.array_equal(photos[0], resize_and_crop(half[i], (70, 50), None))
        assert np.array_equal(photos[1], resize_and_crop(eighth[i], (16, 12), (12, 12)))
        assert np.array_equal(photos[2], resize_and_crop(whole[i], (16, 12), None))


def test_reduced_and_full_decoding_have_a_cache_each(jpegs: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for reduced in (False, True, False, True):
        preprocessing = Preprocessing((16, 12), None, reduced)
        (photo,) = open_photos(PhotoSet(jpegs, JPEGS, "print"), [preprocessing], cache, workers=1)[0]
        (least,) = [(16, 12) if reduced else None]
        assert np.array_equal(photo, resize_and_crop(decode_file(jpegs / JPEGS[0], [least]).sizes[0], (16, 12), None))
    assert len(list(cache.glob("*.npy"))) == 2


def test_a_cache_that_loses_its_end_while_it_is_read_says_so(root: Path, tmp_path: Path) -> None:
    photos = open_photos(PhotoSet(root, FILES, "print"), [SMALL], tmp_path / "cache", workers=1)
    assert photos[5][0].shape == (16, 12, 3)
    (file,) = (tmp_path / "cache").glob("*.npy")
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(MaskensError, match=r"photo cache is missing or damaged.*run again"):
        photos[5]
    with pytest.raises(MaskensError, match=r"photo cache is missing or damaged.*run again"):
        DecodedPhotos(PhotoSet(root, FILES, ""), [SMALL], [file])[0]


def test_other_photos_have_another_cache(root: Path, tmp_path: Path) -> None:
    before = open_photos(PhotoSet(root, FILES, "before"), [SMALL], tmp_path / "cache", workers=1)[0][0]
    Image.fromarray(255 - read_photo(root / FILES[0])).save(root / FILES[0])
    after = open_photos(PhotoSet(root, FILES, "after"), [SMALL], tmp_path / "cache", workers=1)[0][0]
    assert not np.array_equal(before, after)


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


def test_progress_counts_every_photo(root: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    open_photos(
        PhotoSet(root, FILES, "print"), [SMALL], tmp_path / "cache", 2, lambda done, total: told.append((done, total))
    )
    assert told == [(i, 6) for i in range(1, 7)]
