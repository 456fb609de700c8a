"""Read and resize images. An image is uint8 RGB, [3, H, W]."""

import numpy as np
import torch
from PIL import ExifTags, Image
from torch.nn import functional

from cli.errors import RunError, UsageError, is_away, one_line
from cli.files import patiently

MAX_IMAGE = 2**26  # pixels, twice an 8K frame: a small file may claim to unpack to far more
Image.MAX_IMAGE_PIXELS = MAX_IMAGE // 2  # Pillow refuses more than twice as many, also inside an icon
Image.preinit()  # the usual formats, so that they are tried first
Image.init()
# Pillow knows these by name only, and would start another program for EPS.
FORMATS = [name for name in Image.ID if name not in ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")]
IMAGE_SUFFIXES = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}

COLOUR_MODES = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"}
MODES_16_BITS = {"I", "I;16", "I;16B", "I;16L", "I;16N"}
TURNS = {  # by EXIF orientation; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90}
KEY_TO_8_BITS = {  # how to scale a PNG's transparent colour to 8 bits, by raw mode; Pillow scales only the pixels
    "L;2": lambda grey: 85 * grey, "L;4": lambda grey: 17 * grey,
    "RGB;16B": lambda colour: tuple(value >> 8 for value in colour)}


def read_image(path):
    """Read an image file as uint8 RGB, [3, H, W], as a viewer shows it.

    Takes the first frame, turns it as its EXIF orientation says, converts any colours to RGB, scales 16 bits to 8, and
    lays transparency over white. Raises UsageError naming the file if it is not such an image, RunError if its drive
    stays away.
    """
    def read():
        with Image.open(path, formats=FORMATS) as image:
            return _to_rgb(_upright(_load(image)), path)

    try:
        pixels = patiently(read, is_away)
    except (UsageError, MemoryError):
        raise
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist") from None
    except PermissionError:
        raise UsageError(f"{path} may not be read; check its permissions") from None
    except Image.DecompressionBombError:
        raise UsageError(f"{path} has more than {MAX_IMAGE} pixels, too many; make it smaller") from None
    except Exception as error:
        if isinstance(error, OSError) and is_away(error):
            raise RunError(f"{path} cannot be read ({error.strerror}); its drive may be away: try again") from None
        raise UsageError(f"{path} cannot be read as an image ({one_line(error)}); replace the file") from None
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1).contiguous()


def _load(image):
    """Unpack the pixels of an opened image; the transparent colour of a PNG is scaled to 8 bits with them."""
    if image.format == "PNG" and "transparency" in image.info and image.tile[0].args in KEY_TO_8_BITS:
        image.info["transparency"] = KEY_TO_8_BITS[image.tile[0].args](image.info["transparency"])
    image.load()
    return image


def _upright(image):
    """Turn a loaded image as its EXIF orientation says; with a broken EXIF block it stays as it lies."""
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # a broken block raises almost anything
        turn = None
    return image if turn is None else image.transpose(turn)


def _to_rgb(image, path):
    """Convert a loaded image to uint8 RGB, [H, W, 3]; raises UsageError if its mode has no such colours."""
    if image.mode in MODES_16_BITS:
        return _from_16_bits(image, path)
    if image.mode not in COLOUR_MODES:
        raise UsageError(f"{path} has pixels of mode {image.mode}; save it as RGB with 8 bits a channel")
    if image.mode == "La":
        image = image.convert("LA")  # Pillow has no shorter way to RGBA
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    pixels = np.asarray(image.convert("RGBA"))
    alpha = pixels[..., 3:].astype(np.uint16)
    over_white = pixels[..., :3] * alpha + 255 * (255 - alpha)
    return ((over_white + 127) // 255).astype(np.uint8)


def _from_16_bits(image, path):
    """Scale grey pixels from 0..65535 to 0..255; a transparent grey becomes white. Returns uint8 [H, W, 3]."""
    pixels = np.asarray(image)
    if pixels.min(initial=0) < 0 or pixels.max(initial=0) > 65535:
        raise UsageError(f"{path} has pixels of mode {image.mode} beyond 0 to 65535; save it with 8 bits a channel")
    grey = ((pixels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    if getattr(image, "tag_v2", {}).get(ExifTags.Base.PhotometricInterpretation) == 0:  # a TIFF in which 0 is white
        grey = 255 - grey
    if "transparency" in image.info:
        grey[pixels == image.info["transparency"]] = 255
    return grey[..., None].repeat(3, axis=2)


def resize_image(image, frame_size):
    """Resize uint8 images [..., 3, h, w] to frame_size (H, W) as torchvision does: bilinear, antialiased."""
    if tuple(image.shape[-2:]) == tuple(frame_size):
        return image
    images = image.reshape(-1, *image.shape[-3:]).float()
    resized = functional.interpolate(images, tuple(frame_size), mode="bilinear", antialias=True)
    return resized.round().to(torch.uint8).reshape(*image.shape[:-2], *frame_size)


def resize_picture(picture, frame_size):
    """Resize a picture, uint8 array [h, w, 3], like resize_image: a uint8 tensor [3, H, W]."""
    return resize_image(torch.from_numpy(picture.copy()).permute(2, 0, 1), frame_size)
