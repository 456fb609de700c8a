"""How a script ends: 0 when done, 2 on a user's mistake, 1 on a failed run, 128 + n on signal n."""

import errno
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

from .errors import FULL, RunError, Stopped, UsageError, is_full_memory, is_out_of_reach, remedy_of
from .signals import end_quietly

NOT_READ = {errno.EPIPE, errno.EIO, errno.EINVAL}  # Windows says EINVAL of a closed pipe


def run_script(main):
    """Call main() and end the process with the exit status that its exception asks for."""
    name = Path(sys.argv[0]).name
    if signal.getsignal(signal.SIGINT) is end_quietly:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for output in ("stdout", "stderr"):
        stream = getattr(sys, output) or open(os.devnull, "w", encoding="utf-8")  # None: it was closed from the start
        if hasattr(stream, "reconfigure"):  # a notebook's stream lacks it
            stream.reconfigure(line_buffering=True, errors="backslashreplace")  # a log file has each line at once
        setattr(sys, output, Output(stream.stream if isinstance(stream, Output) else stream))
    try:
        main()
        end_if_output_was_lost(name)
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
    except (RuntimeError, MemoryError) as error:  # where no remedy was named; see engine.devices.report_full_memory
        if not is_full_memory(error):
            raise
        print(f"{name}: stopped: memory is full; close other programs that use it", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def end_if_output_was_lost(name):
    """End the process with status 1 if something that the script of this name said could not be written."""
    if error := getattr(sys.stdout, "lost", None):
        print(f"{name}: all is done, but what it said could not all be written ({error.strerror}); {remedy_of(error)}",
              file=sys.stderr)
        sys.exit(1)


class Output:
    """An output stream that drops what cannot be written: a run and its files are worth more than what is said of them.

    Its terminal may be closed, or its `tee` ended: then nobody reads it. Or its log is on a full disk, or on a drive
    that is away: then `lost` is the error, to be told once the script is done.
    """

    def __init__(self, stream):
        self.stream, self.lost = stream, None

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text):
        with self._dropping():
            self.stream.write(text)
        return len(text)

    def flush(self):
        with self._dropping():
            self.stream.flush()

    @contextmanager
    def _dropping(self):
        try:
            yield
        except OSError as error:
            if error.errno in NOT_READ:
                return
            if not remedy_of(error):
                raise
            self.lost = self.lost or error
