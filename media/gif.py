"""Videos as GIF files."""

from PIL import Image

from cli.files import atomic_write

FRAME_MILLISECONDS = 20


def write_gif(path, frames):
    """Write frames, uint8 arrays [H, W, 3], as an endless GIF; few of them are in memory if they are a generator."""
    pictures = map(Image.fromarray, frames)
    with atomic_write(path) as file:
        next(pictures).save(file, "GIF", save_all=True, append_images=pictures, duration=FRAME_MILLISECONDS, loop=0)
