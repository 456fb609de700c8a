"""Move one person's poses to the size and the place of another: global pose normalisation.

After Everybody Dance Now (Chan et al. 2019, arXiv:1808.07371): a person's lower ankle tells how near to the camera the
person stands. From the ankles and the heights of both people near and far, linear interpolation gives for each frame
where the other one would have the ankles, and how tall that person would be there. Poses are as in keypoints.py.
"""

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from .keypoints import INDEX, present, seen

ANKLES = [INDEX["left_ankle"], INDEX["right_ankle"]]
HEADS = [INDEX[name] for name in ("nose", "left_eye", "right_eye", "left_ear", "right_ear")]
FAR, NEAR = 0.05, 0.95  # quantiles of the floor line
MIN_RANGE = 0.1  # of the height: a person who moves less in depth has one size
KNOWN = (-0.25, 1.25)  # nearness, 0 far and 1 near, beyond which a line is trusted no further
STANDING = 0.8  # quantile of the heights: neither bent nor jumping
STEP = 0.5  # seconds in which a foot touches the floor again


class Stance(NamedTuple):
    """Where a person stands and how tall the person is, far from the camera and near to it, in pixels."""

    far: float  # row of the floor; equal to near for a person who hardly moves in depth
    near: float
    usual: float  # the median row of the floor
    height_far: float
    height_near: float
    middle: float  # column

    def nearness(self, floor):
        """How near a person is who stands at this row: 0 far, 1 near."""
        if self.near == self.far:
            return np.zeros_like(floor)
        return ((floor - self.far) / (self.near - self.far)).clip(*KNOWN)


def retarget(poses, trained, fps):
    """Return poses [T, 17, 3] as the person of the poses `trained` would hold them; fps: frames a second of both.

    Returns None if one of the two never shows head and ankles together. The poses are scaled and moved as a whole:
    limbs keep their proportions. A jump stays a jump, since the floor is where a foot was or will be within STEP.
    """
    source, target = measure_stance(poses, fps), measure_stance(trained, fps)
    if source is None or target is None:
        return None
    floor = floor_line(poses, fps)
    known = np.flatnonzero(np.isfinite(floor))
    floor = np.interp(np.arange(len(poses)), known, floor[known])[:, None]  # [T, 1]
    if source.near > source.far:
        nearness = source.nearness(floor)
    else:
        nearness = target.nearness(np.full_like(floor, target.usual))
    scale = (mix(target.height_far, target.height_near, nearness)
             / mix(source.height_far, source.height_near, nearness))
    moved = poses.copy()
    moved[..., 0] = target.middle + scale * (poses[..., 0] - source.middle)
    moved[..., 1] = mix(target.far, target.near, nearness) + scale * (poses[..., 1] - floor)
    return moved


def mix(far, near, nearness):
    return far + nearness * (near - far)


def measure_stance(poses, fps):
    """Measure the Stance of a person in poses [T, 17, 3]; None if no frame shows head and ankles."""
    floor, tops = floor_line(poses, fps), top_line(poses)
    whole = np.isfinite(floor) & np.isfinite(tops)
    if not whole.any():
        return None
    floor, height = floor[whole], (floor - tops)[whole]
    middle = np.nanmedian(poses[present(poses)][..., 0])
    usual, tall = np.median(floor), np.quantile(height, STANDING)
    far, near = np.quantile(floor, (FAR, NEAR))
    if near - far < MIN_RANGE * tall:
        return Stance(far=usual, near=usual, usual=usual, height_far=tall, height_near=tall, middle=middle)
    close = (near - far) / 10
    return Stance(far, near, usual, np.quantile(height[floor <= far + close], STANDING),
                  np.quantile(height[floor >= near - close], STANDING), middle)


def floor_line(poses, fps):
    """Return the row of the floor under a person in each frame, [T]: the lowest that an ankle is within STEP.

    It is averaged over as long, and NaN where no ankle is seen.
    """
    rows = np.where(seen(poses)[:, ANKLES], poses[:, ANKLES, 1], -np.inf).max(axis=1)
    reach = max(round(STEP * fps / 2), 1)
    lowest = sliding_window_view(np.pad(rows, 2 * reach, constant_values=-np.inf), 2 * reach + 1).max(axis=1)
    around = sliding_window_view(lowest, 2 * reach + 1)  # [T, 2 reach + 1]
    known = np.isfinite(around)
    mean = np.where(known, around, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    return np.where(np.isfinite(rows), mean, np.nan)


def top_line(poses):
    """Return the row of the head in each frame, [T]; NaN where it is not seen."""
    known = seen(poses)[:, HEADS]
    count = known.sum(axis=1)
    return np.where(count > 0, np.nansum(poses[:, HEADS, 1], axis=1) / np.maximum(count, 1), np.nan)
