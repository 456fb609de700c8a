"""Film the stage dancer: her training frames, drawn large, as a video, with the true pose of each in a CSV file.

It tests the whole way from a video to a trained model without anyone's face, and measures a pose estimator.
"""

from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np

from media.ffmpeg import write_mp4
from poses.keypoints import JOINTS, write_poses

from .choreography import DANCER_FPS, INDEX
from .dataset import training_dances
from .stage import HEIGHT, WIDTH, Stage, draw_frame, project
from .workers import default_workers, draw_jobs

ZOOM = 4  # the film has 512 x 1024 pixels: in the dataset's frames she is too small for a pose estimator
CHUNK = 10  # frames in one job of a worker
HALF_HEAD = 0.1  # metres from its middle to an ear


class _Job(NamedTuple):
    """Describe some frames for a worker to draw."""

    points: np.ndarray  # [n, P, 3]
    exposure: np.ndarray  # [n]


def make_film(path, frames, seed, num_workers):
    """Write the training frames as a video, and the poses that it shows beside it, with the suffix .csv.

    frames, seed, num_workers: see dataset.make_dancer. Raises RunError if they cannot be written there.
    """
    dances = list(training_dances(frames, seed))
    jobs = [_Job(points[start:start + CHUNK], exposure[start:start + CHUNK])
            for points, exposure in dances for start in range(0, len(points), CHUNK)]
    with closing(draw_jobs(_draw_job, jobs, num_workers or default_workers(), desc="film")) as results:
        write_mp4(path, (frame for _, pictures in results for frame in pictures), DANCER_FPS)
    write_poses(Path(path).with_suffix(".csv"), np.concatenate([true_poses(points, ZOOM) for points, _ in dances]))


def true_poses(points, zoom):
    """Return the poses, see poses/keypoints.py, of points [T, P, 3] at `zoom`; off the picture nothing is seen."""
    joints = {name: points[:, INDEX[name]] for name in JOINTS if name in INDEX}
    left, right, mouth, head = (points[:, INDEX[name]] for name in ("left_eye", "right_eye", "mouth", "head"))
    aside = HALF_HEAD * (left - right) / np.linalg.norm(left - right, axis=1, keepdims=True)
    joints |= {"nose": (left + right + 2 * mouth) / 4, "left_ear": head + aside, "right_ear": head - aside}
    pixels, _ = project(np.stack([joints[name] for name in JOINTS], axis=1), zoom)
    places = pixels[..., :2]
    outside = ((places < 0) | (places >= (zoom * WIDTH, zoom * HEIGHT))).any(axis=2, keepdims=True)
    return np.concatenate([np.where(outside, np.nan, places), 1.0 - outside], axis=2)


def _draw_job(job):
    """Draw the frames of a job, uint8 [H, W, 3] each."""
    stage = Stage(ZOOM)
    return [draw_frame(points, exposure, stage) for points, exposure in zip(job.points, job.exposure)]
