"""The folder of a run: made, locked against a second run, with args.json in it."""

import math
import platform
import shutil
import subprocess
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import numpy as np
import torch

from cli.errors import UsageError
from cli.files import remove_file, remove_leftovers, usable, write_json
from cli.flags import SPLITS
from cli.folders import locked
from cli.parser import typed_command

from ..processes import broadcast, rank, world_size
from .best_rollout import BEST_ROLLOUT
from .checkpoint import save_checkpoint
from .event_files import EVENT_FILES
from .logs import CHECKPOINTS, checkpoints_in, clear_drive, clear_test, figure_files, files_of, holds_run, read_record
from .resume import NOT_KEPT_ON_RESUME, check_newest

# What Trainer.py, Study.py and Plotting.py write into the folder of a run, and nothing of the user's
FIGURE_FILES = ("loss", "teacher_forcing_ratio", "beta", "learning_rate", "validation_psnr", "psnr_over_seconds",
                "psnr_per_frame", "z", "rate_distortion")
WRITTEN_IN_A_RUN = ("best.gif", "best.mp4", "best.npz", "epoch=*.gif", "epoch=*.mp4", "times.csv",
                    "psnr_per_frame.csv", BEST_ROLLOUT, *CHECKPOINTS, "metrics.csv",
                    "args.json")  # by whoever holds the folder's lock
LEFT_BY_A_RUN = ("result.json", "failed.txt", "page.html", *figure_files(FIGURE_FILES), *WRITTEN_IN_A_RUN)


@contextmanager
def open_run(save_root, model, *, arguments, machine, fps, resumed, overwrite, first_epoch, num_epoch, per_save):
    """Make and lock the folder of this run, and write its args.json. Yields it, on all ranks.

    save_root: None for a new folder below runs/. arguments: every flag, as a dict. machine: what computes, in words.
    fps: frames a second of the data, for the page of the run. resumed: the checkpoint that a resumed run continues
    from, else None. first_epoch: the one to begin with.
    """
    parameters = list(model.parameters())
    folder = Path(save_root or broadcast(new_folder() if rank() == 0 else None, parameters[0].device))
    if rank() > 0:
        yield folder
        return
    with locked("--save_root", folder):
        for pattern in WRITTEN_IN_A_RUN:
            remove_leftovers(folder, pattern, idle_seconds=-math.inf)  # the folder is locked: nobody is at them
        if resumed:
            check_newest(folder, resumed)
        else:
            check_free(folder, overwrite)
        replaced = [folder / "last.ckpt", folder / "best.ckpt"] if resumed else checkpoints_in(folder)
        tensors = 4 if arguments["optim"] == "AMSGrad" else 3  # of the weights' size: they and the optimizer's moments
        more = num_epoch // per_save - first_epoch // per_save + 3  # last.ckpt, best.ckpt, and one while it is written
        check_room(folder, parameters, tensors * more, replaced)
        began = {}  # args.json as it is, of a resumed run
        if resumed:
            save_changed_flags(folder, resumed, arguments)
            with suppress(UsageError):  # it is damaged
                began = read_record(folder)
        else:
            clear_run(folder)
        write_json(folder / "args.json", {
            "arguments": arguments, "parameters": sum(weights.numel() for weights in parameters),
            "frames_per_second": fps, "seed": arguments["seed"], **how_it_is_made(machine, began)})
        print(f"the run is in {folder}")
        yield folder


def new_folder():
    """Make a folder below runs/ with the time as its name, and a number if there is one. Returns its name."""
    name = f"runs/{datetime.now():%Y-%m-%d_%H%M%S}"
    for folder in (name, *(f"{name}_{number}" for number in range(2, 1000))):
        with usable("--save_root", folder), suppress(FileExistsError):
            Path(folder).mkdir(parents=True)
            return folder
    raise UsageError(f"--save_root {name} and hundreds like it exist; name a folder")


def how_it_is_made(machine, began):
    """The command, machine, versions and so on of a run; of a resumed one as it began, and a list of its resumptions.

    began: args.json of a resumed run, {} of a new one.
    """
    session = {"command": typed_command(world_size()), "machine": machine, "git_commit": git_commit(),
               "processes": world_size(), "versions": {
                   "python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}}
    if not began:
        return session
    return {name: began.get(name) for name in session} | {"resumed": [*began.get("resumed", []), session]}


def check_free(folder, overwrite):
    """Raise UsageError if the folder holds a run that may not be overwritten."""
    if holds_run(folder) and not overwrite:
        raise UsageError(f"--save_root {folder} holds another run; give --resume to continue it, --overwrite to "
                         "replace it, or another folder")


def save_changed_flags(folder, checkpoint, arguments):
    """Write last.ckpt with the flags of a resumed run, if they are others than in its `checkpoint`.

    They would be lost, without a word, if the run were killed before its first save and resumed again.
    """
    saved = checkpoint["arguments"]
    if any(saved.get(name) != value for name, value in arguments.items() if name not in NOT_KEPT_ON_RESUME):
        # the flags may share a step out over other processes than before
        save_checkpoint([folder / "last.ckpt"], checkpoint | {"arguments": arguments, "world_size": world_size()})


def clear_run(folder):
    """Remove the run in the folder, if there is one, or what one left that ended in its first epoch.

    Its tests and figures go first, and args.json last: if a file cannot be removed, or the program is killed, the next
    try finds a run here, and removes the rest.
    """
    if not holds_run(folder) and not (folder / "args.json").is_file():
        return
    with usable("--save_root", folder):
        for split in SPLITS:
            clear_test(folder / split)
        clear_drive(folder / "drive")
        written = [path for pattern in LEFT_BY_A_RUN for path in files_of(folder, pattern)]
        for path in (*folder.glob(EVENT_FILES), *written):
            remove_file(path)


def check_room(folder, parameters, copies, replaced):
    """Raise UsageError if the disk lacks room for the checkpoints of a run.

    copies: how many tensors of the size of all parameters they hold, together. replaced: the files that they overwrite,
    whose room counts as free; one may be missing.
    """
    wanted = copies * sum(weights.numel() * weights.element_size() for weights in parameters)
    free = shutil.disk_usage(folder).free + sum(path.stat().st_size for path in replaced if path.is_file())
    if free < wanted:
        raise UsageError(f"--save_root {folder}: the disk has {free / 2**20:.0f} MiB of room, the checkpoints need "
                         f"{wanted / 2**20:.0f} MiB; make room, or raise --per_save")


def git_commit():
    """The commit of this program, with -dirty behind it if files were changed since; None outside a repository.

    There git is not called: on a Mac without developer tools it opens a window that asks to install them.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        answer = subprocess.run(["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"], cwd=root,
                                capture_output=True, text=True)
    except OSError:
        return None
    return answer.stdout.strip() or None
