"""How a script is stopped from outside: by Ctrl-C, by its terminal being closed, or by another program."""

import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from .errors import Stopped

ONE_SIGNAL = 1  # second after a signal, within which others are taken for the same one


def ending_signals():
    """Return the signals that end a program from outside: SIGTERM and, unless they are ignored, three others.

    SIGHUP comes when its terminal is closed, SIGUSR1 or SIGUSR2 from the scheduler of a cluster before the time ends.
    Windows has none of the three.
    """
    others = [getattr(signal, name) for name in ("SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
    return [signal.SIGTERM, *(number for number in others if signal.getsignal(number) != signal.SIG_IGN)]


def handle_first(numbers, act):
    """Call act(number) at the first of these signals; one that comes more than ONE_SIGNAL later quits at once.

    One event may send several: a closed terminal is told by the shell and by the kernel, a process of a group by the
    manager of the group and by the process that started it.
    """
    first = None  # when it came

    def handle(number, _):
        nonlocal first
        if first is None:
            first = time.monotonic()
            act(number)
        elif time.monotonic() - first > ONE_SIGNAL:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    for number in numbers:
        signal.signal(number, handle)


def raise_stopped(message, at_ctrl_c=False):
    """Let the `ending_signals` raise Stopped with this message, so that what is unfinished is removed, as at Ctrl-C.

    at_ctrl_c: let SIGINT do so too. A second one quits at once.
    """
    def stop(number):
        raise Stopped(number, message)

    handle_first(ending_signals() + [signal.SIGINT] * at_ctrl_c, stop)


class StopSignals:
    """Note the first SIGINT or other ending signal, so that the run can be saved; a second one quits at once.

    SIGHUP, which a closed terminal sends, stays ignored under nohup.
    """

    def __init__(self):
        self.signal_number = None
        handle_first([signal.SIGINT, *ending_signals()], self._note)

    def _note(self, number):
        self.signal_number = number
        with suppress(OSError, RuntimeError):  # the signal may have come while something was printed
            print("saving; a second signal quits at once", file=sys.stderr, flush=True)


def end_quietly_at_ctrl_c():
    """Let Ctrl-C end the program without a traceback until `run_script`: while torch is loaded, which takes seconds."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not in the background of a shell script
        signal.signal(signal.SIGINT, end_quietly)


def end_quietly(number, _):
    signal.signal(number, signal.default_int_handler)  # a notebook's process does not end here
    print(f"{Path(sys.argv[0]).name}: interrupted", file=sys.stderr)
    sys.exit(128 + number)
