"""The default engine: three small ONNX models (detector, 68 landmarks, ArcFace-style embedder), all MIT.

Sources: npm package faceplugin-face-recognition-js 0.0.1; shapes read off the files themselves.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnxruntime

from trainer.faces.align import aligned_112, halved
from trainer.records import RGB, Face, Floats
from trainer.weights import WEIGHTS, verified

DETECT_WIDTH, DETECT_HEIGHT = 320, 240
PADDING = 0.25  # a tight face crop is missed in 9% of cases without it, in under 1% with it
NMS_IOU = 0.3
# 68-point layout (iBUG 300-W): eyes 36-41 and 42-47, nose tip 30, mouth corners 48 and 54.
EYE_A, EYE_B, NOSE, MOUTH_A, MOUTH_B = slice(36, 42), slice(42, 48), 30, 48, 54


def open_session(model: Path | bytes) -> onnxruntime.InferenceSession:
    """A quiet CPU session on one thread, of a file or of a model in memory."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
    )


class OnnxDetector:
    """UltraFace-shaped detector (boxes decoded in the graph) followed by 68 landmarks."""

    def __init__(self, weights: Path, min_score: float = 0.6) -> None:
        self._boxes = open_session(verified("fr_detect.onnx", weights))
        self._landmarks = open_session(verified("fr_landmark.onnx", weights))
        self._min_score = min_score
        self.sha256 = WEIGHTS["fr_detect.onnx"].sha256 + WEIGHTS["fr_landmark.onnx"].sha256

    def detect(self, rgb_u8: RGB) -> list[Face]:
        """Faces, most confident first. Boxes and landmarks are in pixels of `rgb_u8`."""
        boxes, scores = self._candidates(rgb_u8)
        faces = []
        for index in _non_maximum_suppression(boxes, scores):
            left, top, right, bottom = (float(v) for v in boxes[index])
            points = self.points_68(rgb_u8, boxes[index])
            faces.append(Face((left, top, right, bottom), five_points(points), float(scores[index])))
        return faces

    def points_68(self, rgb_u8: RGB, box: Floats) -> Floats:
        """(68, 2) landmarks in pixels; the model sees a square gray crop of 64 px around the box."""
        left, top, right, bottom = (float(v) for v in box)
        side = 1.1 * max(right - left, bottom - top)
        x0, y0 = (left + right - side) / 2, (top + bottom - side) / 2
        scale = 64 / side
        matrix = np.array([[scale, 0, -x0 * scale], [0, scale, -y0 * scale]], np.float32)
        gray = cv2.cvtColor(rgb_u8, cv2.COLOR_RGB2GRAY)
        crop = cv2.warpAffine(gray, matrix, (64, 64), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)
        (output,) = self._landmarks.run(None, {"input": (crop[None, None] / np.float32(256)).astype(np.float32)})
        points = np.asarray(output, np.float32).reshape(68, 2)
        return points * np.float32(side) + np.array([x0, y0], np.float32)

    def _candidates(self, rgb_u8: RGB) -> tuple[Floats, Floats]:
        """Boxes (n, 4) in pixels and scores (n,) above the threshold, from the padded picture at 320x240."""
        height, width = rgb_u8.shape[:2]
        pad = int(PADDING * max(height, width))
        canvas_h, canvas_w = height + 2 * pad, width + 2 * pad
        scale = min(DETECT_WIDTH / canvas_w, DETECT_HEIGHT / canvas_h)
        halvings = max(0, int(np.log2(1 / scale)))
        rest = scale * 2**halvings
        small = cv2.resize(halved(rgb_u8, halvings), None, fx=rest, fy=rest, interpolation=cv2.INTER_AREA)
        canvas = np.full((DETECT_HEIGHT, DETECT_WIDTH, 3), 127, np.uint8)
        x0 = (DETECT_WIDTH - small.shape[1]) // 2
        y0 = (DETECT_HEIGHT - small.shape[0]) // 2
        canvas[y0 : y0 + small.shape[0], x0 : x0 + small.shape[1]] = small
        tensor = ((canvas.astype(np.float32) - 127) / 128).transpose(2, 0, 1)[None]
        scores, boxes = self._boxes.run(None, {"input": tensor})
        confident = scores[0, :, 1] > self._min_score
        pixels = boxes[0, confident] * [DETECT_WIDTH, DETECT_HEIGHT, DETECT_WIDTH, DETECT_HEIGHT]
        pixels = (pixels - [x0, y0, x0, y0]) / scale
        return pixels.astype(np.float32), scores[0, confident, 1].astype(np.float32)


class OnnxEmbedder:
    """512-D ArcFace-style embedder; input (1, 3, 112, 112) RGB, (x - 127) / 128."""

    def __init__(self, weights: Path) -> None:
        path = verified("fr_feature.onnx", weights)
        self._session = open_session(path)
        self.name = "onnx/fr_feature"
        self.sha256 = WEIGHTS["fr_feature.onnx"].sha256

    def embed(self, rgb_u8: RGB, face: Face) -> Floats:
        """(512,) unit vector."""
        crop = aligned_112(rgb_u8, face.landmarks).astype(np.float32)
        (output,) = self._session.run(None, {"input": ((crop - 127) / 128).transpose(2, 0, 1)[None]})
        vector: Floats = np.asarray(output, np.float32).reshape(-1)
        return vector / np.float32(np.linalg.norm(vector))


def five_points(points_68: Floats) -> Floats:
    """(5, 2): eye centres, nose tip and mouth corners of a (68, 2) layout."""
    return np.stack(
        [points_68[EYE_A].mean(0), points_68[EYE_B].mean(0), points_68[NOSE], points_68[MOUTH_A], points_68[MOUTH_B]]
    ).astype(np.float32)


def _non_maximum_suppression(boxes: Floats, scores: Floats) -> list[int]:
    """Indices to keep, most confident first, none overlapping another by more than NMS_IOU."""
    if len(boxes) == 0:
        return []
    left_top_wh = np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])
    kept = cv2.dnn.NMSBoxes(left_top_wh.tolist(), scores.tolist(), 0.0, NMS_IOU)
    return [int(index) for index in np.asarray(kept).reshape(-1)]
