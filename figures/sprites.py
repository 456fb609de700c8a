"""Videos as sheets of frames, images that a page embeds: a browser then shows any frame of any video at once."""

import base64
import hashlib
import io
import math

import numpy as np
from PIL import Image, features

LOSSLESS_PIXELS = 2**21  # of a sheet; one of more pixels would be many megabytes
MAX_PIXELS = 2**24  # of a sheet, 64 MiB once a browser has unpacked it; a phone shows no larger image


class Sheets:
    """The sheets of a page. Equal videos share one: the truth of two runs on the same dataset is embedded once."""

    def __init__(self):
        self.all, self.numbers = [], {}

    def add(self, frames, exact):
        """Add a video, uint8 [T, 3, H, W], unless it is there; returns its number in `all`. exact: see `sheet`."""
        key = exact, frames.shape, hashlib.sha256(np.ascontiguousarray(frames)).digest()
        if key not in self.numbers:
            self.numbers[key] = len(self.all)
            self.all.append(sheet(frames, exact))
        return self.numbers[key]


def sheet(frames, exact):
    """Lay the frames of a video, uint8 [T, 3, H, W], in a grid, row by row, as one image.

    exact: every pixel comes back as it is, unless the frames are so large that the image would be too. Returns a dict:
    the image as a data: URI, the columns of the grid, and the number, height and width of the frames.
    """
    step = math.ceil(math.sqrt(frames.size / 3 / MAX_PIXELS))
    frames = shrunk(frames, step).transpose(0, 2, 3, 1)  # [T, H, W, 3]
    count, height, width, _ = frames.shape
    columns = math.ceil(math.sqrt(count * height / width))  # nearly square: an image has at most 16383 pixels a side
    rows = math.ceil(count / columns)
    grid = np.zeros((rows * columns, height, width, 3), np.uint8)
    grid[:count] = frames
    grid = grid.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, columns * width, 3)
    lossless = exact and frames.size / 3 <= LOSSLESS_PIXELS
    settings = {"lossless": True, "quality": 50, "method": 0} if lossless else {"quality": 90}  # quick, and small
    kind = "webp" if features.check("webp") else "png"
    file = io.BytesIO()
    Image.fromarray(grid).save(file, kind, **settings if kind == "webp" else {})
    source = f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
    return {"source": source, "columns": columns, "frames": count, "height": height, "width": width}


def shrunk(frames, step):
    """Average squares of step x step pixels; frames: uint8 [T, 3, H, W]. What is left of a side is cut off."""
    if step == 1:
        return frames
    count, channels, height, width = frames.shape
    height, width = height // step, width // step
    squares = frames[:, :, :height * step, :width * step].reshape(count, channels, height, step, width, step)
    return squares.mean(axis=(3, 5), dtype=np.float32).round().astype(np.uint8)
