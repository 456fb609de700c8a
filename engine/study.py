"""Train and test recipes with several seeds under one budget, each run in processes of its own."""

import hashlib
import math
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from cli.cores import usable_cores
from cli.errors import DIVERGED, RunError, Stopped, UsageError
from cli.files import read_json, write_json, write_text, writing
from cli.flags import (
    FLAGS_OF_OLDER_RUNS, FROM_A_CHECKPOINT, add_machine_flags, flags_of, network_settings, trainer_parser)
from cli.parser import typed_command
from cli.signals import StopSignals
from media.pixel_csv import pixels_of_a_frame

from .saving.logs import checkpoints_in, holds_run, read_arguments, read_metrics, read_times

# Exit statuses on Windows of a script that has saved its run at Ctrl-C, and of one that Python itself has ended
ENDED_BY_CTRL_C = {128 + signal.SIGINT, 0xC000013A}
ROOT = Path(__file__).resolve().parent.parent
NOT_OF_THE_RECIPE = {  # in args.json, but other ones after --resume: they change no result but by rounding
    "save_root", "resume", "overwrite", "DR", "checkpoint_frames", "per_save", "save_minutes", "store_visualization",
    "video_format", "tensorboard", *flags_of(add_machine_flags)} - {"seed"}
# How the clips of a step are shared out, which changes the result only where BatchNorm works on a batch
SHARES = ("batch_size", "accumulate")


@dataclass(eq=False)
class Recipe:
    """What a study compares: words for Trainer.py, and the epochs that the budget allows."""

    name: str
    words: list
    folder: Path
    epochs: int = 0
    epoch_seconds: float = 0.0  # their mean; 0 if the budget is in epochs
    failed: str = ""

    def make_run(self, root, epochs, seed, subfolder):
        """Describe a Run of this recipe on the dataset `root`."""
        words = [*self.words, "--DR", str(root), "--num_epoch", str(epochs), "--seed", str(seed)]
        return Run(words, self.folder / subfolder, self)


@dataclass(eq=False)
class Run:
    """One training: all words for Trainer.py but its folder. `failed` says why it has no result."""

    words: list
    folder: Path
    recipe: Recipe
    failed: str = ""

    @property
    def result(self):
        """What `train_and_test` wrote at the end of the run; None before. Raises UsageError if it is damaged."""
        path = self.folder / "result.json"
        try:
            return read_json(path) if path.is_file() else None
        except ValueError:
            raise UsageError(f"{path} is damaged; remove it, and the run is tested again") from None

    def check_unchanged(self):
        """Raise UsageError if the folder holds a run with other flags."""
        parser = trainer_parser()
        args, saved = parser.parse_args(self.words), read_arguments(self.folder)
        if not saved:
            return
        may_differ = {*NOT_OF_THE_RECIPE}
        if args.ckpt_path:  # that checkpoint answers what is not typed
            may_differ |= {*FROM_A_CHECKPOINT, *network_settings(args)} - parser.typed_flags(self.words).keys()
        wanted, saved = vars(args), vars(parser.parse_args([])) | FLAGS_OF_OLDER_RUNS | saved
        if saved["label_norm"] == "fixed" and clips_of_a_step(saved) == clips_of_a_step(wanted):
            may_differ |= {*SHARES}
        for name in sorted(wanted.keys() & saved.keys() - may_differ):
            if wanted[name] != saved[name]:
                raise UsageError(f"{self.folder} is a run with --{name} {saved[name]}, not {wanted[name]}; "
                                 "give another --out, or remove that folder")


def clips_of_a_step(arguments):
    """How many clips an optimizer step takes with the flags of a run; None if its args.json is damaged."""
    numbers = [arguments[name] for name in SHARES]
    return math.prod(numbers) if all(type(number) is int for number in numbers) else None


class Scripts(StopSignals):
    """Runs the other scripts as processes, and passes a signal to this process on to them, once."""

    def __init__(self):
        self.unsignalled = set()  # running processes that no signal was passed on to
        super().__init__()  # from here on a signal may come

    def _note(self, number):
        super()._note(number)
        for process in list(self.unsignalled):
            self.forward_signal(process)

    def run(self, folder, script, *words):
        """Run a script and append what it prints to folder/log.txt. Raises RunError with its last line if it fails.

        A training that diverged would diverge again: its reason is kept in folder/failed.txt, and raised without
        running the script. After another failure, like a full disk, the script is tried again.
        """
        kept = folder / "failed.txt"
        if kept.is_file() and (reason := kept.read_text(encoding="utf-8").strip()):
            raise RunError(reason)
        self.raise_if_stopped()
        print(f"{folder}: {script}.py")
        with writing(folder / "log.txt"):
            folder.mkdir(parents=True, exist_ok=True)
            log = open(folder / "log.txt", "a+", encoding="utf-8", errors="replace")
        with log:
            before = log.seek(0, os.SEEK_END)
            status = self.call(script, [*map(str, words)], log)
            if os.name == "nt" and status in ENDED_BY_CTRL_C:  # this process may learn of it only later
                self.signal_number = self.signal_number or signal.SIGINT
            if status == 0:
                return
            log.seek(before)
            said = log.read().strip().split("\n")
        self.raise_if_stopped()
        reason = f"{script}.py: ended by signal {-status}"
        if status > 0:
            reason = said[-1] or f"{script}.py: exit status {status}"
        if status == 1 and DIVERGED in reason:
            write_text(kept, f"{reason}\n")
        raise RunError(reason)

    def call(self, script, words, log):
        """Run a script to its end, what it prints going to `log`; returns its exit status."""
        command = [sys.executable, str(ROOT / f"{script}.py"), *words]
        environment = os.environ | {"PYTHONIOENCODING": "utf-8"}  # as the log is read; Windows has others
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment,
                                   start_new_session=True)
        self.unsignalled.add(process)
        if self.signal_number:  # it came before the process was known
            if os.name == "nt":
                process.terminate()  # the console has told only those that had started
            self.forward_signal(process)
        status = process.wait()
        self.unsignalled.discard(process)
        return status

    def forward_signal(self, process):
        """Pass the signal on, once. On Windows a console tells its processes of Ctrl-C itself."""
        with suppress(KeyError):
            self.unsignalled.remove(process)
            if os.name != "nt":
                process.send_signal(self.signal_number)

    def raise_if_stopped(self):
        if self.signal_number:
            raise Stopped(self.signal_number, f"continue with: {typed_command()}")


def calibrate(run, minutes, scripts):
    """Train a recipe for one epoch, unless that is done, and set how many epochs take `minutes`. Returns the recipe."""
    recipe = run.recipe
    try:
        if not times_of_an_epoch(run.folder):
            scripts.run(run.folder, "Trainer", *run.words, "--save_root", run.folder, "--overwrite")
    except RunError as error:
        recipe.failed = str(error)
    times = times_of_an_epoch(run.folder)
    if times:  # also if Trainer.py failed after its first epoch
        seconds = partial(run_seconds, times=times, flags=trainer_parser().parse_args(run.words))
        recipe.failed, recipe.epochs = "", 1
        while seconds(recipe.epochs + 1) <= 60 * minutes:
            recipe.epochs += 1
        recipe.epoch_seconds = seconds(recipe.epochs) / recipe.epochs
    return recipe


def times_of_an_epoch(folder):
    """{column of times.csv: number} of the first epoch; None if it is not complete."""
    columns = read_times(folder)
    times = {name: values[0] for name, values in columns.items() if len(values)}
    return times if times.get("seconds", 0) > 0 else None


def run_seconds(epochs, times, flags):
    """Seconds that a run of this many epochs takes, from the `times` of one epoch, which ended with a validation.

    What only the first epoch of a process takes is counted in each.
    """
    if "validation_seconds" not in times:  # an older version counted so; its runs keep their number of epochs
        return epochs * times["seconds"]
    validation = times["validation_seconds"]
    training = times["seconds"] - validation
    fast = flags.fast_train_epoch if flags.fast_train else 0
    if fast:
        training /= flags.fast_partial
    saved = min(epochs, fast) * (1 - flags.fast_partial)  # as many epochs' time
    return training * (epochs - saved) + validation * math.ceil(epochs / flags.val_every)


def train_and_test(run, root, splits, truth, scripts):
    """Train and test a run from where it stands, and write its result.json. Returns the run, failed or not.

    root: the dataset. splits: on which it is tested. truth: path of the ground truth of the test sequences; the run is
    not scored on them if its frames are of another size, or the file is missing. A run with a result is tested again
    if that is of another truth than the file now there.
    """
    folder, best = run.folder, run.folder / "best.ckpt"
    if run.result:
        if same_truth(run, splits, truth):
            return run
        if not best.is_file():
            print(f"note: the scores of {folder} are of another {truth}, and without its best.ckpt they stay so")
            return run
    try:
        if checkpoints_in(folder):
            scripts.run(folder, "Trainer", "--resume", "--DR", root, "--save_root", folder)
        elif holds_run(folder):
            raise RunError(f"{folder} holds the logs of a run, but no checkpoint; bring it back, or remove that folder")
        else:
            scripts.run(folder, "Trainer", *run.words, "--save_root", folder)
        for split in splits:
            words = ["--gt", truth] if split == "test" and truth_fits(truth, folder) else []
            scripts.run(folder, "Tester", *run.words, "--ckpt_path", best, "--save_root", folder / split,
                        "--split", split, "--no-make_gif", *words)
    except RunError as error:
        run.failed = str(error)
        return run
    scores = {split: folder / split / "scores.json" for split in ("val", "test")}
    write_json(folder / "result.json", {
        "parameters": read_json(folder / "args.json")["parameters"],
        "seconds": read_metrics(folder)["seconds"][-1],
        "scores": {split: read_json(path) for split, path in scores.items() if path.is_file()},
        "truth": scored_truth(folder, splits, truth),
    })
    return run


def same_truth(run, splits, truth):
    """Whether a run's result has the scores of its test against the ground truth, if there is one that fits it.

    A result of an older version does not say which truth its test was scored against: it counts as this one.
    """
    wanted = scored_truth(run.folder, splits, truth)
    return wanted is None or "test" in run.result["scores"] and run.result.get("truth") in (None, wanted)


def scored_truth(folder, splits, truth):
    """The SHA-256 of the ground truth that the test of the run in a folder is scored against; None if it is not."""
    return sha256(truth) if "test" in splits and truth_fits(truth, folder) else None


@cache
def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def truth_fits(truth, folder):
    """Whether the ground truth file exists and has frames as large as those of the run in `folder`."""
    flags = read_arguments(folder)
    return bool(flags) and truth.is_file() and pixels_of_a_frame(truth) == 3 * flags["frame_H"] * flags["frame_W"]


def share_cores(jobs):
    """Let each of several processes at a time use its share of the cores; otherwise each would use all."""
    if jobs > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // jobs)))
