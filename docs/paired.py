"""The runs of a study, and a test of the difference between two recipes that were trained with the same seeds."""

from itertools import product
from pathlib import Path

import numpy as np

from engine.saving.logs import read_arguments, read_metrics


def finished_runs(study):
    """Yield folder, flags and metrics of the runs STUDY/<recipe>/seed=<n>/ that came to their last epoch."""
    for run in sorted(Path(study).glob("*/seed=*")):
        flags, metrics = read_arguments(run), read_metrics(run)
        if flags and metrics and len(metrics["epoch"]) >= flags["num_epoch"]:
            yield run, flags, metrics


def sign_flip_test(ours, theirs):
    """Compare two recipes seed by seed: the mean difference, and its p-value in a sign-flip (permutation) test.

    ours, theirs: {seed: number}. Only the n seeds that both have count; there may be 20 of them. If the recipes are
    alike, each difference could as well have the other sign. The p-value is the fraction of all 2^n choices of signs
    that put the mean at least as far from 0 as it is, so it is never below 2 / 2^n.
    """
    differences = np.array([ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())])
    signs = np.array(list(product((1, -1), repeat=len(differences))), dtype=np.int8)  # [2^n, n]
    sums = np.abs(signs @ differences)
    return differences.mean(), np.mean(sums >= abs(differences.sum()) - 1e-12)
