"""An ensemble: predict a frame with several networks, and take the mean. N networks cost N times."""

import math

import torch
from torch import nn


class MeanOfModels(nn.Module):
    """A model whose prediction is the mean of those of several VAE_Models, which may be of different dimensions.

    It takes the place of a VAE_Model in a rollout with z from the prior; each of them has a z of its own. Networks that
    were trained from different seeds err differently (deep ensembles; Lakshminarayanan et al. 2017, arXiv:1612.01474).
    """

    def __init__(self, models):
        super().__init__()
        self.models = nn.ModuleList(models)

    def z_shape(self, height, width):
        """Shape [n] of all that the z of the models have, one after the other."""
        return (sum(math.prod(model.z_shape(height, width)) for model in self.models),)

    def encode_labels(self, labels):
        """[B, 3, H, W] -> a list of [B, L, h, w], of each model."""
        return [model.encode_labels(labels) for model in self.models]

    def step(self, frame, label_features, epsilon, current, temperature, shift=None):
        """See VAE_Model.step; label_features: of `encode_labels`; epsilon: [B, n]. `current` must be None."""
        assert current is None, "an ensemble is for a rollout from the prior"
        shapes = [model.z_shape(*frame.shape[-2:]) for model in self.models]
        of_each = epsilon.split([math.prod(shape) for shape in shapes], dim=1)
        steps = [model.step(frame, features, z.unflatten(1, shape), None, temperature, shift)
                 for model, features, z, shape in zip(self.models, label_features, of_each, shapes)]
        return steps[0]._replace(frame=torch.stack([step.frame for step in steps]).mean(dim=0))
