"""How good a generated video is."""

import torch

from .pixels import to_unit

PERFECT_PSNR = 100.0


def psnr(prediction, target):
    """PSNR in dB of each frame: [..., 3, H, W] -> [...], of images in [0, 1] or uint8.

    The prediction is clamped to [0, 1] first. The PSNR is capped at 100 dB, so that a perfect frame is not infinite.
    """
    error = (to_unit(prediction).clamp(0, 1) - to_unit(target)).square().mean(dim=(-3, -2, -1))
    return _decibel(error)


def channel_psnr(prediction, target):
    """The mean over the three channels of the PSNR of each, in dB: [..., 3, H, W] -> [...]; see `psnr`.

    This is what SVG (Denton & Fergus 2018) and SRVP (Franceschi et al. 2020, arXiv:2002.09219) report.
    """
    error = (to_unit(prediction).clamp(0, 1) - to_unit(target)).square().mean(dim=(-2, -1))
    return _decibel(error).mean(dim=-1)


def _decibel(error):
    return -10 * torch.log10(error.clamp(min=10 ** (-PERFECT_PSNR / 10)))


def ssim(prediction, target):
    """SSIM of each frame, [..., 3, H, W] -> [...], mean over channels and over the places where the window fits.

    Wang et al. 2004: Gaussian window of 11 x 11, sigma 1.5, K 0.01 and 0.03. A frame with a side below 11 takes the
    largest odd window that fits.
    """
    x, y = prediction.clamp(0, 1), target
    size = min(11, *(side - 1 + side % 2 for side in x.shape[-2:]))
    offsets = torch.arange(size, dtype=x.dtype, device=x.device) - size // 2
    window = torch.exp(-(offsets**2) / (2 * 1.5**2))
    window = window / window.sum()

    def band(side):  # [side - size + 1, side]: the window at each of its places, so that blurring is a product
        rows = torch.arange(side - size + 1, device=x.device)[:, None]
        matrix = x.new_zeros(len(rows), side)
        return matrix.scatter_(1, rows + torch.arange(size, device=x.device), window.expand(len(rows), size))

    vertical, horizontal = band(x.shape[-2]), band(x.shape[-1]).T

    def blur(image):
        return vertical @ (image @ horizontal)

    mean_x, mean_y = blur(x), blur(y)
    variance_x = blur(x * x) - mean_x**2
    variance_y = blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))
    return similarity.mean(dim=(-3, -2, -1))


def in_chunks(metric, prediction, target, frames=64):
    """Apply a metric to videos [T, 3, H, W] a few frames at a time, which takes less memory; returns [T]."""
    pairs = zip(prediction.split(frames), target.split(frames))
    return torch.cat([metric(to_unit(predicted), to_unit(true)) for predicted, true in pairs])


def psnr_per_frame(predictions, targets):
    """PSNR in dB of the frames 1..T-1 of each video: a list of [T-1]; see `summarise`."""
    return [in_chunks(psnr, prediction[1:], target[1:]) for prediction, target in zip(predictions, targets)]


def summarise(predictions, targets):
    """PSNR (dB) and SSIM of generated videos, means over the frames 1..T-1 of each, then over the videos.

    predictions, targets: [T, 3, H, W] each, in [0, 1] or uint8; frame 0 is the given one. `psnr_first_100` and
    `psnr_last_100` are of the first and the last 100 generated frames of a video: they show its drift.
    """
    rows = []
    for prediction, target, per_frame in zip(predictions, targets, psnr_per_frame(predictions, targets)):
        similarity = in_chunks(ssim, prediction[1:], target[1:])
        rows.append([per_frame.mean(), similarity.mean(), per_frame[:100].mean(), per_frame[-100:].mean()])
    means = torch.tensor(rows).mean(dim=0).tolist()
    return dict(zip(("psnr", "ssim", "psnr_first_100", "psnr_last_100"), means))
