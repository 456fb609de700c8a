"""What every script shares: its flags, how it ends, files written whole or not at all."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

NEEDED = ("torch", "numpy", "PIL", "imageio", "matplotlib", "tqdm", "filelock")  # by every script, sooner or later

os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")  # before torch loads: a Mac's CPU does what MPS cannot

if missing := [name for name in NEEDED if find_spec(name) is None]:
    print(f"{Path(sys.argv[0]).name}: error: this Python lacks {', '.join(missing)}; use that of the environment, as in "
          ".venv/bin/python, or run pip install -r requirements.txt", file=sys.stderr)
    sys.exit(2)
