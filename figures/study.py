"""The tables and figures of a study."""

import numpy as np

from cli.files import write_text
from cli.tables import markdown_table, numeral
from engine.saving.logs import read_arguments, write_columns

from .curves import draw_psnr_over_seconds, draw_psnr_per_frame, has_data
from .runs import read_runs
from .style import Figure, save, wrap

MEASURES = {"val": ("psnr", "ssim", "psnr_person"),
            "test": ("psnr", "ssim", "psnr_person", "psnr_first_100", "psnr_last_100", "score")}


def table_rows(recipes, runs):
    """The rows of the table as dicts of numbers: the recipes, then the baselines."""
    rows = []
    for recipe in recipes:
        mine = [run for run in runs if run.recipe is recipe]
        results = [result for run in mine if (result := run.result)]
        failed = {run.failed: ", ".join(other.folder.name for other in mine if other.failed == run.failed)
                  for run in mine if run.failed}
        row = {"recipe": recipe.name, "seeds": len(results),
               "failed": recipe.failed or "; ".join(f"{seeds}: {reason}" for reason, seeds in failed.items())}
        if results:
            row |= {"parameters": results[0]["parameters"], "epochs": recipe.epochs,
                    "seconds": np.mean([result["seconds"] for result in results])}
            row |= summary([result["scores"] for result in results], "this model")
        rows.append(row)
    scores = scores_with_baselines(runs)
    return rows + [{"recipe": name, **summary([scores], name)} for name in scores["val"] if name != "this model"]


def scores_with_baselines(runs):
    """The scores of the run whose baselines are shown: one with a test, if any has, and of these the most frames.

    The nearest label is sought among the training frames of a run, see --partial.
    """
    scored = [(result["scores"], read_arguments(run.folder).get("partial", 1))
              for run in runs if (result := run.result)]
    scores, _ = max(scored, key=lambda of_run: (len(of_run[0]), of_run[1]), default=({"val": {}}, 1))
    return scores


def summary(scores, predictor):
    """The mean of each score of a predictor over the runs that have it, and the least and the greatest PSNR."""
    row = {}
    for split, measures in MEASURES.items():
        for measure in measures:
            values = [score[split][predictor][measure] for score in scores
                      if measure in score.get(split, {}).get(predictor, {})]
            if values:
                row[f"{split}_{measure}"] = np.mean(values)
                if measure == "psnr":
                    row |= {f"{split}_psnr_min": min(values), f"{split}_psnr_max": max(values)}
    return row


def cells(row):
    """A row of `table_rows` as text, by heading."""
    def psnr(split):
        text, least, most = (numeral(row.get(f"{split}_psnr{end}")) for end in ("", "_min", "_max"))
        return text if least == most else f"{text} ({least}..{most})"

    return {"recipe": row["recipe"], **{name: numeral(row.get(name), 0)
                                        for name in ("seeds", "parameters", "epochs", "seconds")},
            "val PSNR": psnr("val"), "val SSIM": numeral(row.get("val_ssim"), 3),
            "val person": numeral(row.get("val_psnr_person")),
            "test PSNR": psnr("test"), "test SSIM": numeral(row.get("test_ssim"), 3),
            "test person": numeral(row.get("test_psnr_person")),
            "first 100": numeral(row.get("test_psnr_first_100")), "last 100": numeral(row.get("test_psnr_last_100")),
            "score": numeral(row.get("test_score"))}


def write_tables(out, rows, recipes, command, minutes):
    """Write study.csv and study.md from the rows of what is done so far.

    command: the command line of the study. minutes: the budget of a run; None if it is in epochs.
    """
    columns = dict.fromkeys(name for row in rows for name in row)
    write_columns(out / "study.csv", {
        name: [f"{row[name]:.6g}" if isinstance(row.get(name), float) else row.get(name, "") for row in rows]
        for name in columns})
    table, some_failed = [*map(cells, rows)], any(row.get("failed") for row in rows)
    if some_failed:
        table = [line | {"failed": row.get("failed", "").replace("|", "/")} for line, row in zip(table, rows)]
    text = ["# Study", f"    {command}", markdown_table(table)]
    if minutes:
        chosen = [f"{recipe.name} {recipe.epochs} ({recipe.epoch_seconds:.1f} s an epoch)"
                  for recipe in recipes if recipe.epochs]
        text.append(f"Epochs that fit into {minutes:g} minutes: {', '.join(chosen) or '-'}.")
    text.append("PSNR in dB of all generated frames, mean over the seeds (least..greatest), at each run's best epoch; "
                "person: over the pixels that differ from the background; first and last 100 generated frames of the "
                "test sequences; score: the course's. Seconds: training and validation.")
    if some_failed:
        text.append("A run whose training diverged is not tried again until its failed.txt is removed.")
    figures = (f"{name}.png" for name in ("psnr_over_seconds", "psnr_per_frame", "sheet"))
    text += [f"![]({figure})" for figure in figures if (out / figure).is_file()]
    write_text(out / "study.md", "\n\n".join(text) + "\n")


def draw_curves(out, runs):
    """Draw psnr_over_seconds.png and psnr_per_frame.png: a curve a recipe, over its seeds."""
    for name, draw, subfolder in (("psnr_over_seconds", draw_psnr_over_seconds, ""),
                                  ("psnr_per_frame", draw_psnr_per_frame, "test")):
        there = [run for run in runs if (run.folder / subfolder).is_dir()]
        logs = read_runs([run.folder / subfolder for run in there])
        for log, run in zip(logs, there):
            log.label = run.recipe.name
        drawn = [log for log in logs if has_data(log, name)]
        if drawn:
            save(draw(drawn, side_by_side=False), out, name)


def draw_sheet(out, rows, times):
    """Draw sheet.png: a row of frames for each name.

    rows: name -> frames, uint8 [H, W, 3] each. times: the number of each column's frame.
    """
    height, width, _ = next(iter(rows.values()))[0].shape
    width, height = 2.0, 2.0 * height / width  # inches
    figure = Figure(figsize=(1.5 + width * len(times), 0.4 + (height + 0.06) * len(rows)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    grid = figure.subplots(len(rows), len(times), squeeze=False)
    for axes, (name, images) in zip(grid, rows.items()):
        axes[0].set_ylabel(wrap(name, 20), rotation=0, ha="right", va="center")
        for ax, image in zip(axes, images):
            ax.imshow(image, interpolation="nearest", aspect="auto")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(True)
    for ax, time in zip(grid[0], times):
        ax.set_title(f"frame {time}")
    save(figure, out, "sheet")
