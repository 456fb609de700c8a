"""Files that are written whole or not at all, and what is said when they cannot be."""

import codecs
import errno
import glob
import json
import os
import re
import secrets
import time
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from .errors import RunError, UsageError, is_away, remedy_of

OPEN_ELSEWHERE = {5, 32}  # Windows: a file cannot be replaced while another program has it open
WAITS = (0.1, 0.3, 1, 3, 6, 10, 10)  # seconds between the tries
NAMED_WAIT = 1  # the one of these after which the file is named
LEFTOVER_SECONDS = 3600
CLOSE_IT = "close the program that may have it open"
ENCODING_ERRORS = "backslashreplace"  # the name of a folder, say from an archive in Big5, may not fit UTF-8
NOT_SUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}
NOT_FLUSHED_ON_WINDOWS = errno.EBADF  # what it answers whenever it cannot force a file to the disk


def encoding_of(beginning):
    """The encoding of a text file that begins with these bytes: UTF-16, as PowerShell may write, or UTF-8."""
    return "utf-16" if beginning.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


def is_open_elsewhere(error):
    """Whether this error, of Windows, says that another program has the file open."""
    return getattr(error, "winerror", None) in OPEN_ELSEWHERE


def patiently(action, may_pass=is_open_elsewhere, path=None):
    """Call `action()`, and again for half a minute while it fails with an OSError that may pass.

    path: the file or folder that another program may have open, to be named once it takes longer than a virus scanner.
    """
    for seconds in WAITS:
        try:
            return action()
        except OSError as error:
            if not may_pass(error):
                raise
            if path and seconds == NAMED_WAIT:
                print(f"waiting for {path}, which another program has open")
            time.sleep(seconds)
    return action()


def remove_file(path):
    """Remove a file, unless it is gone; wait while another program has it open."""
    patiently(partial(path.unlink, missing_ok=True), path=path)


@contextmanager
def writing(path):
    """Turn an OSError into a RunError that names the file (a failed write() does not)."""
    try:
        yield
    except OSError as error:
        remedy = CLOSE_IT if is_open_elsewhere(error) else remedy_of(error)
        raise RunError(f"{path} cannot be written ({error.strerror or error}); what was saved before is intact"
                       + (f"; {remedy}" if remedy else "")) from None


@contextmanager
def atomic_write(path, mode="wb", **arguments):
    """Open a temporary file beside `path`, and move it to `path` once it is complete.

    After a crash at any moment `path` is either the old file or the new one. Raises RunError if it cannot be written.
    """
    with writing(path), _moved_when_complete(Path(path), mode, **arguments) as file:
        yield file


def write_whole(path, fill, mode="wb", **arguments):
    """Write a file by fill(file) like atomic_write, and again for half a minute while its drive is away."""
    def write():
        with _moved_when_complete(Path(path), mode, **arguments) as file:
            fill(file)

    with writing(path):
        patiently(write, is_away)


def write_bytes(path, content):
    """Write bytes as a file, see write_whole."""
    write_whole(path, lambda file: file.write(content))


def write_text(path, text):
    """Write text like write_bytes, in UTF-8."""
    write_bytes(path, text.encode(errors=ENCODING_ERRORS))


def read_json(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def read_json_or_none(path):
    """Read a JSON file; None if it is missing, or is not JSON."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None


def write_json(path, content):
    write_text(path, json.dumps(content, indent=2) + "\n")


@contextmanager
def _moved_when_complete(path, mode, **arguments):
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")  # in a container every process is number 1
    if "b" not in mode:
        arguments = {"encoding": "utf-8", "errors": ENCODING_ERRORS, **arguments}
    try:
        with open(temporary, mode, **arguments) as file:
            yield file
            file.flush()
            _force_to_disk(file)
        patiently(partial(os.replace, temporary, path), path=path)
        remove_leftovers(path.parent, glob.escape(path.name))
    finally:
        with suppress(OSError):  # the first error is the one to report
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder, pattern, idle_seconds=LEFTOVER_SECONDS):
    """Remove what killed processes have left of files of this pattern, as far as that can be done.

    A file that was written to within the last `idle_seconds` stays: another process may be at it.
    """
    with suppress(OSError):
        for path in folder.glob(".*.tmp"):
            name = re.fullmatch(r"\.(.+)\.[0-9a-f]+\.tmp", path.name, re.DOTALL)
            if not name or not fnmatchcase(name[1], pattern):
                continue
            with suppress(OSError):  # on Windows another program may have it open
                if time.time() - path.stat().st_mtime > idle_seconds:
                    path.unlink()


def _force_to_disk(file):
    try:
        os.fsync(file.fileno())
    except OSError as error:
        tolerated = NOT_SUPPORTED | ({NOT_FLUSHED_ON_WINDOWS} if os.name == "nt" else set())
        if error.errno not in tolerated:  # some mounted drives have no fsync
            raise


@contextmanager
def usable(flag, path):
    """Turn an OSError into a UsageError that asks for another file or folder."""
    try:
        yield
    except OSError as error:
        remedy = f"{CLOSE_IT}, or " if is_open_elsewhere(error) else ""
        raise UsageError(f"{flag} {path} cannot be written ({error.strerror or error}); {remedy}give another "
                         "one") from None


def make_folder(flag, folder):
    """Make the folder that a flag names, unless it is there; returns its Path."""
    with usable(flag, folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder)


def check_output(flag, path, suffix):
    """Raise UsageError unless a flag names a file with this suffix that can be written; makes its folder."""
    if Path(path).suffix.lower() != suffix or Path(path).is_dir():
        raise UsageError(f"{flag} {path} does not end in {suffix}, or is a folder; give the name of a {suffix} file")
    check_writable(make_folder(flag, Path(path).parent), f"give {flag} a file in another folder")


def check_writable(folder, remedy):
    """Raise UsageError, with this remedy, if nothing may be written into a folder."""
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{folder} cannot be written (no permission); {remedy}")
