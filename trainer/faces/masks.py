"""Which pixels of a picture are the face, and which the person: two small MediaPipe models, run by OpenCV.

Sources: wheel mediapipe 0.10.21; the models' cards are "MediaPipe Face Mesh" (arXiv 1907.06724) and "Selfie
Segmentation".
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from trainer.faces.align import ARCFACE_112, aligned_to, similarity_transform
from trainer.records import RGB, Face, Floats
from trainer.weights import verified

FACE_MESH, SELFIE = "face_landmark.tflite", "selfie_segmentation.tflite"
MESH_PX, SELFIE_PX = 192, 256  # sides of the squares that the models see
# The mesh wants a face that fills two thirds of its square (face_landmark_front_cpu: the box of the points, 1.5 times).
# In the ArcFace template the face from hairline to chin is 104 high around (56, 68).
MESH_SQUARE, MESH_CENTRE = 1.5 * 104.0, (56.0, 68.0)
MESH_TEMPLATE = (((ARCFACE_112 - np.array(MESH_CENTRE)) / MESH_SQUARE + 0.5) * MESH_PX).astype(np.float32)
# The outline of the face, in order (mediapipe/python/solutions/face_mesh_connections.py, FACEMESH_FACE_OVAL).
OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150,
    136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
# Points of the mesh at the five landmarks: corners of either eye, nose tip, corners of the mouth.
EYE_A, EYE_B, NOSE, MOUTH_A, MOUTH_B = (33, 133), (362, 263), 1, 61, 291
ASTRAY = 0.16  # eye distances between the mesh's landmarks and the detector's from which the mesh has seen no face
SUBPIXEL_BITS = 4


class Masker:
    """Finds faces' outlines and people; `weights` is the folder of pinned model files.

    Raises MissingPartError or IntegrityError where a model file is not there or altered.
    """

    def __init__(self, weights: Path) -> None:
        self._mesh = cv2.dnn.readNetFromTFLite(str(verified(FACE_MESH, weights)))
        self._selfie = cv2.dnn.readNetFromTFLite(str(verified(SELFIE, weights)))

    def face(self, rgb_u8: RGB, face: Face) -> RGB | None:
        """(height, width) uint8, 255 inside the face's outline from forehead to chin; None where no face is seen."""
        crop = aligned_to(rgb_u8, face.landmarks, MESH_TEMPLATE, MESH_PX)
        self._mesh.setInput(_planes(crop))
        back = similarity_transform(MESH_TEMPLATE, face.landmarks)
        mesh = self._mesh.forward().reshape(468, 3)[:, :2] @ back[:, :2].T + back[:, 2]
        if _distance(mesh, face.landmarks) > ASTRAY:
            return None
        return _filled(mesh[list(OVAL)], *rgb_u8.shape[:2])

    def person(self, rgb_u8: RGB) -> RGB:
        """(height, width) uint8, 0 to 255: how surely each pixel shows a person, whoever it is."""
        height, width = rgb_u8.shape[:2]
        small = cv2.resize(rgb_u8, (SELFIE_PX, SELFIE_PX), interpolation=cv2.INTER_AREA).astype(np.uint8)
        self._selfie.setInput(_planes(small))
        chance = self._selfie.forward().reshape(SELFIE_PX, SELFIE_PX)
        whole = cv2.resize(chance, (width, height), interpolation=cv2.INTER_LINEAR)
        return np.round(255 * np.clip(whole, 0, 1)).astype(np.uint8)


def _planes(rgb_u8: RGB) -> Floats:
    """(1, 3, height, width) float32, 0 to 1."""
    return np.ascontiguousarray(rgb_u8.transpose(2, 0, 1)[None]).astype(np.float32) / np.float32(255)


def _distance(mesh: Floats, landmarks: Floats) -> float:
    """Mean distance of the (468, 2) mesh's landmarks from the (5, 2) given ones, in eye distances."""
    eyes = [mesh[list(corners)].mean(0) for corners in (EYE_A, EYE_B)]
    five = np.stack([*eyes, mesh[NOSE], mesh[MOUTH_A], mesh[MOUTH_B]])
    between = max(float(np.linalg.norm(landmarks[1] - landmarks[0])), 1e-6)
    return float(np.linalg.norm(five - landmarks, axis=1).mean()) / between


def _filled(outline: Floats, height: int, width: int) -> RGB:
    """The closed outline of (n, 2) pixel coordinates, filled, with a smooth edge."""
    mask = np.zeros((height, width), np.uint8)
    corners = np.round(outline * 2**SUBPIXEL_BITS).astype(np.int32)
    cv2.fillPoly(mask, [corners], 255, cv2.LINE_AA, SUBPIXEL_BITS)
    return mask
