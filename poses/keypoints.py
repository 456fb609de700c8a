"""The joints of a pose, and the CSV files that hold the poses of a video.

Poses of T frames are float [T, 17, 3]: for each of COCO's 17 joints the column and the row in pixels, from the upper
left corner, and a confidence from 0 to 1. An unseen joint is (NaN, NaN, 0). In a frame that shows nobody, all 17 joints
are unseen.

A file has a line for each person in each frame: the number of the frame, counted from 0, then column, row and
confidence of each joint, in the order of JOINTS. A frame without a line shows nobody. Empty cells are joints that are
not seen. The first line may name the columns.
"""

import csv
import io

import numpy as np

from cli.errors import UsageError
from cli.files import atomic_write
from media.csv_files import separator_of, whole_text

JOINTS = ("nose", *[f"{side}_{name}" for name in ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
                    for side in ("left", "right")])
INDEX = {name: index for index, name in enumerate(JOINTS)}
MIN_CONFIDENCE = 0.1  # below it a joint is not seen
FARTHEST = 100_000  # pixels from the upper left corner, of a joint
COLUMNS = 1 + 3 * len(JOINTS)


def nobody(frames):
    """Return the poses of frames without anybody, [frames, 17, 3]."""
    poses = np.full((frames, len(JOINTS), 3), np.nan)
    poses[..., 2] = 0
    return poses


def seen(poses):
    """Tell which joints of poses [..., 17, 3] are seen, bool [..., 17]."""
    return np.isfinite(poses[..., 0])


def present(poses):
    """Tell which poses [..., 17, 3] show somebody, bool [...]."""
    return seen(poses).any(axis=-1)


def without_doubtful(poses):
    """Return poses [..., 17, 3] without the joints of too little confidence."""
    doubtful = ~(poses[..., 2] >= MIN_CONFIDENCE) | ~np.isfinite(poses[..., :2]).all(axis=-1)
    return np.where(doubtful[..., None], nobody(1)[0], poses)


def write_poses(path, poses):
    """Write poses [T, 17, 3] as a file with a line for each frame that shows somebody."""
    with atomic_write(path, "w", newline="") as file:
        names = [f"{name}_{part}" for name in JOINTS for part in ("x", "y", "confidence")]
        file.write(",".join(["frame", *names]) + "\n")
        for frame in np.flatnonzero(present(poses)):
            numbers = [f"{number:.2f}" if np.isfinite(number) else "" for number in poses[frame].flatten()]
            file.write(",".join([str(frame), *numbers]) + "\n")


def read_lines(path, flag):
    """Read a file of poses line by line: a list of (number of the line, number of the frame, pose [17, 3]).

    Doubtful joints are not seen. Between semicolons or tabs a number may have a decimal comma. Raises UsageError naming
    `flag` and the file.
    """
    lines = []
    try:
        text = whole_text(path)
        separator = separator_of(text.rstrip().rpartition("\n")[2])  # the first line may be a header
        if separator != ",":
            text = text.replace(",", ".")
        cells_of_lines = csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True)
        for number, cells in enumerate(cells_of_lines, start=1):
            if not "".join(cells).strip() or (number == 1 and not _is_number(cells[0])):
                continue
            lines.append((number, *_parse_line(cells, f"{flag} {path}, line {number}")))
    except (OSError, UnicodeError, csv.Error) as error:
        raise UsageError(f"{flag} {path} cannot be read ({error.__class__.__name__}); give a CSV file") from None
    return lines


def people_of(lines, frames, source, rate=""):
    """The people of each of `frames` frames in the lines of a file, see `read_lines`: a list of float [people, 17, 3].

    A person without any seen joint is nobody. source: flag and file, and rate: the frames' rate in words such as
    " at 30 a second", both for the UsageError of a frame that is not there.
    """
    people = [[] for _ in range(frames)]
    for number, frame, pose in lines:
        if frame >= frames:
            raise UsageError(f"{source}, line {number}: frame {frame}, but there are {frames} frames{rate}; "
                             f"number them from 0{rate}")
        if present(pose):
            people[frame].append(pose)
    return [np.array(poses).reshape(-1, len(JOINTS), 3) for poses in people]


def read_poses(path, flag, frames):
    """Read the poses of a file that write_poses wrote, [frames, 17, 3]; raises UsageError."""
    poses = nobody(frames)
    for frame, people in enumerate(people_of(read_lines(path, flag), frames, f"{flag} {path}")):
        if len(people):
            poses[frame] = people[0]
    return poses


def follow(people):
    """Follow one person through a list of [people, 17, 3], one for each frame; returns poses [T, 17, 3].

    It is the tallest one in the first frame that shows anybody, and from then on the nearest to where it was.
    """
    poses, last = nobody(len(people)), None
    for frame, candidates in enumerate(people):
        if not len(candidates):
            continue
        middles = np.nanmean(candidates[..., :2], axis=1)
        if last is None:
            chosen = np.argmax(np.nanmax(candidates[..., 1], axis=1) - np.nanmin(candidates[..., 1], axis=1))
        else:
            chosen = np.argmin(np.linalg.norm(middles - last, axis=1))
        poses[frame], last = candidates[chosen], middles[chosen]
    return poses


def _is_number(cell):
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _parse_line(cells, place):
    """Parse a line as the number of its frame and a pose [17, 3]; raises UsageError beginning with `place`."""
    try:
        frame, *numbers = [float(cell) if cell.strip() else np.nan for cell in cells]
        if len(cells) != COLUMNS or not (frame >= 0 and frame.is_integer()):
            raise ValueError
    except ValueError:
        raise UsageError(f"{place}: not the number of a frame and {COLUMNS - 1} numbers, x, y and confidence of "
                         f"{len(JOINTS)} joints") from None
    pose = without_doubtful(np.array(numbers).reshape(-1, 3))
    if (far := pose[np.abs(pose[:, :2]).max(axis=1) > FARTHEST]).size:
        raise UsageError(f"{place}: a joint at {far[0, 0]:g}, {far[0, 1]:g}; give x and y in pixels, and a confidence "
                         "of 0 to a joint that is not seen")
    return int(frame), pose
