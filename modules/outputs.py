"""The files that a run leaves behind: metrics, submission, GIFs. None is ever seen half written."""

import csv
import fcntl
import json
import os
import socket
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .errors import UsageError


@contextmanager
def naming(path):
    """Give an OSError within the name of the file, which that of a failed write does not bear."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


@contextmanager
def replacing(path, mode="wb", **arguments):
    """Open a temporary file beside `path`, and put it in place of `path` once it is complete.

    After a crash at any moment `path` is either the old file or the new one.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path):
            with open(temporary, mode, **arguments) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def lock_folder(folder, flag="--save_root"):
    """Take the lock of a run's folder, as an open file: it holds until that is closed or the process ends,
    however it ends. Raises UsageError naming `flag` and who holds it if another process does."""
    file = open(Path(folder) / ".lock", "a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise UsageError(f"{flag} {folder} is in use by {holder}; wait for it, or give another folder") from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file


_DIGITS = np.array([str(value) for value in range(256)], dtype=object)


def write_pixels_csv(path, sequences, usage=None):
    """Write sequences of frames, one row a frame, as the course's submission does.

    sequences: uint8 arrays [T, 3, H, W]. Columns: `id`, running on over all sequences, then
    the pixels in C, H, W order, headed 0, 1, ...; with `usage`, one word a sequence, a last
    column `Usage` (as the ground truth of the course has it).
    """
    columns = int(np.prod(np.asarray(sequences[0]).shape[1:]))
    with replacing(path, "w", newline="") as file:
        header = ["id", *map(str, range(columns))] + (["Usage"] if usage else [])
        file.write(",".join(header) + "\n")
        row = 0
        for number, frames in enumerate(sequences):
            last = f",{usage[number]}" if usage else ""
            for frame in np.asarray(frames):
                file.write(f"{row},{','.join(_DIGITS[frame.reshape(-1)])}{last}\n")
                row += 1


def read_pixels_csv(path, flag):
    """Read what write_pixels_csv writes: uint8 [rows, pixels] in the order of the ids, and the column
    Usage as a list of words (None if there is none). Raises UsageError naming `flag` and the file."""
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
            values = np.fromstring(",".join(cells[first:last]), sep=",")  # stops at what is no number
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


def write_json(path, content):
    with replacing(path, "w") as file:
        json.dump(content, file, indent=2)
        file.write("\n")


def write_columns_csv(path, columns):
    """Write named columns of numbers; a shorter column leaves its last cells empty."""
    with replacing(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip_longest(*columns.values(), fillvalue=""))


def write_psnr_per_frame(path, per_frame):
    """per_frame: one list of PSNR (dB) a sequence, of its frames 1..T-1."""
    columns = {"frame": range(1, 1 + max(map(len, per_frame)))}
    columns |= {f"seq{number}": [f"{value:.6g}" for value in values] for number, values in enumerate(per_frame)}
    write_columns_csv(path, columns)


METRICS_COLUMNS = ("epoch", "loss", "mse", "kl", "beta", "tfr", "lr", "grad_norm", "val_psnr", "val_ssim")
TIMES_COLUMNS = ("epoch", "seconds")


class EpochLog:
    """A CSV of one row an epoch, written out at once."""

    def __init__(self, path, columns, first_epoch=0):
        """Start the file, or go on with it: rows of `first_epoch` and later are cut off. `rows` are those kept."""
        self.path, self.columns, self.rows = Path(path), columns, []
        if first_epoch and self.path.is_file():
            with open(self.path, newline="") as file:
                self.rows = [row for row in csv.reader(file)
                             if len(row) == len(columns) and row[0].isdecimal() and int(row[0]) < first_epoch]
        with replacing(self.path, "w", newline="") as file:
            csv.writer(file).writerows([columns, *self.rows])

    def append(self, values):
        """values: dict of the columns; those left out stay empty."""
        row = [values.get(name, "") for name in self.columns]
        with naming(self.path), open(self.path, "a", newline="") as file:
            csv.writer(file).writerow([f"{value:.8g}" if isinstance(value, float) else value for value in row])


FRAME_MILLISECONDS = 20


def write_gif(path, video):
    """Write uint8 frames, [T, 3, H, W] tensor or [T, H, W, 3] array, as an endless GIF, 20 ms a frame."""
    if not isinstance(video, np.ndarray):
        video = video.permute(0, 2, 3, 1).numpy()
    with replacing(path) as file:
        iio.imwrite(file, video, extension=".gif", duration=FRAME_MILLISECONDS, loop=0)


def write_comparison_gif(path, videos, scale=3):
    """Write videos side by side, enlarged, each under its name.

    videos: name -> uint8 tensor [T, 3, H, W]; all of one size.
    """
    gap = 4
    columns = []
    for name, video in videos.items():
        pixels = video.permute(0, 2, 3, 1).numpy().repeat(scale, axis=1).repeat(scale, axis=2)
        caption = np.broadcast_to(_caption(name, pixels.shape[2]), (len(pixels), CAPTION_HEIGHT, pixels.shape[2], 3))
        column = np.concatenate([caption, pixels], axis=1)
        columns += [column, np.full((*column.shape[:2], gap, 3), 255, np.uint8)]
    write_gif(path, np.concatenate(columns[:-1], axis=2))


CAPTION_HEIGHT = 24


def _caption(text, width):
    """Black text on white, uint8 [CAPTION_HEIGHT, width, 3]."""
    figure = Figure(figsize=(width / 100, CAPTION_HEIGHT / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=10)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:CAPTION_HEIGHT, :width, :3]


def table(rows):
    """Lay dicts of one set of keys out as an aligned text table; floats get two or three decimals."""
    def shown(name, value):
        if value is None:
            return "-"
        return value if isinstance(value, str) else f"{value:.3f}" if name == "ssim" else f"{value:.2f}"

    lines = [list(rows[0])] + [[shown(name, value) for name, value in row.items()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(
        "  ".join(cell.ljust(width) if place == 0 else cell.rjust(width)
                  for place, (cell, width) in enumerate(zip(line, widths)))
        for line in lines
    )
