"""Draw the figure of docs/study.md over data and time, and print its table: python docs/study/data_and_time.py RUNS.

RUNS/<training frames>/<minutes>/ is a run of Trainer.py with the scores of Tester.py in test/ and train/. Nothing is
trained. The figure is written as docs/study_data_and_time.png.
"""

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from cli.files import read_json
from cli.tables import markdown_table, numeral
from engine.saving.logs import read_metrics
from figures.style import STYLES, Figure, save, with_legend

SPLITS = {"train": "training sequences", "val": "validation", "test": "test"}


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    rows = [read_row(run) for run in Path(sys.argv[1]).glob("*/*") if (run / "metrics.csv").is_file()]
    rows.sort(key=lambda row: (row["frames"], row["seconds"]))
    if not rows:
        sys.exit(f"{sys.argv[1]} holds no <training frames>/<minutes>/metrics.csv")
    save(draw(rows), ROOT / "docs", "study_data_and_time")
    print(markdown_table([cells(row) for row in rows]))


def read_row(run):
    """What a run came to, as {"frames": training frames, "epochs", "seconds", PSNR (dB) of each split}."""
    metrics = read_metrics(run)
    row = {"frames": int(run.parent.name), "epochs": len(metrics["epoch"]), "seconds": metrics["seconds"][-1]}
    row["val"] = float(np.nanmax(metrics["val_psnr"]))
    return row | {split: read_json(run / split / "scores.json")["this model"]["psnr"] for split in ("train", "test")}


def draw(rows):
    """PSNR over the minutes of training: a panel for each number of training frames, a curve for each split."""
    sizes = sorted({row["frames"] for row in rows})
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    figure.suptitle("629 frames generated from one, after some minutes of training on one core")
    axes = figure.subplots(1, len(sizes), sharex=True, sharey=True, squeeze=False)[0]
    ticks = [minutes for minutes in (1, 3, 10, 30, 100) if 60 * minutes < 1.2 * max(row["seconds"] for row in rows)]
    for frames, ax in zip(sizes, axes):
        of_size = [row for row in rows if row["frames"] == frames]
        for (split, name), style in zip(SPLITS.items(), STYLES):
            ax.plot([row["seconds"] / 60 for row in of_size], [row[split] for row in of_size], marker="o", label=name,
                    **style)
        ax.set(title=f"{frames:,} training frames", xlabel="minutes", xscale="log", xticks=ticks, xticklabels=ticks)
        ax.minorticks_off()
    axes[0].set_ylabel("PSNR (dB)")
    return with_legend(figure, axes[0], list(SPLITS.values()))


def cells(row):
    """A row of the table, as text by heading."""
    return {"training frames": numeral(row["frames"], 0), "epochs": numeral(row["epochs"], 0),
            "seconds": numeral(row["seconds"], 0), **{name: numeral(row[split]) for split, name in SPLITS.items()}}


if __name__ == "__main__":
    main()
