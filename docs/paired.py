"""A test of the difference between two recipes that were trained with the same seeds."""

from itertools import product

import numpy as np


def sign_flip_test(ours, theirs):
    """Compare two recipes seed by seed: the mean difference, and its p-value in a sign-flip (permutation) test.

    ours, theirs: {seed: number}, of which the common seeds count, at most 20. The p-value is the part of all ways to
    give each difference a sign whose mean is as far from 0 as the observed one: 2 of 2^n at the least.
    """
    differences = np.array([ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())])
    signs = np.array(list(product((1, -1), repeat=len(differences))), dtype=np.int8)  # [2^n, n]
    sums = np.abs(signs @ differences)
    return differences.mean(), np.mean(sums >= abs(differences.sum()) - 1e-12)
