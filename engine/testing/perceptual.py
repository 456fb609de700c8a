"""LPIPS, the distance of images in the features of a network (Zhang et al. 2018, arXiv:1801.03924). An extra."""

import sys
import warnings

import torch

from cli.errors import UsageError, needs_package

WEIGHTS = "alexnet-owt-7be5be79.pth"


def load_lpips(device):
    """The LPIPS of frames as a function like modules.metrics.psnr; lower is better.

    Raises UsageError if the package `lpips` or the weights of its AlexNet are missing.
    """
    import_transforms()  # lpips imports torchvision
    with needs_package("--lpips", "lpips", "lpips"):
        import lpips
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about how lpips calls torchvision
            network = lpips.LPIPS(net="alex", verbose=False).eval().to(device)
    except OSError as error:  # no network, and not downloaded before
        raise UsageError(f"--lpips: the weights of AlexNet cannot be downloaded ({error}); put torchvision's {WEIGHTS} "
                         f"into {torch.hub.get_dir()}/checkpoints, or leave --lpips out") from None

    @torch.inference_mode()
    def distance(prediction, target):
        images = (image.clamp(0, 1).to(device) for image in (prediction, target))
        return network(*images, normalize=True).flatten().cpu()

    return distance


def import_transforms():
    """Import torchvision, also beside a CPU-only torch; returns its transforms.

    torchvision from PyPI is a CUDA build. Beside a CPU build of torch its import fails while it registers the gradients
    of `nms` and `qnms`. Its transforms need no compiled operator, so declaring those two lets the import succeed. They
    are declared only after it has failed: they would clash with a torchvision that does load.
    """
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
    return transforms
