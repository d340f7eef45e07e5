from __future__ import annotations

import collections
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ensemble.cache
from ensemble.cache import Geometry, open_photos
from folds.decode import fit, read_photo
from folds.errors import MaskensError

SMALL, CROPPED = Geometry((16, 12)), Geometry((20, 16), (12, 10))
FILES = [f"{i}.png" for i in range(6)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in FILES:
        Image.fromarray(rng.integers(0, 256, (30, 22, 3), dtype=np.uint8)).save(folder / name)
    return folder


@pytest.mark.parametrize("cached", [True, False])
def test_photos_are_what_decoding_and_fitting_give(root: Path, tmp_path: Path, cached: bool) -> None:
    photos = open_photos(root, FILES, "print", [SMALL, CROPPED], tmp_path / "cache" if cached else None, workers=2)
    assert len(photos) == 6
    for i, name in enumerate(FILES):
        whole = read_photo(root / name)
        small, cropped = photos[i]
        assert np.array_equal(small, fit(whole, (16, 12), None))
        assert np.array_equal(cropped, fit(whole, (20, 16), (12, 10)))


@pytest.mark.parametrize("cached", [True, False])
def test_each_photo_is_decoded_once_for_all_geometries(
    root: Path, tmp_path: Path, cached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: collections.Counter[str] = collections.Counter()

    def counting(path: Path) -> np.ndarray:
        decoded[path.name] += 1
        return read_photo(path)

    monkeypatch.setattr(ensemble.cache, "read_photo", counting)
    for _ in range(2 if cached else 1):  # a second opening finds the cache
        photos = open_photos(root, FILES, "print", [SMALL, CROPPED], tmp_path / "cache" if cached else None, workers=1)
        assert [len(photos[i]) for i in range(6)] == [2] * 6
    assert decoded == dict.fromkeys(FILES, 1)


def test_other_photos_have_another_cache(root: Path, tmp_path: Path) -> None:
    before = open_photos(root, FILES, "before", [SMALL], tmp_path / "cache", workers=1)[0][0]
    Image.fromarray(255 - read_photo(root / FILES[0])).save(root / FILES[0])
    after = open_photos(root, FILES, "after", [SMALL], tmp_path / "cache", workers=1)[0][0]
    assert not np.array_equal(before, after)


def test_a_damaged_cache_is_made_anew(root: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    whole = open_photos(root, FILES, "print", [SMALL], cache, workers=1)[3][0]
    (file,) = cache.glob("*.npy")
    file.write_bytes(file.read_bytes()[:200])
    assert np.array_equal(open_photos(root, FILES, "print", [SMALL], cache, workers=1)[3][0], whole)


def test_all_unreadable_photos_are_listed_and_no_cache_is_left(root: Path, tmp_path: Path) -> None:
    for name in FILES[1:3]:
        data = (root / name).read_bytes()
        (root / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(MaskensError) as caught:
        open_photos(root, FILES, "print", [SMALL], tmp_path / "cache", workers=2)
    assert all(str(root / name) in str(caught.value) for name in FILES[1:3])
    assert str(root / FILES[0]) not in str(caught.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_too_little_disk_is_refused_with_figures(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(MaskensError, match=r"needs 0\.0 GB in .* 0\.0 GB are free.*--cache none"):
        open_photos(root, FILES, "print", [SMALL], tmp_path / "cache", workers=1)
    assert list((tmp_path / "cache").iterdir()) == []


def test_progress_counts_every_photo(root: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    open_photos(root, FILES, "print", [SMALL], tmp_path / "cache", 2, lambda done, total: told.append((done, total)))
    assert told == [(i, 6) for i in range(1, 7)]
