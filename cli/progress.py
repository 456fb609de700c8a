"""How far a long job is: a bar on a terminal, and a line a minute in a log file or a notebook."""

import io
import os
import sys
import threading

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 60
tqdm.set_lock(threading.RLock())  # its own is for processes, and a killed program would be told to have leaked it
LINE = "{desc}: {n_fmt} of {total_fmt} {unit}s, {elapsed} gone, {remaining} left{postfix}"


class Progress(tqdm):
    """A tqdm bar that becomes a plain line a minute where no terminal shows it. A short job then prints nothing."""

    def __init__(self, *arguments, total, unit, desc, disable=False, **settings):
        # the commands of a notebook have a terminal that nobody sees; its kernel is told by JPY_PARENT_PID
        self.on_terminal = sys.stderr.isatty() and "JPY_PARENT_PID" not in os.environ
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
