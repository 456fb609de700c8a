"""Report bfloat16 arithmetic as present or absent, whatever the processor has, in this and every child process.

    BFLOAT16=1 PYTHONPATH=tests/pretend_bfloat16 .venv/bin/python -m pytest -q tests
    BFLOAT16=0 PYTHONPATH=tests/pretend_bfloat16 .venv/bin/python -m pytest -q tests

Python imports a module of this name at every start. The test suite must pass both ways.
"""

import os
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.util import find_spec


class PatchedTorch(MetaPathFinder, Loader):
    """Loads torch.cpu, then replaces its list of what the processor can do."""

    def find_spec(self, name, path, target=None):
        if name != "torch.cpu":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        self.loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        self.loader.exec_module(module)
        present = os.environ.get("BFLOAT16") == "1"
        module.get_capabilities = lambda: {"avx2": True, "avx512_bf16": present, "amx_bf16": False, "bf16": False}


sys.meta_path.insert(0, PatchedTorch())
