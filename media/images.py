"""Read and resize images. An image is uint8 RGB, [3, H, W]."""

import imageio.v3 as iio
import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from cli.errors import UsageError

LARGEST_IMAGE = 2**26  # pixels, twice an 8K frame: a small file may claim to unpack to far more
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit is looser, and Pillow prints a warning before it


def read_image(path):
    """Read an image file as uint8 RGB, [3, H, W].

    Grey and palette images become RGB, 16 bits are scaled to 8, and transparency is laid over white, as in a viewer.
    Raises UsageError naming the file if it is not such an image.
    """
    pixels = _decode(path)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * 255
    elif pixels.dtype != np.uint8:
        if pixels.dtype.kind not in "ui" or pixels.max(initial=0) > 65535 or pixels.min(initial=0) < 0:
            raise UsageError(f"{path} has pixels of type {pixels.dtype}; save it with 8 bits a channel")
        pixels = ((pixels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    if pixels.shape[2] in (2, 4):
        alpha = pixels[..., -1:].astype(np.uint16)
        over_white = pixels[..., :-1] * alpha + 255 * (255 - alpha)
        pixels = ((over_white + 127) // 255).astype(np.uint8)
    if pixels.shape[2] == 1:
        pixels = pixels.repeat(3, axis=2)
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1).contiguous()


def _decode(path):
    """Unpack the pixels of an image file in their own type, [H, W] or [H, W, channels]; raises UsageError."""
    try:
        with iio.imopen(path, "r", plugin="pillow") as file:
            height, width = file.properties(index=0).shape[:2]
            if height * width > LARGEST_IMAGE:
                raise UsageError(f"{path} is {width} x {height} pixels, too many; make it smaller")
            metadata = file.metadata(index=0)
            keyed = "transparency" in metadata and not metadata["mode"].startswith("I")  # one colour is transparent
            return np.asarray(file.read(index=0, mode="RGBA" if keyed else None))
    except UsageError:
        raise
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist") from None
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"{path} cannot be read as an image ({reason[:120]}); replace the file") from None


def resize_image(image, frame_size):
    """Resize uint8 images [..., 3, h, w] to frame_size (H, W) as torchvision does: bilinear, antialiased."""
    if tuple(image.shape[-2:]) == tuple(frame_size):
        return image
    images = image.reshape(-1, *image.shape[-3:]).float()
    resized = functional.interpolate(images, tuple(frame_size), mode="bilinear", antialias=True)
    return resized.round().to(torch.uint8).reshape(*image.shape[:-2], *frame_size)
