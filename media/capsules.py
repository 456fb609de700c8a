"""Rasterise capsules, thick lines with round ends, with soft edges."""

import numpy as np


def rasterise_capsule(start, end, radius, end_radius, shape, margin=3):
    """Rasterise a tapering capsule between two points, given as (column, row, ...) in float32, on a picture of `shape`.

    Returns its box in the picture of shape (height, width), two slices, empty off the picture, and float32 arrays over
    the box: columns [1, w] and rows [h, 1] from `start`, place along the axis (0 at start, 1 at end, beyond that past
    the ends), thickness there, and distance inside the outline, [h, w]. All in pixels; their centres are at halves.
    margin: pixels of the box around the capsule.
    """
    height, width = shape
    reach, end_reach = radius + margin, end_radius + margin
    low = np.minimum(start[:2] - reach, end[:2] - end_reach).astype(int).clip(0)
    high = np.maximum(start[:2] + reach, end[:2] + end_reach).astype(int) + 1
    (left, top), (right, bottom) = low.tolist(), high.clip(low, (width, height)).tolist()
    across = np.arange(left + 0.5 - start[0], right - start[0], dtype=np.float32)[None, :]
    down = np.arange(top + 0.5 - start[1], bottom - start[1], dtype=np.float32)[:, None]
    line_x, line_y = end[:2] - start[:2]
    square = line_x * line_x + line_y * line_y + np.float32(1e-6)
    beyond = across * (line_x / square) + down * (line_y / square)
    along = beyond.clip(0, 1)
    thickness = np.float32(radius) + along * np.float32(end_radius - radius)
    inside = thickness - np.sqrt((across - along * line_x) ** 2 + (down - along * line_y) ** 2)
    return (slice(top, bottom), slice(left, right)), across, down, beyond, thickness, inside
