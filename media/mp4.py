"""Videos as MP4 files: H.264 as every browser and phone plays it, encoded by ffmpeg. An extra."""

import subprocess
from itertools import chain

import numpy as np

from cli.errors import UsageError
from cli.files import atomic_write

from .gif import FRAME_MILLISECONDS

QUALITY = 14  # x264's constant rate factor: 0 is lossless, 23 its default
# What RGB becomes, named in the file: a player would otherwise guess.
COLOURS = "scale=out_color_matrix=bt709:out_range=tv,setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709"


def find_ffmpeg():
    """The path of the ffmpeg that the package imageio-ffmpeg brings; UsageError where it is missing."""
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        return get_ffmpeg_exe()
    except (ImportError, RuntimeError):  # no package, or none with an ffmpeg for this machine
        raise UsageError("--video_format mp4 needs the package imageio-ffmpeg: pip install -r requirements-video.txt; "
                         "or give --video_format gif") from None


def write_mp4(path, frames):
    """Write frames, uint8 arrays [H, W, 3], as an MP4; ffmpeg takes each when it is made, so that few are in memory.

    4:2:0 halves the colours' height and width, so an odd size grows by a row or column: the last one, repeated.
    """
    frames = iter(frames)
    first = next(frames)
    height, width = first.shape[:2]
    evened = (0, height % 2), (0, width % 2), (0, 0)
    with atomic_write(path) as file, _encoder(file.name, height + height % 2, width + width % 2) as encoder:
        try:
            for frame in chain([first], frames):
                encoder.stdin.write(np.pad(frame, evened, "edge").tobytes())
        except OSError:  # ffmpeg has ended, and says why
            pass
        _, said = encoder.communicate()
        if encoder.returncode:
            reasons = said.decode(errors="replace").splitlines()
            raise OSError(f"ffmpeg: {reasons[0] if reasons else encoder.returncode}")


def _encoder(path, height, width):
    """Start an ffmpeg that takes RGB frames from its standard input; signals to this process do not reach it."""
    reading = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", f"{width}x{height}",
               "-framerate", str(1000 / FRAME_MILLISECONDS), "-i", "-"]
    encoding = ["-vf", COLOURS, "-pix_fmt", "yuv420p", "-c:v", "libx264", "-crf", str(QUALITY)]
    writing = ["-movflags", "+faststart", "-f", "mp4", "-y", path]
    return subprocess.Popen([find_ffmpeg(), "-loglevel", "error", *reading, *encoding, *writing],
                            stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0))
