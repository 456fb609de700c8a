"""What every script shares: its flags, how it ends, files written whole or not at all."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

SCRIPTS = {"Trainer.py", "Tester.py", "Plotting.py", "Preparer.py", "Study.py"}
OLDEST_PYTHON = (3, 11)
NEEDED = ("torch", "numpy", "PIL", "imageio", "matplotlib", "tqdm", "filelock")  # by the scripts, sooner or later

os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")  # before torch loads: a Mac's CPU does what MPS cannot


def _check_packages():
    """End one of the scripts with a line that says that this Python is too old, or which packages it lacks."""
    script = Path(sys.argv[0]).name if sys.argv else ""
    if script not in SCRIPTS:
        return
    if sys.version_info < OLDEST_PYTHON:
        needed = ".".join(map(str, OLDEST_PYTHON))
        print(f"{script}: error: this is Python {sys.version.split()[0]}; start it with {needed} or newer",
              file=sys.stderr)
        sys.exit(2)
    missing = [name for name in NEEDED if name not in sys.modules and find_spec(name) is None]
    if missing:
        python = r".venv\Scripts\python" if os.name == "nt" else ".venv/bin/python"
        print(f"{script}: error: this Python lacks {', '.join(missing)}; use that of the environment, as in {python}, "
              "or run pip install -r requirements.txt", file=sys.stderr)
        sys.exit(2)


_check_packages()
