"""Print the table of KL weights in docs/report.md from the logs: python docs/report/rate_distortion.py STUDY.

STUDY is the folder of the study, with `<recipe>/seed=<n>/` in it. A row for each posterior, annealing and KL weight:
means over the seeds at the last epoch, in brackets the least and the greatest. Nothing is trained.
"""

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from cli.tables import markdown_table
from figures.curves import mean_and_range
from paired import finished_runs

ANNEALINGS = ("None", "Monotonic", "Cyclical")
PSNR = {"PSNR, z from the posterior": "val_psnr_posterior", "from the prior": "val_psnr_prior",
        "z = 0": "val_psnr_zero"}


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    groups = {}
    for _, flags, metrics in finished_runs(sys.argv[1]):
        key = flags["posterior"], flags["kl_anneal_type"], flags["kl_weight"]
        groups.setdefault(key, []).append({column: values[-1] for column, values in metrics.items()})
    in_order = sorted(groups, key=lambda key: (key[0], ANNEALINGS.index(key[1]), -key[2]))
    print(markdown_table([row(*key, groups[key]) for key in in_order]))


def row(posterior, annealing, weight, ends):
    """A row of the table; ends: the last row of metrics.csv of each seed, {column: number}."""
    def mean(column, digits=2):
        return f"{np.mean([end[column] for end in ends]):.{digits}f}"

    rates = [end["val_kl"] for end in ends]
    digits = 0 if min(rates) >= 10 else 2 if max(rates) >= 0.01 else 4
    weight = f"{weight:.0e}".replace("e-0", "e-").replace("1e+00", "1")
    return {"posterior, annealing, KL weight": f"{posterior}, {annealing}, {weight}",
            "nats a frame": mean_and_range(rates, digits) if max(rates) >= 1e-4 else "< 0.0001",
            "active units": mean("val_active_units", 0)} | {name: mean(column) for name, column in PSNR.items()} | {
            "validation, 629 frames": mean_and_range([end["val_psnr"] for end in ends])}


if __name__ == "__main__":
    main()
