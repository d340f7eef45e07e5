"""What reduced-size decoding of JPEGs is worth, and what it does to the pixels; how fast the photo cache fills.

    python benchmarks/decoding.py [--data DIR] [--photos 60] [--rounds 3]

For each size of photo and of what a model sees: photos a second decoded and brought to size in one thread, wholly and
reduced, in turn; the difference of their pixels, in levels of 255. As a yardstick, the last column is the difference
that another usual way of shrinking makes (Pillow's antialiased bilinear instead of averages over areas). Then photos a
second into the cache with 1 and 2 threads. Photos are generated, with edges, shades and noise; with --data also those
of a data folder, spread evenly.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ensemble.data.cache import open_photos
from ensemble.data.load import load_photo
from ensemble.recipes.geometry import Geometry
from folds.data.decode import Pixels, read_photo
from folds.data.layout import read_train
from folds.data.people import PhotoSet
from folds.versions import library_versions

CASES = (((384, 288), (128, 96)), ((512, 384), (128, 96)), ((1024, 768), (224, 224)), ((2048, 1536), (512, 384)))
"""(height, width) of photos and of what a model sees."""


def write_photos(folder: Path, size: tuple[int, int], count: int) -> list[str]:
    """Photos of noise at several scales, from shades as wide as the photo to single pixels, with ellipses upon it."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    height, width = size
    y, x = np.mgrid[:height, :width]
    for number in range(count):
        photo = np.zeros((height, width, 3))
        for cells, strength in ((3, 60), (12, 30), (48, 15)):
            coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
            shades = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=float)
            photo += strength * (shades / 127.5 - 1)
        for _ in range(12):
            centre, radii = rng.random(2), rng.uniform(0.01, 0.2, 2)
            inside = ((y / height - centre[0]) / radii[0]) ** 2 + ((x / width - centre[1]) / radii[1]) ** 2 < 1
            photo[inside] += rng.uniform(-80, 80, 3)
        photo += 128 + rng.normal(0, 4, (height, width, 1))
        Image.fromarray(np.clip(photo, 0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=90)
    return [f"{number}.jpg" for number in range(count)]


def speed(root: Path, files: list[str], geometry: Geometry) -> float:
    """Photos a second, one after the other."""
    started = time.perf_counter()
    for file in files:
        load_photo(root / file, [geometry])
    return len(files) / (time.perf_counter() - started)


def filling(root: Path, files: list[str], geometry: Geometry, threads: int) -> float:
    """Photos a second into a new cache."""
    with tempfile.TemporaryDirectory() as cache:
        started = time.perf_counter()
        open_photos(PhotoSet(root, files, ""), [geometry], Path(cache), threads)
        return len(files) / (time.perf_counter() - started)


def difference(one: list[Pixels], other: list[Pixels]) -> str:
    """Mean and 99th percentile of absolute differences."""
    found = np.abs(np.stack(one).astype(np.int16) - np.stack(other))
    return f"{found.mean():.2f}, {np.percentile(found, 99):.0f}"


def smooth(path: Path, sees: tuple[int, int]) -> Pixels:
    """A photo made smaller in another usual way."""
    return np.asarray(Image.fromarray(read_photo(path)).resize(sees[::-1], Image.Resampling.BILINEAR))


def report(name: str, root: Path, files: list[str], sees: tuple[int, int], rounds: int) -> None:
    full, reduced = Geometry(sees), Geometry(sees, None, reduced=True)
    speeds = [(speed(root, files, full), speed(root, files, reduced)) for _ in range(rounds)]
    fills = [
        (filling(root, files, full, 1), filling(root, files, reduced, 1), filling(root, files, reduced, 2))
        for _ in range(rounds)
    ]
    plain, ours = ([load_photo(root / f, [g]).sizes[0] for f in files] for g in (full, reduced))
    height, width, _ = read_photo(root / files[0]).shape
    columns = [f"{statistics.median(v):.0f} ({min(v):.0f}-{max(v):.0f})" for v in zip(*speeds, strict=True)]
    columns.append(f"{statistics.median([r / f for f, r in speeds]):.2f}")
    columns += [difference(plain, ours), difference(plain, [smooth(root / f, sees) for f in files])]
    columns += [f"{statistics.median(v):.0f}" for v in zip(*fills, strict=True)]
    print(f"| {name} | {height}x{width} | {sees[0]}x{sees[1]} |", " | ".join(columns), "|", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--photos", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    cv2.setNumThreads(0)
    print(f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()},")
    print(f"pillow {library_versions()['pillow']}; median of {args.rounds} rounds of {args.photos} photos (min-max)\n")
    print(
        "| photos | size | model sees | full, photos/s | reduced, photos/s | ratio | difference: mean, 99th percentile "
        "| of another filter | cache, full | cache, reduced | cache, 2 threads |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for number, (size, sees) in enumerate(CASES):
            root = Path(folder) / str(number)
            report("generated", root, write_photos(root, size, args.photos), sees, args.rounds)
    if args.data:
        files = read_train(args.data).files
        rows = np.linspace(0, len(files) - 1, min(len(files), 10 * args.photos)).astype(int)
        for sees in ((128, 96), (224, 168)):
            report("--data", args.data, [files[i] for i in rows], sees, args.rounds)


if __name__ == "__main__":
    main()
