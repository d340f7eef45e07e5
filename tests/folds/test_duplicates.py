"""Perceptual hashes: which photos are nearly the same, and who is there under two ids."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import MakeData
from PIL import Image

from folds.explore import duplicates
from folds.explore.duplicates import (
    BITS,
    NEAR,
    Hash,
    MergeCandidate,
    hash_photos,
    merge_candidates,
    near_duplicates,
    perceptual_hash,
    portrait_candidates,
)
from folds.layout import read_train
from folds.photos import Pixels


def texture(seed: int) -> Pixels:
    """256 x 192 pixels with shapes of many sizes, as in a photo."""
    rng = np.random.default_rng(seed)
    layers = [
        cv2.resize(rng.normal(size=(4 * n, 3 * n, 3)), (192, 256), interpolation=cv2.INTER_CUBIC) for n in (1, 2, 4, 8)
    ]
    scene = sum(layer / (n + 1) for n, layer in enumerate(layers))
    return np.clip(128 + 50 * scene, 0, 255).astype(np.uint8)


def recompressed(photo: Pixels, scale: float, quality: int) -> Pixels:
    image = Image.fromarray(photo)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def differing_bits(one: Hash, other: Hash) -> int:
    return int(np.bitwise_count(one ^ other).sum())


@pytest.mark.parametrize(("scale", "quality"), [(1.0, 60), (0.5, 90), (0.75, 75), (1.6, 75)])
def test_a_rescaled_and_recompressed_photo_is_recognised(scale: float, quality: int) -> None:
    for seed in range(20):
        photo = texture(seed)
        copy = recompressed(photo, scale, quality)
        assert not np.array_equal(copy, photo)
        assert differing_bits(perceptual_hash(photo), perceptual_hash(copy)) <= NEAR


def test_photos_of_different_things_are_far_apart() -> None:
    hashes = [perceptual_hash(texture(seed)) for seed in range(40)]
    distances = [differing_bits(a, b) for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(distances) > 2 * NEAR
    assert 0.45 < np.mean(distances) / BITS < 0.55  # about half, as for coin tosses


@pytest.mark.parametrize("chunk", [1, 3, 2048])
def test_near_duplicates_equal_a_plain_loop(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes a few bits from each other, so that near ones are common and the limit itself occurs."""
    rng = np.random.default_rng(chunk)
    bits = rng.random((3, BITS))[rng.integers(0, 3, 40)] < 0.5
    for n, row in enumerate(bits):
        row[rng.choice(BITS, n % (NEAR // 2 + 4), replace=False)] ^= True
    hashes = np.packbits(bits, axis=1).view(np.uint64)
    people = rng.choice(["7", "007", "8"], len(hashes))
    differ = {(i, j): differing_bits(hashes[i], hashes[j]) for j in range(len(hashes)) for i in range(j)}
    expected = [(i, j, n) for (i, j), n in differ.items() if people[i] != people[j] and n <= NEAR]
    assert NEAR in {n for *_, n in expected}
    monkeypatch.setattr(duplicates, "CHUNK", chunk)
    found = near_duplicates(hashes, people)
    assert sorted(found) == sorted(expected)
    assert [n for *_, n in found] == sorted(n for *_, n in expected)


def found_in(root: Path) -> tuple[list[str], tuple[MergeCandidate, ...]]:
    """(photos that can't be read, people with nearly the same photo)."""
    data = read_train(root)
    hashes, unreadable = hash_photos(data.photos, range(len(data.files)), workers=2)
    return unreadable, merge_candidates(data, hashes)


def test_broken_photos_and_copies_across_people_are_found(tmp_path: Path, make_data: MakeData) -> None:
    root = make_data(tmp_path / "data", people=6)
    assert found_in(root) == ([], ())
    folders = sorted((root / "train" / "images").iterdir())
    broken = folders[0] / "mask2.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    (folders[1] / "mask3.jpg").write_text("not a photo")
    with Image.open(folders[2] / "normal.jpg") as photo:
        photo.resize((64, 48)).save(folders[5] / "incorrect_mask.jpg", quality=80)
    (folders[4] / "mask1.jpg").write_bytes((folders[4] / "mask2.jpg").read_bytes())  # one person: no matter
    unreadable, (pair,) = found_in(root)
    assert len(unreadable) == 2
    assert str(broken) in unreadable[0]
    assert f"{folders[1] / 'mask3.jpg'} is not a photo" in unreadable[1]
    assert [root / file for file in pair.files] == [folders[2] / "normal.jpg", folders[5] / "incorrect_mask.jpg"]
    assert (pair.a, pair.b, pair.alike) == ("000002", "000005", 1)
    assert pair.bits <= NEAR
    assert str(pair).startswith("  ~  ".join(pair.files))
    assert portrait_candidates(read_train(root), workers=2) == (), "not both without a mask"
    (folders[5] / "normal.jpg").write_bytes((folders[2] / "normal.jpg").read_bytes())
    ((bits, difference, alike),) = ((p.bits, p.difference, p.alike) for p in found_in(root)[1])
    assert (bits, difference, alike) == (0, "same bits, 2 such pairs", 2)
    assert len(portrait_candidates(read_train(root), workers=2)) == 1
    table = root / "train" / "train.csv"
    table.write_text(table.read_text().replace("\n000005,", "\n000002,"))
    assert found_in(root)[1] == (), "two folders of one id may share photos"
