"""Schedules as pure functions of the epoch, so that a resumed run needs no replay."""

import math


def cyclical(epoch, num_epoch, kl_anneal_cycle, kl_anneal_ratio):
    """Fu et al. 2019, arXiv:1903.10145: training is cut into `kl_anneal_cycle` periods.

    In each, beta rises linearly from 0 at the first epoch to 1 at the last epoch of the first `kl_anneal_ratio`, and
    stays 1 for the rest. So with a ratio above 0 a period of two or more epochs has both a 0 and a 1; a period of one
    epoch is 1. (By the formula of Fu et al. beta would be 1 an epoch later, and with a ratio of 1 never.)
    """
    period = epoch * kl_anneal_cycle // num_epoch
    first, following = (math.ceil(number * num_epoch / kl_anneal_cycle) for number in (period, period + 1))
    length = following - first  # in epochs
    epochs_rising = kl_anneal_ratio * length
    if length <= 1 or epochs_rising == 0:
        return 1.0
    return min((epoch - first) / max(epochs_rising - 1, 1), 1.0)


def monotonic(epoch, num_epoch, kl_anneal_cycle, kl_anneal_ratio):
    """Bowman et al. 2016, arXiv:1511.06349: beta rises by `kl_anneal_ratio` an epoch, up to 1."""
    return min(epoch * kl_anneal_ratio, 1.0)


ANNEALINGS = {"Cyclical": cyclical, "Monotonic": monotonic, "None": lambda *_: 1.0}


def kl_beta(epoch, kl_anneal_type, num_epoch, kl_anneal_cycle, kl_anneal_ratio):
    """KL annealing weight in [0, 1] at an epoch (0-based)."""
    if kl_anneal_type not in ANNEALINGS:
        raise ValueError(f"unknown kl_anneal_type {kl_anneal_type!r}")
    return ANNEALINGS[kl_anneal_type](epoch, num_epoch, kl_anneal_cycle, kl_anneal_ratio)


def teacher_forcing_ratio(epoch, tfr, tfr_sde, tfr_d_step):
    """Probability of teacher forcing at an epoch (0-based; scheduled sampling, Bengio et al. 2015, arXiv:1506.03099).

    `tfr` before epoch `tfr_sde`; that epoch and each later one lower it by `tfr_d_step`, down to 0.
    """
    decays = max(epoch - tfr_sde + 1, 0)
    return max(round(tfr - decays * tfr_d_step, 9), 0.0)


def learning_rate(epoch, lr, lr_schedule, num_epoch, milestones, gamma, warmup_epochs):
    """Learning rate at an epoch, which may be fractional (2.5: half way through the third).

    MultiStep: multiplied by `gamma` at each of the `milestones`. Cosine: half a cosine from
    `lr` after the warm-up to 0 at `num_epoch` (Loshchilov & Hutter 2017, arXiv:1608.03983).
    Constant: `lr`. During the first `warmup_epochs` each is multiplied by a ramp from 0 to 1.
    """
    if epoch < warmup_epochs:
        lr = lr * epoch / warmup_epochs
    if lr_schedule == "MultiStep":
        return lr * gamma ** sum(epoch >= milestone for milestone in milestones)
    if lr_schedule == "Cosine":
        progress = max(epoch - warmup_epochs, 0) / max(num_epoch - warmup_epochs, 1e-9)
        return lr * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    if lr_schedule == "Constant":
        return lr
    raise ValueError(f"unknown lr_schedule {lr_schedule!r}")


class Schedules:
    """beta, teacher forcing ratio and learning rate of a run, set by the flags of the same names."""

    def __init__(self, *, num_epoch, kl_anneal_type, kl_anneal_cycle, kl_anneal_ratio, kl_weight, tfr, tfr_sde,
                 tfr_d_step, lr, lr_schedule, milestones, gamma, warmup_epochs):
        self.kl_weight = kl_weight
        self._annealing = (kl_anneal_type, num_epoch, kl_anneal_cycle, kl_anneal_ratio)
        self._forcing = (tfr, tfr_sde, tfr_d_step)
        self._rate = (lr, lr_schedule, num_epoch, milestones, gamma, warmup_epochs)

    def beta(self, epoch):
        """Weight of the KL in the loss: kl_weight times the annealing weight."""
        return self.kl_weight * kl_beta(epoch, *self._annealing)

    def tfr(self, epoch):
        """Probability of teacher forcing."""
        return teacher_forcing_ratio(epoch, *self._forcing)

    def lr(self, epoch):
        """Learning rate; the epoch may be fractional."""
        return learning_rate(epoch, *self._rate)
