"""On how many photos is a face found, by how the mask is worn, and what does that cost?

    python benchmarks/faces.py --data DIR --photos 700

Photos of DIR/train, whole people as they come in train.csv; or those of DIR/eval, whose masks are not known, where
there is no train. Needs the extra `faces`. One thread; decoding is not in the times.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from folds.data.decode import read_photo
from folds.data.faces import AROUND, around_face, find_box
from folds.data.labels import MASKS
from folds.data.layout import read_eval, read_train

SHAPE = (128, 96)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=700)
    args = parser.parse_args()
    if (args.data / "train").is_dir():
        train = read_train(args.data)
        files = [train.root / f for f in train.files[: args.photos]]
        kinds = [MASKS[m] for m in train.labels[0][: args.photos]]
    else:
        photos = read_eval(args.data).photos
        files = [photos.root / f for f in photos.files[: args.photos]]
        kinds = ["not known"] * len(files)
    found: dict[str, list[bool]] = defaultdict(list)
    share, seconds = [], []
    find_box(read_photo(files[0]))  # loads the detector
    for file, kind in zip(files, kinds, strict=True):
        photo = read_photo(file)
        started = time.perf_counter()
        box = find_box(photo)
        seconds.append(time.perf_counter() - started)
        found[kind].append(box is not None)
        if box is not None:
            cut = around_face(box, (photo.shape[0], photo.shape[1]), SHAPE)
            share.append(cut.width * cut.height / (photo.shape[0] * photo.shape[1]))
    print("| mask | photos | a face found |\n|---|---|---|")
    for kind, hits in found.items():
        print(f"| {kind} | {len(hits)} | {np.mean(hits):.1%} |")
    print(
        f"\n{np.median(seconds) * 1000:.1f} ms a photo; {AROUND:g} times the face is {np.median(share):.0%} of a photo "
        "(medians)"
    )


if __name__ == "__main__":
    main()
