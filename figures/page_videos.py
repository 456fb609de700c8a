"""The videos of a page: side by side, with the PSNR of each frame, and the worst and the best frames."""

from dataclasses import dataclass, field
from html import escape

import numpy as np

from engine.saving.logs import read_psnr_per_frame, read_samples, read_split, read_videos

from .page_parts import chart_html, curve, swatch

SHARED = ("label", "truth")  # by all runs on a dataset
PICKED_FRAMES = 3  # the worst, and as many of the best
BANDS = {"x": "frame", "y": "psnr_mean", "low": "psnr_low", "high": "psnr_high", "best": "psnr_best"}
SEQUENCES = {"test": "test sequence", "val": "validation sequence", "train": "training sequence", None: "sequence"}
VALIDATION_NOTE = "The best rollout: frame 0 is given, every later one generated from the frame before and its label."
FIRST_NOTE = "Shown with a little loss, to keep the page small."
SAMPLES_NOTE = ("Each with a z of its own; shown with a little loss. The curve is of all samples, in the mean over all "
                "sequences.")


@dataclass
class Clip:
    """Videos of one sequence, uint8 [T, 3, H, W] by name, and the PSNR in dB of its frames 1, 2, ...

    note: what a reader must know of them. samples: columns of samples_per_frame.csv.
    """

    note: str
    videos: dict
    psnr: np.ndarray = field(default_factory=lambda: np.array([]))
    samples: dict = field(default_factory=dict)


def read_clips(folder, tests):
    """{heading: Clip} of the videos of a run, or of a folder of Tester.py.

    tests: with those of Tester.py, in the folder test/ of a run. An older test has not noted its split: in test/ it is
    taken to be of the test sequences.
    """
    clips = {"Validation": Clip(VALIDATION_NOTE, read_videos(folder / "best.npz"), first_sequence(folder))}
    if tests:
        in_run = (folder / "test").is_dir()
        tested = folder / "test" if in_run else folder
        first = f"first {SEQUENCES[read_split(tested) or ('test' if in_run else None)]}"
        clips[first.capitalize()] = Clip(FIRST_NOTE, read_videos(tested / "first.npz"), first_sequence(tested))
        clips[f"Samples of the {first}"] = Clip(SAMPLES_NOTE, read_videos(tested / "samples.npz"),
                                                samples=read_samples(tested))
    return {heading: clip for heading, clip in clips.items() if clip.videos}


def first_sequence(folder):
    """The PSNR of each generated frame of the first sequence; empty if it is not known."""
    psnr = next(iter(read_psnr_per_frame(folder).values()), np.array([]))
    return psnr[np.isfinite(psnr)]


def videos_html(names, clips, sheets, charts):
    """A section for each heading of the clips, with the videos of all runs. Adds to the sheets and the charts.

    names: of the runs. clips: {heading: Clip} of each. sheets: a figures.sprites.Sheets. charts: {name: chart}.
    """
    sections = ""
    for heading in dict.fromkeys(heading for of_run in clips for heading in of_run):
        here = {run: of_run[heading] for run, of_run in enumerate(clips) if heading in of_run}
        numbers = {run: {name: sheets.add(frames, exact=heading == "Validation")
                         for name, frames in clip.videos.items()} for run, clip in here.items()}
        name, chart = heading.lower().replace(" ", "_"), frame_chart(here)
        if chart["curves"]:
            charts[name] = chart
        sections += (f'<section class="clip"><h3>{heading}</h3><p class="note">{next(iter(here.values())).note}</p>'
                     f'<div class="videos">{videos_side_by_side(names, numbers, sheets, name)}</div>'
                     f'{chart_html(name, chart) if name in charts else ""}')
        for run, clip in here.items():
            of_run = f" of {escape(names[run])}" if len(names) > 1 else ""
            sections += picked_html(of_run, clip.psnr, numbers[run], sheets)
        sections += "</section>"
    return sections or "<p>No videos yet. A run writes them when it ends or is stopped.</p>"


def frame_chart(clips):
    """The PSNR of each frame of the clips, {index of the run: Clip}, also over samples."""
    curves = []
    for run, clip in clips.items():
        if len(clip.psnr):
            curves.append(curve(run, x=np.arange(1, 1 + len(clip.psnr)), y=clip.psnr))
        if clip.samples:
            curves.append(curve(run, **{name: clip.samples[column] for name, column in BANDS.items()}))
    of_samples = any(clip.samples for clip in clips.values())
    return {"title": "PSNR, dB: mean and 95 % band of the samples, and the best (dotted)" if of_samples else "PSNR, dB",
            "x": "frame", "curves": curves, "log": False}


def videos_side_by_side(names, numbers, sheets, chart):
    """Labels, what each run generated, truths; a label or truth that several runs share is there once.

    numbers: {index of the run: {name of the video: number of its sheet}}. chart: name of the one with their PSNR.
    """
    there = dict.fromkeys(name for of_run in numbers.values() for name in of_run)
    there = sorted(there, key=lambda name: name == "truth")  # that comes last
    done, html = set(), ""
    several = {name for name in SHARED if len({of_run[name] for of_run in numbers.values() if name in of_run}) > 1}
    for name, run in ((name, run) for name in there for run in numbers if name in numbers[run]):
        number, own = numbers[run][name], name not in SHARED
        if not own and number in done:
            continue
        done.add(number)
        title = name
        if own and len(names) > 1:
            title = names[run] if name == "prediction" else f"{names[run]}, {name}"
        elif name in several:  # of runs on several datasets
            title = f"{', '.join(names[other] for other in numbers if numbers[other].get(name) == number)}, {name}"
        mark = swatch(run) if own and len(names) > 1 else ""
        psnr = f'<output data-chart="{chart}" data-run="{run}" aria-live="off"></output>' if name == "prediction" else ""
        html += (f'<figure class="video">{canvas(sheets, number, title)}'
                 f"<figcaption><span>{mark}{escape(title)}</span>{psnr}</figcaption></figure>")
    return html


def canvas(sheets, number, title, frame=None):
    """A canvas for the video of a sheet: for one frame, or for the frame that the slider is at."""
    still = "" if frame is None else f' data-frame="{frame}"'
    return (f'<canvas data-sheet="{number}"{still} width="{sheets.all[number]["width"]}" '
            f'height="{sheets.all[number]["height"]}" role="img" aria-label="{escape(title)}"></canvas>')


def picked_html(of_run, psnr, numbers, sheets):
    """The worst and the best frames of a run, as buttons that bring the videos there. numbers: of its sheets."""
    if not len(psnr) or not {"prediction", "truth"} <= numbers.keys():
        return ""
    buttons = ""
    for word, frames in zip(("worst", "best"), picked_frames(psnr)):
        for frame in frames:
            images = "".join(canvas(sheets, numbers[name], name, frame) for name in ("prediction", "truth"))
            buttons += (f'<button type="button" class="picked" data-frame="{frame}">{images}'
                        f"<span>{word}: frame {frame}<br>{psnr[frame - 1]:.2f} dB</span></button>")
    return f'<h4>Worst and best frames{of_run}, each above its truth</h4><div class="picks">{buttons}</div>'


def picked_frames(psnr):
    """The numbers of the worst and of the best frames; of neighbours, which look alike, only one is taken."""
    apart = max(1, len(psnr) // 30)
    picks = []
    for order in (np.argsort(psnr, kind="stable"), np.argsort(-psnr, kind="stable")):
        chosen = []
        for frame in (order + 1).tolist():
            if len(chosen) < PICKED_FRAMES and all(abs(frame - other) >= apart for other in chosen):
                chosen.append(frame)
        picks.append(chosen)
    return picks
