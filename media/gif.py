"""Videos as GIF files."""

import math
from itertools import islice

from PIL import Image

from cli.files import atomic_write

DEFAULT_FPS = 50  # of a video whose dataset says nothing else
MAX_FPS = 50  # no browser shows more of a GIF


def write_gif(path, frames, fps):
    """Write frames, uint8 arrays [H, W, 3], as an endless GIF.

    frames may be a generator; until the last one Pillow keeps each in memory, a byte a pixel.
    fps: frames a second. A GIF counts in hundredths of a second, so that frames may last a hundredth more or less than
    their neighbours. Browsers show no frame for less than two of them: of more frames a second some are left out.
    """
    every = math.ceil(fps / MAX_FPS)
    pictures = timed(islice(frames, None, None, every), seconds=every / fps)
    with atomic_write(path) as file:
        next(pictures).save(file, "GIF", save_all=True, append_images=pictures, loop=0)


def timed(frames, seconds):
    """Yield frames as pictures that note how long each is shown, in milliseconds: whole hundredths of a second."""
    for number, frame in enumerate(frames):
        picture = Image.fromarray(frame)
        picture.info["duration"] = 10 * (round(100 * seconds * (number + 1)) - round(100 * seconds * number))
        yield picture
