"""Decode images once, in parallel, and keep the resized pixels in a file that later runs map into memory."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from cli.errors import RunError, UsageError
from cli.files import atomic_write
from modules.pixels import to_uint8

from .images import read_image, resize_image

LISTED_PROBLEMS = 10


def first_few(problems):
    """At most ten problems in one line, and the number of the others."""
    more = len(problems) - LISTED_PROBLEMS
    return "; ".join(problems[:LISTED_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")


def read_images(paths, make_tensor, num_workers, title):
    """Read images in parallel threads, with a progress bar.

    Returns make_tensor(image) for each image (None for an unreadable one), the problems, one line each, and one path
    for each size (H, W) that occurs.
    """
    problems, sizes = [], {}

    def read(path):
        try:
            image = read_image(path)
        except UsageError as error:
            problems.append(str(error))
            return None
        sizes.setdefault(tuple(image.shape[1:]), path)
        return make_tensor(image)

    compute_threads = torch.get_num_threads()  # they would wait for one another at every image
    with ThreadPoolExecutor(max(num_workers, 1), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        images = list(tqdm(pool.map(read, paths), total=len(paths), desc=title, unit="image",
                           disable=None, leave=False))
    torch.set_num_threads(compute_threads)
    if len(sizes) > 1:
        found = ", ".join(f"{width} x {height} ({path.name})" for (height, width), path in sizes.items())
        problems.append(f"{paths[0].parent} has images of different sizes: {found}; make them alike")
    return images, sorted(problems), sizes


def decode_images(paths, make_tensor, num_workers, title):
    """Read images and make a uint8 tensor of each: [N, 3, H, W].

    Raises one UsageError that names the unreadable images, or the different sizes.
    """
    images, problems, _ = read_images(paths, make_tensor, num_workers, title)
    if problems:
        raise UsageError(first_few(problems))
    return torch.stack(images)


def decode_with(transform, paths, num_workers):
    """Decode images through a user's transform of PIL images, which gives float in [0, 1] or uint8."""
    def make_tensor(image):
        image = transform(Image.fromarray(image.permute(1, 2, 0).numpy()))
        return image if image.dtype == torch.uint8 else to_uint8(image)

    return decode_images(paths, make_tensor, num_workers, paths[0].parent.name)


def decode_cached(root, paths, frame_size, num_workers):
    """Decode images of one folder of the dataset `root`, resized to frame_size (H, W).

    The pixels are kept in root/.decoded, or in the user's cache folder if that cannot be written, and mapped from
    there. The file's name holds a fingerprint of the images' names, sizes and times, so that a changed dataset is
    decoded again.
    """
    folder = paths[0].parent
    height, width = frame_size
    prefix = f"{'-'.join(folder.relative_to(root).parts)}-{height}x{width}-{len(paths)}"
    name = f"{prefix}-{_fingerprint(folder, paths)}.npy"
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dance-cvae"
    places = (root / ".decoded", user_cache)
    shape = (len(paths), 3, height, width)
    for place in places:
        pixels = _map(place / name, shape)
        if pixels is not None:
            return pixels
    pixels = decode_images(paths, lambda image: resize_image(image, frame_size), num_workers, folder.name)
    for place in places:
        try:
            place.mkdir(parents=True, exist_ok=True)
            with atomic_write(place / name) as file:
                np.save(file, pixels.numpy())
        except (OSError, RunError):
            continue
        if place == root / ".decoded":
            for outdated in set(place.glob(f"{prefix}-*.npy")) - {place / name}:
                outdated.unlink(missing_ok=True)
        return _map(place / name, shape)
    return pixels


def _map(path, shape):
    """Map a file of pixels into memory; None if it is missing or incomplete."""
    try:
        pixels = np.load(path, mmap_mode="c")
    except (OSError, ValueError, EOFError):
        return None
    return torch.from_numpy(pixels) if pixels.shape == shape and pixels.dtype == np.uint8 else None


def _fingerprint(folder, paths):
    digest = hashlib.sha256(str(folder.resolve()).encode())
    for path in paths:
        status = path.stat()
        digest.update(f"\0{path.name}\0{status.st_size}\0{status.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]
