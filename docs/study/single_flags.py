"""Print the table of single flags in docs/study.md from the logs: python docs/study/single_flags.py STUDY.

STUDY is the folder of the study, with `<recipe>/seed=<n>/` in it. The recipe `course` is the one that the others are
compared with, seed by seed. Nothing is trained.
"""

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from cli.files import read_json
from cli.tables import markdown_table
from engine.saving.logs import read_metrics
from figures.curves import mean_and_range
from paired import sign_flip_test

BASE = "course"
ENOUGH_SEEDS = 5  # for a p-value: with five the least possible is 0.06


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    study = Path(sys.argv[1])
    names = sorted(path.name for path in study.iterdir() if path.is_dir())
    base = val_psnr(study / BASE)
    print(markdown_table([row(study / name, base) for name in names]))


def val_psnr(recipe):
    """The validation PSNR at the end of each run of a recipe that came to its end, {seed: dB}."""
    return {int(path.parent.name.removeprefix("seed=")): read_json(path)["scores"]["val"]["this model"]["psnr"]
            for path in sorted(recipe.glob("seed=*/result.json"))}


def row(recipe, base):
    """A recipe as cells of the table, by heading; base: the PSNR of the recipe to compare with, {seed: dB}."""
    psnr = val_psnr(recipe)
    mse = [read_metrics(run.parent)["mse"][-1] for run in recipe.glob("seed=*/result.json")]
    compared = ""
    if recipe.name != BASE and psnr.keys() & base.keys():
        difference, p = sign_flip_test(psnr, base)
        enough = len(psnr.keys() & base.keys()) >= ENOUGH_SEEDS
        compared = f"{difference:+.2f}" + (f", p = {p:.3f}" if enough else "")
    return {"": recipe.name, "seeds": str(len(psnr)),
            "validation PSNR": mean_and_range([*psnr.values()]) if psnr else "", f"over {BASE}": compared,
            "broke off": str(len([*recipe.glob("seed=*/failed.txt")])),
            "training MSE, last epoch": f"{np.mean(mse):.4f}" if mse else ""}


if __name__ == "__main__":
    main()
