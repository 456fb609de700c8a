"""Draw what runs of Trainer.py and Tester.py have logged, or a schedule before anything has run."""

import csv
import json
import shlex
import textwrap
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from modules import options, schedules
from modules.errors import UsageError, run_script
from modules.outputs import METRICS_COLUMNS, TIMES_COLUMNS, replacing

# The colours of Okabe & Ito, which colour-blind readers can tell apart; past seven curves the dashes change.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
STYLES = [{"color": colour, "linestyle": dashes} for dashes in ("-", "--", ":") for colour in COLOURS]
matplotlib.use("Agg")
matplotlib.rcParams.update({
    "font.size": 11, "figure.titlesize": 13, "axes.titlesize": 10, "legend.fontsize": 10,
    "xtick.labelsize": 10, "ytick.labelsize": 10, "lines.linewidth": 1.6, "lines.markersize": 3.5,
    "axes.grid": True, "grid.color": "#dddddd", "grid.linewidth": 0.7, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#888888",
    "legend.frameon": False, "figure.constrained_layout.h_pad": 0.08, "savefig.dpi": 150,
})
SMOOTHED_FRAMES = 15


@dataclass(eq=False)
class Run:
    """What a run has logged: `metrics` are arrays over its epochs, `psnr` arrays of dB at frames 1, 2, ..."""

    name: str
    arguments: dict = field(default_factory=dict)
    metrics: dict = field(default_factory=dict)
    psnr: dict = field(default_factory=dict)
    label: str = ""


def read_columns(path, required, may_be_empty):
    """A CSV of numbers as {column: array}; a cell that is and may be empty is NaN. {} without a file."""
    if not path.is_file():
        return {}
    with open(path, newline="", errors="replace") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    for column in required:
        if column not in header:
            raise UsageError(f"{path} has no column {column!r}; remove it if another program wrote it")
    table = np.empty((len(rows), len(header)))
    for number, row in enumerate(rows):
        line = f"{path}, line {number + 2}"
        if len(row) != len(header):
            raise UsageError(f"{line}: {len(row)} cells instead of {len(header)}; mend or remove the line")
        for index, (column, cell) in enumerate(zip(header, row)):
            try:
                table[number, index] = cell if cell or not may_be_empty(column) else np.nan
            except ValueError:
                raise UsageError(f"{line}, column {column!r}: {cell!r} is no number; mend the line") from None
    return dict(zip(header, table.T))


def read_metrics(folder):
    """metrics.csv as {column: array over epochs}, with the column `seconds` of times.csv. val_* are NaN at the
    epochs without a validation, `seconds` at those that times.csv does not have."""
    metrics = read_columns(folder / "metrics.csv", METRICS_COLUMNS, lambda column: column.startswith("val_"))
    times = read_columns(folder / "times.csv", TIMES_COLUMNS, lambda _: False)
    if metrics and times:
        seconds = dict(zip(times["epoch"], times["seconds"]))
        metrics["seconds"] = np.array([seconds.get(epoch, np.nan) for epoch in metrics["epoch"]])
    return metrics


def read_psnr_per_frame(folder):
    """psnr_per_frame.csv as {sequence: PSNR in dB at frames 1, 2, ...}; NaN once a sequence has ended."""
    columns = read_columns(folder / "psnr_per_frame.csv", ["frame"], lambda column: column != "frame")
    return {name: values for name, values in columns.items() if name != "frame" and np.isfinite(values).any()}


def read_arguments(folder):
    """The flags in args.json as {flag: value}."""
    path = folder / "args.json"
    try:
        return dict(json.loads(path.read_text())["arguments"]) if path.is_file() else {}
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{path} holds no \"arguments\"; remove it to go without the run's flags") from None


def read_runs(folders):
    """The runs in folders, each with what it has, labelled by what tells them apart."""
    for folder in folders:
        if not Path(folder).is_dir():
            raise UsageError(f"{folder} is not a folder; give one that Trainer.py or Tester.py has written")
    paths = [Path(folder).resolve() for folder in folders]
    unique = len({path.name for path in paths}) == len(paths)
    return label_by_difference([Run(path.name if unique else folder, read_arguments(path), read_metrics(path),
                                    read_psnr_per_frame(path)) for path, folder in zip(paths, folders)])


def shown(value):
    return f"{value:g}" if isinstance(value, float) else str(value)


def label_by_difference(runs):
    """Label each run by the flags in which it differs from the others, else by its name.

    Flags about the machine and the run's folder do not count, as they do not shape the result; the seed does.
    """
    without_effect = options.Parser("")
    options.add_machine_options(without_effect)
    options.add_run_options(without_effect)
    without_effect = set(vars(without_effect.parse_args([]))) - {"seed"}
    defaults = vars(options.trainer_parser().parse_args([]))  # for a flag that is younger than a run
    known = {run.name: {flag: shown(run.arguments.get(flag, default)) for flag, default in defaults.items()}
             for run in runs if run.arguments}
    differing = [flag for flag in defaults
                 if flag not in without_effect and len({flags[flag] for flags in known.values()}) > 1]
    for run in runs:
        if run.name in known:
            run.label = ", ".join(f"{flag}={known[run.name][flag]}" for flag in differing)
    labels = [run.label for run in runs]
    for run in runs:
        if labels.count(run.label) > 1 or not run.label:
            run.label = f"{run.label} ({run.name})" if run.label else run.name
    return runs


def wrap(text, width):
    return textwrap.fill(text, width, break_on_hyphens=False)


def panels(labels, side_by_side, title, y_labels, x_label):
    """An empty figure, and axes[i][r] for row r of curve i: a column of axes for each label, or one for all.

    A label is the title of its column. Past three, columns go on below.
    """
    count = len(labels) if side_by_side else 1
    columns, rows = min(count, 3), len(y_labels)
    blocks = -(-count // columns)
    titles = [wrap(label, 85 if columns == 1 else 40) for label in labels] if count == len(labels) else [""]
    block_height = (3.8 if rows == 1 else 2.4 * rows) + 0.2 * max(text.count("\n") for text in titles)
    figure = Figure(figsize=(8 if columns == 1 else 1 + 3.4 * columns, 0.7 + blocks * block_height),
                    layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(blocks * rows, columns, sharex=True, squeeze=False)
    axes = [grid[i // columns * rows:, i % columns][:rows] for i in range(count)]
    for ax in set(grid.flat) - {ax for column in axes for ax in column}:
        ax.remove()
    for i, (column, text) in enumerate(zip(axes, titles)):
        column[0].set_title(text)
        column[-1].set_xlabel(x_label)
        column[-1].tick_params(labelbottom=True)
        column[-1].xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
        for ax, leftmost, y_label in zip(column, axes[0], y_labels):
            if i > 0:
                ax.sharey(leftmost)
            if i % columns == 0:
                ax.set_ylabel(y_label)
            else:
                ax.tick_params(which="both", labelleft=False)
    return figure, axes if side_by_side else axes * len(labels)


def with_legend(figure, ax, labels):
    """The figure, with a legend below all axes, where no curve can be, if several curves share `ax`."""
    lines = [line for line in ax.lines if line.get_label() in labels]
    if len(lines) > 1:
        columns = max(1, min(3, 90 // (max(map(len, labels)) + 6)))
        texts = [wrap(line.get_label(), 85) for line in lines]
        figure.legend(lines, texts, loc="outside lower center", ncols=columns)
        height = 0.2 * sum(text.count("\n") + 1 for text in texts) / columns
        figure.set_figheight(figure.get_figheight() + height)
    return figure


def log_scale(axes):
    """Give axes that share their y axis a logarithmic one, if some value is positive and none is negative.

    Zeros, and what is below 1e-7 of the 0.9 quantile of the values, run out at the bottom.
    """
    values = np.concatenate([line.get_ydata() for ax in axes for line in ax.lines])
    values = values[np.isfinite(values)]
    if (values > 0).any() and not (values < 0).any():
        values = values[values > 0]
        axes[0].set_yscale("log", nonpositive="clip")
        axes[0].set_ylim(max(values.min(), 1e-7 * np.quantile(values, 0.9)) / 1.4, values.max() * 1.4)


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


def save(figure, folder, name, file_format):
    path = Path(folder) / f"{name}.{file_format}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            figure.savefig(file, format=file_format)
    except OSError as error:
        raise UsageError(f"cannot write {path} ({error.strerror}); choose another --out") from None
    print(path)


def has_data(run, figure):
    if figure == "psnr_per_frame":
        return bool(run.psnr)
    columns = ["seconds", "val_psnr"] if figure == "psnr_over_seconds" else [figure]
    return np.isfinite(sum(run.metrics.get(column, np.nan) for column in columns)).any()


def draw_runs(arguments):
    runs = read_runs(arguments.runs)
    out = arguments.out or (arguments.runs[0] if len(runs) == 1 else "figures")
    left_out = {}
    for figure in arguments.figures:
        drawable = [run for run in runs if has_data(run, figure)]
        for run in runs:
            if run not in drawable:
                left_out.setdefault(run.name, []).append(figure)
        if drawable:
            name, draw = FIGURES[figure]
            save(draw(drawable, arguments.layout == "side_by_side"), out, name, arguments.format)
    if all(left_out.get(run.name) == arguments.figures for run in runs):
        raise UsageError(f"{' '.join(arguments.runs)}: no {' or '.join(arguments.figures)} to draw; "
                         "give a run that has written a row of metrics.csv or psnr_per_frame.csv")
    if left_out:
        print("left out for want of data:",
              "; ".join(f"{', '.join(figures)} of {name}" for name, figures in left_out.items()))


def scheduled(flags, name):
    """A run's beta, teacher forcing ratio and learning rate, from its flags alone."""
    rows = [(epoch,
             flags.kl_weight * schedules.kl_beta(epoch, flags.kl_anneal_type, flags.num_epoch,
                                                 flags.kl_anneal_cycle, flags.kl_anneal_ratio),
             schedules.teacher_forcing_ratio(epoch, flags.tfr, flags.tfr_sde, flags.tfr_d_step),
             schedules.learning_rate(epoch, flags.lr, flags.lr_schedule, flags.num_epoch, flags.milestones,
                                     flags.gamma, flags.warmup_epochs)) for epoch in range(flags.num_epoch)]
    return Run(name, vars(flags), dict(zip(["epoch", "beta", "tfr", "lr"], np.array(rows, float).T)))


def schedule_parser():
    parser = options.Parser("The flags of a schedule.")
    options.add_schedule_options(parser)
    return parser


def draw_schedules(arguments, typed):
    name = ", ".join(f"{flag}={shown(value)}" for flag, value in typed.items()) or "default flags"
    curves = [scheduled(arguments, name)]
    for text in arguments.versus:
        parser = schedule_parser()
        parser.prog += f' --versus "{text}"'
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise UsageError(f'--versus "{text}": {error}') from None
        curves.append(scheduled(parser.parse_args(words, copy(arguments)), text))
    name, draw = FIGURES[arguments.schedule]
    figure = draw(label_by_difference(curves), arguments.layout == "side_by_side")
    save(figure, arguments.out or "figures", name, arguments.format)


def plotting_parser():
    parser = options.Parser("Draw the curves of one run or of several, or a schedule before any run.")
    parser.add_argument("runs", nargs="*", metavar="RUN", help="folder that Trainer.py or Tester.py wrote")
    parser.add_argument("--out", metavar="FOLDER",
                        help="folder of the figures; if left out, the run's own if it is one, else figures/")
    parser.add_argument("--figures", nargs="+", choices=FIGURES, default=list(FIGURES), help="which to draw")
    parser.add_argument("--layout", choices=["overlay", "side_by_side"], default="overlay",
                        help="several runs in the same axes, or each in its own with common scales")
    parser.add_argument("--format", choices=["png", "pdf", "svg"], default="png", help="file format")
    group = parser.add_argument_group("schedules")
    group.add_argument("--schedule", choices=["tfr", "beta", "lr"],
                       help="draw this schedule, without a run, from the flags below")
    group.add_argument("--versus", action="append", default=[], metavar="FLAGS",
                       help='another curve of it, with these flags changed, as in "--tfr 0"; repeatable')
    options.add_schedule_options(parser)
    return parser


def main(words=None):
    parser = plotting_parser()
    arguments, given = parser.parse_args(words), parser.given(words)
    typed = {flag: given[flag] for flag in vars(schedule_parser().parse_args([])) if flag in given}
    if arguments.schedule:
        if arguments.runs or "figures" in given:
            raise UsageError("--schedule draws one figure, without a run; leave out the run and --figures")
        draw_schedules(arguments, typed)
    elif not arguments.runs:
        raise UsageError("nothing to draw; give the folder of a run, or --schedule tfr, beta or lr")
    elif typed or arguments.versus:
        raise UsageError(f"--{[*typed, 'versus'][0]} is for --schedule; the flags of a run are in its folder")
    else:
        draw_runs(arguments)


if __name__ == "__main__":
    run_script(main)
