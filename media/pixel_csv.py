"""Frames as a CSV of pixels: the course's submission and its ground truth."""

import csv

import numpy as np

from cli.errors import UsageError
from cli.files import write_whole

from .csv_files import SEPARATORS, open_text, separator_of

PUBLIC_SEQUENCES = 3  # test sequences that count to the public score; the others are private
_DIGITS = np.array([str(value) for value in range(256)], dtype=object)


def write_pixels_csv(path, sequences, usage=None):
    """Write sequences of frames, a row for each frame, in the format of the course's submission.

    sequences: uint8 arrays [T, 3, H, W]. Columns: `id`, continued over all sequences, then the pixels in C, H, W order,
    headed 0, 1, ... usage: a word for each sequence, for a last column `Usage` like that of the course's ground truth.
    """
    columns = int(np.prod(np.asarray(sequences[0]).shape[1:]))

    def fill(file):
        header = ["id", *map(str, range(columns))] + (["Usage"] if usage else [])
        file.write(",".join(header) + "\n")
        row = 0
        for number, frames in enumerate(sequences):
            last = f",{usage[number]}" if usage else ""
            for frame in np.asarray(frames):
                file.write(f"{row},{','.join(_DIGITS[frame.reshape(-1)])}{last}\n")
                row += 1

    write_whole(path, fill, "w", newline="")


def pixels_of_a_frame(path):
    """Count the pixel columns of a file, from its first line."""
    with open_text(path, errors="replace") as file:
        return sum(name.isdecimal() for name in _read_header(file)[0])


def read_pixels_csv(path, flag):
    """Read what write_pixels_csv writes, also after another program has saved it.

    Returns uint8 [rows, pixels] in the order of the ids, and the column Usage as a list of words, or None. Raises
    UsageError naming `flag` and the file.
    """
    pixels = None
    for rows, row, values, word in iterate_pixels_csv(path, flag):
        if pixels is None:
            pixels, usage = np.empty((rows, len(values)), np.uint8), [None] * rows
        pixels[row], usage[row] = values, word
    return pixels, None if usage[0] is None else usage


def iterate_pixels_csv(path, flag):
    """Yield for each row of a file: the number of rows, the id, the pixels as uint8, and the Usage or None.

    One line is in memory at a time. The ids count the rows from 0, in any order, each once. Raises UsageError
    naming `flag` and the file.
    """
    try:
        yield from iterate_written_csv(path, f"{flag} {path}")
    except OSError as error:
        raise UsageError(f"{flag} {path} cannot be read ({error.strerror or error}); give another file") from None
    except UnicodeError:
        raise UsageError(f"{flag} {path} is not text; give a CSV file") from None


def iterate_written_csv(path, name):
    """Yield what iterate_pixels_csv yields, of a file that this program has just written. Raises OSError if it is away.

    name: what the other errors call the file.
    """
    rows = count_rows(path)
    with open_text(path) as file:
        yield from _parse_rows(file, rows, name)


def count_rows(path):
    """Count the lines below the first, up to the last that is not blank; a row of empty cells is blank."""
    last = 0
    with open_text(path, errors="replace") as file:
        for number, line in enumerate(file):
            if line.strip(f'{SEPARATORS}" \n'):
                last = number
    return last


def _read_header(file):
    """Read the first line of an open file: the names of the columns in small letters, and the separator of cells."""
    line = file.readline()
    separator = separator_of(line)
    try:
        return [name.strip().lower() for name in _split(line, separator)], separator
    except ValueError:
        return [], separator


def _split(line, separator):
    """Split a line into its cells, without their quotes; raises ValueError."""
    if line.count('"') % 2:
        raise ValueError("a quote is not closed")
    try:
        return next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    except csv.Error as error:
        raise ValueError(str(error)) from None


def _parse_rows(file, rows, name):
    """Yield what iterate_pixels_csv does from an open file; raises UsageError with the `name` of the file."""
    header, separator = _read_header(file)
    places = [place for place, column in enumerate(header) if column.isdecimal()]
    first, last = (places[0], places[-1] + 1) if places else (0, 0)
    if not places or "id" not in header or header[first:last] != list(map(str, range(len(places)))):
        raise UsageError(f"{name} has no columns id, 0, 1, ... in its first line; give a file that has")
    if not rows:
        raise UsageError(f"{name} has no rows below its first line; give a file that has")
    usage = header.index("usage") if "usage" in header else None
    seen = set()
    for number, line in zip(range(2, rows + 2), file):
        try:
            cells = _split(line, separator)
            if len(cells) != len(header):
                raise ValueError
            row, pixels = _row_number(cells[header.index("id")]), _pixels(cells[first:last])
            if not 0 <= row < rows or row in seen:
                raise ValueError
        except ValueError:
            raise UsageError(f"{name}, line {number}: not {len(header)} cells with a new id below {rows} "
                             "and pixels from 0 to 255") from None
        seen.add(row)
        yield rows, row, pixels, None if usage is None else cells[usage].strip()


def _row_number(cell):
    """Read an id, also one such as `0.0`; raises ValueError."""
    number = float(cell)
    if not number.is_integer():
        raise ValueError("not a whole number")
    return int(number)


def _pixels(cells):
    """Read cells as pixels, uint8 [pixels]; raises ValueError."""
    values = np.fromiter(map(float, cells), np.float64, len(cells))
    if not ((0 <= values) & (values <= 255)).all():
        raise ValueError("not numbers from 0 to 255")
    return values.round().astype(np.uint8)
