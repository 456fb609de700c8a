"""Read and write video files with the ffmpeg of the package imageio-ffmpeg, an extra."""

import logging
import os
from contextlib import closing, contextmanager
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from cli.errors import RunError, UsageError
from cli.files import patiently, usable

SUFFIXES = (".mp4", ".mov", ".mkv", ".m4v")  # that H.264 can be written into
# What imageio-ffmpeg raises where ffmpeg fails, or where it does not understand what ffmpeg says.
READING_ERRORS = (OSError, RuntimeError, AttributeError, LookupError, ValueError, StopIteration)


def load_ffmpeg(flag):
    """Return the package imageio_ffmpeg; raises UsageError naming `flag` if it is missing."""
    try:
        import imageio_ffmpeg
    except ImportError:
        raise UsageError(f"{flag} needs the package imageio-ffmpeg: pip install -r requirements-video.txt") from None
    logging.getLogger("imageio_ffmpeg").setLevel(logging.CRITICAL)  # it warns of frames that ffmpeg resizes
    return imageio_ffmpeg


def read_video(path, fps, flag):
    """Yield the frames of a video as uint8 [H, W, 3], as a player shows them, sampled at `fps` frames a second.

    ffmpeg turns them as the file says, makes their pixels square, and repeats or leaves out frames where the video has
    another or a variable rate. Raises UsageError naming `flag` and the file unless it holds a frame.
    """
    filters = f"fps={fps:.12g},scale=iw*sar:ih,setsar=1"
    frames = 0
    with _ffmpeg_stream(path, flag, ["-vf", filters, "-an"]) as (about, stream):
        width, height = about["size"]
        for frame in stream:
            frames += 1
            yield np.frombuffer(frame, np.uint8).reshape(height, width, 3)
    if not frames:
        raise UsageError(f"{flag} {path} cannot be read as a video (it has no frames); give another file")


def video_seconds(path, flag):
    """Return how long a video is as its file says, in seconds; 0 where it does not say. Raises UsageError."""
    with _ffmpeg_stream(path, flag, []) as (about, _):
        return about["duration"]


@contextmanager
def _ffmpeg_stream(path, flag, parameters):
    """Yield what ffmpeg says about a video, a dict, and the generator of its frames as bytes."""
    ffmpeg = load_ffmpeg(flag)
    if not Path(path).is_file():
        raise UsageError(f"{flag} {path} is not a file; give a video")
    # As an absolute path: ffmpeg takes a name such as a:b.mp4 for a protocol, and -a.mp4 for a flag.
    with closing(ffmpeg.read_frames(str(Path(path).resolve()), output_params=parameters)) as stream:
        try:
            yield next(stream), stream
        except READING_ERRORS as error:
            raise UsageError(f"{flag} {path} cannot be read as a video ({_reason(error)}); give another file") from None


def check_writable(path, flag):
    """Raise UsageError naming `flag` unless a video can be written at `path`; makes its folder."""
    load_ffmpeg(flag)
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{flag} {path} does not end in .mp4; name an MP4 file")
    with usable(flag, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        unfinished = _unfinished(path)
        unfinished.touch()
        unfinished.unlink()


def write_video(path, frames, fps, flag):
    """Write frames, uint8 [H, W, 3] each and all of one size, as an H.264 video that every player shows.

    A side of an odd number of pixels gets one more, a copy of its last. The file is written whole or not at all. Raises
    UsageError naming `flag` if it cannot be written there, RunError if that fails later.
    """
    path = Path(path)
    check_writable(path, flag)
    unfinished = _unfinished(path)
    frames = map(_with_even_sides, frames)
    first = next(frames)
    writer = load_ffmpeg(flag).write_frames(
        str(unfinished.resolve()), first.shape[1::-1], fps=fps, codec="libx264", pix_fmt_in="rgb24",
        pix_fmt_out="yuv420p", quality=8, macro_block_size=2, ffmpeg_log_level="quiet")
    try:
        with closing(writer):
            writer.send(None)
            for frame in chain([first], frames):
                writer.send(frame)
        if not _is_video(unfinished, flag):  # nothing else tells whether ffmpeg could write the end
            raise OSError
        patiently(partial(os.replace, unfinished, path))
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error.strerror or 'is the disk full?'})") from None
    finally:
        unfinished.unlink(missing_ok=True)


def _is_video(path, flag):
    try:
        return video_seconds(path, flag) > 0
    except UsageError:
        return False


def _unfinished(path):
    return path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")


def _with_even_sides(frame):
    """Repeat the last row and column of a frame where their number is odd: yuv420p halves both."""
    height, width = frame.shape[:2]
    return np.ascontiguousarray(np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"))


def _reason(error):
    """Return what ffmpeg said last, or the error, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:120] if lines else type(error).__name__
