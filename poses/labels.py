"""Draw a pose as a label: thin pastel lines on white, a colour for each limb and side."""

import math

import numpy as np

from media.capsules import rasterise_capsule

from .keypoints import INDEX, JOINTS, present

# From, to, colour in 0 ... 255.
LINES = [
    ("neck", "head", (216, 150, 226)), ("neck", "pelvis", (150, 160, 226)),
    ("neck", "left_shoulder", (240, 150, 180)), ("neck", "right_shoulder", (244, 170, 140)),
    ("pelvis", "left_hip", (130, 200, 230)), ("pelvis", "right_hip", (130, 220, 200)),
    ("left_shoulder", "left_elbow", (246, 160, 160)), ("right_shoulder", "right_elbow", (246, 196, 136)),
    ("left_elbow", "left_wrist", (238, 138, 200)), ("right_elbow", "right_wrist", (232, 216, 120)),
    ("left_hip", "left_knee", (140, 180, 244)), ("right_hip", "right_knee", (140, 222, 160)),
    ("left_knee", "left_ankle", (170, 160, 244)), ("right_knee", "right_ankle", (186, 226, 130)),
]
RADIUS = 1.25  # pixels, in a label of 128 x 256 or of as many pixels in another shape
HEADS = [["left_ear", "right_ear"], ["left_eye", "right_eye"], ["nose"]]  # the middle of the first that are seen


def draw_lines(places, size, radius):
    """Draw the lines between the places, {name: (column, row)}, that are known: uint8 [H, W, 3] of `size` (H, W)."""
    canvas = np.full((3, *size), 255, np.float32)  # channels first: numpy is faster with long rows innermost
    for start, end, colour in LINES:
        if start in places and end in places:
            box, *_, inside = rasterise_capsule(places[start], places[end], radius, radius, size)
            region = canvas[(..., *box)]
            region += (inside + 0.5).clip(0, 1) * (np.array(colour, np.float32)[:, None, None] - region)
    return (canvas + 0.5).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


def draw_label(pose, size):
    """Draw the label of a pose [17, 3], uint8 [H, W, 3] of `size` (H, W); it is blank where nobody is seen."""
    if not present(pose):
        return np.full((*size, 3), 255, np.uint8)
    height, width = size
    places = {name: pose[INDEX[name], :2].astype(np.float32) for name in JOINTS if np.isfinite(pose[INDEX[name], 0])}
    for name, parts in (("neck", ["left_shoulder", "right_shoulder"]), ("pelvis", ["left_hip", "right_hip"]),
                        *[("head", parts) for parts in HEADS]):
        if name not in places and all(part in places for part in parts):
            places[name] = np.mean([places[part] for part in parts], axis=0)
    return draw_lines(places, size, RADIUS * math.sqrt(height * width / (128 * 256)))
