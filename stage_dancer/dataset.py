"""Make the built-in dataset "stage dancer": one person dances on a lit stage, with a label for every frame.

choreography.py invents the dances, stage.py draws them; this file writes them in the LAB4 layout, with their settings
in dancer.json.
"""

from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cli.files import read_json_or_none, write_json, write_text
from cli.folders import whole_folder
from media.pixel_csv import PUBLIC_SEQUENCES, write_pixels_csv
from media.png import as_read, write_png

from .choreography import choreograph, noise
from .stage import Stage, draw_frame, draw_label, half_width_seen
from .workers import default_workers, draw_jobs

MARKER = "dancer.json"
VERSION = 2  # raise it when the same settings give other images
SEQUENCE_FRAMES = 630  # longest sequence of the training split
TRUTH_SIZE = (32, 64)  # height and width of the frames in gt.csv
EXPOSURE_RANGE = 0.05
CHUNK = 90  # frames in one job of a worker


def compose(seed, split, sequence, frames):
    """Compose one sequence: points [T, P, 3] in metres and exposures [T], the same for the same arguments.

    split: 0 for train, 1 for val, 2 for test. An exposure drifts slowly, within EXPOSURE_RANGE of 1.
    """
    rng = np.random.default_rng([seed, split, sequence])
    points = choreograph(rng, frames, half_width_seen)
    return points, 1 + EXPOSURE_RANGE * np.tanh(noise(rng, frames, 1, 45.0)[:, 0])


def training_dances(frames, seed):
    """Yield the dances of the training split, see `compose`: sequences of SEQUENCE_FRAMES, the last one shorter."""
    for sequence, start in enumerate(range(0, frames, SEQUENCE_FRAMES)):
        yield compose(seed, 0, sequence, min(SEQUENCE_FRAMES, frames - start))


def dancer_settings(frames=2520, val_frames=630, test_sequences=5, test_frames=630, seed=0):
    """Return the settings that determine all files of a dancer, as in dancer.json; test_frames is per sequence."""
    return {"version": VERSION, "frames": frames, "val_frames": val_frames,
            "test_sequences": test_sequences, "test_frames": test_frames, "seed": seed}


def make_dancer(root, num_workers=None, overwrite=False, **settings):
    """Write the stage dancer into the folder `root`, which appears once it is complete.

    settings: arguments of dancer_settings; the same settings give the same bytes. num_workers: processes that draw;
    1 draws in this process, None takes one for each core that it may use, at most 8. overwrite: replace a dancer in
    `root`. Raises UsageError if `root` holds anything else or cannot be written.
    """
    settings = dancer_settings(**settings)
    with whole_folder("--dancer", root, "dancer", MARKER, ("train", "val", "test", ".decoded"),
                      overwrite) as unfinished:
        _write_dataset(unfinished, settings, num_workers or default_workers())


def is_dancer(root, **settings):
    """Tell whether `root` holds the complete dataset that make_dancer writes with these settings."""
    return read_json_or_none(Path(root) / MARKER) == dancer_settings(**settings)


def chosen_setting(root):
    """Return name and value of a setting that somebody has chosen for the dancer in `root`; None if there is none."""
    saved = read_json_or_none(Path(root) / MARKER)
    for name, default in dancer_settings().items():
        if isinstance(saved, dict) and name != "version" and saved.get(name, default) != default:
            return name, saved[name]
    return None


class _Job(NamedTuple):
    """Describe some frames of one sequence for a worker to draw."""

    points: np.ndarray  # [n, P, 3]
    exposure: np.ndarray  # [n]
    images: Path
    labels: Path
    number: int  # of the first frame, as in its file name
    test_sequence: int | None  # only frame 0 of a test sequence becomes a file; all its frames are returned


def _write_dataset(root, settings, num_workers):
    seed, tests = settings["seed"], settings["test_sequences"]
    jobs, lengths = [], []
    for dance in training_dances(settings["frames"], seed):
        jobs += _jobs(root / "train", dance, first=sum(lengths))
        lengths.append(len(dance[0]))
    jobs += _jobs(root / "val", compose(seed, 1, 0, settings["val_frames"]))
    for sequence in range(tests):
        jobs += _jobs(root / "test", compose(seed, 2, sequence, settings["test_frames"]), test_sequence=sequence)
    write_text(root / "train" / "sequences.txt", "".join(f"{length}\n" for length in lengths))

    truth = [[] for _ in range(tests)]
    with closing(draw_jobs(_draw_job, jobs, num_workers)) as results:
        for job, frames in results:
            if job.test_sequence is not None:
                truth[job.test_sequence].append(as_read(frames, TRUTH_SIZE))
    usage = ["Public" if sequence < PUBLIC_SEQUENCES else "Private" for sequence in range(tests)]
    write_pixels_csv(root / "test" / "gt.csv", [np.concatenate(parts) for parts in truth], usage)
    write_json(root / MARKER, settings)


def _jobs(folder, dance, first=0, test_sequence=None):
    """Cut one dance (points, exposures) into jobs, and make the folders they write to."""
    points, exposure = dance
    subfolder = "" if test_sequence is None else str(test_sequence)
    images, labels = (folder / f"{folder.name}_{kind}" / subfolder for kind in ("img", "label"))
    images.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(points), CHUNK):
        part = slice(start, start + CHUNK)
        yield _Job(points[part], exposure[part], images, labels, first + start, test_sequence)


def _draw_job(job):
    """Draw and write the frames and labels of a job; returns the frames of a test job, uint8 [n, H, W, 3]."""
    stage = Stage()
    frames = [draw_frame(points, exposure, stage) for points, exposure in zip(job.points, job.exposure)]
    for number, (frame, points) in enumerate(zip(frames, job.points), start=job.number):
        write_png(job.labels / f"{number}.png", draw_label(points))
        if job.test_sequence is None or number == 0:
            write_png(job.images / f"{number}.png", frame)
    return None if job.test_sequence is None else np.stack(frames)
