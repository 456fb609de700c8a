"""What every script shares: its flags, how it ends, files written whole or not at all."""

import os

os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")  # before torch loads: a Mac's CPU does what MPS cannot
