"""By how many bits of their perceptual hashes do photos of strangers differ, and copies of a photo?

    python benchmarks/near_duplicates.py --photos DIR

DIR holds one photo of each person (`photos/` of the real-photo benchmark). Strangers: the fewest bits between photos of
two people, and how many pairs `maskens explore` would list. Copies: the most bits between a photo and its copy, and how
many are found. For 64 bits the limit is a quarter.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from real_photos import machine, print_heads

from folds.explore.duplicates import BITS, NEAR, Hash, perceptual_hash
from folds.photos import Pixels, in_threads, read_photo

SIDES = {64: 8, BITS: 16}  # bits -> frequencies along each side


def cut(fraction: float) -> Callable[[Pixels], Pixels]:
    """Cuts this fraction off each side."""

    def trimmed(photo: Pixels) -> Pixels:
        down, right = (max(1, round(fraction * side)) for side in photo.shape[:2])
        return photo[down:-down, right:-right]

    return trimmed


def recompressed(photo: Pixels) -> Pixels:
    jpeg = cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, 30])[1]
    return np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), np.uint8)


COPIES: dict[str, Callable[[Pixels], Pixels]] = {
    "half the size": lambda photo: np.asarray(cv2.resize(photo, None, fx=0.5, fy=0.5), np.uint8),
    "JPEG of quality 30": recompressed,
    "1 % cut off each side": cut(0.01),
    "2 % cut off each side": cut(0.02),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=Path("../shared/bench/photos"))
    files = sorted(parser.parse_args().photos.iterdir())

    def hashed(file: Path) -> dict[int, Hash]:
        """Bits -> uint64 (1 + copies, words)."""
        photo = read_photo(file)
        ways = [photo, *(copied(photo) for copied in COPIES.values())]
        return {bits: np.stack([perceptual_hash(way, side) for way in ways]) for bits, side in SIDES.items()}

    found = list(in_threads(hashed, files, os.cpu_count() or 1))
    print(f"{machine()}; {len(files):,} photos, {len(files) * (len(files) - 1) // 2:,} pairs of people\n")
    print_heads("bits", "what", "fewest or most bits", f"within {NEAR} of {BITS}")
    for bits in SIDES:
        hashes = np.stack([one[bits] for one in found])  # (photos, 1 + copies, words)
        limit = NEAR * bits // BITS
        strangers = differing_bits(hashes[:, 0])
        print(f"| {bits} | nearest strangers | {strangers.min()} | {(strangers <= limit).sum():,} pairs |")
        for n, name in enumerate(COPIES, start=1):
            copy = np.bitwise_count(hashes[:, 0] ^ hashes[:, n]).sum(axis=1)
            print(f"| {bits} | {name} | {copy.max()} | {(copy <= limit).mean():.1%} |")


def differing_bits(hashes: Hash) -> np.ndarray[tuple[int, ...], np.dtype[np.uint64]]:
    """Of each pair, once: uint64 (pairs,) from hashes of uint64 (n, words)."""
    rest = (np.bitwise_count(hashes[n] ^ hashes[n + 1 :]).sum(axis=1, dtype=np.uint64) for n in range(len(hashes)))
    return np.concatenate(list(rest))


if __name__ == "__main__":
    main()
