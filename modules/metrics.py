"""How good a generated video is."""

import math
from functools import partial

import torch

from .pixels import evenly_spread, to_unit

PERFECT_PSNR = 100.0
PERSON_DIFFERENCE = 0.1  # of 1: a pixel that differs by more from the background, in any channel, shows the person
MIN_PERSON = 0.01  # of the pixels: a frame that shows less of the person is not counted as one with a person


def psnr(prediction, target):
    """PSNR in dB of each frame: [..., 3, H, W] -> [...], of images in [0, 1] or uint8.

    The prediction is clamped to [0, 1] first. The PSNR is capped at 100 dB, so that a perfect frame is not infinite.
    """
    return _decibel(_squared_error(prediction, target).mean(dim=(-3, -2, -1)))


def channel_psnr(prediction, target):
    """The mean over the three channels of the PSNR of each, in dB: [..., 3, H, W] -> [...]; see `psnr`.

    This is what SVG (Denton & Fergus 2018) and SRVP (Franceschi et al. 2020, arXiv:2002.09219) report.
    """
    return _decibel(_squared_error(prediction, target).mean(dim=(-2, -1))).mean(dim=-1)


def _squared_error(prediction, target):
    return (to_unit(prediction).clamp(0, 1) - to_unit(target)).square()


def _decibel(error):
    return -10 * torch.log10(error.clamp(min=10 ** (-PERFECT_PSNR / 10)))


def ssim(prediction, target):
    """SSIM of each frame, floats in [0, 1] [..., 3, H, W] -> [...]: mean over channels and places of the window.

    The window is where it fits into the frame; the prediction is clamped. Wang et al. 2004: Gaussian window of
    11 x 11, sigma 1.5, K 0.01 and 0.03. A frame with a side below 11 takes the largest odd window that fits.
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


def in_chunks(metric, prediction, target, chunk=64):
    """Apply a metric to videos [T, 3, H, W] a few frames at a time, which takes less memory; returns [T]."""
    pairs = zip(prediction.split(chunk), target.split(chunk))
    return torch.cat([metric(to_unit(predicted), to_unit(true)) for predicted, true in pairs])


def median_frame(videos):
    """Return the median over up to 256 frames of videos, [T, 3, H, W] each, uint8 or in [0, 1]: [3, H, W] in [0, 1].

    It shows the background: a person who moves about covers each pixel for less than half of the time.
    """
    frames = [frame for video in videos for frame in video]
    return to_unit(torch.stack([frames[t] for t in evenly_spread(len(frames), 256)])).median(dim=0).values


def person_psnr(prediction, target, background):
    """PSNR in dB over the pixels in which each target frame differs from the background: [..., 3, H, W] -> [...].

    A large still background raises the PSNR of a whole frame, whatever becomes of the person. background: [3, H, W]
    in [0, 1]. NaN for a frame without a person.
    """
    person = ((to_unit(target) - background).abs() > PERSON_DIFFERENCE).any(dim=-3)  # [..., H, W]
    error = _squared_error(prediction, target).mean(dim=-3)
    mean_error = (error * person).sum(dim=(-2, -1)) / person.sum(dim=(-2, -1))
    return torch.where(person.float().mean(dim=(-2, -1)) >= MIN_PERSON, _decibel(mean_error), torch.nan)


def psnr_per_frame(predictions, targets):
    """PSNR in dB of the frames 1..T-1 of each video: a list of [T-1]; see `summarise`."""
    return [in_chunks(psnr, prediction[1:], target[1:]) for prediction, target in zip(predictions, targets)]


def summarise(predictions, targets):
    """Return PSNR (dB) and SSIM of generated videos: means over the frames 1..T-1 of each, then over the videos.

    predictions, targets: [T, 3, H, W] each, in [0, 1] or uint8; frame 0 is the given one. `psnr_first_100` and
    `psnr_last_100` are of the first and the last 100 generated frames of a video: they show its drift. `psnr_person`
    is that of `person_psnr`, over the frames with a person; left out if no frame has one. It takes all videos to be of
    one place, filmed by a camera that stands still.
    """
    of_person, scores = partial(person_psnr, background=median_frame(targets)), []
    for prediction, target, per_frame in zip(predictions, targets, psnr_per_frame(predictions, targets)):
        prediction, target = prediction[1:], target[1:]
        scores.append({"psnr": per_frame.mean(), "ssim": in_chunks(ssim, prediction, target).mean(),
                       "psnr_first_100": per_frame[:100].mean(), "psnr_last_100": per_frame[-100:].mean(),
                       "psnr_person": in_chunks(of_person, prediction, target).nanmean()})
    columns = {name: torch.stack([of_video[name] for of_video in scores]) for name in scores[0]}
    person = columns.pop("psnr_person").nanmean().item()
    means = {name: column.mean().item() for name, column in columns.items()}
    return means if math.isnan(person) else {**means, "psnr_person": person}
