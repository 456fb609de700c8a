"""Convert images between uint8 pixels and floats in [0, 1], shift them sideways, and choose some, evenly spread."""

import torch


def to_unit(image):
    """uint8 -> float32 in [0, 1]; a float image is returned as it is."""
    return image if image.is_floating_point() else image.float().div_(255)


def to_uint8(image):
    """Float in [0, 1] -> uint8, clamped and rounded as in the course's submission."""
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)


def evenly_spread(count, at_most):
    """Indices of at most `at_most` of `count` things, evenly spread from the first to the last."""
    return torch.linspace(0, count - 1, min(at_most, count)).long()


def shifted(images, shift):
    """Shift the images of each clip to the right; what leaves on that side enters on the other.

    images: [B, ..., W]. shift: in pixels, int64 [B]; negative: to the left.
    """
    width = images.shape[-1]
    source = (torch.arange(width, device=images.device) - shift[:, None]) % width  # [B, W]
    return images.gather(-1, source.view(len(images), *[1] * (images.ndim - 2), width).expand_as(images))
