"""Frames as a CSV of pixels: the course's submission and its ground truth."""

import numpy as np

from cli.errors import UsageError
from cli.files import atomic_write

PUBLIC_SEQUENCES = 3  # test sequences that count to the public score; the others are private
_DIGITS = np.array([str(value) for value in range(256)], dtype=object)


def write_pixels_csv(path, sequences, usage=None):
    """Write sequences of frames, a row for each frame, in the format of the course's submission.

    sequences: uint8 arrays [T, 3, H, W]. Columns: `id`, continued over all sequences, then the pixels in C, H, W order,
    headed 0, 1, ... usage: a word for each sequence, for a last column `Usage` like that of the course's ground truth.
    """
    columns = int(np.prod(np.asarray(sequences[0]).shape[1:]))
    with atomic_write(path, "w", newline="") as file:
        header = ["id", *map(str, range(columns))] + (["Usage"] if usage else [])
        file.write(",".join(header) + "\n")
        row = 0
        for number, frames in enumerate(sequences):
            last = f",{usage[number]}" if usage else ""
            for frame in np.asarray(frames):
                file.write(f"{row},{','.join(_DIGITS[frame.reshape(-1)])}{last}\n")
                row += 1


def pixels_of_a_frame(path):
    """The number of pixel columns of a file, from its first line."""
    with open(path, errors="replace") as file:
        return sum(name.isdecimal() for name in file.readline().strip().split(","))


def read_pixels_csv(path, flag):
    """Read what write_pixels_csv writes: uint8 [rows, pixels] in the order of the ids, and the column Usage as a list
    of words, or None.

    Raises UsageError naming `flag` and the file.
    """
    try:
        with open(path, newline="") as file:
            header = file.readline().rstrip("\r\n").split(",")
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{flag} {path} cannot be read ({error.__class__.__name__}); give a CSV file") from None
    pixel_columns = [place for place, name in enumerate(header) if name.isdecimal()]
    if "id" not in header or [header[place] for place in pixel_columns] != list(map(str, range(len(pixel_columns)))):
        raise UsageError(f"{flag} {path} has no columns id, 0, 1, ... in its first line; give a file that has")
    id_column, usage_column = header.index("id"), header.index("Usage") if "Usage" in header else None
    first, last = (pixel_columns[0], pixel_columns[-1] + 1) if pixel_columns else (0, 0)
    pixels = np.empty((len(lines), len(pixel_columns)), np.uint8)
    usage = [None] * len(lines)
    seen = set()
    for number, line in enumerate(lines, start=2):
        cells = line.split(",")
        try:
            if len(cells) != len(header) or not 0 < last - first == len(pixel_columns):
                raise ValueError
            row = int(cells[id_column])
            values = np.fromstring(",".join(cells[first:last]), sep=",")  # stops at a word that is not a number
            if values.size != len(pixel_columns) or not ((0 <= values) & (values <= 255)).all():
                raise ValueError
            if not 0 <= row < len(lines) or row in seen:
                raise ValueError
        except ValueError:
            raise UsageError(f"{flag} {path}, line {number}: not {len(header)} cells with a new id below {len(lines)} "
                             "and pixels from 0 to 255") from None
        seen.add(row)
        pixels[row] = values.round()
        usage[row] = cells[usage_column] if usage_column is not None else None
    return pixels, usage if usage_column is not None else None
