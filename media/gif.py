"""Videos as GIF files."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cli.files import atomic_write

CAPTION_HEIGHT = 24  # pixels
GAP = 4  # pixels between two videos
FRAME_MILLISECONDS = 20
LARGE_HEIGHT = 96  # pixels; a comparison enlarges smaller frames


def write_gif(path, video):
    """Write uint8 frames, a tensor [T, 3, H, W] or an array [T, H, W, 3], as an endless GIF of 20 ms a frame."""
    if not isinstance(video, np.ndarray):
        video = video.permute(0, 2, 3, 1).numpy()
    _save(path, video)


def write_comparison_gif(path, videos, scale=None, milliseconds=FRAME_MILLISECONDS):
    """Write videos side by side, each under its name, see `compare`; milliseconds: of a frame."""
    _save(path, compare(videos, scale), milliseconds)


def compare(videos, scale=None):
    """Yield the frames of videos side by side, each under its name: arrays [H', W', 3].

    videos: name -> uint8 tensor [T, 3, H, W]; all of one size. scale: factor on the frames' height and width; None is 3
    for small frames and 1 for large ones.
    """
    height, width = next(iter(videos.values())).shape[-2:]
    scale = scale or (1 if height >= LARGE_HEIGHT else 3)
    captions = [_caption(name, scale * width) for name in videos]
    for frames in zip(*videos.values(), strict=True):
        yield _side_by_side(captions, frames, scale)


def _save(path, frames, milliseconds=FRAME_MILLISECONDS):
    """Write frames, arrays [H, W, 3], as a GIF; each is made only when it is written, so that few are in memory."""
    pictures = map(Image.fromarray, frames)
    with atomic_write(path) as file:
        next(pictures).save(file, "GIF", save_all=True, append_images=pictures, duration=milliseconds, loop=0)


def _side_by_side(captions, frames, scale):
    """Join tensors [3, H, W] to one picture, an array [H', W', 3], each enlarged under its caption."""
    parts = []
    for caption, frame in zip(captions, frames):
        pixels = frame.permute(1, 2, 0).numpy().repeat(scale, axis=0).repeat(scale, axis=1)
        column = np.concatenate([caption, pixels])
        parts += [column, np.full((len(column), GAP, 3), 255, np.uint8)]
    return np.concatenate(parts[:-1], axis=1)


def _caption(text, width):
    """Black text on white, uint8 [CAPTION_HEIGHT, width, 3]."""
    image = Image.new("RGB", (width, CAPTION_HEIGHT), "white")
    ImageDraw.Draw(image).text((width / 2, CAPTION_HEIGHT / 2), text, "black", ImageFont.load_default(14), anchor="mm")
    return np.asarray(image)
