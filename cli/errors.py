"""What can go wrong: a mistake of the user's, a run that fails, a signal, and what an OSError means."""

import errno
import os
from contextlib import contextmanager

# What a network or mounted drive answers while it is away for a moment
MOMENTARY = {getattr(errno, name) for name in ("EIO", "ENOTCONN", "ESTALE", "ETIMEDOUT", "EAGAIN", "EBUSY", "EHOSTDOWN",
                                               "EHOSTUNREACH", "ECONNABORTED", "ECONNRESET") if hasattr(errno, name)}
# and what Windows does: a network or a name on it gone, a time-out, a cloud folder that is not there
MOMENTARY_ON_WINDOWS = {59, 64, 121, 362, 426, 1231}
NOT_IN_A_NAME = set('<>"|?*')  # of a file on Windows
NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # a disk, or the user's share of it
LISTED = 10  # texts in a message
# What cuDNN says if no way to compute a convolution fits into memory, or if it has none at all
NO_ENGINE = "unable to find an engine"
DIVERGED = "the training has diverged"  # part of the message of an error that a second try would repeat


def is_away(error):
    """Whether this error says that a drive is away for a moment."""
    if error.errno in MOMENTARY or getattr(error, "winerror", None) in MOMENTARY_ON_WINDOWS:
        return True
    # On Windows open() and read() do not pass this number on. They say EINVAL, as they do for a name with a character
    # that is not allowed there.
    unknown = os.name == "nt" and error.errno == errno.EINVAL and getattr(error, "winerror", None) is None
    return unknown and NOT_IN_A_NAME.isdisjoint(str(error.filename))


def is_out_of_reach(error):
    """Whether a drive is away for a moment, or what it holds may not be used."""
    return is_away(error) or error.errno in NOT_ALLOWED


def is_full_memory(error):
    """Whether an error says that memory is full: on CUDA, on MPS or on a CPU, which raise different ones."""
    words = ("out of memory", "DefaultCPUAllocator", "bad_alloc", "ALLOC_FAILED", "ALLOCATION_FAILED",
             "Invalid buffer size", NO_ENGINE)
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def remedy_of(error):
    """What helps against an OSError, in words; None if it is none of the kinds that a machine or a drive causes."""
    if error.errno in FULL:
        return "make room"
    if error.errno == errno.ENOMEM:
        return "free some memory"
    return "check its permissions, or try again" if is_out_of_reach(error) else None


class UsageError(Exception):
    """A mistake of the user's: one line that names the flag or the file, and the remedy."""


class RunError(Exception):
    """A run that cannot continue, through no fault in its flags: one line that says where and why."""


class Stopped(BaseException):
    """A run ended by a signal, with everything saved that it needs to continue.

    It is no Exception, as KeyboardInterrupt is none: code that takes any error for a damaged file must not catch it.
    """

    def __init__(self, signal_number, message):
        super().__init__(message)
        self.signal_number = signal_number


def one_line(error):
    """What an error or a warning says first, in at most 120 characters; the name of its type if it says nothing."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0][:120]


def first_few(texts):
    """Join at most ten texts into one line, with the number of the others."""
    more = len(texts) - LISTED
    return "; ".join(texts[:LISTED]) + (f"; and {more} more" if more > 0 else "")


@contextmanager
def needs_package(flag, package, extra):
    """Raise UsageError if the import within fails: the flag needs this package, of requirements/<extra>.txt."""
    try:
        yield
    except ImportError:
        raise UsageError(f"{flag} needs the package {package}: pip install -r requirements/{extra}.txt") from None
