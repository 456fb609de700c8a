"""Print the tables of docs/report.md from the logs of its runs: python docs/report/statements.py STUDY.

STUDY is the folder of the study, with `<recipe>/seed=<n>/` in it; runs that have not come to their last epoch are left
out, and from the tables of the test those that were not tested. Nothing is trained. "all" compares the seeds' means
over the annealings.
"""

import sys
from itertools import combinations, product
from math import comb
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from cli.files import read_json  # noqa: E402
from cli.tables import markdown_table  # noqa: E402
from engine.saving.logs import read_arguments, read_metrics  # noqa: E402
from figures.curves import mean_and_range  # noqa: E402

ANNEALINGS = {"Monotonic": ("Monotonic", 10, 1.0), "Cyclical 10, 1": ("Cyclical", 10, 1.0),
              "Cyclical 5, 0.5": ("Cyclical", 5, 0.5), "None": ("None", 10, 1.0)}
FORCINGS = {"on": 1.0, "off": 0.0}
MAX_WAYS = 20_000
CALM_EPOCH = 15  # after which, the report says, annealing smooths the loss


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    runs = {}
    for run in sorted(Path(sys.argv[1]).glob("*/seed=*")):
        flags = read_arguments(run)
        if len(read_metrics(run)["epoch"]) < flags["num_epoch"]:
            continue
        annealing = flags["kl_anneal_type"], flags["kl_anneal_cycle"], flags["kl_anneal_ratio"]
        for name, forcing in product(ANNEALINGS, FORCINGS):
            if annealing == ANNEALINGS[name] and flags["tfr"] == FORCINGS[forcing]:
                runs.setdefault((name, forcing), {})[flags["seed"]] = run
    for title, measure, pairs in (
            ("1. No teacher forcing is better: best validation PSNR (dB)", best_psnr, "forcing"),
            ("1. Test PSNR (dB)", test_psnr, "forcing"),
            ("2. and 3. Restlessness of the loss after epoch 15", restlessness, "annealing"),
            ("2. and 3. Restlessness of the MSE after epoch 15", lambda run: restlessness(run, "mse"), "annealing"),
            ("4. PSNR of the last 100 test frames less the first 100, over the nearest label's (dB)", drift, "")):
        of_the_test = measure in (test_psnr, drift)
        by_seed = {cell: {seed: measure(run) for seed, run in folders.items()
                          if not of_the_test or (run / "result.json").is_file()} for cell, folders in runs.items()}
        values = {cell: list(numbers.values()) for cell, numbers in by_seed.items()}
        print(f"\n{title}\n\n{markdown_table(table(values))}")
        values |= {("all", forcing): over_annealings(by_seed, forcing) for forcing in FORCINGS}
        for one, other in compared(values, pairs):
            difference = np.mean(values[one]) - np.mean(values[other])
            p = p_value(values[one], values[other])
            print(f"\n{' '.join(one)} - {' '.join(other)}: {difference:+.3f}, p = {p:.3f}")


def table(values):
    """A row for each annealing: the mean over the seeds, and the least and the greatest."""
    def text(name, forcing):
        numbers = values.get((name, forcing))
        return f"{mean_and_range(numbers)}, seeds: {len(numbers)}" if numbers else "-"

    return [{"annealing": name} | {f"forcing {forcing}": text(name, forcing) for forcing in FORCINGS}
            for name in ANNEALINGS]


def over_annealings(by_seed, forcing):
    """The mean of each seed over the annealings: runs of one seed resemble each other, and must not count as many."""
    numbers = {}
    for (_, of_forcing), of_seeds in by_seed.items():
        for seed, number in of_seeds.items() if of_forcing == forcing else ():
            numbers.setdefault(seed, []).append(number)
    return [float(np.mean(of_seed)) for of_seed in numbers.values()]


def compared(values, pairs):
    """The pairs of cells of the table to compare."""
    if pairs == "forcing":
        candidates = [((name, "off"), (name, "on")) for name in (*ANNEALINGS, "all")]
    elif pairs == "annealing":
        candidates = [((name, forcing), ("None", forcing)) for forcing in FORCINGS for name in ANNEALINGS
                      if name != "None"]
    else:
        candidates = []
    return [pair for pair in candidates if all(values.get(cell) for cell in pair)]


def p_value(ours, theirs):
    """Permutation test: the part of all ways to share out the runs that differ in the mean by as much.

    Of more than MAX_WAYS as many are drawn.
    """
    pooled, count = np.array([*ours, *theirs]), len(ours)
    if comb(len(pooled), count) <= MAX_WAYS:
        chosen = np.array(list(combinations(range(len(pooled)), count)))  # [ways, count]
    else:
        random = np.random.default_rng(0)
        chosen = np.stack([random.permutation(len(pooled))[:count] for _ in range(MAX_WAYS)])
    sums = pooled[chosen].sum(axis=1)
    differences = np.abs(sums / count - (pooled.sum() - sums) / (len(pooled) - count))
    observed = abs(np.mean(ours) - np.mean(theirs))
    return np.mean(differences >= observed - 1e-12)


def best_psnr(run):
    return float(np.nanmax(read_metrics(run)["val_psnr"]))


def test_psnr(run):
    return read_json(run / "result.json")["scores"]["test"]["this model"]["psnr"]


def restlessness(run, column="loss"):
    """The median factor by which a column changes from one epoch to the next, after CALM_EPOCH."""
    values = read_metrics(run)[column][CALM_EPOCH:]
    return float(np.exp(np.median(np.abs(np.diff(np.log(values))))))


def drift(run):
    """How much better the last 100 test frames are than the first 100, less the same of the nearest label."""
    scores = read_json(run / "result.json")["scores"]["test"]
    ours, theirs = (scores[name]["psnr_last_100"] - scores[name]["psnr_first_100"]
                    for name in ("this model", "nearest label"))
    return ours - theirs


if __name__ == "__main__":
    main()
