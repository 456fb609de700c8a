"""LPIPS, the distance of images in the features of a network (Zhang et al. 2018, arXiv:1801.03924). An extra."""

import warnings

import torch

from cli.errors import UsageError

WEIGHTS = "alexnet-owt-7be5be79.pth"


def load_lpips(device):
    """The LPIPS of frames as a function like modules.metrics.psnr; lower is better.

    Raises UsageError if the package `lpips` or the weights of its AlexNet are missing.
    """
    from . import torchvision_import  # noqa: F401, because lpips imports torchvision

    try:
        import lpips
    except ImportError:
        raise UsageError("--lpips needs the package lpips: pip install -r requirements/lpips.txt") from None
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
