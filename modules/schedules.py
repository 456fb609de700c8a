"""Schedules as pure functions of the epoch, so that a resumed run needs no replay. No torch here."""

import math


def kl_beta(epoch, kl_anneal_type, num_epoch, kl_anneal_cycle, kl_anneal_ratio):
    """KL annealing weight in [0, 1] at an epoch (0-based).

    Cyclical (Fu et al. 2019, arXiv:1903.10145): training is cut into `kl_anneal_cycle` periods;
    in each, beta rises linearly from 0 at the period's first epoch to 1 at the last epoch of
    its first `kl_anneal_ratio`, and stays 1 for the rest. Every period of two or more epochs so
    holds both a 0 and a 1; a period of one epoch is 1.
    Monotonic: min(epoch * kl_anneal_ratio, 1). None: 1.
    """
    if kl_anneal_type == "None":
        return 1.0
    if kl_anneal_type == "Monotonic":
        return min(epoch * kl_anneal_ratio, 1.0)
    if kl_anneal_type == "Cyclical":
        cycle = epoch * kl_anneal_cycle // num_epoch
        first, following = (-(-c * num_epoch // kl_anneal_cycle) for c in (cycle, cycle + 1))
        epochs_rising = kl_anneal_ratio * (following - first)
        if following - first <= 1 or epochs_rising == 0:
            return 1.0
        return min((epoch - first) / max(epochs_rising - 1, 1), 1.0)
    raise ValueError(f"unknown kl_anneal_type {kl_anneal_type!r}")


def teacher_forcing_ratio(epoch, tfr, tfr_sde, tfr_d_step):
    """Probability of teacher forcing at an epoch (0-based): `tfr` before epoch `tfr_sde`; that
    epoch and each later one lower it by `tfr_d_step`, down to 0."""
    decays = max(epoch - tfr_sde + 1, 0)
    return max(round(tfr - decays * tfr_d_step, 9), 0.0)


def learning_rate(epoch, lr, lr_schedule, num_epoch, milestones, gamma, warmup_epochs):
    """Learning rate at an epoch, which may be fractional (2.5: half way through the third).

    MultiStep: multiplied by `gamma` at each of the `milestones`. Cosine: half a cosine from
    `lr` after the warm-up to 0 at `num_epoch` (Loshchilov & Hutter 2017, arXiv:1608.03983).
    Constant: `lr`. During the first `warmup_epochs` each is multiplied by a ramp from 0 to 1.
    """
    if epoch < warmup_epochs:
        return lr * epoch / warmup_epochs
    if lr_schedule == "MultiStep":
        return lr * gamma ** sum(epoch >= milestone for milestone in milestones)
    if lr_schedule == "Cosine":
        progress = (epoch - warmup_epochs) / max(num_epoch - warmup_epochs, 1e-9)
        return lr * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    if lr_schedule == "Constant":
        return lr
    raise ValueError(f"unknown lr_schedule {lr_schedule!r}")
