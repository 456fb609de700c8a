"""How much the latent z carries, and what it is worth to the video."""

from functools import partial

import torch

from .losses import kl_divergence
from .metrics import psnr
from .noise import Noise
from .rollout import in_eval_mode, rollout

ACTIVE = 0.01  # variance of a unit's mean over the data, above which it counts as active


@torch.inference_mode()
def z_usage(model, frames, labels, seed, clamp=False):
    """Measure z on clips, each rolled out from its first frame.

    frames, labels: [B, T, 3, H, W], in [0, 1]. clamp: see `rollout`. seed: of the draws of z.
    Returns a dict of numbers:
        kl: KL between the posterior and N(0, I), in nats a frame.
        active_units: elements of z whose posterior mean varies over the predicted frames by more than ACTIVE (Burda et
            al. 2016, arXiv:1509.00519).
        psnr_posterior, psnr_prior, psnr_zero: PSNR in dB with z from the posterior, from the prior, and at 0. With
            model.posterior `current` the first of them has seen the frame that it predicts.
        spread: standard deviation of a pixel over two draws of z from the prior, of 255.
    """
    noise = Noise.seeded(seed, len(frames), frames.device)
    roll_out = partial(rollout, model, frames, labels, noise, clamp=clamp)
    with in_eval_mode(model):
        posterior = list(roll_out())
        prior = [_video(roll_out(temperature=1.0)) for _ in range(2)]
        zero = _video(roll_out(temperature=0.0))
    mu, logvar = (torch.stack(part, dim=1).float() for part in zip(*((step.mu, step.logvar) for step in posterior)))
    truth = frames[:, 1:]

    def mean_psnr(*videos):
        return torch.stack([psnr(video, truth) for video in videos]).mean().item()

    variance = torch.stack(prior).clamp(0, 1).flatten(1).var(dim=0)  # flat: older MPS may fail at six dimensions
    return {
        "kl": kl_divergence(mu, logvar).item() / truth.shape[1],
        "active_units": (mu.flatten(0, 1).var(dim=0, correction=0) > ACTIVE).sum().item(),
        "psnr_posterior": mean_psnr(_video(posterior)), "psnr_prior": mean_psnr(*prior), "psnr_zero": mean_psnr(zero),
        "spread": 255 * variance.mean().sqrt().item(),
    }


def _video(steps):
    """The frames of some Steps, [B, T-1, 3, H, W]."""
    return torch.stack([step.frame for step in steps], dim=1).float()
