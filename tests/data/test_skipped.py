"""Photos that can't be read and are skipped: found, listed, and never mistaken for a complete cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from noise_photos import noise_photos
from PIL import Image

from ensemble.data.cache import decode_photos, open_photos, skip_unreadable
from ensemble.data.loader import plain_batches
from ensemble.recipes.schema import Preprocessing
from folds.errors import MaskensError
from folds.people import PhotoSet
from folds.photos import read_photo, resize_and_crop

SMALL, LARGE = Preprocessing((16, 12)), Preprocessing((20, 16))
FILES = [f"{i}.png" for i in range(6)]
CUT, TEXT = FILES[1], FILES[4]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six photos, of which the second is cut off and the fifth is none."""
    folder = noise_photos(tmp_path / "photos", FILES)
    cut_off(folder / CUT)
    (folder / TEXT).write_text("no photo")
    return folder


def cut_off(file: Path) -> None:
    """The second half is zeros; the size stays."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2].ljust(len(content), b"\0"))


def photos_in(root: Path) -> PhotoSet:
    return PhotoSet(root, FILES, "print")


@pytest.mark.parametrize("cached", [True, False])
def test_what_cannot_be_read_is_named_and_the_others_stay_as_they_are(root: Path, tmp_path: Path, cached: bool) -> None:
    cache = tmp_path / "cache" if cached else None
    found = skip_unreadable(photos_in(root), [SMALL, LARGE], cache, workers=2)
    assert sorted(found.skipped) == [CUT, TEXT]
    assert found.skipped[TEXT] == "is not a photo that can be read (JPEG, PNG, WEBP, GIF, BMP, TIFF)"
    assert "can't be read: " in found.skipped[CUT]
    assert str(root) not in "".join(found.skipped.values()), "the reason stays true where data are moved"
    opened = open_photos(found, [SMALL, LARGE], cache, workers=1)
    rows = np.flatnonzero(found.readable).tolist()
    assert rows == [0, 2, 3, 5]
    small, large = next(iter(plain_batches(opened, rows, 4, 0))).photos
    for place, row in enumerate(rows):
        whole = read_photo(root / FILES[row])
        assert np.array_equal(small[place].numpy(), resize_and_crop(whole, (16, 12), None))
        assert np.array_equal(large[place].numpy(), resize_and_crop(whole, (20, 16), None))
    assert decode_photos(found, [SMALL], None, 1).all()


def test_a_cache_with_holes_is_not_taken_for_a_complete_one(root: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    found = skip_unreadable(photos_in(root), [SMALL], cache, workers=1)
    (holes,) = cache.glob("*.npy")
    assert holes.stem.endswith("-without2")
    with pytest.raises(MaskensError, match=rf"(?s){CUT}.*{TEXT}.*--skip-bad-photos"):
        open_photos(photos_in(root), [SMALL], cache, workers=1)
    for name in (CUT, TEXT):
        Image.new("RGB", (22, 30), "white").save(root / name)
    before = open_photos(found, [SMALL], cache, workers=1)
    assert before[1][0].max() == 0, "black, as it is never shown"
    assert open_photos(photos_in(root), [SMALL], cache, workers=1)[1][0].min() == 255
    assert len(list(cache.glob("*.npy"))) == 2
    assert not skip_unreadable(photos_in(root), [SMALL], cache, workers=1).skipped


def test_a_cache_with_holes_is_used_again_and_what_was_mended_since_is_noticed(root: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    progress: list[tuple[int, int]] = []
    first = skip_unreadable(photos_in(root), [SMALL], cache, 1, lambda done, total: progress.append((done, total)))
    assert progress[-1] == (6, 6)
    progress.clear()
    again = skip_unreadable(photos_in(root), [SMALL], cache, 1, lambda done, total: progress.append((done, total)))
    assert (again.skipped, progress) == (first.skipped, [])
    Image.new("RGB", (22, 30), "white").save(root / TEXT)
    mended = skip_unreadable(photos_in(root), [SMALL], cache, workers=1)
    assert [*mended.skipped] == [CUT]
    assert open_photos(mended, [SMALL], cache, workers=1)[4][0].min() == 255


def test_a_photo_that_broke_since_joins_the_others(root: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    skip_unreadable(photos_in(root), [SMALL], cache, workers=1)
    cut_off(root / FILES[0])  # the same size, so that nothing but reading it tells
    found = skip_unreadable(photos_in(root), [SMALL, LARGE], cache, workers=1)
    assert sorted(found.skipped) == [FILES[0], CUT, TEXT]
    assert open_photos(found, [SMALL, LARGE], cache, workers=1)[2][1].any()


def test_a_damaged_list_does_no_harm_and_looking_only_writes_nothing(root: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert sorted(skip_unreadable(photos_in(root), [SMALL], cache, 1, write=False).skipped) == [CUT, TEXT]
    assert not cache.exists()
    skip_unreadable(photos_in(root), [SMALL], cache, workers=1)
    (listed,) = cache.glob("skipped-*.csv")
    for damage in ("", "photo,reason\n", "photo,reason\nother.png,gone\n"):
        listed.write_text(damage)
        assert sorted(skip_unreadable(photos_in(root), [SMALL], cache, workers=1).skipped) == [CUT, TEXT]


def test_photos_none_of_which_can_be_read_are_refused(root: Path, tmp_path: Path) -> None:
    for name in FILES:
        (root / name).write_text("no photo")
    for cache in (None, tmp_path / "cache"):
        with pytest.raises(MaskensError, match=r"none of the 6 photos in .* can be read, e.g. 0.png: is not a photo"):
            skip_unreadable(photos_in(root), [SMALL], cache, workers=1)


def test_some_of_the_photos_skip_those_of_them(root: Path) -> None:
    some = photos_in(root).without({CUT: "cut"}).some([0, 1])
    assert (some.readable.tolist(), some.skipped) == ([True, False], {CUT: "cut"})
    assert not photos_in(root).without({CUT: "cut"}).some([0, 2]).skipped
