"""Several futures of each sequence, scored as in stochastic video prediction: their mean, and the best of them.

Scores of a sequence are a dict {metric: [K, T-1]} over its K samples and their generated frames.
"""

import numpy as np
import torch

from modules.metrics import channel_psnr, in_chunks, psnr, ssim

METRICS = {"psnr": psnr, "psnr_channels": channel_psnr, "ssim": ssim}
LOWER_IS_BETTER = ("lpips",)
BAND = (0.025, 0.975)  # probabilities: 95 % of all samples of a sequence lie between their quantiles


def score_samples(samples, truth, metrics):
    """Score the samples of a sequence, uint8 [K, T, 3, H, W], against its truth, uint8 [T, 3, H, W].

    metrics: {name: function like modules.metrics.psnr}.
    """
    return {name: torch.stack([in_chunks(metric, video[1:], truth[1:]) for video in samples]).numpy()
            for name, metric in metrics.items()}


def mean_scores(videos, truth, metrics):
    """Score generated videos, one a sequence: {metric: mean over the frames, then over the sequences}.

    videos, truth: uint8 [T, 3, H, W] each. metrics: see `score_samples`.
    """
    return {name: torch.stack([in_chunks(metric, video[1:], true[1:]).mean() for video, true in zip(videos, truth)])
            .mean().item() for name, metric in metrics.items()}


def best_sample(name, values):
    """The index of the best of the samples of a sequence by a metric, the mean over its frames; values: [K, T-1]."""
    means = values.mean(axis=1)
    return means.argmin() if name in LOWER_IS_BETTER else means.argmax()


def summarise_samples(scored):
    """Mean and best of the samples, {row of a score table: {metric: number}}; means over the sequences.

    scored: the scores of each sequence. The best sample is chosen for each sequence and each metric.
    """
    count = len(next(iter(scored[0].values())))
    mean, best = {}, {}
    for name in scored[0]:
        mean[name] = float(np.mean([scores[name].mean() for scores in scored]))
        best[name] = float(np.mean([scores[name].mean(axis=1)[best_sample(name, scores[name])] for scores in scored]))
    return {f"mean of {count} samples": mean, f"best of {count} samples": best}


def samples_over_frames(scored):
    """Columns of samples_per_frame.csv: each metric at the frames 1..T-1, in the mean over the sequences.

    `_mean` over the samples; `_low` and `_high`, the band in which 95 % of all samples of a sequence would lie,
    estimated from these (from fewer than 39 it is the least and the greatest, and holds less); `_best`: the best
    samples. A sequence that is shorter counts as long as it lasts.
    """
    length = max(values.shape[1] for scores in scored for values in scores.values())
    columns = {"frame": range(1, length + 1)}
    for name in scored[0]:
        padded = np.full((len(scored), len(scored[0][name]), length), np.nan)  # [sequences, K, T-1]
        for row, scores in zip(padded, scored):
            row[:, :scores[name].shape[1]] = scores[name]
        best = [row[best_sample(name, scores[name])] for row, scores in zip(padded, scored)]
        low, high = np.quantile(padded, BAND, axis=1, method="weibull")  # [sequences, T-1] each
        of_sequences = {"mean": padded.mean(axis=1), "low": low, "high": high, "best": best}
        columns |= {f"{name}_{of}": np.nanmean(values, axis=0) for of, values in of_sequences.items()}
    return columns


def spread(samples):
    """Standard deviation of a pixel over the samples of a sequence, uint8 [K, T, 3, H, W], of 255; 0 if K is 1.

    The root of the mean variance over the pixels, as the spread in modules.latent.z_usage.
    """
    if len(samples) == 1:
        return 0.0
    variances = [frame.float().var(dim=0).mean() for frame in samples[:, 1:].unbind(dim=1)]
    return torch.stack(variances).mean().sqrt().item()
