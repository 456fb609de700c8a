"""Test-time augmentation: predict a frame from several shifted inputs, and take the mean. N views cost N times."""

import torch
from torch import nn

from .pixels import shifted

SIDEWAYS = 3  # pixels between two views: each meets the strided convolutions of the pyramid at other pixels


class MeanOfViews(nn.Module):
    """A model whose prediction is the mean over `views` copies of its input, copy i shifted by SIDEWAYS * i pixels.

    It takes the place of a VAE_Model in a rollout with z from the prior. A network that was trained with random shifts
    draws each copy as well as the others, and their errors differ. Krizhevsky et al. 2012 average over crops likewise.
    """

    def __init__(self, model, views):
        super().__init__()
        self.model, self.views = model, views

    def z_shape(self, height, width):
        return self.model.z_shape(height, width)

    def encode_labels(self, labels):
        """[B, 3, H, W] -> [views B, L, h, w]."""
        return self.model.encode_labels(shifted(self._copies(labels), self._shift(labels)))

    def step(self, frame, label_features, epsilon, current, temperature, shift=None):
        """See VAE_Model.step; label_features: of `encode_labels`. `current` and `shift` must be None."""
        assert current is None and shift is None, "views are for a rollout from the prior"
        sideways = self._shift(frame)
        step = self.model.step(shifted(self._copies(frame), sideways), label_features, self._copies(epsilon), None,
                               temperature, sideways)
        frames = shifted(step.frame, -sideways).unflatten(0, (self.views, len(frame)))  # [views, B, 3, H, W]
        return step._replace(frame=frames.mean(dim=0))

    def _copies(self, x):
        return x.repeat(self.views, *[1] * (x.ndim - 1))  # view by view, as `_shift`

    def _shift(self, x):
        return (SIDEWAYS * torch.arange(self.views, device=x.device)).repeat_interleave(len(x))  # [views B]
