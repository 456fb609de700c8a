"""Decode images once, in parallel, and cache the resized pixels in a file that later runs read."""

import glob
import hashlib
import os
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cli.errors import RunError, UsageError, first_few, is_away
from cli.files import patiently, remove_leftovers, write_whole
from cli.progress import Progress
from modules.pixels import to_uint8

from .images import read_image, resize_image

OVERSHOOT = 0.2  # of an interpolation, beyond [0, 1]
KEPT_SECONDS = 30 * 24 * 3600  # of pixels that another --partial may use
MAPPED = 2**31  # bytes, from which a cache is mapped into memory and not read into it
READER_VERSION = 2  # raise it when read_image or resize_image gives other pixels


def read_images(paths, make_tensor, num_workers, collect=list):
    """Read the images of one folder in parallel threads, with a progress bar.

    Returns collect() of the make_tensor(image), with None for an unreadable one; the problems, one line each; and
    {size (H, W): one path with it}.
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

    compute_threads = torch.get_num_threads()  # one per worker: more would wait for one another at every image
    try:
        with (ThreadPoolExecutor(max(num_workers, 1), initializer=torch.set_num_threads, initargs=(1,)) as pool,
              warnings.catch_warnings()):
            warnings.filterwarnings("ignore", module="PIL")  # about metadata; an image that it cannot read is an error
            images = collect(Progress(pool.map(read, paths), desc=f"reading {paths[0].parent.name}", total=len(paths),
                                      unit="image"))
    finally:
        torch.set_num_threads(compute_threads)
    if len(sizes) > 1:
        found = first_few([f"{width} x {height} ({path.name})" for (height, width), path in sizes.items()])
        problems.append(f"{paths[0].parent} has images of different sizes: {found}; make them alike")
    return images, sorted(problems), sizes


def decode_images(paths, make_tensor, num_workers):
    """Read images into one tensor [N, 3, H, W]; raises one UsageError for all unreadable images or differing sizes."""
    images, problems, _ = read_images(paths, make_tensor, num_workers, partial(_stack, count=len(paths)))
    if problems:
        raise UsageError(first_few(problems))
    if images is None:
        raise ValueError("a transform must give tensors of one shape")
    return images


def _stack(images, count):
    """Stack images as they come: a list of them would take as much memory again. None if their shapes differ."""
    pixels, are_alike = None, True
    for number, image in enumerate(images):
        if image is None:
            continue
        if pixels is None:
            pixels = torch.empty(count, *image.shape, dtype=image.dtype)
        are_alike = are_alike and image.shape == pixels.shape[1:]
        if are_alike:
            pixels[number] = image
    return pixels if are_alike else None


def decode_with(transform, paths, num_workers):
    """Decode images with a user's transform, from a PIL image to a tensor, float in [0, 1] or uint8; else ValueError.

    Each image is transformed once, when it is read.
    """
    def make_tensor(image):
        image = transform(Image.fromarray(image.permute(1, 2, 0).numpy()))
        if image.dtype == torch.uint8:
            return image
        if not -OVERSHOOT <= image.min() <= image.max() <= 1 + OVERSHOOT:
            raise ValueError("a transform must give a tensor in [0, 1], or uint8; normalise in your own loop")
        return to_uint8(image)

    return decode_images(paths, make_tensor, num_workers)


def decode_cached(root, paths, frame_size, num_workers):
    """Decode images of one folder of the dataset `root`, resized to frame_size (H, W): uint8 [N, 3, H, W].

    The pixels are cached in root/.decoded, or in the user's cache folder if root cannot be written. The file's name
    holds a fingerprint of the images: a changed dataset is decoded again.
    """
    folder = paths[0].parent
    height, width = frame_size
    name = (f"{'-'.join(folder.relative_to(root).parts)}-{height}x{width}-{len(paths)}-"
            f"{_hash(b'%d' % READER_VERSION + _list_files(paths, num_workers))}.npy")
    beside = root / ".decoded" / name  # found again where the dataset is moved
    # The user's folder holds the caches of several datasets: their places tell them apart
    of_user = [cache / f"{_hash(os.fsencode(folder.resolve()))}-{name}" for cache in _user_cache()]
    shape = (len(paths), 3, height, width)
    places = (beside, *of_user)
    cached = _first_cache(places, shape)
    if cached is not None:
        return cached
    pixels = decode_images(paths, lambda image: resize_image(image, frame_size), num_workers)
    cached = _first_cache(places, shape)  # another process may have decoded them, too, and have its file mapped
    if cached is not None:
        return cached
    for path in places:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, lambda file: np.save(file, pixels.numpy()))
        except (OSError, RunError):
            continue
        _remove_outdated(path)
        mapped = _read_cache(path, shape) if pixels.nbytes >= MAPPED else None
        return pixels if mapped is None else mapped
    print(f"note: the decoded images of {folder} can be written nowhere; the next start decodes them again")
    return pixels


def _first_cache(paths, shape):
    """The pixels of the first of these files that has them; None without any."""
    return next((pixels for path in paths if (pixels := _read_cache(path, shape)) is not None), None)


def _remove_outdated(path):
    """Remove earlier files of the same folder and frame size beside `path`, as far as that can be done.

    Those of as many images are of a changed dataset. Those of another number may serve another --partial: they stay for
    KEPT_SECONDS.
    """
    prefix, count, _ = path.name.rsplit("-", 2)
    pattern = f"{glob.escape(prefix)}-*.npy"
    with suppress(OSError):
        for other in set(path.parent.glob(pattern)) - {path}:
            with suppress(OSError):  # on Windows another run may have one mapped
                if other.name.rsplit("-", 2)[1] == count or time.time() - other.stat().st_mtime > KEPT_SECONDS:
                    other.unlink()
    remove_leftovers(path.parent, pattern)


def _user_cache():
    """The user's cache folder in a list, which is empty where the user has no home."""
    try:
        return [Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dance-cvae"]
    except RuntimeError:
        return []


def _read_cache(path, shape):
    """Read a file of pixels; returns None if it is missing or incomplete.

    Map only large files: if a drive fails, reading a mapped page kills the process without a message.
    """
    try:
        is_large = patiently(path.stat, is_away).st_size >= MAPPED
        try:
            pixels = patiently(partial(np.load, path, mmap_mode="c" if is_large else None), is_away)
        except OSError:
            if not is_large:
                raise
            pixels = patiently(partial(np.load, path), is_away)  # not every drive can map a file
    except Exception:  # a damaged header raises almost anything
        return None
    return torch.from_numpy(pixels) if pixels.shape == shape and pixels.dtype == np.uint8 else None


def _list_files(paths, num_workers):
    """List the names, sizes and times of files as bytes: each is asked for once, as a mounted drive answers slowly."""
    def list_file(path):
        status = patiently(path.stat, is_away)
        return f"\0{path.name}\0{status.st_size}\0{status.st_mtime_ns}".encode(errors="surrogateescape")

    with ThreadPoolExecutor(max(num_workers, 1)) as pool:
        return b"".join(pool.map(list_file, paths))


def _hash(content):
    """Hash bytes to 16 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()[:16]
