"""The dataset: folders of numbered images, and the clips cut from them.

    DR/train/train_img/{0..N-1}.png   DR/train/train_label/{...}.png   [DR/train/sequences.txt]
    DR/val/val_img/*.png              DR/val/val_label/*.png
    DR/test/test_img/{s}/0.png        DR/test/test_label/{s}/*.png     (s = 0, 1, ...)

A label has its frame's name; names are whole numbers, optionally after `frame`. The train folder may join several
sequences: sequences.txt then holds their lengths, one on each line.
"""

import os
import re
from pathlib import Path

import torch
from torch.utils.data import Dataset

from cli.errors import UsageError
from media.decoded import decode_cached, decode_with, first_few, read_images
from modules.pixels import to_unit
from stage_dancer.dataset import is_dancer, make_dancer

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg"}


class Dataset_Dance(Dataset):
    """Clips of a dance, kept decoded as uint8.

    mode: "train" and "val" give clips of `video_len` frames; "test" gives one item for each sequence: its first frame
    and all its labels.
    transform: turns a PIL image into a tensor [3, H, W], float in [0, 1] or uint8; applied once, when the image is
    first read. None: antialiased bilinear resize to `frame_size` (H, W).
    partial: the fraction of the frames to use, from the start.

    An item is (frames, labels), float in [0, 1], [T, 3, H, W] each. Item k of "train" and "val" is the k-th clip, back
    to back. Trainer.py orders its clips by engine.batches.epoch_starts instead.
    """

    def __init__(self, root, transform=None, mode="train", video_len=7, partial=1.0, *,
                 frame_size=(32, 64), num_workers=4):
        if mode not in ("train", "val", "test"):
            raise ValueError(f"mode {mode!r} is not train, val or test")
        root = existing_root(root)
        self.root, self.mode, self.video_len = root, mode, video_len

        def decode(paths):
            if transform is not None:
                return decode_with(transform, paths, num_workers)
            return decode_cached(root, paths, frame_size, num_workers)

        if mode == "test":
            self.names, first_frames, labels = list_test_sequences(root)
            self.frames = [decode([path]) for path in first_frames]
            self.labels = [decode(paths) for paths in labels]
            return
        frames, labels = list_frames_and_labels(root, mode)
        lengths = read_sequence_lengths(root / mode / "sequences.txt", len(frames))
        self.sequence_lengths = _cut(lengths, partial)
        if not len(self):
            raise UsageError(
                f"{frames[0].parent} has no {video_len} frames in a row to use (but "
                f"{max(self.sequence_lengths, default=0)}); lower --{mode}_vi_len or raise --partial"
            )
        used = sum(self.sequence_lengths)
        self.frames, self.labels = decode(frames[:used]), decode(labels[:used])

    def __len__(self):
        if self.mode == "test":
            return len(self.labels)
        return sum(length // self.video_len for length in self.sequence_lengths)

    def __getitem__(self, index):
        if self.mode == "test":
            return to_unit(self.frames[index]), to_unit(self.labels[index])
        frames, labels = self.clips(self.starts()[[index]])
        return to_unit(frames[0]), to_unit(labels[0])

    def starts(self, partial=1.0, generator=None):
        """First frames of the clips, int64 [clips]: back to back in each sequence.

        With a `generator` each sequence has as many clips, one at a random place in each of equal stretches of it.
        partial: the fraction of the frames to use, from the start.
        """
        starts, offset = [torch.empty(0, dtype=torch.int64)], 0
        for length in _cut(self.sequence_lengths, partial):
            number = torch.arange(length // self.video_len)
            start = number * self.video_len
            if generator is not None and len(number):
                places = length - self.video_len + 1
                drawn = torch.rand(len(number), generator=generator, dtype=torch.float64)
                start = ((number + drawn) * places / len(number)).long()
            starts.append(offset + start)
            offset += length
        return torch.cat(starts)

    def clips(self, starts):
        """The clips that begin at `starts` [B]: uint8 frames and labels, [B, T, 3, H, W] each."""
        places = starts[:, None] + torch.arange(self.video_len, device=starts.device)
        return self.frames[places], self.labels[places]


def _cut(lengths, partial):
    """The lengths of the sequences when the first `partial` of all their frames is used."""
    frames, used = round(sum(lengths) * partial), []
    for length in lengths:
        used.append(min(length, frames - sum(used)))
    return [length for length in used if length]


def existing_root(root):
    """The dataset's folder as a Path; UsageError if it does not exist."""
    root = Path(root)
    if not root.is_dir():
        raise UsageError(f"--DR {root} is not a folder; give the folder that holds train, val and test")
    return root


def dataset_or_dancer(root):
    """The dataset's folder as a Path; without one, the folder of the stage dancer, which is made if need be."""
    if root is not None:
        return existing_root(root)
    root = Path("data") / "dancer"
    if is_dancer(root):
        print(f"no --DR given: using the stage dancer in {root}", flush=True)
    else:
        print(f"no --DR given: making the stage dancer in {root}, and using it", flush=True)
        make_dancer(root, overwrite=True)
    return root


def list_frames_and_labels(root, mode):
    """Paths of the frames and of the labels of "train" or "val", in order."""
    frames = _list_images(root / mode / f"{mode}_img", root)
    labels = _list_images(root / mode / f"{mode}_label", root)
    lone = [f"label missing for frame {number} in {root / mode / f'{mode}_label'}" for number in frames.keys() - labels]
    lone += [f"frame missing for label {number} in {root / mode / f'{mode}_img'}" for number in labels.keys() - frames]
    if lone:
        raise UsageError(f"{first_few(sorted(lone))}; add the file, or remove its partner")
    return list(frames.values()), list(labels.values())


def list_test_sequences(root):
    """Names of the test sequences, the path of the first frame of each, and the paths of the labels of each."""
    folder = root / "test" / "test_label"
    names = [path.name for path in folder.iterdir() if path.name.isdecimal()] if folder.is_dir() else []
    if not names:
        raise UsageError(f"{folder} has no sequences; put the labels of sequence s into {folder / 's'}")
    names.sort(key=int)
    first_frames = []
    for name in names:
        frames = _list_images(root / "test" / "test_img" / name, root)
        if 0 not in frames:
            raise UsageError(f"{root / 'test' / 'test_img' / name / '0.png'} is missing: its first frame")
        first_frames.append(frames[0])
    return names, first_frames, [list(_list_images(folder / name, root).values()) for name in names]


def read_sequence_lengths(path, frames):
    """The lengths of the sequences that a folder of `frames` frames joins; a single one without the file."""
    if not path.exists():
        return [frames]
    try:
        lengths = [int(word) for word in path.read_text().split()]
    except (OSError, ValueError):  # not text, not a number, or thousands of digits
        lengths = [0]
    if min(lengths, default=0) < 1 or sum(lengths) != frames:
        raise UsageError(f"{path} must hold one length a line, {frames} in all; mend it or remove it")
    return lengths


def _list_images(folder, root):
    """The images of a folder by number, in order."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is missing; --DR wants the LAB4 layout (README, Your own data)")
    paths, inside = {}, os.path.join(os.path.realpath(root), "")
    linked = not os.path.realpath(folder).startswith(inside)
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = folder / entry.name
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        match = re.fullmatch(r"(?:frame)?([0-9]+)", path.stem)
        if not match:
            shown = path if str(path).isprintable() else repr(str(path))  # a line break may be in a name
            raise UsageError(f"{shown} is not named by a number; name it like 0.png, or move it away")
        number = int(match[1])
        if number in paths:
            raise UsageError(f"{path} and {paths[number].name} are both number {number}; remove one")
        paths[number] = path
        if linked or entry.is_symlink() and not os.path.realpath(path).startswith(inside):
            raise UsageError(f"{path} is a link that leads out of {root}; put the file itself there")
        if not (path.is_file() if entry.is_symlink() else entry.is_file()):
            raise UsageError(f"{path} is not a file, or is a broken link; replace it")
    if not paths:
        raise UsageError(f"{folder} has no images in it; put them there, named 0.png, 1.png, ...")
    missing = max(paths) - min(paths) + 1 - len(paths)
    if missing:
        first = next(number + 1 for number in sorted(paths) if number + 1 not in paths)
        print(f"note: {folder} skips {missing} number{'s' * (missing > 1)}, the first of them {first}; the frames "
              "around a gap count as neighbours", flush=True)
    return dict(sorted(paths.items()))


def describe_dataset(root):
    """Check a whole dataset. Returns what is wrong with it, and what it holds, as lines of text."""
    root = existing_root(root)
    problems, facts = [], []
    for mode in ("train", "val", "test"):
        try:
            if mode == "test":
                names, first_frames, labels = list_test_sequences(root)
                folders = [[path] for path in first_frames] + labels
                lengths = sorted({len(paths) for paths in labels})
                what = f"{len(names)} sequences of {' or '.join(map(str, lengths))} labels"
            else:
                frames, labels = list_frames_and_labels(root, mode)
                lengths = read_sequence_lengths(root / mode / "sequences.txt", len(frames))
                folders = [frames, labels]
                what = f"{len(frames)} frames with labels, in {len(lengths)} sequence{'s' * (len(lengths) > 1)}"
        except UsageError as error:
            problems.append(str(error))
            continue
        sizes = set()
        for paths in folders:
            _, unreadable, found = read_images(paths, lambda image: None, os.cpu_count(), paths[0].parent.name)
            problems += unreadable
            sizes |= {f"{width} x {height}" for height, width in found}
        facts.append(f"{mode}: {what}, {' and '.join(sorted(sizes))} pixels")
    return problems, facts
