"""Make the poses of a video steady: bridge short losses, smooth the jitter. Poses are as in keypoints.py."""

import numpy as np

from .keypoints import present, seen

LONGEST_BRIDGE = 0.5  # seconds
SMOOTHING = 0.05  # seconds, standard deviation of a Gaussian


def steady(poses, fps):
    """Return the poses [T, 17, 3] of a video of `fps` frames a second, bridged and smoothed."""
    return smooth(bridge(poses, round(LONGEST_BRIDGE * fps)), SMOOTHING * fps)


def bridge(poses, longest):
    """Interpolate each joint over losses of at most `longest` frames, where it is seen before and after."""
    bridged = poses.copy()
    for joint, seen_at in enumerate(seen(poses).T):
        frames = np.flatnonzero(seen_at)
        for before, after in zip(frames, frames[1:]):
            if 1 < after - before <= longest + 1:
                lost = np.arange(before + 1, after)
                part = ((lost - before) / (after - before))[:, None]
                bridged[lost, joint] = (1 - part) * poses[before, joint] + part * poses[after, joint]
    return bridged


def smooth(poses, sigma):
    """Average each seen joint with its neighbours in time, by a Gaussian of `sigma` frames; unseen ones stay unseen."""
    reach = int(3 * sigma) + 1
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma, 1e-6)) ** 2)
    weight = seen(poses).astype(float)[..., None]
    total = _convolve(np.nan_to_num(poses) * weight, kernel) / _convolve(weight, kernel).clip(1e-12)
    return np.where(weight > 0, total, poses)


def _convolve(values, kernel):
    """Convolve values [T, ...] with a kernel along the frames, zeros around them."""
    flat = values.reshape(len(values), -1)
    reach = len(kernel) // 2
    columns = [np.convolve(column, kernel)[reach:reach + len(values)] for column in flat.T]
    return np.stack(columns, axis=1).reshape(values.shape)


def bridged_frames(before, after):
    """Count the frames that show somebody after `bridge` and did not before."""
    return int((present(after) & ~present(before)).sum())
