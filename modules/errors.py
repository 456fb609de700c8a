"""A user's mistake, and how a script ends on one."""

import sys
from pathlib import Path


class UsageError(Exception):
    """A mistake of the user's: one line that names the flag or the file, and the remedy."""


def run_script(main):
    """Call main() and end the process: 0 when it returns, 2 with one line on a UsageError."""
    try:
        main()
    except UsageError as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.exit(2)
