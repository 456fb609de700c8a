"""What belongs to the course alone: its submission file, its ground truth file and its score."""

from functools import partial
from itertools import zip_longest

import numpy as np
import torch

from cli.errors import RunError, UsageError, is_away
from cli.files import patiently
from media.pixel_csv import iterate_written_csv, read_pixels_csv, write_pixels_csv
from modules.metrics import in_chunks, psnr

SCORED_FRAMES = 600
OTHER_FRAME = 10  # of 255: a mean difference that no way of resizing makes


def course_score(prediction, target, public):
    """The score of the course: mean PSNR over frames 1..600 of every sequence, of pixels rounded to 0..255.

    prediction, target: lists of uint8 [T, 3, H, W]. public: whether each sequence counts to the public part. A part
    without sequences is None.
    """
    scored = slice(1, SCORED_FRAMES + 1)
    scores = torch.stack([
        in_chunks(psnr, predicted[scored], true[scored]).mean() for predicted, true in zip(prediction, target)
    ])
    public = torch.tensor(public)
    parts = {"score": scores, "public": scores[public], "private": scores[~public]}
    return {name: part.mean().item() if len(part) else None for name, part in parts.items()}


def read_truth(path, labels, frames):
    """The true frames of each sequence in the course's ground truth file, and which sequences are public (or None)."""
    pixels, usage = read_pixels_csv(path, "--gt")
    rows, columns = sum(map(len, labels)), frames[0][0].numel()
    if pixels.shape != (rows, columns):
        raise UsageError(f"--gt {path} has {pixels.shape[0]} rows of {pixels.shape[1]} pixels; these test sequences "
                         f"need {rows} rows of {columns}")
    lengths = [len(label) for label in labels]
    truth = [part.unflatten(1, frames[0][0].shape) for part in torch.from_numpy(pixels).split(lengths)]
    if usage is None:
        return truth, None
    starts = np.cumsum([0, *lengths])
    usage = [word.lower() for word in usage]
    return truth, ["public" in usage[start:stop] for start, stop in zip(starts, starts[1:])]


def note_other_first_frames(path, truth, frames, names):
    """Print a note if the file `path` of --gt begins a sequence with another frame than the given one.

    truth, frames: lists of uint8 [T, 3, H, W]; of `frames` only the first of each sequence is looked at.
    """
    differences = {name: (true[0].float() - given[0].float()).abs().mean().item()
                   for name, true, given in zip(names, truth, frames)}
    other = [f"{name} (by {difference:.0f} of 255)" for name, difference in differences.items()
             if difference > OTHER_FRAME]
    if other:
        print(f"note: --gt {path} differs from the given frame in the first row of sequence {', '.join(other)}; look "
              "whether its pixels are from 0 to 255, its columns in the order C, H, W with C of R, G, B, and its "
              "sequences in the order of their numbers")


def write_submission(path, predictions, check=True):
    """Write predicted sequences, uint8 [T, 3, H, W] each, as the course's submission; `check` reads it back."""
    write_pixels_csv(path, [video.numpy() for video in predictions])
    if not check:
        return
    try:
        is_whole = patiently(partial(_holds, path, predictions), is_away)
    except OSError as error:
        raise RunError(f"{path} was written, but cannot be read back ({error.strerror or error}); look whether its "
                       "drive is there") from None
    if not is_whole:
        raise RunError(f"{path} does not hold what was written; is the disk full?")


def _holds(path, predictions):
    """Tell whether a submission holds these sequences; only one of its rows is in memory at a time."""
    rows = iterate_written_csv(path, f"submission {path}")
    frames = (frame.flatten().numpy() for video in predictions for frame in video)
    for number, (row, frame) in enumerate(zip_longest(rows, frames)):
        if row is None or frame is None or row[1] != number or not np.array_equal(row[2], frame):
            return False
    return True
