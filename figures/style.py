"""How every figure looks: colours, axes, legends, and how it is saved."""

import math
import os
import re
import textwrap
import warnings
from contextlib import contextmanager
from functools import cache

import numpy as np

from cli.files import atomic_write, make_folder

backend = os.environ.pop("MPLBACKEND", None)  # a notebook's: matplotlib refuses it where its package is missing
import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

if backend:
    os.environ["MPLBACKEND"] = backend

# The colours of Okabe & Ito, which colour-blind readers can tell apart; past seven curves the dashes change,
# so dashes tell runs apart and nothing else.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
STYLES = [{"color": colour, "linestyle": dashes} for dashes in ("-", "--", ":") for colour in COLOURS]
MARKERS = "os^DvPX*<>"
# Of Windows, macOS and Linux. Of a file with several fonts matplotlib knows the first, like that of Hong Kong or Japan.
CHINESE_FONTS = ["Microsoft JhengHei", "PingFang TC", "PingFang HK", "Heiti TC", "Noto Sans CJK TC", "Noto Sans CJK JP",
                 "Noto Sans TC"]
MISSING_LETTER = "Glyph .* missing from"  # a warning of matplotlib's


def font_families(installed):
    """List the fonts that a letter is looked for in, in this order: Chinese ones, for a folder's name, if installed."""
    return ["DejaVu Sans", *(name for name in CHINESE_FONTS if name in installed)]


matplotlib.rcParams.update({
    "font.family": font_families(font_manager.get_font_names()),
    "font.size": 11, "figure.titlesize": 13, "axes.titlesize": 10, "legend.fontsize": 10,
    "xtick.labelsize": 10, "ytick.labelsize": 10, "lines.linewidth": 1.6, "lines.markersize": 3.5,
    "axes.grid": True, "grid.color": "#dddddd", "grid.linewidth": 0.7, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#888888",
    "legend.frameon": False, "figure.constrained_layout.h_pad": 0.08, "savefig.dpi": 150,
})


def wrap(text, width):
    """Break a text of the user's into lines. A $ in it, as in a folder's name, begins no formula."""
    return textwrap.fill(text.replace("$", r"\$"), width, break_on_hyphens=False)


def panels(labels, side_by_side, title, y_labels, x_label):
    """An empty figure, and axes[i][r] for row r of curve i: a column of axes for each label, or one for all.

    A label is the title of its column. From the fourth on columns stand below the first three.
    """
    count = len(labels) if side_by_side else 1
    columns, rows = min(count, 3), len(y_labels)
    blocks = math.ceil(count / columns)
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
        if x_label in ("epoch", "frame"):
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


def explain_markers(figure, title, markers):
    """Add a legend to the right of all axes: what each marker stands for, {text: marker}."""
    points = [Line2D([], [], color="#444444", linestyle="", marker=marker, markersize=6) for marker in markers.values()]
    figure.legend(points, list(markers), title=title, loc="outside right upper")


def log_scale(axes):
    """Give axes that share their y axis a logarithmic one, if some value is positive and none is negative.

    Zeros, and what is below 1e-7 of the 0.9 quantile of the values, lie below the axes.
    """
    bands = [path.vertices[:, 1] for ax in axes for band in ax.collections for path in band.get_paths()]
    values = np.concatenate([line.get_ydata() for ax in axes for line in ax.lines] + bands)
    values = values[np.isfinite(values)]
    if (values > 0).any() and not (values < 0).any():
        values = values[values > 0]
        axes[0].set_yscale("log", nonpositive="clip")
        axes[0].set_ylim(max(values.min(), 1e-7 * np.quantile(values, 0.9)) / 1.4, values.max() * 1.4)


@cache
def note_missing_letters():
    """Print a note, once in a process."""
    print(f"note: no font here has every letter of the figures, which show boxes instead; install {CHINESE_FONTS[-1]}")


@contextmanager
def missing_letters_noted():
    """Print one note in place of a warning for each letter that no font has."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", MISSING_LETTER)
        yield
    for warning in caught:
        if re.match(MISSING_LETTER, str(warning.message)):
            note_missing_letters()
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def save(figure, folder, name, file_format="png"):
    """Write a figure into a folder, which is made if it is not there. Returns its path."""
    path = make_folder("--out", folder) / f"{name}.{file_format}"
    with atomic_write(path) as file, missing_letters_noted():
        figure.savefig(file, format=file_format)
    return path
