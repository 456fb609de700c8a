"""One HTML page of one or more runs, in a single file that needs no network: scores, videos, curves and flags."""

import json
from contextlib import suppress
from html import escape
from pathlib import Path
from string import Template

import numpy as np

from cli.errors import UsageError
from cli.files import write_text
from cli.parser import script_command
from engine.saving.logs import read_record, read_scores, read_split, read_test_note, tests_of_other_networks
from media.gif import DEFAULT_FPS

from .page_parts import chart_html, curve, definitions, swatch, table
from .page_videos import read_clips, videos_html
from .runs import differing_flags, read_runs, seed, shown
from .sprites import Sheets

WEB = Path(__file__).parent / "web"  # page.html, page.css and page.js, which a page is joined from
CURVES = {  # column of metrics.csv: title, and how its axis is drawn
    "loss": ("Loss", {"log": True}), "mse": ("MSE, pixels in [0, 1]", {"log": True}),
    "kl": ("KL, nats per frame", {"log": True}), "val_psnr": ("Validation PSNR, dB", {}),
    "tfr": ("Teacher forcing ratio", {"zero": True}), "beta": ("\u03b2, factor on KL", {"zero": True}),
}

LONGEST_LIST = 80  # characters of names in a title
CAPTIONS = {"test": "Test sequences", "val": "Validation", "train": "Training sequences", "": "Sequences"}


def write_page(path, folders, tests=True):
    """Write the page of the runs in some folders. tests: with what Tester.py left in their test/, val/ and train/.

    Raises UsageError naming a folder that holds nothing of a run or a test.
    """
    runs, paths = read_runs(folders), [Path(folder) for folder in folders]
    records = [read_record(folder) for folder in paths]
    scores = [read_all_scores(folder) if tests else {} for folder in paths]
    others = [tests_of_other_networks(folder, best_validation(run.metrics)["at epoch"]) if tests else {}
              for folder, run in zip(paths, runs)]
    clips = [read_clips(folder, tests) for folder in paths]
    for run, folder, *found in zip(runs, paths, records, scores, clips):
        if not (any(found) or run.metrics or read_split(folder)):
            raise UsageError(f"{folder} holds no run and no test; give one that Trainer.py or Tester.py has written")
    names, sheets, charts = [run.name for run in runs], Sheets(), training_charts(runs)
    curves = "".join(chart_html(name, chart) for name, chart in charts.items())
    videos = videos_html(names, clips, sheets, charts)
    data = {"runs": names, "sheets": sheets.all, "charts": charts, "fps": frames_per_second(paths)}
    text = Template(read_web("page.html")).substitute(
        title=escape(page_title(names)),
        style=read_web("page.css"), script=read_web("page.js"), runs=runs_table(runs, records, scores), videos=videos,
        scores=scores_html(names, scores, others) or no_scores_html(paths[0]),
        legend=legend(names), curves=curves or "<p>No epoch yet.</p>",
        details="".join(map(details_html, names, records)),
        data=json.dumps(data, allow_nan=False).replace("<", "\\u003c"))  # no name in it ends the script
    write_text(path, text)
    return Path(path)


def page_title(names):
    """The title of the page of these runs; names that would fill lines stand in the table below it alone."""
    if len(names) == 1:
        return f"Run {names[0]}"
    listed = ", ".join(names)
    return f"{len(names)} runs: {listed}" if len(listed) <= LONGEST_LIST else f"{len(names)} runs"


def frames_per_second(folders):
    """The rate of the videos of the first run or test that has noted it; for a test also the run around it."""
    for folder in folders:
        for read, place in ((read_record, folder), (read_test_note, folder), (read_record, folder.absolute().parent)):
            with suppress(UsageError):  # the folder around it may hold another program's args.json
                if "frames_per_second" in (noted := read(place)):
                    return noted["frames_per_second"]
    return DEFAULT_FPS


def read_web(name):
    return (WEB / name).read_text(encoding="utf-8")


def read_all_scores(folder):
    """{split: scores} of a run of Trainer.py, or of a folder of Tester.py; see CAPTIONS.

    The split is the one that the test has noted, else the name of its folder in the run, or "".
    """
    scores = {}
    for name in CAPTIONS:
        rows = read_scores(folder / name)
        if rows:
            scores.setdefault(read_split(folder / name) or name, rows)
    return scores


def training_charts(runs):
    """{column of metrics.csv: chart} over the epochs, of those that have values."""
    charts = {}
    for name, (title, axis) in CURVES.items():
        curves = [curve(index, x=run.metrics["epoch"], y=run.metrics[name]) for index, run in enumerate(runs)
                  if run.metrics]
        curves = [line for line in curves if line["x"]]
        if curves:
            values = [value for line in curves for value in line["y"]]
            logarithmic = bool(axis.get("log")) and min(values) >= 0 and max(values) > 0
            charts[name] = {"title": title, "x": "epoch", "curves": curves, **axis, "log": logarithmic}
    return charts


def legend(names):
    """What the colours mean, if there are several runs."""
    items = "".join(f"<li>{swatch(index)}{escape(name)}</li>" for index, name in enumerate(names))
    return f'<ul class="legend">{items}</ul>' if len(names) > 1 else ""


def runs_table(runs, records, scores):
    """A row a run: the flags that differ, its best scores, its time and its size."""
    flags, rows = differing_flags(runs), []
    for index, (run, record, score) in enumerate(zip(runs, records, scores)):
        cells = {"run": run.name, **flags.get(run, {}), **best_validation(run.metrics)}
        for split, prefix in (("test", "test "), ("", "")):
            for measure in ("psnr", "ssim"):
                cells[f"{prefix}{measure.upper()}"] = score.get(split, {}).get("this model", {}).get(measure)
        seconds = run.metrics.get("seconds", [])
        cells |= {"seconds": np.nanmax(seconds) if np.isfinite(seconds).any() else None,
                  "epochs": len(run.metrics["epoch"]) if run.metrics else None}  # a test has none
        cells |= {"parameters": record.get("parameters"), "seed": seed(run) if record else None}
        rows.append((index, cells))
    return table("Runs", rows)


def best_validation(metrics):
    """The cells of the epoch with the best validation PSNR; empty cells without a validation."""
    names = {"val PSNR": "val_psnr", "val SSIM": "val_ssim", "at epoch": "epoch"}
    if not metrics or not np.isfinite(metrics["val_psnr"]).any():
        return dict.fromkeys(names)
    best = np.nanargmax(metrics["val_psnr"])
    return {heading: metrics[column][best] for heading, column in names.items()}


def scores_html(names, scores, others):
    """A table a split: the models, then the baselines, each once if its PSNR is the same beside all models.

    names, scores: of the runs. others: of each, its tests that are not of its best epoch's network, {split: epoch}.
    """
    tables = ""
    for split, caption in CAPTIONS.items():
        models, baselines = [], {}
        for index, (name, score) in enumerate(zip(names, scores)):
            if split in others[index]:
                name += f", network of epoch {others[index][split]}"
            for predictor, row in score.get(split, {}).items():
                cells = {measure_name(measure): value for measure, value in row.items()}
                if predictor == "this model":
                    models.append((index, {"predictor": name, **cells}))
                elif predictor.endswith(" samples"):
                    models.append((index, {"predictor": f"{name}, {predictor}", **cells}))
                else:
                    baselines.setdefault((predictor, row.get("psnr")), (None, {"predictor": predictor, **cells}))
        if models:
            tables += table(caption, [*models, *baselines.values()])
    return tables


def no_scores_html(folder):
    """What stands in place of the scores: the command that makes them for the run, or the test, in a folder."""
    around = folder.parent if folder.name else folder.absolute().parent  # Path(".") is its own parent
    run = around if (around / "best.ckpt").is_file() else folder  # of a test in the run's folder
    note = read_test_note(folder)
    own = run / ("best.ckpt" if (run / "best.ckpt").is_file() else "last.ckpt")  # no epoch may have been validated
    checkpoint, *others = note.get("checkpoints") or [own]
    more = ["--ensemble", *others] if others else []
    more += ["--views", note["views"]] if note.get("views", 1) > 1 else []
    more += ["--save_root", folder] if "checkpoints" in note else []
    truth = ["--split", "val"] if folder == run and not note else ["--gt", "FILE"]  # a validation brings its own
    command = script_command("Tester.py", "--ckpt_path", checkpoint, *truth, *more)
    return f"<p>No scores yet. They come from <code>{escape(command)}</code></p>"


def measure_name(measure):
    """The heading of a measure: "psnr_first_100" is "first 100"."""
    if measure in ("psnr", "ssim", "lpips"):
        return measure.upper()
    return "course score" if measure == "score" else measure.removeprefix("psnr_").replace("_", " ")


def details_html(name, record):
    """What a run was: all that args.json holds, the flags folded away."""
    if not record:
        return f'<section class="details"><h3>{escape(name)}</h3><p>The folder has no args.json.</p></section>'
    flags = record["arguments"]
    facts = {"data": flags.get("DR") or "the stage dancer"}
    facts |= {key.replace("_", " "): fact(key, value) for key, value in record.items() if key != "arguments"}
    return (f'<section class="details"><h3>{escape(name)}</h3>{definitions(facts)}'
            f"<details><summary>All {len(flags)} flags</summary>"
            f"{definitions({f'--{flag}': shown(value) for flag, value in flags.items()})}</details></section>")


def fact(key, value):
    """A value of args.json as text."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    if isinstance(value, list):  # the sessions of a resumed run
        return "; ".join(str(part.get("command", part) if isinstance(part, dict) else part) for part in value)
    if value is None:
        return "not known"
    return f"{value:,}" if key == "parameters" else str(value)
