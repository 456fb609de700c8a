"""The two terms of the loss. Both are of one time step; the model sums them over a clip."""

import torch
from torch.nn import functional


def mean_squared_error(prediction, target):
    """Mean over all elements; images in [0, 1], [B, 3, H, W]."""
    return functional.mse_loss(prediction, target)


def kl_divergence(mu, logvar):
    """KL(N(mu, exp(logvar)) || N(0, I)) in nats, summed over the latent of one frame and averaged
    over the batch; mu and logvar [B, N, H, W] (Kingma & Welling 2014, arXiv:1312.6114, appendix B)."""
    return -0.5 * torch.sum(1 + logvar - mu**2 - logvar.exp()) / mu.shape[0]
