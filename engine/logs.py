"""The files of a run that figures are drawn from: metrics.csv, times.csv, psnr_per_frame.csv and args.json."""

import csv
import json
from itertools import zip_longest
from pathlib import Path

import numpy as np

from cli.errors import UsageError
from cli.files import atomic_write, writing

METRICS_COLUMNS = ("epoch", "loss", "mse", "kl", "beta", "tfr", "lr", "grad_norm", "val_psnr", "val_ssim")
TIMES_COLUMNS = ("epoch", "seconds")


def write_columns(path, columns):
    """Write columns of numbers or text under their names; a shorter column leaves its last cells empty."""
    with atomic_write(path, "w", newline="") as file:
        csv.writer(file).writerows([columns, *zip_longest(*columns.values(), fillvalue="")])


def read_columns(path, required, may_be_empty=lambda column: False):
    """Read a CSV of numbers as {column: array}; {} without a file.

    required: columns that must be there. may_be_empty: which columns may have empty cells; they are read as NaN.
    Raises UsageError naming the file and the line.
    """
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
            raise UsageError(f"{line}: {len(row)} cells instead of {len(header)}; correct or remove the line")
        for index, (column, cell) in enumerate(zip(header, row)):
            try:
                table[number, index] = cell if cell or not may_be_empty(column) else np.nan
            except ValueError:
                raise UsageError(f"{line}, column {column!r}: {cell!r} is not a number; correct the line") from None
    return dict(zip(header, table.T))


def read_metrics(folder):
    """metrics.csv as {column: array over epochs}, with the column `seconds` of times.csv.

    val_* are NaN at epochs without a validation, `seconds` at epochs that times.csv lacks.
    """
    metrics = read_columns(folder / "metrics.csv", METRICS_COLUMNS, lambda column: column.startswith("val_"))
    times = read_columns(folder / "times.csv", TIMES_COLUMNS)
    if metrics and times:
        seconds = dict(zip(times["epoch"], times["seconds"]))
        metrics["seconds"] = np.array([seconds.get(epoch, np.nan) for epoch in metrics["epoch"]])
    return metrics


def write_psnr_per_frame(folder, per_frame):
    """Write psnr_per_frame.csv. per_frame: for each sequence, the PSNR (dB) of its frames 1..T-1."""
    columns = {"frame": range(1, 1 + max(map(len, per_frame)))}
    columns |= {f"seq{number}": [f"{value:.6g}" for value in values] for number, values in enumerate(per_frame)}
    write_columns(folder / "psnr_per_frame.csv", columns)


def read_psnr_per_frame(folder):
    """psnr_per_frame.csv as {sequence: PSNR in dB at frames 1, 2, ...}; NaN after the end of a sequence."""
    columns = read_columns(folder / "psnr_per_frame.csv", ["frame"], lambda column: column != "frame")
    return {name: values for name, values in columns.items() if name != "frame" and np.isfinite(values).any()}


def read_arguments(folder):
    """The flags in args.json as {flag: value}; {} without the file."""
    path = folder / "args.json"
    try:
        return dict(json.loads(path.read_text())["arguments"]) if path.is_file() else {}
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{path} holds no \"arguments\"; remove it to go without the run's flags") from None


class EpochLog:
    """A CSV with a row for each epoch, written at once."""

    def __init__(self, path, columns, first_epoch=0):
        """Start the file, or continue it: rows of `first_epoch` and later are removed. `rows` are the kept ones."""
        self.path, self.columns, self.rows = Path(path), columns, []
        if first_epoch and self.path.is_file():
            with open(self.path, newline="") as file:
                self.rows = [row for row in csv.reader(file)
                             if len(row) == len(columns) and row[0].isdecimal() and int(row[0]) < first_epoch]
        with atomic_write(self.path, "w", newline="") as file:
            csv.writer(file).writerows([columns, *self.rows])

    def append(self, values):
        """values: dict of the columns; those left out stay empty."""
        row = [values.get(name, "") for name in self.columns]
        with writing(self.path), open(self.path, "a", newline="") as file:
            csv.writer(file).writerow([f"{value:.8g}" if isinstance(value, float) else value for value in row])
