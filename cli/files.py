"""Files that are written whole or not at all, and what is said when they cannot be."""

import codecs
import errno
import glob
import json
import os
import re
import secrets
import shutil
import socket
import time
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import RunError, UsageError, is_away, remedy_of

OPEN_ELSEWHERE = {5, 32}  # Windows: a file cannot be replaced while another program has it open
WAITS = (0.1, 0.3, 1, 3, 6, 10, 10)  # seconds between the tries
NAMED_WAIT = 1  # the one of these after which the file is named
LEFTOVER_SECONDS = 3600
OF_FILE_MANAGERS = {"thumbs.db", "desktop.ini", ".ds_store", ".localized", ".directory"}
CLOSE_IT = "close the program that may have it open"
NOT_IN_UTF_8 = "backslashreplace"  # what becomes of a folder's name that is not, as from an archive in Big5
NOT_SUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}


def encoding_of(beginning):
    """The encoding of a text file that begins with these bytes: UTF-16, as PowerShell may write, or UTF-8."""
    return "utf-16" if beginning.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


def is_open_elsewhere(error):
    """Whether Windows answered so because another program has the file open."""
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
    write_bytes(path, text.encode(errors=NOT_IN_UTF_8))


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
        arguments = {"encoding": "utf-8", "errors": NOT_IN_UTF_8, **arguments}
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
        if error.errno not in NOT_SUPPORTED:  # some mounted drives have no fsync
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
            check_replaceable(flag, folder, kind, marker, ours, overwrite)
            _make_unfinished(unfinished, folder, replaced)
        yield unfinished
        if not overwrite and read_json_or_none(folder / marker) == read_json(unfinished / marker):
            return  # another process has made the same one meanwhile
        try:
            check_replaceable(flag, folder, kind, marker, ours, overwrite)  # others may have filled it meanwhile
            if folder.exists():
                _rename(folder, replaced)
            _rename(unfinished, folder)
        except (OSError, UsageError) as error:
            kept = _renamed_if_possible(unfinished, complete)  # no later process takes that for a leftover
            if isinstance(error, UsageError):
                raise RunError(f"{flag} {folder} holds something else by now; the {kind} is complete in {kept}: give "
                               "it another name") from None
            raise RunError(f"{flag} {folder} cannot be replaced ({error.strerror or error}); the {kind} is complete in "
                           f"{kept}: close what uses {folder}, remove it, and give the new one its "
                           "name") from None
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        if replaced.exists() and not folder.exists():
            _rename(replaced, folder)
        if not kept:
            shutil.rmtree(unfinished, ignore_errors=True)


def _resolved(flag, folder):
    """The full path of a folder; raises UsageError if it cannot be replaced, as a drive or the folder one is in."""
    folder = Path(folder).resolve()
    if not folder.name or folder == Path.cwd():
        raise UsageError(f"{flag} {folder} is a drive, or the folder that you are in; give a folder within it")
    return folder


def _make_unfinished(unfinished, folder, replaced):
    """Make the folder `unfinished`; raises OSError if `folder`, where it exists, cannot be renamed to `replaced`."""
    # What a killed process of this number has left: in a container every one has the number 1
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

    Windows tells so of a drive of WSL or of a virtual machine only when a file is to be locked.
    """
    try:
        lock.acquire(timeout=0)
    except OSError as error:
        if isinstance(error, Timeout) or error.errno not in NOT_SUPPORTED:
            raise
        return error.strerror or str(error)
    return None
