"""The curves of runs: loss, schedules, validation PSNR, PSNR per frame.

Each draw function takes a list of Run and whether to draw them side by side; it returns a matplotlib Figure.
"""

from functools import partial
from itertools import cycle

import numpy as np

from cli.flags import schedule_settings
from engine.schedules import Schedules

from .runs import Run, label_by_difference, read_runs
from .style import STYLES, log_scale, panels, save, with_legend

SMOOTHED_FRAMES = 15


def plot_epochs(ax, run, column, label, **style):
    """A curve over the epochs that have a value, with a marker an epoch while these can be told apart."""
    there = ~np.isnan(run.metrics[column])
    ax.plot(run.metrics["epoch"][there], run.metrics[column][there], marker="o" if there.sum() <= 100 else "",
            label=label, **style)


def draw_loss(runs, side_by_side):
    """Loss, MSE and KL of a predicted frame over the epochs, one above the other."""
    logarithmic = any(run.arguments.get("reconstruction") == "log_mse" for run in runs)
    rows = {"loss": f"loss\n({'log MSE' if logarithmic else 'MSE'} + \u03b2 KL)",
            "mse": "MSE\n(pixels in [0, 1])", "kl": "KL\n(nats per frame)"}
    labels = [run.label for run in runs]
    figure, axes = panels(labels, side_by_side, "Training loss", rows.values(), "epoch")
    for run, column, style in zip(runs, axes, cycle(STYLES)):
        for ax, name in zip(column, rows):
            plot_epochs(ax, run, name, run.label, **style)
    for row in zip(*axes):
        log_scale(row)
    return with_legend(figure, axes[0][0], labels)


def draw_schedule(column, title, y_label, runs, side_by_side):
    """The course of `column` over the epochs. Earlier curves are wider, so that no later one hides them."""
    labels = [run.label for run in runs]
    figure, axes = panels(labels, side_by_side, title, [y_label], "epoch")
    widths = np.linspace(1.6 if side_by_side else min(0.6 + len(runs), 5), 1.6, len(runs))
    for run, (ax,), style, width in zip(runs, axes, cycle(STYLES), widths):
        plot_epochs(ax, run, column, run.label, linewidth=width, markersize=2 + width, **style)
    courses = [run.metrics[column] for run in runs]
    if column == "lr" and any(course.max() > 10 * np.median(course) for course in courses):
        log_scale([ax for ax, in axes])  # on a linear scale most of the curve would lie on the floor
    else:
        top = np.nanmax(np.concatenate(courses)) or 1
        axes[0][0].set_ylim(-0.05 * top, 1.05 * top)
    return with_legend(figure, axes[0][0], labels)


def draw_validation_psnr(runs, side_by_side):
    """PSNR in dB at the validated epochs, a star at the best."""
    best = [np.nanargmax(run.metrics["val_psnr"]) for run in runs]
    labels = [f"{run.label}: best {run.metrics['val_psnr'][i]:.2f} dB at epoch {run.metrics['epoch'][i]:.0f}"
              for run, i in zip(runs, best)]
    figure, axes = panels(labels, side_by_side, "Validation PSNR", ["validation PSNR (dB)"], "epoch")
    for run, label, i, (ax,), style in zip(runs, labels, best, axes, cycle(STYLES)):
        plot_epochs(ax, run, "val_psnr", label, **style)
        ax.plot(run.metrics["epoch"][i], run.metrics["val_psnr"][i], "*", markersize=11, color=style["color"])
    return with_legend(figure, axes[0][0], labels)


def draw_psnr_over_seconds(runs, side_by_side):
    """PSNR in dB at the validated epochs over the seconds until then. Runs of one label share its colour."""
    styles = dict(zip(dict.fromkeys(run.label for run in runs), cycle(STYLES)))
    labels = [run.label for run in runs] if side_by_side else list(styles)
    figure, axes = panels(labels, side_by_side, "Validation PSNR over time", ["validation PSNR (dB)"],
                          "seconds of training and validation")
    for run, (ax,) in zip(runs, cycle(axes)):
        seconds, values = run.metrics["seconds"], run.metrics["val_psnr"]
        there = np.isfinite(seconds + values)
        first = run.label not in [line.get_label() for line in ax.lines]
        ax.plot(seconds[there], values[there], marker="o" if there.sum() <= 100 else "",
                label=run.label if first else "", **styles[run.label])
    return with_legend(figure, axes[0][0], labels)


def running_mean(values, window=SMOOTHED_FRAMES):
    """Mean over the `window` values around each, over fewer at both ends."""
    half = window // 2
    return [values[max(i - half, 0):i + half + 1].mean() for i in range(len(values))]


def draw_psnr_per_frame(runs, side_by_side):
    """PSNR in dB of predicted frames 1, 2, ...: of a single run's sequences, or their mean in each run."""
    means = [np.mean([np.nanmean(psnr) for psnr in run.psnr.values()]) for run in runs]
    labels = [f"{run.label}: mean {mean:.2f} dB" for run, mean in zip(runs, means)]
    title = f"PSNR of each predicted frame (bold: mean of {SMOOTHED_FRAMES} frames)"
    figure, axes = panels(labels, side_by_side, title, ["PSNR (dB)"], "frame")
    curves = [np.nanmean(list(run.psnr.values()), axis=0) for run in runs]
    if len(runs) == 1:
        curves = list(runs[0].psnr.values())
        labels = [f"{name}: mean {np.nanmean(psnr):.2f} dB" for name, psnr in runs[0].psnr.items()]
        axes *= len(curves)
    for curve, label, (ax,), style in zip(curves, labels, axes, cycle(STYLES)):
        curve = curve[~np.isnan(curve)]
        frames = np.arange(1, len(curve) + 1)
        ax.plot(frames, curve, color=style["color"], linewidth=0.6, alpha=0.5)
        ax.plot(frames, running_mean(curve), label=label, marker="o" if len(curve) == 1 else "", **style)
    return with_legend(figure, axes[0][0], labels)


FIGURES = {  # mostly by the column or the file that each needs: name of the figure's file, function
    "loss": ("loss", draw_loss),
    "tfr": ("teacher_forcing_ratio",
            partial(draw_schedule, "tfr", "Teacher forcing ratio", "probability of teacher forcing")),
    "beta": ("beta", partial(draw_schedule, "beta", "KL annealing", "\u03b2 (factor on KL)")),
    "lr": ("learning_rate", partial(draw_schedule, "lr", "Learning rate", "learning rate")),
    "val_psnr": ("validation_psnr", draw_validation_psnr),
    "psnr_over_seconds": ("psnr_over_seconds", draw_psnr_over_seconds),
    "psnr_per_frame": ("psnr_per_frame", draw_psnr_per_frame),
}


def has_data(run, figure):
    if figure == "psnr_per_frame":
        return bool(run.psnr)
    columns = ["seconds", "val_psnr"] if figure == "psnr_over_seconds" else [figure]
    return np.isfinite(sum(run.metrics.get(column, np.nan) for column in columns)).any()


def draw_runs(folders, *, figures=FIGURES, out=None, side_by_side=False, file_format="png"):
    """Draw figures of one or more runs.

    figures: names in FIGURES. out: folder of the figures; None: the run's own, or `figures` for several runs.
    Returns the paths of the figures, and {run: names of the figures that it has no data for}.
    """
    runs = read_runs(folders)
    out = out or (folders[0] if len(runs) == 1 else "figures")
    paths, missing = [], {}
    for figure in figures:
        drawable = [run for run in runs if has_data(run, figure)]
        for run in runs:
            if run not in drawable:
                missing.setdefault(run.name, []).append(figure)
        if drawable:
            name, draw = FIGURES[figure]
            paths.append(save(draw(drawable, side_by_side), out, name, file_format))
    return paths, missing


def draw_schedules(figure, curves, *, out, side_by_side=False, file_format="png"):
    """Draw one schedule before any run. figure: `tfr`, `beta` or `lr`. curves: see `scheduled`. Returns its path."""
    name, draw = FIGURES[figure]
    return save(draw(label_by_difference(curves), side_by_side), out, name, file_format)


def scheduled(name, flags):
    """The beta, teacher forcing ratio and learning rate of a run, from its flags (a namespace) alone."""
    schedules, epochs = Schedules(**schedule_settings(flags)), range(flags.num_epoch)
    columns = {"epoch": epochs, **{column: list(map(getattr(schedules, column), epochs))
                                   for column in ("beta", "tfr", "lr")}}
    return Run(name, vars(flags), {column: np.array(values, float) for column, values in columns.items()})
