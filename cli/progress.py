"""How far a long job is: a bar on a terminal, and a line a minute in a log file or a notebook."""

import io
import os
import sys
import threading

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 60
LINE = "{desc}: {n_fmt} of {total_fmt} {unit}s, {elapsed} gone, {remaining} left{postfix}"

# tqdm's own lock is shared by processes; on a Mac, Python would say that a killed program leaked it
tqdm.set_lock(threading.RLock())


def bars_are_seen():
    """Whether somebody sees a bar: not in a log file, nor in a notebook, whose `!` commands have a hidden terminal."""
    return sys.stderr.isatty() and "JPY_PARENT_PID" not in os.environ  # a Jupyter kernel's commands inherit it


class Progress(tqdm):
    """A tqdm bar that becomes a plain line a minute where no terminal shows it. A short job then prints nothing."""

    def __init__(self, *arguments, total, unit, desc, disable=False, **settings):
        self.on_terminal = bars_are_seen()
        if not self.on_terminal:
            settings |= {"file": io.StringIO(), "miniters": 1, "mininterval": SECONDS_BETWEEN_LINES,
                         "maxinterval": 2 * SECONDS_BETWEEN_LINES, "delay": SECONDS_BETWEEN_LINES, "bar_format": LINE}
        super().__init__(*arguments, total=total, unit=unit, desc=desc, disable=disable, leave=False, **settings)

    def display(self, msg=None, pos=None):
        if self.on_terminal:
            return super().display(msg, pos)
        if msg != "":  # what clears a bar
            print(msg or self)
        return True
