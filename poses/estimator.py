"""Find the pose of a person in an image. The only file that knows mediapipe, which is an extra."""

import os
import sys
from contextlib import contextmanager

import numpy as np
from PIL import Image

from cli.errors import UsageError, one_line

from .keypoints import JOINTS, without_doubtful

LONGEST_SIDE = 1024  # pixels, of the image that the estimator is shown
# mediapipe's numbers of COCO's joints.
NUMBERS = [0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28]
assert len(NUMBERS) == len(JOINTS)


@contextmanager
def pose_estimator():
    """Yield estimate(image), which finds a pose in each of the successive frames of a video.

    It takes an image, uint8 [H, W, 3], and returns a pose in its pixels, float [17, 3] as in keypoints.py, or None
    where it finds nobody. mediapipe's Pose (BlazePose, Bazarevsky et al. 2020, arXiv:2006.10204) finds one person, and
    looks for that one near where it was in the frame before. Raises UsageError if mediapipe is missing, or cannot
    be started.
    """
    try:
        with _silent_stderr():
            from mediapipe.python.solutions.pose import Pose
    except ImportError as error:
        raise UsageError(f"a video without --poses needs the package mediapipe ({error}): pip install --no-deps -r "
                         "requirements/poses.txt, with Python 3.12 or older") from None

    try:
        with _silent_stderr():
            tracker = Pose(static_image_mode=False, smooth_landmarks=False)  # tracks.py smooths without delay
            black = np.zeros((LONGEST_SIDE, LONGEST_SIDE, 3), np.uint8)
            tracker.process(black)  # its threads report at the first image
    except (OSError, RuntimeError) as error:
        # On Windows mediapipe cannot read its own files if their path has other letters than English ones
        raise UsageError(f"mediapipe cannot be started ({one_line(error)}); give --poses FILE or, if the path of this "
                         "project has other letters than English ones, move it") from None
    with tracker:
        def estimate(image):
            height, width = image.shape[:2]
            with _silent_stderr():
                found = tracker.process(_enlarged(image)).pose_landmarks
            if found is None:
                return None
            marks = [found.landmark[number] for number in NUMBERS]
            return without_doubtful(np.array([(mark.x * width, mark.y * height, mark.visibility) for mark in marks]))

        yield estimate


@contextmanager
def _silent_stderr():
    """Drop what native code writes to stderr: mediapipe reports what it starts, whatever its log level.

    With protobuf 6 its import also prints an error that does no harm.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


def _enlarged(image):
    """Resize an image so that its longest side is LONGEST_SIDE."""
    height, width = image.shape[:2]
    scale = LONGEST_SIDE / max(height, width)
    size = max(round(scale * width), 1), max(round(scale * height), 1)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
