"""The files of a run that figures are drawn from: metrics.csv, times.csv, psnr_per_frame.csv, args.json, videos."""

import csv
import io
import re
from itertools import zip_longest

import numpy as np

from cli.errors import UsageError
from cli.files import read_json, read_json_or_none, remove_file, write_bytes, write_json, write_text
from cli.flags import SPLITS

OLDEST_COLUMNS = ("epoch", "loss", "mse", "kl", "beta", "tfr", "lr", "grad_norm", "val_psnr", "val_ssim")
Z_COLUMNS = ("val_kl", "val_active_units", "val_psnr_posterior", "val_psnr_prior", "val_psnr_zero", "val_spread")
METRICS_COLUMNS = (*OLDEST_COLUMNS, *Z_COLUMNS, "skipped_steps")  # older runs lack the columns after the oldest
CHECKPOINTS = ("last.ckpt", "best.ckpt", "epoch=*.ckpt")  # of a run
TIMES_COLUMNS = ("epoch", "seconds", "validation_seconds")  # older runs lack the last
SAMPLES_COLUMNS = ("frame", "psnr_mean", "psnr_low", "psnr_high", "psnr_best")  # those that are drawn
TEST_FILES = ("split.json", "submission.csv", "scores.json", "psnr_per_frame.csv", "samples_per_frame.csv", "first.npz",
              "samples.npz")


def figure_files(names):
    """The names of all files into which Plotting.py may draw the figures of these names."""
    return [f"{name}.{suffix}" for name in names for suffix in ("png", "pdf", "svg")]


def checkpoints_in(folder):
    """The paths of a run's own checkpoints; a user may have put others beside them."""
    return [path for pattern in CHECKPOINTS for path in files_of(folder, pattern)]


def files_of(folder, pattern):
    """The files in a folder whose names are as the pattern, in which * is a number: a user may have renamed others."""
    name = re.compile(re.escape(pattern).replace(r"\*", r"\d+"))
    return [path for path in sorted(folder.glob(pattern)) if name.fullmatch(path.name)]


def holds_run(folder):
    """Whether an epoch was logged or saved in the folder."""
    log = folder / "metrics.csv"
    return bool(checkpoints_in(folder)) or log.is_file() and log.read_bytes().strip().count(b"\n") > 0


def write_columns(path, columns):
    """Write columns of numbers or text under their names; a shorter column leaves its last cells empty."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([columns, *zip_longest(*columns.values(), fillvalue="")])
    write_text(path, text.getvalue())


def read_columns(path, required, may_be_empty=lambda column: False):
    """Read a CSV of numbers as {column: array}; {} without a file.

    required: columns that must be there. may_be_empty: which columns may have empty cells; they are read as NaN.
    Raises UsageError naming the file and the line.
    """
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        try:
            header, *rows = list(csv.reader(file)) or [[]]
        except csv.Error as error:
            raise UsageError(f"{path} cannot be read ({error}); correct or remove it") from None
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

    val_* are NaN at epochs without a validation, `seconds` at epochs that times.csv lacks, `skipped_steps` at those of
    an older version.
    """
    metrics = read_columns(folder / "metrics.csv", OLDEST_COLUMNS,
                           lambda column: column.startswith("val_") or column == "skipped_steps")
    times = read_times(folder)
    if metrics and times:
        seconds = dict(zip(times["epoch"], times["seconds"]))
        metrics["seconds"] = np.array([seconds.get(epoch, np.nan) for epoch in metrics["epoch"]])
    return metrics


def read_times(folder):
    """times.csv as {column: array over epochs}; validation_seconds is NaN at epochs without a validation."""
    return read_columns(folder / "times.csv", TIMES_COLUMNS[:2], lambda column: column == "validation_seconds")


def read_samples(folder):
    """samples_per_frame.csv as {column: array over frames}; see engine.testing.samples.samples_over_frames."""
    return read_columns(folder / "samples_per_frame.csv", SAMPLES_COLUMNS)


def write_psnr_per_frame(folder, per_frame, names=None):
    """Write psnr_per_frame.csv. per_frame: for each sequence, the PSNR (dB) of its frames 1..T-1, [T-1].

    names: of the sequences; None: their numbers.
    """
    columns = {"frame": range(1, 1 + max(map(len, per_frame)))}
    columns |= {f"seq{name}": [f"{float(value):.6g}" for value in values]
                for name, values in zip(names or range(len(per_frame)), per_frame)}
    write_columns(folder / "psnr_per_frame.csv", columns)


def write_samples_per_frame(folder, columns):
    """Write samples_per_frame.csv; columns: see engine.testing.samples.samples_over_frames."""
    write_columns(folder / "samples_per_frame.csv", {
        name: [f"{value:.6g}" for value in values] for name, values in columns.items()})


def read_psnr_per_frame(folder):
    """psnr_per_frame.csv as {sequence: PSNR in dB at frames 1, 2, ...}; NaN after the end of a sequence."""
    columns = read_columns(folder / "psnr_per_frame.csv", ["frame"], lambda column: column != "frame")
    return {name: values for name, values in columns.items() if name != "frame" and np.isfinite(values).any()}


def save_videos(path, videos):
    """Write videos, uint8 tensors [T, 3, H, W] by name, as arrays of a .npz file: in true colours, unlike a GIF."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: video.numpy() for name, video in videos.items()})
    write_bytes(path, buffer.getbuffer())


def read_videos(path):
    """Read a file of `save_videos` as {name: uint8 array [T, 3, H, W]}; {} without the file."""
    if not path.is_file():
        return {}
    try:
        with np.load(path) as archive:
            videos = {name: archive[name] for name in archive.files}
    except Exception:  # NumPy and its zip files raise many kinds
        videos = {}
    if not videos or any(video.dtype != np.uint8 or video.ndim != 4 or video.shape[1] != 3 or not video.size
                         for video in videos.values()):
        raise UsageError(f"{path} holds no videos; remove it to go without them")
    return videos


def read_record(folder):
    """args.json: the flags of a run as "arguments", its command, versions and so on; {} without the file."""
    path = folder / "args.json"
    if not path.is_file():
        return {}
    try:
        record = read_json(path)
        return {**record, "arguments": dict(record["arguments"])}
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{path} holds no \"arguments\"; remove it to go without the run's flags") from None


def read_arguments(folder):
    """The flags in args.json as {flag: value}; {} without the file."""
    return read_record(folder).get("arguments", {})


def clear_test(folder, keep=()):
    """Remove what an earlier test has left in a folder: it may be of another model. keep: names of files that stay."""
    for name in (*TEST_FILES, "page.html", *figure_files(["psnr_per_frame", "samples"])):
        if name not in keep:
            remove_file(folder / name)
    for kind in ("pred", "compare", "samples"):
        for suffix in ("gif", "mp4"):
            for path in files_of(folder, f"{kind}_seq*.{suffix}"):
                remove_file(path)


def clear_drive(folder):
    """Remove the dance that Tester.py --drive has left in a folder."""
    for suffix in ("gif", "mp4"):
        remove_file(folder / f"driven.{suffix}")


def write_test_note(folder, note):
    """Note what a test is of, as split.json: which sequences and networks, and how they were rolled out.

    note: a dict of split, checkpoints, epoch (see resume.epoch_of), views, precision (as in "bfloat16"), temperature,
    seed and frames_per_second.
    """
    write_json(folder / "split.json", note)


def read_test_note(folder):
    """What `write_test_note` has noted, as a dict; {} if the file is missing or damaged."""
    note = read_json_or_none(folder / "split.json")
    return note if isinstance(note, dict) else {}


def tested_epoch(folder):
    """The epoch whose network the test in a folder is of, if Tester.py has noted it; else None."""
    epoch = read_test_note(folder).get("epoch")
    return epoch if type(epoch) is int else None


def tests_of_other_networks(folder, best):
    """{split: epoch} of the tests in a run's folder that are of another epoch's network than its best one, of `best`.

    {} if it has no best epoch, None.
    """
    epochs = {split: tested_epoch(folder / split) for split in SPLITS}
    return {split: epoch for split, epoch in epochs.items() if None not in (epoch, best) and epoch != best}


def read_split(folder):
    """Which sequences a test is of, as `write_test_note` has noted: test, val or train; None without the file."""
    path = folder / "split.json"
    if not path.is_file():
        return None
    split = read_test_note(folder).get("split")
    if split not in SPLITS:
        raise UsageError(f"{path} holds none of {', '.join(SPLITS)} as \"split\"; remove it to go without it")
    return split


def read_scores(folder):
    """scores.json as {predictor: {measure: number}}; {} without the file, and without what was not measured."""
    path = folder / "scores.json"
    try:
        scores = read_json(path) if path.is_file() else {}
        return {predictor: {measure: float(value) for measure, value in row.items() if value is not None}
                for predictor, row in scores.items()}
    except (ValueError, TypeError, AttributeError):
        raise UsageError(f"{path} holds no scores; remove it to go without them") from None


def write_epoch_logs(folder, rows):
    """Write metrics.csv and times.csv. rows: a dict for each epoch; what it lacks, of METRICS_COLUMNS, stays empty."""
    write_columns(folder / "metrics.csv", {name: [cell(row.get(name, "")) for row in rows] for name in METRICS_COLUMNS})
    timed = [row for row in rows if "seconds" in row]
    write_columns(folder / "times.csv", {name: [cell(row.get(name, "")) for row in timed] for name in TIMES_COLUMNS})


def cell(value):
    return f"{value:.8g}" if isinstance(value, float) else value
