"""Read and write video files with the ffmpeg of the package imageio-ffmpeg, an extra."""

import logging
import subprocess
from contextlib import closing, contextmanager
from itertools import chain, islice
from pathlib import Path

import numpy as np

from cli.errors import RunError, UsageError, needs_package, one_line
from cli.files import atomic_write, check_output

# What imageio-ffmpeg raises where ffmpeg fails, or where it does not understand what ffmpeg says.
READING_ERRORS = (OSError, RuntimeError, AttributeError, LookupError, ValueError, StopIteration)
QUALITY = 14  # x264's constant rate factor: 0 is lossless, 23 its default
# What RGB becomes, named in the file: a player would otherwise guess.
COLOURS = "scale=out_color_matrix=bt709:out_range=tv,setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709"


def load_ffmpeg(flag):
    """Return the package imageio_ffmpeg; raises UsageError naming `flag` if it is missing, or has no ffmpeg here."""
    with needs_package(flag, "imageio-ffmpeg", "video"):
        import imageio_ffmpeg
    try:
        imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise UsageError(f"{flag}: the package imageio-ffmpeg has no ffmpeg ({one_line(error)}); set "
                         "IMAGEIO_FFMPEG_EXE to one") from None
    logging.getLogger("imageio_ffmpeg").setLevel(logging.CRITICAL)  # it warns of frames that ffmpeg resizes
    return imageio_ffmpeg


def read_video(path, fps, flag, count=None):
    """Yield the frames of a video as uint8 [H, W, 3], as a player shows them, sampled at `fps` frames a second.

    ffmpeg turns them as the file says, makes their pixels square, and repeats or leaves out frames where the video has
    another or a variable rate. Time counts from the video's first frame, even if the sound begins before it.
    count: how many frames to yield, of a video that was read before; RunError if there are fewer now. Raises UsageError
    naming `flag` and the file unless it holds a frame.
    """
    filters = f"setpts=PTS-STARTPTS,fps={fps:.12g},scale=iw*sar:ih,setsar=1"
    frames = 0
    with _ffmpeg_stream(path, flag, ["-vf", filters, "-an"]) as (about, stream):
        width, height = about["size"]
        for frame in islice(stream, count):
            frames += 1
            yield np.frombuffer(frame, np.uint8).reshape(height, width, 3)
    if not frames:
        raise UsageError(f"{flag} {path} cannot be read as a video (it has no frames); give another file")
    if count and frames < count:
        raise RunError(f"{flag} {path} had {count} frames and now has {frames}; look whether its drive is there, and "
                       "try again")


def length_and_rate(path, flag):
    """Return how long a video is, in seconds, and its frames a second (their mean if they vary), as its file says.

    Each is 0 where the file does not say. Raises UsageError.
    """
    with _ffmpeg_stream(path, flag, []) as (about, _):
        return about["duration"], exact_rate(about["fps"])


def exact_rate(rounded):
    """Return to three decimals a rate that ffmpeg rounds to two: 23.98 is 23.976, television's 24000 / 1001.

    Counted at 23.98, a video of four minutes would have a frame too many.
    """
    exact = round(1.001 * rounded) / 1.001
    return round(exact, 3) if rounded % 1 and round(exact, 2) == rounded else rounded


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


def _reason(error):
    """Return what ffmpeg said last, or the error, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:120] if lines else type(error).__name__


def check_mp4(path, flag):
    """Raise UsageError naming `flag` unless an MP4 can be written at `path`; makes its folder."""
    load_ffmpeg(flag)
    check_output(flag, path, ".mp4")


def write_mp4(path, frames, fps):
    """Write frames, uint8 [H, W, 3] each and all of one size, as an H.264 video that every player shows.

    ffmpeg takes each frame when it is made, so that few are in memory. 4:2:0 halves the colours' height and width, so
    an odd size grows by a row or column: the last one, repeated. The file is written whole or not at all; raises
    RunError.
    """
    frames = iter(frames)
    first = next(frames)
    height, width = first.shape[:2]
    evened = (0, height % 2), (0, width % 2), (0, 0)
    with atomic_write(path) as file, _encoder(file.name, height + height % 2, width + width % 2, fps) as encoder:
        for frame in chain([first], frames):
            try:
                encoder.stdin.write(np.pad(frame, evened, "edge").tobytes())
            except OSError:  # ffmpeg has ended, and says why
                break
        _, said = encoder.communicate()
        if encoder.returncode:
            reasons = said.decode(errors="replace").splitlines()
            raise OSError(f"ffmpeg: {reasons[0] if reasons else encoder.returncode}")


def _encoder(path, height, width, fps):
    """Start an ffmpeg that takes RGB frames from its standard input; signals to this process do not reach it."""
    program = load_ffmpeg("an MP4").get_ffmpeg_exe()
    reading = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", f"{width}x{height}", "-framerate", f"{fps:.12g}",
               "-i", "-"]
    encoding = ["-vf", COLOURS, "-pix_fmt", "yuv420p", "-c:v", "libx264", "-crf", str(QUALITY)]
    writing = ["-movflags", "+faststart", "-f", "mp4", "-y", str(Path(path).resolve())]
    return subprocess.Popen([program, "-loglevel", "error", *reading, *encoding, *writing],
                            stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0))
