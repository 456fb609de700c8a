"""Videos as files: alone, or several side by side; as GIF, MP4 or both."""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cli.files import remove_file

from .ffmpeg import load_ffmpeg, write_mp4
from .gif import DEFAULT_FPS, write_gif

CAPTION_HEIGHT = 24  # pixels
GAP = 4  # pixels between two videos
LARGE_HEIGHT = 96  # pixels; smaller frames are enlarged


class VideoFormat(NamedTuple):
    """How videos are written: as `gif`, `mp4` or `both`, with `fps` frames a second."""

    files: str
    fps: float = DEFAULT_FPS


def check_video_format(files):
    """Raise UsageError if a package is missing that these `files` of a VideoFormat need."""
    if files in ("mp4", "both"):
        load_ffmpeg("--video_format mp4")


def write_video(path, video, video_format):
    """Write a video, a uint8 tensor [T, 3, H, W].

    path: without its suffix. video_format: a VideoFormat. Small frames are enlarged in an MP4 alone, which has one
    colour for four pixels, and which some phones do not play below 96 pixels.
    """
    scale = _scale(video.shape[-2])
    _write(path, video_format, gif=(_enlarged(frame, 1) for frame in video),
           mp4=(_enlarged(frame, scale) for frame in video))


def write_comparison(path, videos, video_format):
    """Write videos side by side, each under its name, small ones enlarged.

    videos: name -> uint8 tensor [T, 3, H, W]; all of one size. path, video_format: see `write_video`.
    """
    height, width = next(iter(videos.values())).shape[-2:]
    scale = _scale(height)
    captions = [_caption(name, scale * width) for name in videos]

    def composed():
        return (_side_by_side(captions, frames, scale) for frames in zip(*videos.values(), strict=True))

    _write(path, video_format, composed(), composed())


def _write(path, video_format, gif, mp4):
    """Write the frames of the formats that are wanted, generators of arrays [H, W, 3].

    Then a file of the other format, which is of an earlier video, is removed.
    """
    files, fps = video_format
    gif_file, mp4_file = (path.with_name(f"{path.name}.{kind}") for kind in ("gif", "mp4"))
    if files in ("gif", "both"):
        write_gif(gif_file, gif, fps)
    if files in ("mp4", "both"):
        write_mp4(mp4_file, mp4, fps)
    other = {"gif": mp4_file, "mp4": gif_file}.get(files)
    if other:
        try:
            remove_file(other)
        except OSError as error:
            print(f"note: {other}, of an earlier video, cannot be removed ({error.strerror})")


def _scale(height):
    """The factor on frames of this height that makes them large enough to look at."""
    return 1 if height >= LARGE_HEIGHT else 3


def _enlarged(frame, scale):
    """A tensor [3, H, W] as an array [scale H, scale W, 3]."""
    return frame.permute(1, 2, 0).numpy().repeat(scale, axis=0).repeat(scale, axis=1)


def _side_by_side(captions, frames, scale):
    """Join tensors [3, H, W] to one picture, an array [H', W', 3], each enlarged under its caption."""
    parts = []
    for caption, frame in zip(captions, frames):
        column = np.concatenate([caption, _enlarged(frame, scale)])
        parts += [column, np.full((len(column), GAP, 3), 255, np.uint8)]
    return np.concatenate(parts[:-1], axis=1)


def _caption(text, width):
    """Black text on white, uint8 [CAPTION_HEIGHT, width, 3]."""
    image = Image.new("RGB", (width, CAPTION_HEIGHT), "white")
    ImageDraw.Draw(image).text((width / 2, CAPTION_HEIGHT / 2), text, "black", ImageFont.load_default(14), anchor="mm")
    return np.asarray(image)
