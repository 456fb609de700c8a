"""Videos as GIF files."""

from PIL import Image

from cli.files import atomic_write

FRAMES_PER_SECOND = 50  # of the videos that Trainer.py and Tester.py write


def write_gif(path, frames, fps=FRAMES_PER_SECOND):
    """Write frames, uint8 arrays [H, W, 3], as an endless GIF; few of them are in memory if they are a generator.

    fps: frames a second; a GIF counts in hundredths of a second.
    """
    pictures = map(Image.fromarray, frames)
    with atomic_write(path) as file:
        next(pictures).save(file, "GIF", save_all=True, append_images=pictures, duration=round(1000 / fps), loop=0)
