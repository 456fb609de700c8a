"""What drives a trained model to a new dance: another person's video, or a folder of labels."""

from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import avg_pool2d, normalize

from cli.errors import UsageError
from dataset_folder.choice import noted_fps
from dataset_folder.listing import list_frames_and_labels, list_images
from media.decoded import decode_images
from media.ffmpeg import read_video
from media.images import read_image, resize_image, resize_picture
from modules.pixels import to_unit
from poses.keypoints import present, read_poses
from poses.labels import draw_label
from poses.person import find_person
from poses.retarget import retarget
from poses.window import choose_window, cut

from ..evaluation import chunk_size

SQUARES = 8  # of blurred ink, over the height


class Drive(NamedTuple):
    """The labels of a new dance."""

    labels: torch.Tensor  # uint8 [T, 3, H, W]
    video: torch.Tensor | None  # what they come from, uint8 [T, 3, H, W]; None for a folder of labels
    fps: float


def open_drive(path, poses_file, root, frame_size, num_workers):
    """Open what --drive names, for a model trained on the dataset `root` at frame_size (H, W); raises UsageError."""
    path, fps = Path(path), noted_fps(root)
    if path.is_dir():
        paths = list(list_images(path).values())
        labels = decode_images(paths, lambda image: resize_image(image, frame_size), num_workers)
        drive = Drive(labels, None, fps)
    else:
        drive = drive_by_video(path, poses_file, root, frame_size, fps)
    if len(drive.labels) < 2:
        raise UsageError(f"--drive {path} gives one label, too few; two or more are needed")
    return drive


def drive_by_video(path, poses_file, root, frame_size, fps):
    """Draw the poses of the person in a video as those of the person in the training set `root`; raises UsageError.

    It begins with the first frame that shows somebody.
    """
    trained, size = training_poses(root)
    person = find_person(path, fps, poses_file, "--drive")
    poses = retarget(person.poses, trained, person.fps)
    if poses is None:
        raise UsageError(f"--drive {path}: no frame of it, or of the training set, shows head and feet of a person; "
                         "give a video that does")
    print(f"{path}: {person.report}")
    first = int(np.flatnonzero(present(poses))[0])
    labels = torch.stack([resize_picture(draw_label(pose, size), frame_size) for pose in poses[first:]])
    window = choose_window(person.poses, person.size, frame_size)
    with closing(read_video(path, person.fps, "--drive", len(poses))) as frames:
        video = torch.stack([resize_picture(cut(frame, window, frame_size), frame_size)
                             for number, frame in enumerate(frames) if number >= first])
    return Drive(labels, video, person.fps)


def training_poses(root):
    """Read the poses of the training frames, [N, 17, 3], and the size (H, W) that they are for; raises UsageError."""
    path = root / "train" / "poses.csv"
    if not path.is_file():
        raise UsageError(f"--drive by a video needs {path}, which Preparer.py --video writes; give --DR of such a "
                         "dataset, or a folder of labels")
    _, labels = list_frames_and_labels(root, "train")
    return read_poses(path, "--drive:", len(labels)), tuple(read_image(labels[0]).shape[1:])


def nearest_start(train_set, label):
    """Return the training frame, uint8 [3, H, W], whose label is most like a label, uint8 [3, H, W].

    Thin lines that just miss one another are as far apart, in L2, as a line and nothing. So the ink is compared
    blurred, and by its direction.
    """
    labels = train_set.labels
    inks = torch.cat([blurred_ink(part) for part in labels.split(chunk_size(labels))])
    return train_set.frames[torch.cdist(blurred_ink(label[None]), inks)[0].argmin()]


def blurred_ink(labels):
    """Return the ink of uint8 labels [N, 3, H, W], averaged over squares, with a norm of 1 (of 0 if blank): [N, n]."""
    ink = 1 - to_unit(labels)
    height, width = labels.shape[-2:]
    return normalize(avg_pool2d(ink, max(min(height // SQUARES, width), 1)).flatten(1))
