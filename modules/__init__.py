"""The five networks of the conditional VAE, and what trains, rolls out and measures them.

`from modules import Generator` and the like import torch when they are first asked for, so that
`modules.schedules` and `modules.options` stay usable by programs that draw plots without torch.
"""

from importlib import import_module

_HOME = {
    "RGB_Encoder": "networks",
    "Label_Encoder": "networks",
    "Gaussian_Predictor": "networks",
    "Decoder_Fusion": "networks",
    "Generator": "networks",
    "VAE_Model": "model",
}
__all__ = list(_HOME)


def __getattr__(name):
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
