"""Write the images of a dataset, and resize frames as their reader does; loads torch only for the latter."""

from pathlib import Path

import imageio.v3 as iio
import numpy as np

from cli.files import writing


def write_png(path, pixels):
    """Write pixels, uint8 [H, W, 3], as a PNG file with the fastest compression; raises RunError."""
    with writing(path):  # in one go: a writer of imageio's own tries again, with a traceback, where a disk is full
        Path(path).write_bytes(iio.imwrite("<bytes>", pixels, extension=".png", compress_level=1))


def as_read(frames, frame_size):
    """Resize frames, uint8 [..., h, w, 3], to frame_size (H, W) as dataloader.py does: uint8 [..., 3, H, W]."""
    import torch  # here, because drawing processes do without it and it takes seconds to load

    from .images import resize_image

    return resize_image(torch.from_numpy(np.moveaxis(frames, -1, -3).copy()), frame_size).numpy()
