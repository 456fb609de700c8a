"""Folders that are made whole or not at all, and the lock of a folder that is in use."""

import glob
import os
import re
import shutil
import socket
import time
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import RunError, UsageError
from .files import NOT_SUPPORTED, make_folder, patiently, read_json, read_json_or_none, usable

ABANDONED_SECONDS = 24 * 3600  # the poses of a long film take hours, before anything is written
OF_FILE_MANAGERS = {"thumbs.db", "desktop.ini", ".ds_store", ".localized", ".directory"}


@contextmanager
def whole_folder(flag, folder, kind, marker, ours, overwrite):
    """Yield a new folder to fill, which becomes `folder` once it is complete and replaces one of its kind there.

    kind: what such a folder holds, for the messages. marker: a JSON file in every folder of this kind. ours: names of
    all entries that it may have. Raises UsageError if `folder` holds anything that must stay, or cannot be
    written; an error of what fills it stays what it is. Raises RunError, and leaves the complete folder beside it,
    if `folder` can no longer be replaced, or holds by now what must stay.
    """
    folder = _resolved(flag, folder)
    process = f"{socket.gethostname()}.{os.getpid()}"
    unfinished, replaced, complete = (folder.with_name(f".{folder.name}.{process}.{end}")
                                      for end in ("tmp", "old", "new"))
    kept = None
    try:
        with usable(flag, folder):
            _clear_leftovers(folder)
            check_replaceable(flag, folder, kind, marker, ours, overwrite)
            _make_unfinished(unfinished, folder, replaced)
        yield unfinished
        made = read_json(unfinished / marker)
        try:
            check_replaceable(flag, folder, kind, marker, ours, overwrite)  # others may have filled it meanwhile
            if folder.exists():
                _rename(folder, replaced)
            _rename(unfinished, folder)
        except (OSError, UsageError) as error:
            if not overwrite and read_json_or_none(folder / marker) == made:
                return  # another process has made the same one meanwhile; a network drive may show this only now
            kept = _renamed_if_possible(unfinished, complete)  # no later process takes that for a leftover
            raise _not_replaced(error, f"{flag} {folder}", f"the {kind} is complete in {kept}") from None
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        if replaced.exists() and not folder.exists():
            _rename(replaced, folder)
        if not kept:
            shutil.rmtree(unfinished, ignore_errors=True)


def _not_replaced(error, folder, complete):
    """The RunError that tells why a folder was not replaced, and where the complete one is."""
    if isinstance(error, UsageError):
        return RunError(f"{folder} holds something else by now; {complete}: give it another name")
    return RunError(f"{folder} cannot be replaced ({error.strerror or error}); {complete}: close what uses the old "
                    "one, remove it, and give the new one its name")


def _resolved(flag, folder):
    """The full path of a folder; raises UsageError if it cannot be replaced, as a drive or the folder one is in."""
    folder = Path(folder).resolve()
    if not folder.name or folder == Path.cwd():
        raise UsageError(f"{flag} {folder} is a drive, or the folder that you are in; give a folder within it")
    return folder


def _clear_leftovers(folder):
    """Take care of what killed processes have left beside a folder, as far as that can be done.

    What was there before, and is missing because one was killed while it replaced it, is brought back. The rest is
    removed, unless it was changed within the last ABANDONED_SECONDS: another process may be at it.
    """
    for path in folder.parent.glob(f".{glob.escape(folder.name)}.*"):
        kind = re.fullmatch(r"\.\d+\.(old|tmp)", path.name.removeprefix(f".{folder.name}.{socket.gethostname()}"))
        if not kind or not path.is_dir():
            continue
        try:
            if kind[1] == "old" and not folder.exists():
                _rename(path, folder)
                print(f"{folder} is back: an earlier try to replace it was cut off")
            elif time.time() - max(entry.stat().st_mtime for entry in (path, *path.glob("*/*"))) > ABANDONED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
        except OSError:  # another process has just renamed or removed it, or it cannot be brought back
            if kind[1] == "old" and path.exists() and not folder.exists():
                raise


def _make_unfinished(unfinished, folder, replaced):
    """Make the folder `unfinished`; raises OSError if `folder`, where it exists, cannot be renamed to `replaced`."""
    # Left by a killed process with the same PID: in a container the main process always has PID 1
    for leftover in (unfinished, replaced) if folder.exists() else (unfinished,):
        shutil.rmtree(leftover, ignore_errors=True)
    if folder.exists():  # a mounted one, or one in use on Windows, is told before the work
        _rename(folder, replaced)
        _rename(replaced, folder)
    unfinished.mkdir(parents=True)


def _renamed_if_possible(folder, target):
    """Rename a folder if that can be done; returns where it is then."""
    with suppress(OSError):
        return folder.rename(target)
    return folder


def _rename(folder, target):
    patiently(partial(folder.rename, target), path=folder)


def own_entries(folder):
    """Return the names of a folder's entries, without the files that file managers and cloud drives put into any.

    On a drive that is not its own macOS puts a ._name beside each name.
    """
    names = {entry.name for entry in folder.iterdir()}
    return {name for name in names if name.lower() not in OF_FILE_MANAGERS and not name.startswith("._")}


def check_replaceable(flag, folder, kind, marker, ours, overwrite):
    """Raise UsageError if a folder holds anything that must stay; see `whole_folder`."""
    folder = Path(folder)
    if not folder.exists():
        return
    names = own_entries(folder)
    if not names:
        return
    others = sorted(names - {marker, *ours})
    if read_json_or_none(folder / marker) is None:
        raise UsageError(f"{flag} {folder} exists and is not a {kind} made here; name a new folder")
    if others:
        raise UsageError(f"{flag} {folder} holds {others[0]} beside a {kind}; move that away, or name a new folder")
    if not overwrite:
        raise UsageError(f"{flag} {folder} holds a {kind} already; name a new folder or add --overwrite")


@contextmanager
def locked(flag, folder):
    """Make the folder that a flag names, and hold its lock; the lock ends with the process, however that ends.

    Raises UsageError naming the process that holds it. Where the file system has no locks, a note says so instead.
    """
    folder = make_folder(flag, folder)
    lock, holder = FileLock(folder / ".lock"), folder / ".lock_holder"
    with usable(flag, folder):
        try:
            reason = why_no_locks(folder / ".lock") or why_not_locked(lock)
        except Timeout:
            other = holder.read_text(encoding="utf-8") if holder.is_file() else "another process"
            raise UsageError(f"{flag} {folder} is in use by {other}; wait for it, or give another folder") from None
        if reason:
            print(f"note: {folder} is on a drive without locks ({reason}); start no second run in it")
        else:
            holder.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
    try:
        yield folder
    finally:
        lock.release()  # without effect where it is not held


def why_no_locks(path):
    """Return why the file system of a file has no locks, as some network drives have none; None if it has them."""
    try:
        import fcntl  # Windows has none: why_not_locked
    except ImportError:
        return None
    with open(path, "a+", encoding="utf-8") as file:  # to lock a file, NFS wants it open for reading
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # another process has it
            return None
        except OSError as error:
            return error.strerror or str(error)
    return None


def why_not_locked(lock):
    """Acquire a lock, or raise Timeout; returns why its file system has no locks, None if it has them.

    Of a drive of WSL or of a virtual machine Windows says only when a file is locked that there are none.
    """
    try:
        lock.acquire(timeout=0)
    except OSError as error:
        if isinstance(error, Timeout) or error.errno not in NOT_SUPPORTED:
            raise
        return error.strerror or str(error)
    return None
