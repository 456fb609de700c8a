"""Convert images between uint8 pixels and floats in [0, 1]."""

import torch


def to_unit(image):
    """uint8 -> float32 in [0, 1]; a float image is returned as it is."""
    return image if image.is_floating_point() else image.float().div_(255)


def to_uint8(image):
    """Float in [0, 1] -> uint8, clamped and rounded as in the course's submission."""
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)
