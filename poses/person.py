"""The person in a video: found in every frame, followed, and made steady."""

from contextlib import closing
from typing import NamedTuple

import numpy as np

from cli.errors import UsageError
from cli.progress import Progress
from media.ffmpeg import length_and_rate, read_video

from .estimator import pose_estimator
from .keypoints import MIN_CONFIDENCE, follow, nobody, people_of, present, read_lines
from .tracks import bridged_frames, steady

MIN_INSIDE = 0.5  # part of the joints that lie in the picture
MIN_HEIGHT = 0.05  # of the picture, of a person
MAX_EARLY = 0.5  # seconds before the end of a video at which its poses may end
MAX_MISSING = 0.02  # of the length that a video's file says
SAME_RATE = 0.02  # two rates that differ by no more, as 29.97 and 30, are called by one number


class Person(NamedTuple):
    """The poses of one person in a video."""

    poses: np.ndarray  # [T, 17, 3] in pixels of the video, see keypoints.py; bridged and smoothed
    size: tuple  # (H, W) of the video in pixels
    fps: float  # frames a second of the poses: what was asked for, or the video's own; see own_rate
    report: str  # in how many frames nobody or several people were found, and who was followed


def find_person(path, fps, poses_file, flag, fps_flag=None):
    """Find the person in a video, sampled at `fps`; `flag` is the one that named it, `fps_flag` one that sets fps.

    poses_file: CSV file of poses (see keypoints.py) to take in place of an estimator's, or None; with one the video may
    be sampled at its own rate, see own_rate. Raises UsageError if a file cannot be read, or nobody is found.
    """
    if poses_file:
        poses, size, fps, who = person_of_file(path, fps, poses_file, flag, fps_flag)
    else:
        poses, size, who = estimated_person(path, fps, flag)
    steadied = steady(poses, fps)
    lost = int((~present(poses)).sum())
    report = f"nobody in {lost} of {len(poses)} frames ({bridged_frames(poses, steadied)} bridged); {who}"
    return Person(steadied, size, fps, report)


def person_of_file(path, fps, poses_file, flag, fps_flag):
    """The poses [T, 17, 3] of the person to follow, of those in a file; the size, the rate, and who was followed."""
    lines = read_lines(poses_file, "--poses")
    check_seen(lines, poses_file)
    seconds, native = length_and_rate(path, flag)
    fps = own_rate(fps, native)
    sizes = over_frames(lambda frame: frame.shape[:2], path, fps, flag, seconds, "reading")
    check_rate(lines, poses_file, path, len(sizes), fps, native, fps_flag)
    people = people_of(lines, len(sizes), f"--poses {poses_file}", f" at {fps:g} a second")
    poses, several = follow(people), sum(len(candidates) > 1 for candidates in people)
    check_scale(poses, sizes[-1], poses_file)
    who = (f"more than one person in {several}; the tallest in the first frame with anybody was followed" if several
           else "never more than one person")
    return poses, sizes[-1], fps, who


def estimated_person(path, fps, flag):
    """The poses [T, 17, 3] of the person that mediapipe finds, the size, and who was followed."""
    with pose_estimator() as estimate:
        seconds, _ = length_and_rate(path, flag)
        found = over_frames(lambda frame: (estimate(frame), frame.shape[:2]), path, fps, flag, seconds, "poses of")
    poses = np.stack([nobody(1)[0] if pose is None else pose for pose, _ in found])
    if not present(poses).any():
        raise UsageError(f"{flag} {path}: nobody was found in its {len(found)} frames; give a video that shows a whole "
                         "person, or --poses")
    who = "of several people, mediapipe's Pose reports one: the same as long as it keeps track of it"
    return poses, found[-1][1], who


def over_frames(function, path, fps, flag, seconds, doing):
    """What a function gives of each frame of a video, as a list; seconds: its length, 0 where the file says none."""
    with closing(read_video(path, fps, flag)) as video:
        frames = Progress(video, total=round(fps * seconds) or None, desc=f"{doing} {path}", unit="frame")
        results = [function(frame) for frame in frames]
    note_missing_part(path, flag, len(results) / fps, seconds)
    return results


def note_missing_part(path, flag, read, seconds):
    """Note a video that ends sooner than its file says, as a copy does that broke off.

    read: seconds of it that could be read. seconds: what the file says, 0 where it does not. Its sound may last longer
    than its picture, so this is no error.
    """
    if read < seconds - max(1, MAX_MISSING * seconds):
        print(f"note: {flag} {path} is {seconds:.1f} seconds long by its own account, and {read:.1f} of them can be "
              "read; if it was copied or uploaded, look whether that ended")


def check_seen(lines, poses_file):
    """Raise UsageError if no joint in the lines of a file of poses is seen."""
    if not any(present(pose) for *_, pose in lines):
        raise UsageError(f"--poses {poses_file}: no joint in it has a confidence of {MIN_CONFIDENCE} or more; give "
                         "confidences from 0 to 1, or 1 where they are not known")


def own_rate(fps, native):
    """Return the video's own rate, `native`, in place of `fps` if the two are almost the same.

    Whoever numbers the frames of a video of 29.97 frames a second numbers these, and calls their rate 30; sampled at
    30, the video would have a frame too many in every 33 seconds. native: 0 where it is not known.
    """
    return native if abs(native - fps) <= SAME_RATE * fps else fps


def check_rate(lines, poses_file, video, frames, fps, native, fps_flag):
    """Raise UsageError if a file of poses numbers the frames at the video's own rate, `native`, but `fps` is another.

    The file does so if its last number is that of the video's last frame at that rate, or differs by a thousandth at
    most. A file that ends early is noted: its lines may number the frames of a variable rate. lines: of the file, see
    `read_lines`. frames: how many there are at `fps`. native: 0 where it is not known. fps_flag: the flag that sets
    fps, or None.
    """
    last = max((frame for _, frame, _ in lines), default=0)
    own = frames * native / fps
    if native not in (0, fps) and abs(last + 1 - own) <= max(1, native / fps, own / 1000):
        remedy = (f"number its frames at {fps:g} a second; if they are, add a line for the last one, {frames - 1}, "
                  "with confidences of 0")
        raise UsageError(f"--poses {poses_file}: its last frame, {last}, is the last of {video} at the video's own "
                         f"{native:g} frames a second, but {fps:g} are taken; "
                         + (f"give {fps_flag} {native:g}, or {remedy}" if fps_flag else remedy))
    early = (frames - 1 - last) / fps
    if early > MAX_EARLY:
        print(f"note: --poses {poses_file} ends with frame {last}, {early:.1f} seconds before the end of {video}; if "
              f"somebody is seen there, the lines are not {fps:g} a second: convert a video of variable rate first")


def check_scale(poses, size, path):
    """Raise UsageError if poses [T, 17, 3], one at least, are not in pixels of a video of `size` (H, W).

    path: their file.
    """
    places = poses[present(poses)][..., :2]  # [n, 17, 2]
    inside = ((places >= 0) & (places <= size[::-1])).all(axis=2).sum() / np.isfinite(places).all(axis=2).sum()
    tall = np.median(np.nanmax(places[..., 1], axis=1) - np.nanmin(places[..., 1], axis=1))
    if inside < MIN_INSIDE or tall < MIN_HEIGHT * size[0]:
        raise UsageError(f"--poses {path}: {inside:.0%} of the joints lie in the picture, and the person is {tall:.1f} "
                         f"pixels tall; give x and y in pixels of the video, which has {size[1]} x {size[0]}")
