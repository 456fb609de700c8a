"""Files that are written whole or not at all, and what is said when they cannot be."""

import json
import os
import socket
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import RunError, UsageError


@contextmanager
def writing(path):
    """Turn an OSError into a RunError that names the file (a failed write() does not)."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error.strerror or error}); "
                       "what was saved before is intact") from None


@contextmanager
def atomic_write(path, mode="wb", **arguments):
    """Open a temporary file beside `path`, and move it to `path` once it is complete.

    After a crash at any moment `path` is either the old file or the new one. Raises RunError if it cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path):
            with open(temporary, mode, **arguments) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def usable(flag, path):
    """Turn an OSError into a UsageError that asks for another file or folder."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{flag} {path} cannot be written ({error.strerror or error}); give another one") from None


def make_folder(flag, folder):
    """Make the folder that a flag names, unless it is there; returns its Path."""
    with usable(flag, folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder)


@contextmanager
def locked(flag, folder):
    """Make the folder that a flag names, and hold its lock; the lock ends with the process, however that ends.

    Raises UsageError naming the process that holds it.
    """
    folder = make_folder(flag, folder)
    lock, holder = FileLock(folder / ".lock"), folder / ".lock_holder"
    with usable(flag, folder):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            other = holder.read_text() if holder.is_file() else "another process"
            raise UsageError(f"{flag} {folder} is in use by {other}; wait for it, or give another folder") from None
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}")
    try:
        yield folder
    finally:
        lock.release()


def write_json(path, content):
    with atomic_write(path, "w") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
