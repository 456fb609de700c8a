"""Print the tables of docs/report.md from the logs of its runs: python docs/report/statements.py STUDY.

STUDY is the folder of the study, with `<recipe>/seed=<n>/` in it; runs that have not come to their last epoch are left
out, and from the table of a test those that it was not made of. Nothing is trained. "all" compares the seeds' means
over the annealings.
"""

import sys
from itertools import product
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from cli.files import read_json_or_none
from cli.tables import markdown_table
from engine.saving.logs import read_metrics, read_psnr_per_frame
from figures.curves import mean_and_range
from paired import finished_runs, sign_flip_test

ANNEALINGS = {"Monotonic": ("Monotonic", 10, 1.0), "Cyclical 10, 1": ("Cyclical", 10, 1.0),
              "Cyclical 5, 0.5": ("Cyclical", 5, 0.5), "None": ("None", 10, 1.0)}
FORCINGS = {"on": 1.0, "off": 0.0}
CALM_EPOCH = 15  # after which, the report says, annealing smooths the loss


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    runs = {}
    for run, flags, _ in finished_runs(sys.argv[1]):
        annealing = flags["kl_anneal_type"], flags["kl_anneal_cycle"], flags["kl_anneal_ratio"]
        for name, forcing in product(ANNEALINGS, FORCINGS):
            if annealing == ANNEALINGS[name] and flags["tfr"] == FORCINGS[forcing]:
                runs.setdefault((name, forcing), {})[flags["seed"]] = run
    for title, measure, digits, pairs in (
            ("1. No teacher forcing is better: best validation PSNR (dB)", best_psnr, 2, "forcing"),
            ("1. Test PSNR (dB)", test_psnr, 2, "forcing"),
            ("2. and 3. Restlessness of the loss after epoch 15", restlessness, 3, "annealing"),
            ("2. and 3. Restlessness of the MSE after epoch 15", lambda run: restlessness(run, "mse"), 3, "annealing"),
            ("4. Validation PSNR with the true frame given every 30 frames, less that from one (dB)", drift, 3, "")):
        by_seed = {cell: {seed: value for seed, run in folders.items() if (value := measure(run)) is not None}
                   for cell, folders in runs.items()}
        print(f"\n{title}\n\n{markdown_table(table(by_seed, digits))}")
        by_seed |= {("all", forcing): over_annealings(by_seed, forcing) for forcing in FORCINGS}
        for one, other in compared(by_seed, pairs):
            difference, p = sign_flip_test(by_seed[one], by_seed[other])
            print(f"\n{' '.join(one)} - {' '.join(other)}: {difference:+.3f}, p = {p:.3f}")


def table(by_seed, digits):
    """A row for each annealing: the mean over the seeds, and the least and the greatest."""
    def text(cell):
        numbers = [*by_seed.get(cell, {}).values()]
        return f"{mean_and_range(numbers, digits)}, seeds: {len(numbers)}" if numbers else "-"

    return [{"annealing": name} | {f"forcing {forcing}": text((name, forcing)) for forcing in FORCINGS}
            for name in ANNEALINGS]


def over_annealings(by_seed, forcing):
    """The mean of each seed over the annealings: runs of one seed resemble each other, and must not count as many.

    Seeds that some annealing lacks are left out.
    """
    cells = [of_seeds for (_, of_forcing), of_seeds in by_seed.items() if of_forcing == forcing]
    in_all = set.intersection(*map(set, cells)) if cells else set()
    return {seed: float(np.mean([of_seeds[seed] for of_seeds in cells])) for seed in in_all}


def compared(by_seed, pairs):
    """The pairs of cells of the table to compare."""
    candidates = []
    if pairs == "forcing":
        candidates = [((name, "off"), (name, "on")) for name in (*ANNEALINGS, "all")]
    elif pairs == "annealing":
        candidates = [((name, forcing), ("None", forcing)) for forcing in FORCINGS for name in ANNEALINGS
                      if name != "None"]
    return [(one, other) for one, other in candidates if by_seed.get(one, {}).keys() & by_seed.get(other, {}).keys()]


def best_psnr(run):
    return float(np.nanmax(read_metrics(run)["val_psnr"]))


def test_psnr(run):
    """None if the run was not tested."""
    scores = (read_json_or_none(run / "result.json") or {}).get("scores", {})
    return scores["test"]["this model"]["psnr"] if "test" in scores else None


def drift(run):
    """What a rollout gains if it is given the true frame again every 30 frames, in val_30/; None if not measured.

    In the mean over the frames that are generated in both.
    """
    again = read_json_or_none(run / "val_30/scores.json")
    if not again:
        return None
    [psnr] = read_psnr_per_frame(run).values()  # of frames 1, 2, ...
    generated = np.arange(1, len(psnr) + 1) % 30 > 0
    return again["this model"]["psnr"] - float(psnr[generated].mean())


def restlessness(run, column="loss"):
    """The median factor by which a column changes from one epoch to the next, after CALM_EPOCH."""
    values = read_metrics(run)[column][CALM_EPOCH:]
    return float(np.exp(np.median(np.abs(np.diff(np.log(values))))))


if __name__ == "__main__":
    main()
