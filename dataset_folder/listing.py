"""The images of a dataset, in their order.

    DR/train/train_img/{0..N-1}.png   DR/train/train_label/{...}.png   [DR/train/sequences.txt]
    DR/val/val_img/*.png              DR/val/val_label/*.png
    DR/test/test_img/{s}/0.png        DR/test/test_label/{s}/*.png     (s = 0, 1, ...)

A label has the name of its frame: a whole number, optionally after `frame`. The first frame of a test sequence has the
number of the first label. Any image format that Pillow reads will do, and so will links. If the train or the val
folder joins several sequences, a sequences.txt in it holds their lengths, one per line.
"""

import re

from cli.errors import UsageError, first_few, is_away
from cli.files import patiently
from media.csv_files import whole_text
from media.images import IMAGE_SUFFIXES

from .entries import entries_of, exists, is_folder, is_ours, printable, refuse_dead_link, unreadable_error


def list_frames_and_labels(root, mode):
    """List the paths of the frames and of the labels of "train" or "val", in order; raises UsageError."""
    frames = list_images(root / mode / f"{mode}_img")
    labels = list_images(root / mode / f"{mode}_label")
    lone = [f"label missing for frame {number} in {root / mode / f'{mode}_label'}"
            for number in sorted(frames.keys() - labels)]
    lone += [f"frame missing for label {number} in {root / mode / f'{mode}_img'}"
             for number in sorted(labels.keys() - frames)]
    if lone:
        raise UsageError(f"{first_few(lone)}; add the file, or remove its partner")
    return list(frames.values()), list(labels.values())


def list_test_sequences(root):
    """List the test sequences: their names, first frames and labels (one list for each); raises UsageError."""
    images, folder = root / "test" / "test_img", root / "test" / "test_label"
    if not is_folder(folder):
        raise UsageError(f"{folder} is missing, and a test needs it; a training does not")
    names = _numbered(folder)
    if not names:
        raise UsageError(f"{folder} has no sequences; put the labels of sequence s into {folder / 's'}")
    lone = [name for name in _numbered(images) if name not in names]
    if lone:
        raise UsageError(f"{images / lone[0]} has no labels in {folder / lone[0]}; add them, or remove it: every later "
                         "row of the submission would move up")
    first_frames, labels = [], []
    for name in names:
        frames, numbered_labels = list_images(images / name), list_images(folder / name, may_skip=False)
        if len(numbered_labels) < 2:
            raise UsageError(f"{folder / name} has one label; a test sequence needs two or more: that of the first "
                             "frame, and one for each frame to generate")
        first = min(numbered_labels)  # frame t is generated from label t, so another first frame would shift all labels
        if first not in frames:
            label = f"; or, if label {min(frames)} is what is missing, add that" if min(frames) < first else ""
            raise UsageError(f"{images / name} has no frame {first}, the number of the first label in "
                             f"{folder / name}; name the first frame {first}.png{label}")
        first_frames.append(frames[first])
        labels.append(list(numbered_labels.values()))
    return names, first_frames, labels


def shorter_sequences(names, labels):
    """Name the test sequences that have fewer labels than the longest, and how many they have; "" if none has."""
    most = max(map(len, labels))
    return first_few([f"sequence {name} has {len(paths)}" for name, paths in zip(names, labels) if len(paths) < most])


def read_sequence_lengths(path, frames):
    """Read the lengths of the sequences in a folder of `frames` frames; without the file it is one sequence."""
    if not exists(path):
        return [frames]
    try:
        lengths = [int(word) for word in patiently(lambda: whole_text(path), is_away).split()]
    except ValueError:  # not text, not a number, or thousands of digits
        lengths = [0]
    except OSError as error:
        raise unreadable_error(path, error) from None
    if min(lengths, default=0) < 1 or sum(lengths) != frames:
        raise UsageError(f"{path} must hold the lengths of the sequences, one a line, which add up to its {frames} "
                         "frames; mend it or remove it")
    return lengths


def list_images(folder, may_skip=True):
    """List the images of a folder in order, {number: path}; raises UsageError. may_skip: allow gaps, with a note."""
    if not is_folder(folder):
        raise UsageError(f"{folder} is missing; lay the dataset out as the README shows (Your own data)")
    images, others = {}, {}
    for entry in entries_of(folder):
        if entry.name.startswith("."):  # such as the ._0.png that macOS puts beside 0.png
            continue
        path = folder / entry.name
        match = re.fullmatch(r"(?:frame)?([0-9]+)", path.stem)
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            if match:
                others.setdefault(int(match[1]), path)
            continue
        if not match:
            raise UsageError(f"{printable(path)} is not named by a number; name it like 0.png, or move it away")
        number = int(match[1])
        if number in images:
            raise UsageError(f"{path} and {images[number].name} are both number {number}; remove one")
        images[number] = path
        if not (path.is_file() if entry.is_symlink() else entry.is_file()):
            refuse_dead_link(path)
            raise UsageError(f"{path} is not a file; replace it")
    _refuse_other_formats([path for number, path in others.items() if number not in images and not path.is_dir()])
    if not images:
        raise UsageError(f"{folder} has no images in it; put them there, named 0.png, 1.png, ...")
    missing = max(images) - min(images) + 1 - len(images)
    if missing:
        first = next(number + 1 for number in sorted(images) if number + 1 not in images)
        skipped = f"{folder} skips {missing} number{'s' * (missing > 1)}, the first of them {first}"
        if not may_skip:
            raise UsageError(f"{skipped}; add what is missing: every later row of the submission would move up")
        print(f"note: {skipped}; the frames around a gap count as neighbours")
    return dict(sorted(images.items()))


def _refuse_other_formats(paths):
    """Raise UsageError if there are numbered files that would be frames or labels, but are not in an image format."""
    if paths:
        path, more = paths[0], f" (and {len(paths) - 1} more like it)" if len(paths) > 1 else ""
        suffix = f"the suffix {path.suffix}" if path.suffix else "no suffix"
        raise UsageError(f"{printable(path)} has {printable(suffix)}, which is not an image format's; convert it to "
                         f".png, or move it away{more}")


def _numbered(folder):
    """The names of the sequences in a folder, in their order; none if there is no such folder.

    Raises UsageError where a folder in it bears another name than a number: its sequence would be left out.
    """
    entries = [entry for entry in entries_of(folder) if is_ours(entry.name)] if is_folder(folder) else []
    for entry in entries:
        if not entry.name.isdecimal() and entry.is_dir():
            raise UsageError(f"{printable(folder / entry.name)} is not named by a number alone; name it like 0, or "
                             "move it away")
    return sorted((entry.name for entry in entries if entry.name.isdecimal()), key=int)
