"""What a picture of a face shows, measured from pixels, landmarks and a small expression model.

The same words caption the embedded base's training pictures, a subject's samples and the prompts that ask for them,
so that what varies between photos is said and only the person is left for the trigger word to mean.
"""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np

from trainer.faces.onnx import open_session
from trainer.records import RGB, Attributes, Face, Floats
from trainer.weights import verified

GRAY_SPREAD = 6.0  # mean |channel - gray| in levels under which a picture counts as black and white
TURN = 0.16  # nose tip's distance from the middle of the eyes, in eye distances, from which a head counts as turned
SIDE_LIGHT = 0.15  # relative brightness difference of the face's halves from which light comes from a side
DARK, BRIGHT = 95.0, 165.0  # mean gray level of the face
CLOSE, WIDE = 0.68, 0.57  # face width as a share of the picture's side
# Face width of the distances between eyes and from eyes to mouth, joined: on 400 pictures and their mirror images it
# varies by 0.010 of the picture's side, the detector's box by 0.030 (means agree at this factor).
WIDTH_OF_LANDMARKS = 1.5
PLAIN = 30.0  # standard deviation of the picture's upper border, in levels, under which a background is plain
SMILE, NO_SMILE = 0.6, 0.3  # probability of happiness
HAPPY = 3  # index of that class in fr_expression.onnx

VOCABULARY = (
    "smiling",
    "neutral expression",
    "facing front",
    "turned left",
    "turned right",
    "close-up",
    "medium shot",
    "wide shot",
    "even light",
    "light from the left",
    "light from the right",
    "dark",
    "bright",
    "plain background",
    "busy background",
    "black and white",
    "color photo",
)
EXPRESSIONS = VOCABULARY[:2]
_MIRRORED = {"turned left": "turned right", "light from the left": "light from the right"}
_MIRRORED |= {right: left for left, right in _MIRRORED.items()}


class AttributeReader:
    """Measures the words of `VOCABULARY`; `weights` is the folder of pinned model files."""

    def __init__(self, weights: Path) -> None:
        self._expression = open_session(verified("fr_expression.onnx", weights))

    def read(self, rgb_u8: RGB, face: Face, expression: str | None = None, smile: bool = True) -> Attributes:
        """What a (height, width, 3) uint8 picture with this main face shows.

        A known expression is not measured, nor is any without `smile`: its model takes nearly all of the time.
        """
        gray: RGB = cv2.cvtColor(rgb_u8, cv2.COLOR_RGB2GRAY).astype(np.uint8)
        return Attributes(
            colour=colour(rgb_u8),
            pose=pose(face.landmarks),
            light=light(gray, face),
            brightness=brightness(gray, face),
            framing=framing(math.sqrt(rgb_u8.shape[0] * rgb_u8.shape[1]), face_width(face.landmarks)),
            background=background(gray),
            expression=expression or (self._smile(rgb_u8, face) if smile else None),
        )

    def _smile(self, rgb_u8: RGB, face: Face) -> str | None:
        """`smiling`, `neutral expression`, or None where the model is unsure."""
        left, top, _, _ = (max(0, round(v)) for v in face.box)
        height, width = (face.box[3] - face.box[1]) * 1.2, face.width * 1.2  # the package's own framing of a face
        crop = rgb_u8[top : top + max(1, round(height)), left : left + max(1, round(width))]
        pixels = cv2.resize(crop, (224, 224)).astype(np.float32).transpose(2, 0, 1)[None] / np.float32(255)
        (output,) = self._expression.run(None, {"input": pixels})
        logits = np.asarray(output, np.float64).reshape(-1)
        odds = np.exp(logits - logits.max())
        happy = float(odds[HAPPY] / odds.sum())
        return "smiling" if happy >= SMILE else "neutral expression" if happy <= NO_SMILE else None


def mirrored(words: list[str]) -> list[str]:
    """The words of the same picture seen in a mirror."""
    return [_MIRRORED.get(word, word) for word in words]


def colour(rgb_u8: RGB) -> str:
    """`black and white` or `color photo`."""
    spread = np.abs(rgb_u8 - rgb_u8.mean(axis=2, keepdims=True)).mean()
    return "black and white" if spread < GRAY_SPREAD else "color photo"


def pose(landmarks: Floats) -> str:
    """`facing front`, or the side of the picture that the head is turned to."""
    eye_a, eye_b, nose = landmarks[0], landmarks[1], landmarks[2]
    along = (eye_b - eye_a) / max(float(np.linalg.norm(eye_b - eye_a)), 1e-6)
    turn = float((nose - (eye_a + eye_b) / 2) @ along) / max(float(np.linalg.norm(eye_b - eye_a)), 1e-6)
    return "turned left" if turn < -TURN else "turned right" if turn > TURN else "facing front"


def light(gray: RGB, face: Face) -> str:
    """The side of the picture that the light comes from, by the brightness of the face's halves."""
    left, top, right, bottom = _inner(gray, face)
    middle = (left + right) // 2
    a, b = float(gray[top:bottom, left:middle].mean()), float(gray[top:bottom, middle:right].mean())
    difference = (a - b) / max(a, b, 1.0)
    return (
        "light from the left"
        if difference > SIDE_LIGHT
        else "light from the right"
        if difference < -SIDE_LIGHT
        else "even light"
    )


def brightness(gray: RGB, face: Face) -> str | None:
    """`dark`, `bright`, or None for what lies between."""
    left, top, right, bottom = _inner(gray, face)
    level = float(gray[top:bottom, left:right].mean())
    return "dark" if level < DARK else "bright" if level > BRIGHT else None


def face_width(landmarks: Floats) -> float:
    """Width in pixels that a frontal face of this size would have; turning or nodding alone hardly changes it."""
    eye_a, eye_b, _, mouth_a, mouth_b = landmarks
    apart, below = np.linalg.norm(eye_b - eye_a), np.linalg.norm((mouth_a + mouth_b - eye_a - eye_b) / 2)
    return WIDTH_OF_LANDMARKS * math.hypot(float(apart), float(below))


def framing(picture_side: float, width: float) -> str:
    """`close-up`, `medium shot` or `wide shot`; a picture that is no square counts as the square of its area."""
    share = width / picture_side
    return "close-up" if share > CLOSE else "wide shot" if share < WIDE else "medium shot"


def background(gray: RGB) -> str:
    """`plain background` or `busy background`, by the upper corners of the picture."""
    height, width = gray.shape
    strip = gray[: height // 4]
    corners = np.concatenate([strip[:, : width // 5].ravel(), strip[:, -width // 5 :].ravel()])
    return "plain background" if float(corners.std()) < PLAIN else "busy background"


def _inner(gray: RGB, face: Face) -> tuple[int, int, int, int]:
    """The middle of the face box, without hair and background, inside the picture and never empty."""
    height, width = gray.shape
    left, top, right, bottom = face.box
    inset_x, inset_y = 0.15 * (right - left), 0.2 * (bottom - top)
    x0, y0 = max(0, int(left + inset_x)), max(0, int(top + inset_y))
    x1, y1 = min(width, int(right - inset_x)), min(height, int(bottom - inset_y))
    return min(x0, width - 2), min(y0, height - 1), max(x1, min(x0, width - 2) + 2), max(y1, min(y0, height - 1) + 1)
