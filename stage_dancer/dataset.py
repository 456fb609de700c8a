"""The built-in dataset "stage dancer": one person dances on a lit stage, with a label for every frame.

choreography.py makes up the dances, stage.py draws them; here they become a dataset in the LAB4 layout, with its
settings in dancer.json.
"""

import json
import multiprocessing
import os
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import imageio.v3 as iio
import numpy as np
from tqdm import tqdm

from cli.errors import UsageError
from cli.files import usable
from media.pixel_csv import PUBLIC_SEQUENCES, write_pixels_csv

from .choreography import choreograph, noise
from .stage import Stage, draw_frame, draw_label, half_width_seen

VERSION = 1  # of the bytes: raised when the same settings give others
SEQUENCE_FRAMES = 630  # longest sequence of the training split
TRUTH_SIZE = (32, 64)  # height and width of the frames in gt.csv
EXPOSURE_RANGE = 0.05
CHUNK = 90  # frames that a worker draws at a time


def exposures(rng, frames):
    """A slow drift of brightness around 1, float [frames], at most EXPOSURE_RANGE away from it."""
    drift = noise(rng, frames, 1, 45.0)[:, 0]
    return 1 + EXPOSURE_RANGE * np.tanh(drift)


def compose(seed, split, sequence, frames):
    """One sequence: points [T, P, 3] in metres and exposures [T], the same for the same arguments.

    split: 0 for train, 1 for val, 2 for test.
    """
    rng = np.random.default_rng([seed, split, sequence])
    return choreograph(rng, frames, half_width_seen), exposures(rng, frames)


def dancer_settings(frames=2520, val_frames=630, test_sequences=5, test_frames=630, seed=0):
    """The settings that determine every byte of a dancer, as in dancer.json. test_frames: of each sequence."""
    return {"version": VERSION, "frames": frames, "val_frames": val_frames,
            "test_sequences": test_sequences, "test_frames": test_frames, "seed": seed}


def make_dancer(root, num_workers=None, overwrite=False, **settings):
    """Write the stage dancer as a dataset into the folder `root`, which must be new or empty.

    settings: the arguments of dancer_settings; the same ones give the same bytes.
    num_workers: processes that draw; None: one for each processor, at most 8; 1: this process.
    overwrite: replace a dancer that is already there.
    The folder appears when everything is written. Raises UsageError if it holds anything else or cannot be written.
    """
    root = Path(root).resolve()
    settings = dancer_settings(**settings)
    unfinished = root.with_name(f".{root.name}.{os.getpid()}.tmp")
    replaced = root.with_name(f".{root.name}.{os.getpid()}.old")
    try:
        with usable("--dancer", root):
            _check_free(root, overwrite)
            unfinished.mkdir(parents=True)
            _write_dataset(unfinished, settings, num_workers or min(os.cpu_count(), 8))
            if root.exists():
                root.rename(replaced)
            unfinished.rename(root)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def is_dancer(root, **settings):
    """Whether `root` holds the whole dataset that make_dancer would write with these settings."""
    return _read_settings(root) == dancer_settings(**settings)


def _read_settings(root):
    """The settings of the dancer in `root`, None if there is none."""
    try:
        return json.loads((Path(root) / "dancer.json").read_text())
    except (OSError, ValueError):
        return None


def _check_free(root, overwrite):
    """Raise UsageError if `root` holds anything that is not to be replaced."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return
    if _read_settings(root) is None or {entry.name for entry in root.iterdir()} - {
        "train", "val", "test", "dancer.json", ".decoded",
    }:
        raise UsageError(f"--dancer {root} exists and is not a dancer made here; name a new folder")
    if not overwrite:
        raise UsageError(f"--dancer {root} holds a dancer already; name a new folder or add --overwrite")


class _Job(NamedTuple):
    """Frames of one sequence for a worker to draw."""

    points: np.ndarray  # [n, P, 3]
    exposure: np.ndarray  # [n]
    images: Path
    labels: Path
    number: int  # of the first file
    test_sequence: int | None  # of a test sequence only frame 0 becomes a file; all frames are returned


def _write_dataset(root, settings, num_workers):
    seed, tests = settings["seed"], settings["test_sequences"]
    starts = range(0, settings["frames"], SEQUENCE_FRAMES)
    lengths = [min(SEQUENCE_FRAMES, settings["frames"] - start) for start in starts]
    jobs = []
    for sequence, (start, length) in enumerate(zip(starts, lengths)):
        jobs += _jobs(root / "train", "", compose(seed, 0, sequence, length), start)
    jobs += _jobs(root / "val", "", compose(seed, 1, 0, settings["val_frames"]))
    for sequence in range(tests):
        dance = compose(seed, 2, sequence, settings["test_frames"])
        jobs += _jobs(root / "test", str(sequence), dance, test_sequence=sequence)
    (root / "train" / "sequences.txt").write_text("".join(f"{length}\n" for length in lengths))

    truth = [[] for _ in range(tests)]
    with closing(_drawn(jobs, num_workers)) as drawn:
        for job, frames in drawn:
            if job.test_sequence is not None:
                truth[job.test_sequence].append(_as_read(frames))
    usage = ["Public" if sequence < PUBLIC_SEQUENCES else "Private" for sequence in range(tests)]
    write_pixels_csv(root / "test" / "gt.csv", [np.concatenate(parts) for parts in truth], usage)
    (root / "dancer.json").write_text(json.dumps(settings, indent=2))


def _jobs(folder, subfolder, dance, first=0, test_sequence=None):
    """Cut one dance (points, exposures) into jobs, and make the folders that they write to."""
    points, exposure = dance
    images, labels = (folder / f"{folder.name}_{kind}" / subfolder for kind in ("img", "label"))
    images.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(points), CHUNK):
        part = slice(start, start + CHUNK)
        yield _Job(points[part], exposure[part], images, labels, first + start, test_sequence)


def _drawn(jobs, num_workers):
    """Let workers draw the jobs; yield each job in order, with what _draw_job returns."""
    total = sum(len(job.points) for job in jobs)
    if not sys.stderr.isatty():
        print(f"drawing the stage dancer, {total} frames", file=sys.stderr, flush=True)
    with ExitStack() as stack:
        draw = map
        if num_workers > 1:
            # Forking a parent in which torch has threads is not safe.
            spawn = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(min(num_workers, len(jobs)), spawn)
            stack.callback(pool.shutdown, cancel_futures=True)
            draw = pool.map
        progress = stack.enter_context(tqdm(total=total, desc="stage dancer", unit="frame", disable=None))
        for job, frames in zip(jobs, draw(_draw_job, jobs)):
            yield job, frames
            progress.update(len(job.points))


def _draw_job(job):
    """Draw and write the frames and labels of a job; returns its frames, uint8 [n, 3, H, W], if it is of a test."""
    stage = Stage()
    frames = [draw_frame(points, exposure, stage) for points, exposure in zip(job.points, job.exposure)]
    for number, (frame, points) in enumerate(zip(frames, job.points), start=job.number):
        _write_png(job.labels / f"{number}.png", draw_label(points))
        if job.test_sequence is None or number == 0:
            _write_png(job.images / f"{number}.png", frame)
    return None if job.test_sequence is None else np.stack(frames).transpose(0, 3, 1, 2)


def _write_png(path, pixels):
    iio.imwrite(path, pixels, extension=".png", compress_level=1)


def _as_read(frames):
    """Test frames as a reader of the dataset gets them, uint8 [n, 3, *TRUTH_SIZE]."""
    import torch  # not above: the drawing processes do not need it, and it takes seconds to load

    from media.images import resize_image

    return resize_image(torch.from_numpy(frames), TRUTH_SIZE).numpy()
