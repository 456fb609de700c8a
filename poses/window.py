"""Cut a video to the frames of a dataset: one window for the whole video, around its person, never stretched."""

from typing import NamedTuple

import numpy as np
from PIL import Image

from .keypoints import present

MARGIN, MIN_MARGIN = 0.2, 0.1  # around the joints, in heights of the person: hands, feet and hair reach past them


class Window(NamedTuple):
    """A part of a picture, in its pixels; it may reach beyond the picture."""

    left: float
    top: float
    width: float
    height: float


def choose_window(poses, picture, size):
    """Choose the window of a picture of (H, W) that shows all poses [T, 17, 3], in the shape of `size` (H, W).

    It is centred on the person as far as the picture allows. It reaches beyond the picture only where no window of this
    shape within the picture holds the person.
    """
    places = poses[..., :2][present(poses)]  # [n, 17, 2]
    extent = np.nanmax(places, axis=1) - np.nanmin(places, axis=1)
    person = np.quantile(extent[:, 1], 0.9)
    limits = np.array(picture[::-1], float)  # W, H
    # A thousandth at each end may be mistakes of the estimator.
    low, high = (np.nanquantile(places.reshape(-1, 2), part, axis=0) for part in (0.001, 0.999))
    shape = np.array(size[::-1]) / size[0]  # of a window of height 1

    def height_for(margin):
        around = np.minimum(high + margin * person, limits) - np.maximum(low - margin * person, 0)
        return (around / shape).max()

    largest_inside = (limits / shape).min()
    height = min(height_for(MARGIN), max(largest_inside, height_for(MIN_MARGIN)))
    window = height * shape  # W, H
    middle = (np.maximum(low - MIN_MARGIN * person, 0) + np.minimum(high + MIN_MARGIN * person, limits)) / 2
    corner = np.where(window <= limits, (middle - window / 2).clip(0, np.maximum(limits - window, 0)),
                      (limits - window) / 2)
    return Window(*corner, *window)


def cut(frame, window, size):
    """Cut a window out of a frame, uint8 [h, w, 3], and resize it to `size` (H, W): uint8 [H, W, 3].

    What is beyond the frame is black.
    """
    height, width = frame.shape[:2]
    left, top, right, bottom = window.left, window.top, window.left + window.width, window.top + window.height
    beyond = [(max(0, -int(np.floor(low))), max(0, int(np.ceil(high)) - limit))
              for low, high, limit in ((top, bottom, height), (left, right, width))]
    padded = np.pad(frame, (*beyond, (0, 0))) if np.any(beyond) else frame
    (above, _), (aside, _) = beyond
    box = (left + aside, top + above, min(right + aside, padded.shape[1]), min(bottom + above, padded.shape[0]))
    return np.asarray(Image.fromarray(padded).resize(size[::-1], Image.Resampling.BICUBIC, box))


def move_into(poses, window, size):
    """Return poses [..., 17, 3] in the pixels of what `cut` makes of their frames."""
    moved = poses.copy()
    moved[..., :2] = (poses[..., :2] - window[:2]) * (size[1] / window.width, size[0] / window.height)
    return moved
