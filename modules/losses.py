"""The terms of the loss of a clip. Each is a sum over its T-1 predicted frames and a mean over the B clips."""

import torch


def frame_mse(prediction, target):
    """MSE of each frame: [B, T-1, 3, H, W] in [0, 1] -> [B, T-1]."""
    return (prediction - target).square().mean(dim=(-3, -2, -1))


def mse_loss(prediction, target):
    """The course's reconstruction term; prediction and target: [B, T-1, 3, H, W] in [0, 1]."""
    return frame_mse(prediction, target).mean(dim=0).sum()


def log_mse_loss(prediction, target):
    """0.01 log(MSE + 1e-4) of each frame: minus its PSNR, rescaled.

    The gradient of a frame's MSE is weighted by 0.01 / (MSE + 1e-4). A decibel at 35 dB counts 0.77 of one at 20 dB,
    and one from 40 dB on half or less; in a mean PSNR all count the same. But for the 1e-4, up to a constant and a
    factor of 0.02 / D, with D the numbers in a frame (6,144 of 32 x 64 pixels), this is the negative log-likelihood of
    a Gaussian with the best variance for each frame (optimal sigma-VAE; Rybkin et al. 2021, arXiv:2006.13202). A
    weight w of the KL beside it is therefore a beta of w D / 0.02 in the terms of beta-VAE (Higgins et al. 2017): at
    --kl_weight 1e-5 about 3.
    """
    return 0.01 * torch.log(frame_mse(prediction, target) + 1e-4).mean(dim=0).sum()


RECONSTRUCTIONS = {"mse": mse_loss, "log_mse": log_mse_loss}


def kl_divergence(mu, logvar):
    """KL(N(mu, exp(logvar)) || N(0, I)) in nats, summed over the latents of all frames; mu, logvar: [B, ...].

    Kingma & Welling 2014, arXiv:1312.6114, appendix B.
    """
    return -0.5 * torch.sum(1 + logvar - mu**2 - logvar.exp()) / mu.shape[0]
