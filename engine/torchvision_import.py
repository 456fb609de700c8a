"""Import torchvision, also beside a CPU-only torch: for its transforms, and for lpips.

torchvision from PyPI is a CUDA build. Beside a CPU build of torch its import fails while it registers the gradients of
`nms` and `qnms`. Its transforms need no compiled operator, so declaring those two lets the import succeed. Declared
beforehand they would clash with a torchvision that does load.
"""

import sys

import torch

try:
    from torchvision import transforms
except RuntimeError as error:
    if "torchvision::nms" not in str(error):
        raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from torchvision import transforms

__all__ = ["transforms"]
