"""Load the dataset: folders of numbered images, and the clips cut from them.

    DR/train/train_img/{0..N-1}.png   DR/train/train_label/{...}.png   [DR/train/sequences.txt]
    DR/val/val_img/*.png              DR/val/val_label/*.png
    DR/test/test_img/{s}/0.png        DR/test/test_label/{s}/*.png     (s = 0, 1, ...)

A label has the name of its frame: a whole number, optionally after `frame`. The first frame of a test sequence has the
number of the first label. Any image format that Pillow reads will do, and so will links. If the train or the val
folder joins several sequences, a sequences.txt in it holds their lengths, one per line.
"""

import errno
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from stat import S_ISDIR

import torch
from torch.nn import functional
from torch.utils.data import Dataset

from cli.errors import RunError, Stopped, UsageError, first_few, is_away, is_out_of_reach
from cli.files import own_entries, patiently, read_json_or_none
from cli.signals import ending_signals, raise_stopped
from media.csv_files import whole_text
from media.decoded import decode_cached, decode_with, read_images
from media.gif import DEFAULT_FPS
from media.images import IMAGE_SUFFIXES
from modules.pixels import evenly_spread, to_unit
from poses.dataset import MARKER as VIDEOS_MARKER
from stage_dancer.choreography import DANCER_FPS
from stage_dancer.dataset import MARKER as DANCER_MARKER
from stage_dancer.dataset import chosen_setting, is_dancer

DARK = 64  # of 255: labels whose mean is below this are not on white
SAME_SHAPE = 1.05  # ratio of two images' widths over their heights: what rounding a size may do
LOOKED_AT = 16  # frames, and labels, that tell a dataset from another
LENGTH_FLAGS = {"train": "--train_vi_len (in Tester.py --val_vi_len)", "val": "--val_vi_len"}


class Dataset_Dance(Dataset):
    """Serve clips of a dance, kept decoded as uint8.

    An item is (frames, labels), [T, 3, H, W] each, float in [0, 1]. In mode "train" or "val", item k is the k-th of the
    clips of `video_len` frames, back to back; in mode "test" it is the first frame and all labels of sequence k.
    Trainer.py orders its clips by engine.batches.epoch_starts instead.

    transform: function from a PIL image to a tensor [3, H, W], float in [0, 1] or uint8, applied once, when the image
    is read; None resizes to `frame_size` (H, W), bilinear and antialiased. partial: fraction of the frames to use, from
    the start.
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
            longest = max(self.sequence_lengths, default=0)
            raise UsageError(f"{frames[0].parent} has {longest} frames in a row to use, too few for a clip of "
                             f"{video_len}; lower {LENGTH_FLAGS[mode]}{' or raise --partial' if partial < 1 else ''}")
        self._note_short_sequences(lengths, frames[0].parent)
        used = sum(self.sequence_lengths)
        self.frames, self.labels = decode(frames[:used]), decode(labels[:used])

    def __len__(self):
        if self.mode == "test":
            return len(self.labels)
        return sum(length // self.video_len for length in self.sequence_lengths)

    def __getitem__(self, index):
        if self.mode == "test":
            return to_unit(self.frames[index]), to_unit(self.labels[index])
        frames, labels = self.clips(self.clip_starts()[[index]])
        return to_unit(frames[0]), to_unit(labels[0])

    def clip_starts(self, partial=1.0, generator=None):
        """Return the first frames of the clips, int64 [clips]: back to back in each sequence.

        With a `generator`, each sequence is cut into equal stretches instead, as many as its clips, and one clip starts
        at random in each stretch. partial: fraction of the frames to use, from the start.
        """
        starts, offset = [torch.empty(0, dtype=torch.int64)], 0
        for length in _cut(self.sequence_lengths, partial):
            clip = torch.arange(length // self.video_len)
            start = clip * self.video_len
            if generator is not None and len(clip):
                places = length - self.video_len + 1
                drawn = torch.rand(len(clip), generator=generator, dtype=torch.float64)
                start = ((clip + drawn) * places / len(clip)).long()
            starts.append(offset + start)
            offset += length
        return torch.cat(starts)

    def _note_short_sequences(self, lengths, folder):
        """Print a note if sequences are too short for a clip. lengths: as they were before `partial` cut the last."""
        short = [length for length in lengths[:len(self.sequence_lengths)] if length < self.video_len]
        if short:
            print(f"note: {len(short)} of the {len(self.sequence_lengths)} sequences in {folder}, {sum(short)} frames "
                  f"in all, give no clip of {self.video_len}; lower {LENGTH_FLAGS[self.mode]} to use them")

    def thumbnails(self):
        """Some frames and their labels, evenly spread, as small as 4 x 8: they tell this dataset from another.

        Returns uint8 [2, n, 3, 4, 8].
        """
        chosen = evenly_spread(len(self.frames), LOOKED_AT)
        images = torch.stack([self.frames[chosen], self.labels[chosen]])
        return functional.adaptive_avg_pool2d(images.flatten(0, 1).float(), (4, 8)).round().byte().unflatten(0, (2, -1))

    def clips(self, starts):
        """Cut the clips that start at `starts` [B]: uint8 frames and labels, [B, T, 3, H, W] each."""
        indices = starts[:, None] + torch.arange(self.video_len, device=starts.device)
        return self.frames[indices], self.labels[indices]


def _cut(lengths, partial):
    """Cut lengths of sequences to the first `partial` of all their frames."""
    frames, used = round(sum(lengths) * partial), []
    for length in lengths:
        used.append(min(length, frames - sum(used)))
    return [length for length in used if length]


def existing_root(root, flag="--DR"):
    """Return the dataset's folder as a Path; if it is none, raises UsageError, which names a dataset nearby."""
    root = Path(root)
    if not _is_folder(root):
        raise UsageError(f"{flag} {root} is not a folder; give the folder that holds train, val and test")
    if not holds_a_split(root) and not any(_is_folder(root / mode) for mode in ("train", "val", "test")):
        within = _folders(root)
        near = [*root.resolve().parents[:3], *within, *(below for folder in within for below in _folders(folder))]
        meant = [folder for folder in near if holds_a_split(folder)]
        remedy = (f"give {flag} {' or '.join(map(str, meant))}" if meant
                  else "lay the dataset out as the README shows (Your own data)")
        raise UsageError(f"{flag} {root} holds neither train nor val nor test; {remedy}")
    return root


def _folders(folder):
    """The folders in a folder, but for those of other programs; none if it cannot be read."""
    with suppress(OSError):
        return sorted(Path(entry.path) for entry in os.scandir(folder) if _is_ours(entry.name) and entry.is_dir())
    return []


def _is_ours(name):
    """Whether an entry belongs to the dataset: not hidden, and none that systems add, as __MACOSX or @eaDir."""
    return name[0] not in "._@$#" and name != "lost+found"


def holds_a_split(folder):
    for mode in ("train", "val", "test"):
        with suppress(OSError):
            if S_ISDIR(patiently((folder / mode / f"{mode}_img").stat, is_away).st_mode):
                return True
    return False


def dataset_or_dancer(root):
    """Return the dataset's folder as a Path; for None, the folder of the stage dancer, made first if it is missing."""
    if root is not None:
        return existing_root(root)
    root = Path("data") / "dancer"
    chosen = chosen_setting(root)
    if chosen:
        raise UsageError(f"{root} holds a stage dancer made with --{chosen[0]} {chosen[1]}, which the default one "
                         f"would replace; give --DR {root} to use it, or remove that folder")
    if is_dancer(root):
        print(f"no --DR given: using the stage dancer in {root}")
    elif read_json_or_none(root / DANCER_MARKER):
        print(f"no --DR given: using the stage dancer in {root}, which an older version of this program drew; remove "
              "it for today's")
    elif root.is_dir() and own_entries(root):
        raise UsageError(f"no --DR given, and {root}, where the stage dancer would be made, holds something else; "
                         "give --DR")
    else:
        print(f"no --DR given: making the stage dancer in {root}, and using it")
        if _run_preparer(root):
            raise RunError(f"no --DR given, and no stage dancer could be made in {root}; give --DR")
    return root


def _run_preparer(root):
    """Make the stage dancer in `root`; returns the exit status. A signal ends the making as well, and is then raised.

    Another script does it: its drawing processes load that one anew, and this one would have each load torch.
    """
    preparer = Path(__file__).resolve().parent / "Preparer.py"
    handlers = {number: signal.getsignal(number) for number in ending_signals()}
    raise_stopped(f"stopped; no stage dancer was made in {root}")
    process = subprocess.Popen([sys.executable, str(preparer), "--dancer", str(root)])
    try:
        return process.wait()
    except (Stopped, KeyboardInterrupt) as ended:
        if isinstance(ended, Stopped):  # the terminal sends Ctrl-C to both
            process.send_signal(ended.signal_number)
        process.wait()  # until it has removed what is unfinished
        raise
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def noted_fps(root):
    """Return the frames a second of the dataset `root`: of its videos, or of the stage dancer, else DEFAULT_FPS."""
    about = read_json_or_none(Path(root) / VIDEOS_MARKER)
    fps = about.get("fps") if isinstance(about, dict) else None
    if isinstance(fps, (int, float)) and fps > 0:
        return fps
    return DANCER_FPS if (Path(root) / DANCER_MARKER).is_file() else DEFAULT_FPS


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
    if not _is_folder(folder):
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
    if not _exists(path):
        return [frames]
    try:
        lengths = [int(word) for word in patiently(lambda: whole_text(path), is_away).split()]
    except ValueError:  # not text, not a number, or thousands of digits
        lengths = [0]
    except OSError as error:
        raise _unreadable(path, error) from None
    if min(lengths, default=0) < 1 or sum(lengths) != frames:
        raise UsageError(f"{path} must hold the lengths of the sequences, one a line, which add up to its {frames} "
                         "frames; mend it or remove it")
    return lengths


def list_images(folder, may_skip=True):
    """List the images of a folder in order, {number: path}; raises UsageError. may_skip: allow gaps, with a note."""
    if not _is_folder(folder):
        raise UsageError(f"{folder} is missing; lay the dataset out as the README shows (Your own data)")
    images, others = {}, {}
    for entry in _entries(folder):
        if entry.name.startswith("."):  # such as the ._0.png that macOS puts beside 0.png
            continue
        path = folder / entry.name
        match = re.fullmatch(r"(?:frame)?([0-9]+)", path.stem)
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            if match:
                others.setdefault(int(match[1]), path)
            continue
        if not match:
            raise UsageError(f"{_printable(path)} is not named by a number; name it like 0.png, or move it away")
        number = int(match[1])
        if number in images:
            raise UsageError(f"{path} and {images[number].name} are both number {number}; remove one")
        images[number] = path
        if not (path.is_file() if entry.is_symlink() else entry.is_file()):
            _refuse_dead_link(path)
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
        raise UsageError(f"{_printable(path)} has {_printable(suffix)}, which is not an image format's; convert it to "
                         f".png, or move it away{more}")


def _numbered(folder):
    """The names of the sequences in a folder, in their order; none if there is no such folder.

    Raises UsageError where a folder in it bears another name than a number: its sequence would be left out.
    """
    entries = [entry for entry in _entries(folder) if _is_ours(entry.name)] if _is_folder(folder) else []
    for entry in entries:
        if not entry.name.isdecimal() and entry.is_dir():
            raise UsageError(f"{_printable(folder / entry.name)} is not named by a number alone; name it like 0, or "
                             "move it away")
    return sorted((entry.name for entry in entries if entry.name.isdecimal()), key=int)


def _entries(folder):
    """A folder's entries, sorted by their names; raises UsageError, or RunError while its drive is away."""
    try:
        return sorted(patiently(lambda: list(os.scandir(folder)), is_away), key=lambda entry: entry.name)
    except OSError as error:
        raise _unreadable(folder, error) from None


def _is_folder(path):
    return _exists(path) and path.is_dir()


def _exists(path):
    """Whether a file or folder is there; raises UsageError if it is a dead link, or if permissions hide it."""
    try:
        patiently(path.stat, is_away)
    except OSError as error:
        if is_out_of_reach(error):
            raise _unreadable(path, error) from None
        _refuse_dead_link(path)
        return False
    except ValueError:  # no name of a file
        return False
    return True


def _unreadable(path, error):
    """The error to raise for a file or folder that is there and cannot be read."""
    if is_away(error):
        return RunError(f"{_printable(path)} cannot be read ({error.strerror}); its drive may be away: try again")
    said = f"{_printable(path)} cannot be read ({error.strerror or error})"
    return UsageError(f"{said}; check its permissions, or give another folder")


def _refuse_dead_link(path):
    """Raise UsageError if a path, or a folder that it is in, is a link that leads nowhere."""
    for place in [*path.parents[::-1], path]:
        try:
            place.stat()
        except OSError as error:
            if os.path.islink(place):
                kind = "an endless link" if error.errno == errno.ELOOP else "a broken link"
                raise UsageError(f"{_printable(place)} is {kind}; replace it, or remove it") from None
            return


def _printable(text):
    """Return a name as text in one line; a line break may be in a file's name."""
    return str(text) if str(text).isprintable() else repr(str(text))


def describe_dataset(root):
    """Check a whole dataset, given by --check; returns its problems and its facts, two lists of lines."""
    root = existing_root(root, "--check")
    problems, facts, all_sizes = [], [], set()
    for mode in ("train", "val", "test"):
        try:
            folders, fact = describe_split(root, mode)
        except (UsageError, RunError) as error:
            problems.append(str(error))
            continue
        sizes = set()  # (height, width)
        for paths in folders:
            judged = mode == "train" and paths is folders[-1]  # its labels, which stand for those of all splits
            try:
                brightness, unreadable, found = read_images(
                    paths, lambda image: image.float().mean() if judged else None, os.cpu_count())
            except RunError as error:  # its drive is away, or a sector of it is bad
                problems.append(str(error))
                continue
            problems += unreadable
            sizes |= set(found)
            if judged and not unreadable and sum(brightness) / len(paths) < DARK:
                problems.append(f"{paths[0].parent} is dark, and the networks expect lines on white; invert its "
                                "images, and those of the other labels")
        facts.append(f"{mode}: {fact}, {' and '.join(sorted(f'{width} x {height}' for height, width in sizes))} pixels")
        all_sizes |= sizes
    return problems, facts + note_different_shapes(all_sizes)


def describe_split(root, mode):
    """List the images of a split and say what it holds: [paths of each folder], a text; raises UsageError, RunError.

    The labels of a split come after its frames.
    """
    if mode == "test":
        names, first_frames, labels = list_test_sequences(root)
        lengths = sorted({len(paths) for paths in labels})
        shorter = f" ({shorter_sequences(names, labels)})" if len(lengths) > 1 else ""
        sequences = f"{len(names)} sequence{'s' * (len(names) > 1)} of {' or '.join(map(str, lengths))} labels"
        return [[path] for path in first_frames] + labels, sequences + shorter
    frames, labels = list_frames_and_labels(root, mode)
    lengths = read_sequence_lengths(root / mode / "sequences.txt", len(frames))
    span = " to ".join(map(str, sorted({min(lengths), max(lengths)})))
    sequences = f"{len(lengths)} sequences of {span}" if len(lengths) > 1 else "1 sequence"
    return [frames, labels], f"{len(frames)} frames with labels, in {sequences}"


def note_different_shapes(sizes):
    """A list with a note if images of these sizes (H, W) have different shapes, else an empty one."""
    shapes = [width / height for height, width in sizes]
    if not shapes or max(shapes) <= SAME_SHAPE * min(shapes):
        return []
    return ["note: not all of these images have the same shape, and each is stretched to the same size; a label that "
            "is cropped otherwise than its frame does not lie on it"]
