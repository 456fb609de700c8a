"""Train recipes with several seeds under one budget, test every run, and lay what came of them side by side."""

import json
import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import Plotting
from modules import options
from modules.errors import RunError, Stopped, StopSignals, UsageError, run_script
from modules.outputs import (TIMES_COLUMNS, lock_folder, read_pixels_csv, replacing, table, write_columns_csv,
                             write_json)

NOT_OF_THE_RECIPE = {"save_root", "resume", "overwrite", "ckpt_path"}  # in args.json, as they differ on --resume
MEASURES = {"val": ("psnr", "ssim"), "test": ("psnr", "ssim", "psnr_first_100", "psnr_last_100", "score")}
SHEET_COLUMNS = 8


@dataclass(eq=False)
class Recipe:
    """What a study compares: flags for Trainer.py, as words, and the epochs that the budget allows them."""

    name: str
    words: list
    folder: Path
    epochs: int = 0
    epoch_seconds: float = 0.0  # 0 if the budget is in epochs
    failed: str = ""


@dataclass(eq=False)
class Run:
    """One training: all words for Trainer.py but the folder. `failed` is why it has no result."""

    words: list
    folder: Path
    recipe: Recipe
    failed: str = ""

    @property
    def result(self):
        """What `complete` wrote at the end of the run; None if it did not come to that."""
        path = self.folder / "result.json"
        return json.loads(path.read_text()) if path.is_file() else None


class Scripts(StopSignals):
    """Runs the other scripts, each in a process of its own to which a signal to this one is passed on once."""

    def __init__(self):
        super().__init__()
        self.processes = set()

    def _note(self, number, frame):
        super()._note(number, frame)
        for process in list(self.processes):
            process.send_signal(number)

    def run(self, folder, script, *words):
        """Run a script, its output at the end of folder/log.txt. Raises RunError with its last line unless it ends
        well. A failure that would come again is kept in folder/failed.txt, and raised again without a run."""
        kept = folder / "failed.txt"
        if kept.is_file():
            raise RunError(kept.read_text().strip())
        self.raise_if_stopped()
        print(f"{folder}: {script}.py", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "log.txt", "a") as log:
            status = self.call(script, [*map(str, words)], log)
        if status == 0:
            return
        self.raise_if_stopped()
        reason = f"{script}.py: ended by signal {-status}"
        if status > 0:
            reason = (folder / "log.txt").read_text(errors="replace").strip().split("\n")[-1]
        if status == 1:
            kept.write_text(f"{reason}\n")
        raise RunError(reason)

    def call(self, script, words, log):
        """The exit status of a script."""
        command = [sys.executable, str(Path(__file__).parent / f"{script}.py"), *words]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        self.processes.add(process)
        if self.signal_number:  # it came before the process was known
            process.send_signal(self.signal_number)
        status = process.wait()
        self.processes.remove(process)
        return status

    def raise_if_stopped(self):
        if self.signal_number:
            raise Stopped(self.signal_number, f"go on with: {options.typed_command()}")


def main():
    args = study_parser().parse_args()
    recipes = read_recipes(args)
    from dataloader import dataset_or_dancer  # not above: torch takes seconds to load, a mistake is told before

    root = dataset_or_dancer(args.DR)
    truth = root / "test" / "gt.csv"
    if args.jobs > 1:  # else each run would take as many threads as there are cores
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, os.cpu_count() // args.jobs)))
    with open_study(args.out) as out, ThreadPoolExecutor(args.jobs) as pool:
        scripts, for_each = Scripts(), pool.map if args.jobs > 1 else map
        set_epochs(recipes, root, args, scripts, for_each)
        runs = [Run(words_of(recipe, root, recipe.epochs, seed), recipe.folder / f"seed={seed}", recipe)
                for seed in dict.fromkeys(args.seeds) for recipe in recipes if not recipe.failed]
        for run in runs:
            check_unchanged(run)
        write_tables(out, recipes, runs, args)
        for run in for_each(partial(complete, truth=truth, scripts=scripts), runs):
            print(f"{run.folder}: {run.failed or 'done'}", flush=True)
            write_tables(out, recipes, runs, args)
        finished = [run for run in runs if run.result]
        if not finished:
            raise RunError(f"no run came to its end; see {out / 'study.md'}")
        draw_curves(out, finished)
        draw_sheet(out, finished, root, truth)
    print(f"\n{table([cells(row) for row in rows_of(recipes, runs)])}\n\nwritten to {out}")


def study_parser():
    parser = options.Parser("Train recipes with several seeds under one budget, test every run, and compare them. "
                            "Started again, it goes on where it stopped.")
    parser.fromfile_prefix_chars = None  # @recipe.txt is for Trainer.py
    parser.add_argument("recipes", nargs="+", metavar="RECIPE",
                        help='a file of flags for Trainer.py or, in one quoted word, a file and more flags, as in '
                             '"recipes/demo.txt --bptt 2"')
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=options.positive_float,
                        help="budget of a run, for training and validation: as many epochs as fit into it, by the "
                             "seconds of one, which is trained first to know them")
    budget.add_argument("--epochs", type=options.positive_int, help="budget of a run, in epochs")
    parser.add_argument("--seeds", type=options.natural_int, nargs="+", default=[0],
                        help="a run of each recipe for each")
    parser.add_argument("--out", metavar="FOLDER", required=True, help="folder of the study")
    parser.add_argument("--DR", metavar="FOLDER",
                        help="dataset in the LAB4 layout; without it the stage dancer is made and used")
    parser.add_argument("--jobs", type=options.positive_int, default=1,
                        help="runs at a time; they share the machine, so each does less in the same minutes")
    return parser


def read_recipes(args):
    """The recipes, each with its folder in --out. Ends the program if the trainer would not take its flags."""
    recipes = {}
    for text in args.recipes:
        parser = options.trainer_parser()
        parser.prog += f' "{text}"'
        try:
            path, *flags = shlex.split(text)
        except ValueError as error:
            raise UsageError(f'"{text}": {error}; give a file of flags, and flags after it') from None
        path = Path(path.removeprefix("@"))
        words = [f"@{path}", *flags]
        parser.parse_args(words)
        name = " ".join([path.stem, *flags])
        folder = Path(args.out) / re.sub(r"[^\w.+-]+", "_", name.replace("--", ""))
        if folder in recipes:
            raise UsageError(f"two recipes would go to {folder}; give each once, under a name of its own")
        recipes[folder] = Recipe(name, words, folder)
    return list(recipes.values())


@contextmanager
def open_study(folder):
    """The folder of the study, made, and locked against a second one in it."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(folder, "--out")
    except OSError as error:
        raise UsageError(f"--out {folder} cannot be written ({error.strerror}); give another folder") from None
    with lock:
        yield folder


def words_of(recipe, root, epochs, seed):
    return [*recipe.words, "--DR", str(root), "--num_epoch", str(epochs), "--seed", str(seed)]


def check_unchanged(run):
    """Raise UsageError if the run's folder holds one of other flags."""
    wanted, saved = vars(options.trainer_parser().parse_args(run.words)), Plotting.read_arguments(run.folder)
    if saved:  # an older run has the defaults of the flags that it did not know
        saved = vars(options.trainer_parser().parse_args([])) | saved
    for name in wanted.keys() & saved.keys() - NOT_OF_THE_RECIPE:
        if wanted[name] != saved[name]:
            raise UsageError(f"{run.folder} is a run with --{name} {saved[name]}, not {wanted[name]}; "
                             "give another --out, or remove that folder")


def set_epochs(recipes, root, args, scripts, for_each):
    """Set how many epochs each recipe is trained for."""
    if args.epochs:
        for recipe in recipes:
            recipe.epochs = args.epochs
        return
    runs = [Run(words_of(recipe, root, 1, 0), recipe.folder / "calibration", recipe) for recipe in recipes]
    for run in runs:
        check_unchanged(run)
    for recipe in for_each(partial(calibrate, minutes=args.minutes, scripts=scripts), runs):
        chosen = f"{recipe.epochs} epochs of {recipe.epoch_seconds:.1f} s"
        print(f"{recipe.folder}: {recipe.failed or chosen}", flush=True)


def calibrate(run, minutes, scripts):
    """Train the recipe of `run` for one epoch, if that was not done, and set how many take `minutes`."""
    recipe = run.recipe
    try:
        if not seconds_of_an_epoch(run.folder):
            scripts.run(run.folder, "Trainer", *run.words, "--save_root", run.folder, "--overwrite")
    except RunError as error:
        recipe.failed = str(error)
    recipe.epoch_seconds = seconds_of_an_epoch(run.folder)
    if recipe.epoch_seconds:  # known also if the rollout after one epoch has no finite PSNR
        recipe.failed, recipe.epochs = "", max(1, int(60 * minutes / recipe.epoch_seconds))
    return recipe


def seconds_of_an_epoch(folder):
    """Of the first epoch, with its validation; 0 if it was not finished."""
    seconds = Plotting.read_columns(folder / "times.csv", TIMES_COLUMNS, lambda _: False).get("seconds", [])
    return seconds[0] if len(seconds) else 0.0


def complete(run, truth, scripts):
    """Train and test a run from where it stands, and write its result.json. Returns the run, failed or not."""
    if run.result:
        return run
    folder, best = run.folder, run.folder / "best.ckpt"
    try:
        if any(folder.glob("*.ckpt")):
            scripts.run(folder, "Trainer", "--resume", "--save_root", folder)
        else:
            scripts.run(folder, "Trainer", *run.words, "--save_root", folder, "--overwrite")
        for split, flags in (("test", ["--gt", truth] if shows_frames_of(truth, folder) else []), ("val", [])):
            scripts.run(folder, "Tester", *run.words, "--ckpt_path", best, "--save_root", folder / split,
                        "--split", split, "--no-make_gif", *flags)
    except RunError as error:
        run.failed = str(error)
        return run
    scores = {split: folder / split / "scores.json" for split in MEASURES}
    write_json(folder / "result.json", {
        "parameters": json.loads((folder / "args.json").read_text())["parameters"],
        "seconds": Plotting.read_metrics(folder)["seconds"][-1],
        "scores": {split: json.loads(path.read_text()) for split, path in scores.items() if path.is_file()},
    })
    return run


def shows_frames_of(truth, folder):
    """Whether the ground truth file is there, with frames as large as those of the run in `folder`."""
    if not truth.is_file():
        return False
    with open(truth) as file:
        pixels = [name for name in file.readline().strip().split(",") if name.isdecimal()]
    flags = Plotting.read_arguments(folder)
    return len(pixels) == 3 * flags["frame_H"] * flags["frame_W"]


def rows_of(recipes, runs):
    """The rows of the table: the recipes, then the trivial predictors."""
    rows, scores = [], []
    for recipe in recipes:
        mine = [run for run in runs if run.recipe is recipe]
        results = [result for run in mine if (result := run.result)]
        failed = {run.failed: ", ".join(other.folder.name for other in mine if other.failed == run.failed)
                  for run in mine if run.failed}
        row = {"recipe": recipe.name, "seeds": len(results),
               "failed": recipe.failed or "; ".join(f"{seeds}: {reason}" for reason, seeds in failed.items())}
        if results:
            row |= {"parameters": results[0]["parameters"], "epochs": recipe.epochs,
                    "seconds": np.mean([result["seconds"] for result in results])}
            row |= summary([result["scores"] for result in results], "this model")
        rows.append(row)
        scores += [result["scores"] for result in results]
    complete_scores = max(scores, key=len, default={"val": {}})  # with those of the test, if a run has them
    return rows + [{"recipe": name, **summary([complete_scores], name)}
                   for name in complete_scores["val"] if name != "this model"]


def summary(scores, predictor):
    """Means over the runs of what a predictor has scored, and the least and the greatest PSNR."""
    row = {}
    for split, measures in MEASURES.items():
        for measure in measures:
            values = [score[split][predictor][measure] for score in scores if split in score]
            if values:
                row[f"{split}_{measure}"] = np.mean(values)
                if measure == "psnr":
                    row |= {f"{split}_psnr_min": min(values), f"{split}_psnr_max": max(values)}
    return row


def write_tables(out, recipes, runs, args):
    """study.csv and study.md, of what is done so far."""
    rows = rows_of(recipes, runs)
    columns = dict.fromkeys(name for row in rows for name in row)
    write_columns_csv(out / "study.csv", {
        name: [f"{row[name]:.6g}" if isinstance(row.get(name), float) else row.get(name, "") for row in rows]
        for name in columns})
    lines = [*map(cells, rows)]
    if any(row.get("failed") for row in rows):
        lines = [line | {"failed": row.get("failed", "").replace("|", "/")} for line, row in zip(lines, rows)]
    head, rule = lines[0], ["---", *["---:"] * (len(lines[0]) - 1)]
    text = ["# Study", f"    {options.typed_command()}", "\n".join(
        f"| {' | '.join(line)} |" for line in (head, rule, *(line.values() for line in lines)))]
    if args.minutes:
        chosen = [f"{recipe.name} {recipe.epochs} ({recipe.epoch_seconds:.1f} s an epoch)"
                  for recipe in recipes if recipe.epochs]
        text.append(f"Epochs that fit into {args.minutes:g} minutes: {', '.join(chosen) or '-'}.")
    text.append("PSNR in dB of all generated frames, mean over the seeds (least..greatest), at each run's best epoch; "
                "first and last 100 generated frames of the test sequences; score: the course's. Seconds: training and "
                "validation.")
    if any(row.get("failed") for row in rows):
        text.append("A failed run is not tried again until its failed.txt is removed.")
    text += [f"![]({name}.png)" for name in ("psnr_over_seconds", "psnr_per_frame", "sheet")]
    with replacing(out / "study.md", "w") as file:
        file.write("\n\n".join(text) + "\n")


def cells(row):
    """A row of the table as text, by heading."""
    def number(name, digits):
        return f"{row[name]:,.{digits}f}" if name in row else "-"

    def psnr(split):
        text, least, most = (number(f"{split}_psnr{end}", 2) for end in ("", "_min", "_max"))
        return text if least == most else f"{text} ({least}..{most})"

    return {"recipe": row["recipe"], "seeds": number("seeds", 0), "parameters": number("parameters", 0),
            "epochs": number("epochs", 0), "seconds": number("seconds", 0),
            "val PSNR": psnr("val"), "val SSIM": number("val_ssim", 3),
            "test PSNR": psnr("test"), "test SSIM": number("test_ssim", 3),
            "first 100": number("test_psnr_first_100", 2), "last 100": number("test_psnr_last_100", 2),
            "score": number("test_score", 2)}


def first_of_each(runs):
    """The first run of each recipe."""
    first = {}
    for run in runs:
        first.setdefault(run.recipe, run)
    return list(first.values())


def draw_curves(out, runs):
    """psnr_over_seconds.png of all runs, a colour a recipe; psnr_per_frame.png of the first run of each."""
    tested = [run for run in first_of_each(runs) if (run.folder / "test" / "scores.json").is_file()]
    for figure, shown, subfolder in (("psnr_over_seconds", runs, ""), ("psnr_per_frame", tested, "test")):
        logs = Plotting.read_runs([run.folder / subfolder for run in shown])
        for log, run in zip(logs, shown):
            log.label = run.recipe.name
        if logs:
            name, draw = Plotting.FIGURES[figure]
            Plotting.save(draw(logs, False), out, name, "png")


def draw_sheet(out, runs, root, truth):
    """sheet.png: frames of the first test sequence; a row each for label, truth and the first run of each recipe."""
    from dataloader import list_test_sequences
    from modules.images import read_image

    labels = list_test_sequences(root)[2][0]
    times = np.unique(np.linspace(1, len(labels) - 1, SHEET_COLUMNS).round().astype(int))

    def frames(path, flag, run):
        flags = Plotting.read_arguments(run.folder)
        pixels, _ = read_pixels_csv(path, flag)
        return pixels[times].reshape(-1, 3, flags["frame_H"], flags["frame_W"]).transpose(0, 2, 3, 1)

    rows = {"label": [read_image(labels[time]).permute(1, 2, 0).numpy() for time in times]}
    scored = next((run for run in runs if shows_frames_of(truth, run.folder)), None)
    if scored:
        rows["truth"] = frames(truth, "--gt", scored)
    for run in first_of_each(runs):
        rows[run.recipe.name] = frames(run.folder / "test" / "submission.csv", "submission", run)
    height, width, _ = rows["label"][0].shape
    width, height = 2.0, 2.0 * height / width
    figure = Figure(figsize=(1.5 + width * len(times), 0.4 + (height + 0.06) * len(rows)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    grid = figure.subplots(len(rows), len(times), squeeze=False)
    for axes, (name, images) in zip(grid, rows.items()):
        axes[0].set_ylabel(Plotting.wrap(name, 20), rotation=0, ha="right", va="center")
        for ax, image in zip(axes, images):
            ax.imshow(image, interpolation="nearest", aspect="auto")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(True)
    for ax, time in zip(grid[0], times):
        ax.set_title(f"frame {time}")
    Plotting.save(figure, out, "sheet", "png")


if __name__ == "__main__":
    run_script(main)
