"""Which dataset a script uses: that of --DR, or the stage dancer, made first if need be; how fast it plays."""

import os
import signal
import subprocess
import sys
from collections import deque
from contextlib import suppress
from pathlib import Path
from stat import S_ISDIR

from cli.errors import LISTED, RunError, Stopped, UsageError, is_away
from cli.files import patiently, read_json_or_none
from cli.flags import SPLITS
from cli.folders import own_entries
from cli.signals import ending_signals, raise_stopped
from media.gif import DEFAULT_FPS
from poses.dataset import MARKER as VIDEOS_MARKER
from stage_dancer.choreography import DANCER_FPS
from stage_dancer.dataset import MARKER as DANCER_MARKER
from stage_dancer.dataset import chosen_setting, is_dancer

from .entries import is_folder, is_ours

LOOKED_INTO = 100  # folders


def dataset_or_dancer(root):
    """Return the dataset's folder as a Path; for None, the folder of the stage dancer, made first if it is missing."""
    if root is not None:
        return existing_root(root)
    root = Path("data") / "dancer"
    chosen = chosen_setting(root)
    if chosen:
        raise UsageError(f"{root} holds a stage dancer made with --{chosen[0]} {chosen[1]}, which the default one "
                         f"would replace; give --DR {root} to use it, or remove that folder")
    if is_dancer(root):
        print(f"no --DR given: using the stage dancer in {root}")
    elif read_json_or_none(root / DANCER_MARKER):
        print(f"no --DR given: using the stage dancer in {root}, which an older version of this program drew; remove "
              "it for today's")
    elif root.is_dir() and own_entries(root):
        raise UsageError(f"no --DR given, and {root}, where the stage dancer would be made, holds something else; "
                         "give --DR")
    else:
        print(f"no --DR given: making the stage dancer in {root}, and using it")
        if _run_preparer(root):
            raise RunError(f"no --DR given, and no stage dancer could be made in {root}; give --DR")
    return root


def _run_preparer(root):
    """Make the stage dancer in `root`; returns the exit status. A signal ends the making as well, and is then raised.

    Another script does it: its drawing processes load that one anew, and this one would have each load torch.
    """
    preparer = Path(__file__).resolve().parents[1] / "Preparer.py"
    handlers = {number: signal.getsignal(number) for number in ending_signals()}
    raise_stopped(f"stopped; no stage dancer was made in {root}")
    process = subprocess.Popen([sys.executable, str(preparer), "--dancer", str(root)])
    try:
        return process.wait()
    except (Stopped, KeyboardInterrupt) as ended:
        if isinstance(ended, Stopped):  # the terminal sends Ctrl-C to both
            process.send_signal(ended.signal_number)
        process.wait()  # until it has removed what is unfinished
        raise
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def existing_root(root, flag="--DR"):
    """Return the dataset's folder as a Path; if it is none, raises UsageError, which names a dataset nearby."""
    root = Path(root)
    if not is_folder(root):
        raise UsageError(f"{flag} {root} is not a folder; give the folder that holds train, val and test")
    if not holds_a_split(root) and not any(is_folder(root / mode) for mode in SPLITS):
        meant = [folder for folder in root.resolve().parents[:3] if holds_a_split(folder)] + _datasets_within(root)
        remedy = (f"give {flag} {' or '.join(map(str, meant[:LISTED]))}" if meant
                  else "lay the dataset out as the README shows (Your own data)")
        raise UsageError(f"{flag} {root} holds neither train nor val nor test; {remedy}")
    return root


def _datasets_within(root):
    """The datasets in a folder, at any depth: an archive may put one several folders down.

    Reads LOOKED_INTO folders at most, the upper ones first.
    """
    found, queue = [], deque([root])
    for _ in range(LOOKED_INTO):
        if not queue:
            break
        for folder in _folders(queue.popleft()):
            if holds_a_split(folder):
                found.append(folder)
            else:
                queue.append(folder)
    return found


def _folders(folder):
    """The folders in a folder, but for those of other programs; none if it cannot be read."""
    with suppress(OSError):
        return sorted(Path(entry.path) for entry in os.scandir(folder) if is_ours(entry.name) and entry.is_dir())
    return []


def holds_a_split(folder):
    for mode in SPLITS:
        with suppress(OSError):
            if S_ISDIR(patiently((folder / mode / f"{mode}_img").stat, is_away).st_mode):
                return True
    return False


def noted_fps(root):
    """Return the frames a second of the dataset `root`: of its videos, or of the stage dancer, else DEFAULT_FPS."""
    about = read_json_or_none(Path(root) / VIDEOS_MARKER)
    fps = about.get("fps") if isinstance(about, dict) else None
    if isinstance(fps, (int, float)) and fps > 0:
        return fps
    return DANCER_FPS if (Path(root) / DANCER_MARKER).is_file() else DEFAULT_FPS
