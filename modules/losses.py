"""The terms of the loss. They are of one time step; the model sums them over a clip."""

import torch
from torch.nn import functional


def mean_squared_error(prediction, target):
    """Mean over all elements; images in [0, 1], [B, 3, H, W]."""
    return functional.mse_loss(prediction, target)


def log_mean_squared_error(prediction, target):
    """Mean over the batch of 0.01 log(MSE + 1e-4) of each frame: its PSNR, negative and in other units.

    Each frame's gradient is that of its MSE, weighed by 0.01 / (MSE + 1e-4): a nearly right frame counts as much as a
    bad one, up to some 40 dB, as it does in a mean PSNR. Up to a factor and a constant it is the negative
    log-likelihood of a Gaussian whose variance is the best one for each frame (optimal sigma-VAE; Rybkin et al.
    2021, arXiv:2006.13202).
    """
    each = functional.mse_loss(prediction, target, reduction="none").flatten(1).mean(dim=1)
    return 0.01 * torch.log(each + 1e-4).mean()


RECONSTRUCTIONS = {"mse": mean_squared_error, "log_mse": log_mean_squared_error}


def kl_divergence(mu, logvar):
    """KL(N(mu, exp(logvar)) || N(0, I)) in nats, summed over the latent of one frame and averaged
    over the batch; mu and logvar [B, N, H, W] (Kingma & Welling 2014, arXiv:1312.6114, appendix B)."""
    return -0.5 * torch.sum(1 + logvar - mu**2 - logvar.exp()) / mu.shape[0]
