"""The curves of runs: loss, schedules, validation PSNR, PSNR per frame, what z carries.

Each draw function takes a list of Run and whether to draw them side by side; it returns a matplotlib Figure. Runs of
one label differ in nothing but the seed: they are one curve, their mean, in a band from the least to the greatest, as
far as all of them have come.
"""

from collections.abc import Callable
from functools import partial
from itertools import cycle
from typing import NamedTuple

import numpy as np

from cli.flags import FLAGS_OF_OLDER_RUNS, schedule_settings
from engine.schedules import Schedules

from .runs import Run, by_label, differing_flags, label_by_difference, read_runs
from .style import MARKERS, STYLES, explain_markers, log_scale, panels, save, with_legend

OUT = "runs/figures"  # where figures of several runs go
RECONSTRUCTION_LABELS = {"mse": "MSE", "log_mse": "0.01 log(MSE + 1e-4)\n"}  # of an axis
SMOOTHED_FRAMES = 15
SAMPLES_BAND = "band of 95 % of them (with fewer than 39: of all)"
SAMPLES_TITLE = (f"Samples of a sequence: mean, the best (thin), and the {SAMPLES_BAND};\n"
                 f"means of {SMOOTHED_FRAMES} frames")


def over_epochs(runs, column, minus=None):
    """The epochs at which some run has a value, [n], and the values [runs, n], NaN where a run has none.

    minus: another column, to take the difference of the two.
    """
    epochs = np.unique(np.concatenate([run.metrics["epoch"] for run in runs]))
    values = np.full((len(runs), len(epochs)), np.nan)
    for row, run in zip(values, runs):
        row[np.searchsorted(epochs, run.metrics["epoch"])] = run.metrics[column] - (run.metrics[minus] if minus else 0)
    there = ~np.isnan(values).all(axis=0)
    return epochs[there], values[:, there]


def plot_band(ax, x, values, label, marked=True, own_x=None, **style):
    """The mean of values [runs, n] over x [n], in a band from the least to the greatest.

    Where a run has no value, because it ended earlier, each of the others is a thin line instead, over its row of
    own_x [runs, n], if that is given. marked: with a marker at each x while these can be told apart.
    """
    marker = "o" if marked and len(x) <= 100 or len(x) == 1 else ""
    of_all = ~np.isnan(values).any(axis=0)
    in_all = values[:, of_all]
    ax.plot(x[of_all], in_all.mean(axis=0), marker=marker, label=label, **style)
    if len(values) == 1:
        return
    ax.fill_between(x[of_all], in_all.min(axis=0), in_all.max(axis=0), color=style["color"], alpha=0.2, linewidth=0)
    alone = ~of_all | np.append(~of_all[1:], False)  # with the point before, where the line begins
    for row, row_x in zip(values, [x] * len(values) if own_x is None else own_x):
        if not np.isnan(row[~of_all]).all():
            ax.plot(row_x, np.where(alone, row, np.nan), marker=marker, label="",
                    **style | {"linewidth": 0.7, "markersize": 2})


def mean_and_range(values, digits=2):
    """The mean of some numbers, and the least and the greatest in brackets, if there are several."""
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f}..{max(values):.{digits}f})"


def draw_loss(runs, side_by_side):
    """Loss, MSE and KL of a predicted frame over the epochs, one above the other."""
    rows = {"loss": f"loss\n({reconstruction_term(runs)} + \u03b2 KL)",
            "mse": "MSE\n(pixels in [0, 1])", "kl": "KL\n(nats per frame)"}
    curves = by_label(runs)
    figure, axes = panels(list(curves), side_by_side, "Training loss", rows.values(), "epoch")
    for (label, group), column, style in zip(curves.items(), axes, cycle(STYLES)):
        for ax, name in zip(column, rows):
            plot_band(ax, *over_epochs(group, name), label, **style)
    for row in zip(*axes):
        log_scale(row)
    return with_legend(figure, axes[0][0], list(curves))


def reconstruction_term(runs):
    """What stands beside the KL in the loss of these runs; the name of the flag if they differ or it is not known."""
    terms = {(FLAGS_OF_OLDER_RUNS | run.arguments)["reconstruction"] if run.arguments else None for run in runs}
    [term] = terms if len(terms) == 1 else [None]
    return RECONSTRUCTION_LABELS.get(term, term or "--reconstruction")


def draw_schedule(column, title, y_label, runs, side_by_side):
    """The course of `column` over the epochs. Earlier curves are wider, so that no later one hides them."""
    curves = by_label(runs)
    figure, axes = panels(list(curves), side_by_side, title, [y_label], "epoch")
    widths = np.linspace(1.6 if side_by_side else min(0.6 + len(curves), 5), 1.6, len(curves))
    for (label, group), (ax,), style, width in zip(curves.items(), axes, cycle(STYLES), widths):
        plot_band(ax, *over_epochs(group, column), label, linewidth=width, markersize=2 + width, **style)
    courses = [run.metrics[column] for run in runs]
    if column == "lr" and any(course.max() > 10 * np.median(course) for course in courses):
        log_scale([ax for ax, in axes])  # on a linear scale most of the curve would lie on the floor
    else:
        top = np.nanmax(np.concatenate(courses)) or 1
        axes[0][0].set_ylim(-0.05 * top, 1.05 * top)
    return with_legend(figure, axes[0][0], list(curves))


def draw_validation_psnr(runs, side_by_side):
    """PSNR in dB at the validated epochs, of a single run with a star at the best."""
    curves = {}
    for label, group in by_label(runs).items():
        epochs, values = over_epochs(group, "val_psnr")
        found = f"best {mean_and_range(np.nanmax(values, axis=1))} dB"
        found += f" at epoch {epochs[np.nanargmax(values)]:.0f}" if len(group) == 1 else ""
        curves[f"{label}: {found}"] = epochs, values
    figure, axes = panels(list(curves), side_by_side, "Validation PSNR", ["validation PSNR (dB)"], "epoch")
    for (label, (epochs, values)), (ax,), style in zip(curves.items(), axes, cycle(STYLES)):
        plot_band(ax, epochs, values, label, **style)
        if len(values) == 1:
            ax.plot(epochs[np.nanargmax(values)], np.nanmax(values), "*", markersize=11, color=style["color"])
    return with_legend(figure, axes[0][0], list(curves))


def draw_psnr_over_seconds(runs, side_by_side):
    """Validation PSNR in dB over the seconds until then. Over several seeds: the mean PSNR of an epoch over its mean
    seconds; a seed that is trained longer than another is drawn over its own seconds from there on.
    """
    curves = by_label(runs)
    figure, axes = panels(list(curves), side_by_side, "Validation PSNR over time", ["validation PSNR (dB)"],
                          "seconds of training and validation")
    for (label, group), (ax,), style in zip(curves.items(), axes, cycle(STYLES)):
        epochs, values = over_epochs(group, "val_psnr")
        timed, seconds = over_epochs(group, "seconds")
        seconds = seconds[:, np.isin(timed, epochs)]
        plot_band(ax, np.nanmean(seconds, axis=0), values[:, np.isin(epochs, timed)], label, own_x=seconds, **style)
    return with_legend(figure, axes[0][0], list(curves))


def running_mean(values, window=SMOOTHED_FRAMES):
    """Mean over the `window` values around each, over fewer at both ends."""
    half = window // 2
    return [values[max(i - half, 0):i + half + 1].mean() for i in range(len(values))]


def draw_psnr_per_frame(runs, side_by_side):
    """PSNR in dB of predicted frames 1, 2, ...: of a single run's sequences, or their mean in each run."""
    if len(runs) == 1:
        curves = {f"{name}: mean {np.nanmean(psnr):.2f} dB": [psnr] for name, psnr in runs[0].psnr.items()}
        title = [f"{runs[0].label}: mean {mean_psnr(runs[0]):.2f} dB"]
    else:
        curves = {f"{label}: mean {mean_and_range([*map(mean_psnr, group)])} dB":
                  [np.nanmean(list(run.psnr.values()), axis=0) for run in group]
                  for label, group in by_label(runs).items()}
        title = list(curves)
    figure, axes = panels(title, side_by_side, f"PSNR of each predicted frame (bold: mean of {SMOOTHED_FRAMES} frames)",
                          ["PSNR (dB)"], "frame")
    if len(runs) == 1:
        axes *= len(curves)
    for (label, courses), (ax,), style in zip(curves.items(), axes, cycle(STYLES)):
        length = min(np.isfinite(psnr).sum() for psnr in courses)
        frames = np.arange(1, length + 1)
        if len(courses) == 1:
            ax.plot(frames, courses[0][:length], color=style["color"], linewidth=0.6, alpha=0.5)
        plot_band(ax, frames, np.array([running_mean(psnr[:length]) for psnr in courses]), label, marked=False, **style)
    return with_legend(figure, axes[0][0], list(curves))


def mean_psnr(run):
    """The mean over the sequences of the PSNR of a run, in dB."""
    return np.mean([np.nanmean(psnr) for psnr in run.psnr.values()])


def draw_samples(runs, side_by_side):
    """PSNR of each frame over several samples: their mean, in the band of 95 %, and the best (thin)."""
    labels = [run.label for run in runs]
    figure, axes = panels(labels, side_by_side, SAMPLES_TITLE, ["PSNR (dB)"], "frame")
    for run, (ax,), style in zip(runs, axes, cycle(STYLES)):
        curves = {end: running_mean(run.samples[f"psnr_{end}"]) for end in ("mean", "low", "high", "best")}
        frames = run.samples["frame"]
        ax.plot(frames, curves["mean"], label=run.label, **style)
        ax.fill_between(frames, curves["low"], curves["high"], color=style["color"], alpha=0.2, linewidth=0)
        ax.plot(frames, curves["best"], label="", linewidth=0.7, **style)
    return with_legend(figure, axes[0][0], labels)


def draw_z(runs, side_by_side):
    """What z carries and is worth over the epochs, with beta below; see modules.latent.z_usage."""
    rows = {"val_kl": "KL\n(nats per frame)", "val_active_units": "active units of z",
            "posterior": "PSNR over z = 0 (dB)\nz from posterior", "prior": "PSNR over z = 0 (dB)\nz from prior",
            "beta": "\u03b2 (factor on KL)"}
    curves = by_label(runs)
    figure, axes = panels(list(curves), side_by_side, "What z carries, and what it is worth", rows.values(), "epoch")
    for (label, group), (kl, active, posterior, prior, beta), style in zip(curves.items(), axes, cycle(STYLES)):
        plot_band(kl, *over_epochs(group, "val_kl"), label, **style)
        plot_band(active, *over_epochs(group, "val_active_units"), label, **style)
        plot_band(posterior, *over_epochs(group, "val_psnr_posterior", minus="val_psnr_zero"), label, **style)
        plot_band(prior, *over_epochs(group, "val_psnr_prior", minus="val_psnr_zero"), label, **style)
        plot_band(beta, *over_epochs(group, "beta"), label, marked=False, **style)
    for row in (0, 1):
        log_scale([column[row] for column in axes])
    units = np.concatenate([run.metrics["val_active_units"] for run in runs])
    if (units == 0).any():  # where z is dead; a logarithmic axis would not show it
        axes[0][1].set_yscale("symlog", linthresh=1)
        axes[0][1].set_ylim(-0.05, 1.4 * max(np.nanmax(units), 1))
    highest = max(run.metrics["beta"].max() for run in runs)
    axes[0][4].set_ylim(0, 1.05 * highest or 1)
    return with_legend(figure, axes[0][0], list(curves))


def draw_rate_distortion(runs, side_by_side):
    """KL against the MSE with z from the posterior, both at the last validation: a curve through the KL weights.

    The MSE is the geometric mean of the frames, because metrics.csv has the mean of their PSNRs. The bars reach from
    the least to the greatest of the runs that differ in the seed alone.
    """
    flags, curves = differing_flags(runs), {}
    for run in runs:
        label = ", ".join(f"{flag}={value}" for flag, value in flags[run].items() if flag != "kl_weight")
        curves.setdefault(label or "runs", {}).setdefault(run.arguments["kl_weight"], []).append(run)
    figure, axes = panels(list(curves), side_by_side, "Rate and distortion, a point for each --kl_weight",
                          ["MSE with z from the posterior\n(geometric mean of the frames)"], "KL (nats per frame)")
    markers = dict(zip(sorted({weight for weights in curves.values() for weight in weights}), cycle(MARKERS)))
    rates = set()
    for (label, weights), (ax,), style in zip(curves.items(), axes, cycle(STYLES)):
        points = {weight: np.array([rate_and_distortion(run) for run in weights[weight]]) for weight in sorted(weights)}
        means = np.array([of_seeds.mean(axis=0) for of_seeds in points.values()])
        ax.plot(*means.T, label=label, **style)
        for (weight, of_seeds), mean in zip(points.items(), means):
            bars = np.abs([of_seeds.min(axis=0) - mean, of_seeds.max(axis=0) - mean]).T
            ax.errorbar(*mean, xerr=bars[0][:, None], yerr=bars[1][:, None], color=style["color"], elinewidth=0.8,
                        marker=markers[weight], markersize=6)
        rates.update(rate for of_seeds in points.values() for rate in of_seeds[:, 0])
        ax.set_yscale("log")
    positive = [rate for rate in rates if rate > 0] or [1]
    least, most = 10.0 ** np.floor(np.log10(min(positive))), 10.0 ** np.ceil(np.log10(max(positive)))
    for (ax,) in axes:
        ax.set_xscale("symlog", linthresh=least)  # a dead z may have a rate of 0
        ax.xaxis.get_major_locator().set_params(numticks=6 if side_by_side else 15)
        ax.set_xlim(-0.1 * least if 0 in rates else 0.8 * least, 2 * most)
    explain_markers(figure, "--kl_weight", {f"{weight:g}": marker for weight, marker in markers.items()})
    return with_legend(figure, axes[0][0], list(curves))


def rate_and_distortion(run):
    """KL in nats a frame, and MSE of the mean PSNR with z from the posterior, at the last validation of a run."""
    last = np.flatnonzero(np.isfinite(run.metrics["val_kl"]))[-1]
    return run.metrics["val_kl"][last], 10 ** (-run.metrics["val_psnr_posterior"][last] / 10)


class Kind(NamedTuple):
    """A kind of figure."""

    file: str  # its name, without a suffix
    draw: Callable  # (runs, side_by_side)
    columns: tuple = ()  # of metrics.csv, which must all have a value in some epoch
    needs: str = "a run that has written a row of metrics.csv, or a test that knew the truth (Tester.py --gt)"


FIGURES = {  # by the word for --figures
    "loss": Kind("loss", draw_loss, ("loss",)),
    "tfr": Kind("teacher_forcing_ratio",
                partial(draw_schedule, "tfr", "Teacher forcing ratio", "probability of teacher forcing"), ("tfr",)),
    "beta": Kind("beta", partial(draw_schedule, "beta", "KL annealing", "\u03b2 (factor on KL)"), ("beta",)),
    "lr": Kind("learning_rate",
               partial(draw_schedule, "lr", "Learning rate", "learning rate at the end of the epoch"), ("lr",)),
    "val_psnr": Kind("validation_psnr", draw_validation_psnr, ("val_psnr",), "a run that has validated"),
    "psnr_over_seconds": Kind("psnr_over_seconds", draw_psnr_over_seconds, ("seconds", "val_psnr"),
                              "a run that has validated, with its times.csv"),
    "psnr_per_frame": Kind("psnr_per_frame", draw_psnr_per_frame),
    "samples": Kind("samples", draw_samples, needs="the folder of a test with --samples"),
    "z": Kind("z", draw_z, ("val_kl",), "a run that has validated z"),
    "rate_distortion": Kind("rate_distortion", draw_rate_distortion, ("val_kl",), "runs that have validated z"),
}


def has_data(run, figure):
    """Whether a run has logged what a figure shows; of a curve over epochs, each column that it needs in an epoch."""
    if figure == "psnr_per_frame":
        return bool(run.psnr)
    if figure == "samples":
        return bool(run.samples)
    if figure == "rate_distortion" and "kl_weight" not in run.arguments:
        return False
    columns = FIGURES[figure].columns
    if not all(column in run.metrics for column in columns):
        return False
    return np.isfinite([run.metrics[column] for column in columns]).all(axis=0).any()


def applies(figure, runs):
    """Whether these runs can have a figure; one that does not apply is drawn only if it is asked for."""
    if figure == "rate_distortion":
        return len({run.arguments["kl_weight"] for run in runs if "kl_weight" in run.arguments}) > 1
    return figure != "samples" or any(run.samples for run in runs)


def draw_runs(folders, *, figures=None, out=None, side_by_side=False, file_format="png"):
    """Draw figures of one or more runs.

    figures: names in FIGURES; None: all that apply. out: folder of the figures; None: the run's own, or OUT for
    several runs.
    Returns the paths of the figures, and {name of a run: names of the figures that it has no data for}.
    """
    runs = read_runs(folders)
    out = out or (folders[0] if len(runs) == 1 else OUT)
    paths, missing = [], {}
    for figure in figures or [figure for figure in FIGURES if applies(figure, runs)]:
        drawable = [run for run in runs if has_data(run, figure)]
        for run in runs:
            if run not in drawable:
                missing.setdefault(run.name, []).append(figure)
        if drawable:
            kind = FIGURES[figure]
            paths.append(save(kind.draw(label_by_difference(drawable), side_by_side), out, kind.file, file_format))
    return paths, missing


def draw_schedules(figure, curves, *, out, side_by_side=False, file_format="png"):
    """Draw one schedule before any run. figure: `tfr`, `beta` or `lr`. curves: see `scheduled`. Returns its path."""
    kind = FIGURES[figure]
    return save(kind.draw(label_by_difference(curves), side_by_side), out, kind.file, file_format)


def scheduled(name, flags):
    """The beta, teacher forcing ratio and learning rate of a run, from its flags (a namespace) alone.

    The learning rate of an epoch is that of its last optimizer step, as in metrics.csv: a milestone at the end of the
    epoch lowers that of the next one.
    """
    schedules, epochs = Schedules(**schedule_settings(flags)), range(flags.num_epoch)
    columns = {"epoch": epochs, "beta": list(map(schedules.beta, epochs)), "tfr": list(map(schedules.tfr, epochs)),
               "lr": [schedules.lr(np.nextafter(epoch + 1, epoch)) for epoch in epochs]}
    return Run(name, vars(flags), {column: np.array(values, float) for column, values in columns.items()})
