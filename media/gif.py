"""Videos as GIF files."""

import imageio.v3 as iio
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cli.files import atomic_write

CAPTION_HEIGHT = 24  # pixels
FRAME_MILLISECONDS = 20


def write_gif(path, video):
    """Write uint8 frames, a tensor [T, 3, H, W] or an array [T, H, W, 3], as an endless GIF of 20 ms a frame."""
    if not isinstance(video, np.ndarray):
        video = video.permute(0, 2, 3, 1).numpy()
    with atomic_write(path) as file:
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


def _caption(text, width):
    """Black text on white, uint8 [CAPTION_HEIGHT, width, 3]."""
    image = Image.new("RGB", (width, CAPTION_HEIGHT), "white")
    ImageDraw.Draw(image).text((width / 2, CAPTION_HEIGHT / 2), text, "black", ImageFont.load_default(14), anchor="mm")
    return np.asarray(image)
