"""Kill a training at random moments, go on with it, and see that nothing is lost.

    python tests/faults.py --kills 50 [--seed 0] [--signal KILL|TERM|INT]

Every training is a process of its own, as a user starts it, that saves after every round of two batches. It gets the
signal at a random moment, mostly while it trains, often while it saves, sometimes while it starts, and is started
again with --resume until it is done; then a new run begins, until there were enough kills. Each finished run
must equal, bit for bit, one that nobody disturbed. Otherwise the program says what differs and ends with
status 1.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from threading import Timer

import torch

from conftest import ROOT, TINY_NETWORK, flags, started
from engine.saving.checkpoint import load_checkpoint
from engine.saving.logs import TIMES_COLUMNS
from engine.saving.run_folder import WRITTEN_IN_A_RUN
from stage_dancer.dataset import make_dancer

TRAINING = flags(**TINY_NETWORK, frame_H=8, frame_W=16, batch_size=2, train_vi_len=5, bptt=2, interleave=2,
                 val_vi_len=12, num_epoch=3, tfr=0.5, tfr_per="frame", input_noise=0.05, save_minutes=0.0001,
                 per_save=1, num_workers=1, device="cpu", amp="off")
STARTED, RESUME, DONE = "the run is in", "--resume --save_root", "\ntest:    "
START_SECONDS = 3  # within which a signal comes that is to hit a start


def start_training(*words):
    """A training for a with statement, see `started`; all that it says, errors too, is in its `stdout`."""
    return started([sys.executable, ROOT / "Trainer.py", *words], text=True, stdout=subprocess.PIPE,
                   stderr=subprocess.STDOUT)


def train_undisturbed(data, folder):
    """Train to the end in `folder`; returns the seconds that it took after its start."""
    said = ""
    with start_training("--DR", data, *TRAINING, "--save_root", folder) as process:
        for line in process.stdout:
            said += line
            if STARTED in line:
                start = time.monotonic()
        if process.wait() != 0:
            raise SystemExit(f"the undisturbed training failed:\n{said}")
        return time.monotonic() - start


def differences(ours, theirs, place=""):
    """The places at which two nested values, with tensors in them, are not equal bit for bit."""
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        return [found for key in ours for found in differences(ours[key], theirs[key], f"{place} {key}")]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [found for key, pair in enumerate(zip(ours, theirs)) for found in differences(*pair, f"{place} {key}")]
    if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        equal = ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    else:
        equal = type(ours) is type(theirs) and ours == theirs
    return [] if equal else [place.strip()]


def without_times(checkpoint):
    """A checkpoint without its flags and its seconds."""
    rows = [{name: value for name, value in row.items() if name not in TIMES_COLUMNS[1:]} for row in checkpoint["rows"]]
    return {key: value for key, value in checkpoint.items() if key not in ("arguments", "seconds")} | {"rows": rows}


def differing_files(ours, theirs):
    """What of a finished run's folder is not as in the other's; the flags in a checkpoint and the seconds
    are left out."""
    found = [f"{path.name} is left over" for pattern in WRITTEN_IN_A_RUN for path in ours.glob(f".{pattern}.*.tmp")]
    for path in sorted(theirs.iterdir()):
        if path.suffix == ".csv" and path.name != "times.csv" and (ours / path.name).read_bytes() != path.read_bytes():
            found.append(path.name)
        elif path.suffix == ".ckpt":
            one, other = (without_times(load_checkpoint(folder / path.name)) for folder in (ours, theirs))
            found += [f"{path.name}: {place}" for place in differences(one, other)]
    return found


class Harness:
    """Disturbs trainings on the dataset `data`, in folders beside `whole`, the one of an undisturbed training
    that took `seconds`. `counts` says what happened, `wrong` what should not have."""

    def __init__(self, data, whole, seconds, number, seed=0):
        self.data, self.whole, self.seconds, self.number = data, whole, seconds, number
        self.random = random.Random(seed)
        self.counts, self.wrong = Counter(), []

    def torment(self, kills):
        """Train again and again, until there were so many kills and the last run is done."""
        while self.counts["kills"] < kills:
            folder = self.whole.with_name(f"run{self.counts['finished runs']}")
            while not self.train(folder, disturbed=self.counts["kills"] < kills):
                pass
            self.counts["finished runs"] += 1
            differing = differing_files(folder, self.whole)
            self.counts["finished runs that equal the undisturbed one"] += not differing
            self.wrong += [f"{folder}: {what}" for what in differing]

    def strike(self, process, folder, in_save):
        """Send the signal now or, `in_save`, as soon as the training is seen to write a checkpoint."""
        latest = time.monotonic() + 1
        while in_save and time.monotonic() < latest and not any(folder.glob(".*.ckpt.*.tmp")):
            pass
        process.send_signal(self.number)

    def run(self, words, folder, disturbed):
        """Train, with a signal at a random moment if `disturbed`; returns the status and all that was said."""
        at_start, in_save, part = self.random.random() < 0.15, self.random.random() < 0.3, self.random.random()
        delay = part * (START_SECONDS if at_start else 0.6 * self.seconds)
        with start_training(*words) as process:
            timer = Timer(delay, self.strike, [process, folder, in_save])
            if disturbed and at_start:
                timer.start()
            said = ""
            for line in process.stdout:
                said += line
                if STARTED in line and disturbed and not at_start:
                    timer.start()
            status = process.wait()
            timer.cancel()
        return status, said

    def train(self, folder, disturbed):
        """Start the training or go on with it; returns whether it came to its end."""
        last = folder / "last.ckpt"
        resumed = last.exists()
        before = last.stat().st_mtime_ns if resumed else None
        words = ["--resume"] if resumed else ["--DR", self.data, *TRAINING, "--overwrite"]
        words += ["--save_root", folder, "--num_workers", self.random.choice([0, 1, 3])]
        self.counts["resumes"] += resumed
        status, said = self.run(words, folder, disturbed)
        saved = last.exists() and last.stat().st_mtime_ns != before
        if status == 0 and DONE in said:
            return True
        stopped = status == 128 + self.number and RESUME in said and last.exists()
        at_once = status == -self.number and (self.number == signal.SIGKILL or not saved or DONE in said)
        if self.number == signal.SIGINT and not saved:
            at_once = True  # before the training takes note of signals, whatever Python and its libraries make of it
        if not disturbed or not (stopped or at_once):
            raise SystemExit(f"{folder}: ended with status {status}, having said:\n{said}")
        self.counts["kills"] += 1
        self.counts["kills before any checkpoint was there"] += not last.exists()
        self.counts["kills while starting, before the first step was saved"] += not saved
        self.counts["kills within training"] += saved
        self.counts["kills within a save (it left a temporary file)"] += any(folder.glob(".*.tmp"))
        return False


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="how many signals to send (default 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which they come")
    parser.add_argument("--signal", choices=["KILL", "TERM", "INT"], default="KILL")
    args = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        data, whole = Path(folder) / "dancer", Path(folder) / "undisturbed"
        make_dancer(data, frames=70, val_frames=20, test_sequences=1, test_frames=2, num_workers=1)
        seconds = train_undisturbed(data, whole)
        harness = Harness(data, whole, seconds, getattr(signal, f"SIG{args.signal}"), args.seed)
        harness.torment(args.kills)
    print(f"SIG{args.signal}, seed {args.seed}, {time.monotonic() - start:.0f} s")
    for name, count in sorted(harness.counts.items()):
        print(f"{count:5d} {name}")
    print("\n".join(harness.wrong) or "all equal, bit for bit")
    sys.exit(bool(harness.wrong))


if __name__ == "__main__":
    main()
