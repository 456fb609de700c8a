"""Trainer.py with a BatchNorm that normalises by its running statistics in training too, for test_distributed.py:
on the CPU each process would take its own statistics. The clocks of the ranks are a second apart. Notes the process of
each rank in $PROCESSES/RANK, and the folder of its run in $PROCESSES/RANK.folder. After its first step it waits until
there is the file $HOLD, if that is set, or until it is asked to stop."""

import os
import sys
import time
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import torch
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import Trainer
from cli.script import run_script
from engine.saving import run_folder
from engine.saving.recorder import RunRecorder

RANK = int(os.environ.get("RANK", 0))


def frozen(self, x):
    return functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class Clock(datetime):
    @classmethod
    def now(cls):
        return datetime.now() + timedelta(seconds=RANK)


@contextmanager
def noted(*words, **named):
    with run_folder.open_run(*words, **named) as folder:
        (PROCESSES / f"{RANK}.folder").write_text(str(folder))
        yield folder


def hold(recorder, row, after_steps=RunRecorder.after_steps):
    after_steps(recorder, row)
    while not (Path(os.environ["HOLD"]).exists() or recorder.stop.signal_number):
        time.sleep(0.02)


if __name__ == "__main__":
    torch.nn.BatchNorm2d.forward = frozen
    run_folder.datetime = Clock
    if "PROCESSES" in os.environ:
        PROCESSES = Path(os.environ["PROCESSES"])
        (PROCESSES / str(RANK)).write_text(str(os.getpid()))
        Trainer.open_run = noted
    if "HOLD" in os.environ:
        RunRecorder.after_steps = hold
    run_script(Trainer.main)
