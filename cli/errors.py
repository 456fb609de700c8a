"""How a script ends: 0 when done, 2 on a user's mistake, 1 on a failed run, 128 + n on signal n."""

import errno
import signal
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

# What a network or mounted drive answers while it is away for a moment
MOMENTARY = {getattr(errno, name) for name in ("EIO", "ENOTCONN", "ESTALE", "ETIMEDOUT", "EAGAIN", "EBUSY", "EHOSTDOWN",
                                               "EHOSTUNREACH", "ECONNABORTED", "ECONNRESET") if hasattr(errno, name)}
# and what Windows does: a network or a name on it gone, a time-out, a cloud folder that is not there
MOMENTARY_ON_WINDOWS = {59, 64, 121, 362, 426, 1231}
NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # a disk, or the user's share of it
ONE_SIGNAL = 1  # second after a signal, within which others are taken for the same one
DIVERGED = "the training has diverged"  # part of the message of an error that a second try would repeat


def is_away(error):
    """Whether a drive answered so because it is away for a moment."""
    return error.errno in MOMENTARY or getattr(error, "winerror", None) in MOMENTARY_ON_WINDOWS


def is_out_of_reach(error):
    """Whether a drive is away for a moment, or what it holds may not be used."""
    return is_away(error) or error.errno in NOT_ALLOWED


def remedy_of(error):
    """What helps against an OSError, in words; None if it is none of the kinds that a machine or a drive causes."""
    if error.errno in FULL:
        return "make room"
    if error.errno == errno.ENOMEM:
        return "free some memory"
    return "allow it, or try again" if is_out_of_reach(error) else None


class UsageError(Exception):
    """A mistake of the user's: one line that names the flag or the file, and the remedy."""


class RunError(Exception):
    """A run that cannot continue, through no fault in its flags: one line that says where and why."""


def one_line(error):
    """What an error or a warning says first, in at most 120 characters; the name of its type if it says nothing."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0][:120]


@contextmanager
def needs_package(flag, package, extra):
    """Raise UsageError if the import within fails: the flag needs this package, of requirements/<extra>.txt."""
    try:
        yield
    except ImportError:
        raise UsageError(f"{flag} needs the package {package}: pip install -r requirements/{extra}.txt") from None


class Stopped(Exception):
    """A run ended by a signal, with everything saved that it needs to continue."""

    def __init__(self, signal_number, message):
        super().__init__(message)
        self.signal_number = signal_number


def ending_signals():
    """Return the signals that end a program from outside: SIGTERM, and SIGHUP unless it is ignored."""
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # Windows has none
        return [signal.SIGTERM, signal.SIGHUP]
    return [signal.SIGTERM]


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
    """Let SIGTERM and SIGHUP raise Stopped with this message, so that what is unfinished is removed, as at Ctrl-C.

    at_ctrl_c: let SIGINT do so too. A second one quits at once.
    """
    def stop(number):
        raise Stopped(number, message)

    handle_first(ending_signals() + [signal.SIGINT] * at_ctrl_c, stop)


class StopSignals:
    """Note the first SIGINT, SIGTERM or SIGHUP, so that the run can be saved; a second one quits at once.

    SIGHUP, which a closed terminal sends, stays ignored under nohup.
    """

    def __init__(self):
        self.signal_number = None
        handle_first([signal.SIGINT, *ending_signals()], self._note)

    def _note(self, number):
        self.signal_number = number
        with suppress(OSError, RuntimeError):  # the signal may have come while something was printed
            print("saving; a second signal quits at once", file=sys.stderr, flush=True)


class Output:
    """An output stream that drops what is written once nobody reads it: its terminal is closed, or its `tee` ended."""

    def __init__(self, stream):
        self.stream = stream

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text):
        with unless_unread():
            self.stream.write(text)
        return len(text)

    def flush(self):
        with unless_unread():
            self.stream.flush()


@contextmanager
def unless_unread():
    """Ignore a write that fails because nobody reads the output any more; raise any other error, as of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO, errno.EINVAL):  # Windows says EINVAL of a closed pipe
            raise


def end_quietly_at_ctrl_c():
    """Let Ctrl-C end the program without a traceback until `run_script`: while torch is loaded, which takes seconds."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not in the background of a shell script
        signal.signal(signal.SIGINT, _end_quietly)


def _end_quietly(number, _):
    signal.signal(number, signal.default_int_handler)  # a notebook's process goes on
    print(f"{Path(sys.argv[0]).name}: interrupted", file=sys.stderr)
    sys.exit(128 + number)


def run_script(main):
    """Call main() and end the process with the exit status that its exception asks for."""
    name = Path(sys.argv[0]).name
    if signal.getsignal(signal.SIGINT) is _end_quietly:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for output in ("stdout", "stderr"):
        stream = getattr(sys, output)
        if hasattr(stream, "reconfigure"):  # a notebook's stream lacks it
            stream.reconfigure(line_buffering=True, errors="backslashreplace")  # a log file has each line at once
        if not isinstance(stream, Output):
            setattr(sys, output, Output(stream))
    try:
        main()
    except UsageError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except RunError as error:
        print(f"{name}: stopped: {error}", file=sys.stderr)
        sys.exit(1)
    except Stopped as stopped:
        print(f"{name}: {stopped}", file=sys.stderr)
        sys.exit(128 + stopped.signal_number)
    except OSError as error:  # where no file was named; see cli.files.writing
        remedy = remedy_of(error)
        if not remedy or is_out_of_reach(error) and not error.filename:  # a bug of ours
            raise
        done = "written" if error.errno in FULL else "used"
        print(f"{name}: stopped: {error.filename or 'a file'} cannot be {done} ({error.strerror}); what was saved "
              f"before is intact; {remedy}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
