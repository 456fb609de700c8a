"""Make a dataset of the LAB4 layout from videos of a person: frames, labels and ground truth as files.

train/poses.csv holds the poses of the training frames, in their pixels; video.json says what the dataset was made from;
preview.gif shows labels over frames.
"""

import math
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cli.errors import UsageError
from cli.files import write_json, write_text
from cli.folders import whole_folder
from cli.progress import Progress
from media.ffmpeg import length_and_rate, load_ffmpeg, read_video
from media.gif import write_gif
from media.pixel_csv import write_pixels_csv
from media.png import as_read, write_png

from .keypoints import present, read_lines, write_poses
from .labels import draw_label
from .person import check_seen, find_person, own_rate
from .window import Window, choose_window, cut, move_into

VERSION = 1
MARKER, ENTRIES = "video.json", ("train", "val", "test", "preview.gif", ".decoded")
HELD_OUT = 0.1  # of a video, for validation and again for the test
MIN_FRAMES = 60  # of a video
TRUTH_PART = 4  # the frames in gt.csv have a quarter of the dataset's height and width
PREVIEW_FRAMES = 150
PREVIEW_FPS = 5  # at least, where a long video's frames are some seconds apart


class Take(NamedTuple):
    """One video of the person, and what the dataset takes from it."""

    path: Path
    poses: np.ndarray  # [T, 17, 3] in pixels of the dataset's frames, see keypoints.py
    window: Window
    fps: float  # frames a second
    parts: dict  # {"train": slice of its frames, "val": ..., "test": ...}


def make_video_dataset(root, videos, poses_files, *, fps, frame_size, overwrite):
    """Write the dataset into the folder `root`, which appears once it is complete; prints what was found.

    videos: paths. poses_files: a CSV file of poses for each video (see keypoints.py), or None for an estimator. fps:
    frames a second; a video with a file of poses keeps its own rate if that is almost this one. frame_size: (H, W) of
    the dataset's frames. overwrite: replace such a dataset in `root`. Returns the length of the shortest validation
    sequence. Raises UsageError.
    """
    load_ffmpeg("--video")
    with whole_folder("--dataset", root, "dataset of videos", MARKER, ENTRIES, overwrite) as folder:
        inputs = list(zip(videos, poses_files or [None] * len(videos)))
        check_inputs(inputs, fps)
        takes = [find_take(path, fps, poses_file, frame_size) for path, poses_file in inputs]
        write_takes(folder, takes, frame_size)
        write_json(folder / MARKER, {
            "version": VERSION, "fps": takes[0].fps, "frame_size": frame_size,
            "videos": [{"path": str(take.path), "frames": len(take.poses), "fps": take.fps,
                        "window": take.window._asdict()} for take in takes]})
    return min(length_of(take.parts["val"]) for take in takes)


def check_inputs(inputs, fps):
    """Raise UsageError for what can be told of pairs (video, file of poses) before a frame is looked at."""
    for path, poses_file in inputs:
        seconds, native = length_and_rate(path, "--video")
        rate = own_rate(fps, native) if poses_file else fps
        if seconds:  # the file says it
            check_length(path, round(rate * seconds), rate)
        if poses_file:
            check_seen(read_lines(poses_file, "--poses"), poses_file)


def check_length(path, frames, fps):
    """Raise UsageError if a video has too few frames, sampled at `fps`."""
    if frames < MIN_FRAMES:
        raise UsageError(f"--video {path} has {frames} frames at {fps:g} a second, too few; give a video of "
                         f"{MIN_FRAMES} frames or more")


def find_take(path, fps, poses_file, frame_size):
    """Find the person in a video, choose its window and its parts, and print what was found."""
    person = find_person(path, fps, poses_file, "--video", "--fps")
    check_length(path, len(person.poses), person.fps)
    window = choose_window(person.poses, person.size, frame_size)
    print(f"{path}: {person.report}")
    print(f"  cut from {person.size[1]} x {person.size[0]} pixels to {window.width:.0f} x {window.height:.0f}, "
          f"the upper left corner at {window.left:.0f}, {window.top:.0f}")
    poses = move_into(person.poses, window, frame_size)
    return Take(Path(path), poses, window, person.fps, split(present(poses), person.fps))


def split(shows_somebody, fps):
    """Split a video in time order into training, validation and test, with gaps of at most a second between them.

    shows_somebody: bool [T]. Validation and test begin with the first frame of their part that shows somebody.
    """
    frames = len(shows_somebody)
    held_out = max(round(HELD_OUT * frames), 2)
    gap = min(round(fps), round(HELD_OUT / 2 * frames))
    parts, stop = {}, frames
    for name in ("test", "val"):
        shown = np.flatnonzero(shows_somebody[stop - held_out:stop - 1])
        start = stop - held_out + (shown[0] if len(shown) else 0)
        parts[name] = slice(int(start), stop)
        stop -= held_out + gap
    return {"train": slice(0, stop), **parts}


def length_of(part):
    return part.stop - part.start


def write_takes(root, takes, frame_size):
    """Write the frames and labels of all takes, and what belongs to them, into the new folder `root`."""
    total = sum(len(take.poses) for take in takes)
    first = {"train": 0, "val": 0}  # number of the next file
    truth, preview = [], []
    truth_size = [side // TRUTH_PART for side in frame_size]
    every = math.ceil(total / PREVIEW_FRAMES)
    done = 0  # frames of the takes before
    with Progress(total=total, desc="writing", unit="frame") as progress:
        for number, take in enumerate(takes):
            folders = make_folders(root, number)
            truth.append([])
            for name, index, frame in cut_frames(take, frame_size):
                label = draw_label(take.poses[index], frame_size)
                if (done + index) % every == 0:
                    preview.append(overlay(frame, label))
                if name == "test":
                    truth[number].append(as_read(frame, truth_size))
                if name:
                    place = index - take.parts[name].start
                    write_pair(folders[name], first.get(name, 0) + place, frame, label,
                               with_frame=name != "test" or place == 0)
                progress.update()
            done += len(take.poses)
            for name in first:
                first[name] += length_of(take.parts[name])
    for name in first:
        lengths = [length_of(take.parts[name]) for take in takes]
        write_text(root / name / "sequences.txt", "".join(f"{length}\n" for length in lengths))
    write_poses(root / "train" / "poses.csv", np.concatenate([take.poses[take.parts["train"]] for take in takes]))
    write_pixels_csv(root / "test" / "gt.csv", [np.stack(frames) for frames in truth])
    write_gif(root / "preview.gif", preview, fps=max(takes[0].fps / every, PREVIEW_FPS))


def make_folders(root, number):
    """Make the folders of frames and labels for video `number`: {"train": (frames, labels), ...}."""
    folders = {name: [root / name / f"{name}_{kind}" for kind in ("img", "label")] for name in ("train", "val", "test")}
    folders["test"] = [folder / str(number) for folder in folders["test"]]
    for folder in sum(folders.values(), []):
        folder.mkdir(parents=True, exist_ok=True)
    return folders


def cut_frames(take, frame_size):
    """Yield for each frame of a take the name of its part (None in a gap), its number in the video, and its pixels."""
    with closing(read_video(take.path, take.fps, "--video", len(take.poses))) as frames:
        for index, frame in enumerate(frames):
            name = next((name for name, part in take.parts.items() if part.start <= index < part.stop), None)
            yield name, index, cut(frame, take.window, frame_size)


def write_pair(folders, number, frame, label, with_frame):
    """Write a label and, if wanted, its frame as the PNGs of this number."""
    images, labels = folders
    if with_frame:
        write_png(images / f"{number}.png", frame)
    write_png(labels / f"{number}.png", label)


def overlay(frame, label):
    """Lay a label over its frame, uint8 [H, W, 3] each: the darkened frame shows where the label is white."""
    ink = (255 - label.min(axis=2, keepdims=True).astype(float)).clip(0, 100) / 100
    return (ink * label + (1 - ink) * 0.7 * frame).astype(np.uint8)
