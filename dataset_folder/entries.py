"""What is in a folder, or why that cannot be told."""

import errno
import os

from cli.errors import RunError, UsageError, is_away, is_out_of_reach
from cli.files import patiently


def is_folder(path):
    return exists(path) and path.is_dir()


def exists(path):
    """Whether a file or folder is there; raises UsageError if it is a dead link, or if permissions hide it."""
    try:
        patiently(path.stat, is_away)
    except OSError as error:
        if is_out_of_reach(error):
            raise unreadable_error(path, error) from None
        refuse_dead_link(path)
        return False
    except ValueError:  # no name of a file
        return False
    return True


def entries_of(folder):
    """A folder's entries, sorted by their names; raises UsageError, or RunError while its drive is away."""
    try:
        return sorted(patiently(lambda: list(os.scandir(folder)), is_away), key=lambda entry: entry.name)
    except OSError as error:
        raise unreadable_error(folder, error) from None


def is_ours(name):
    """Whether an entry belongs to the dataset: not hidden, and none that systems add, as __MACOSX or @eaDir."""
    return name[0] not in "._@$#" and name != "lost+found"


def unreadable_error(path, error):
    """The error to raise for a file or folder that is there and cannot be read."""
    if is_away(error):
        return RunError(f"{printable(path)} cannot be read ({error.strerror}); its drive may be away: try again")
    said = f"{printable(path)} cannot be read ({error.strerror or error})"
    return UsageError(f"{said}; check its permissions, or give another folder")


def refuse_dead_link(path):
    """Raise UsageError if a path, or a folder that it is in, is a link that leads nowhere."""
    for place in [*path.parents[::-1], path]:
        try:
            place.stat()
        except OSError as error:
            if os.path.islink(place):
                kind = "an endless link" if error.errno == errno.ELOOP else "a broken link"
                raise UsageError(f"{printable(place)} is {kind}; replace it, or remove it") from None
            return


def printable(text):
    """Return a name as text in one line; a line break may be in a file's name."""
    return str(text) if str(text).isprintable() else repr(str(text))
