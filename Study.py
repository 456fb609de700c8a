"""Train recipes with several seeds under one budget, test every run, and compare them."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from cli.errors import RunError, UsageError
from cli.flags import network_settings, schedule_settings, trainer_parser
from cli.folders import locked
from cli.parser import Parser, path_name, positive_float, positive_int, seed_number, split_words, typed_command
from cli.script import run_script
from cli.signals import raise_stopped
from cli.tables import text_table

import numpy as np  # after cli, which tells what packages are missing

from dataset_folder.choice import dataset_or_dancer
from engine.saving.logs import read_arguments
from engine.study import Recipe, Scripts, calibrate, share_cores, train_and_test, truth_fits
from figures.study import cells, draw_curves, draw_sheet, table_rows, write_tables
from media.pixel_csv import count_rows, read_pixels_csv

SHEET_COLUMNS = 8
MAX_NAME = 255  # bytes: the longest name of a folder that common file systems take


def main():
    args = study_parser().parse_args()
    recipes = read_recipes(args.recipes, Path(args.out))
    root = dataset_or_dancer(args.DR)
    truth = root / "test" / "gt.csv"
    splits = tested_splits(root, truth)
    share_cores(args.jobs)
    with locked("--out", args.out) as out, ThreadPoolExecutor(args.jobs) as pool:
        check_dataset(recipes, root)
        scripts, for_each = Scripts(), pool.map if args.jobs > 1 else map
        set_epochs(recipes, root, args.epochs, args.minutes, scripts, for_each)
        runs = [recipe.make_run(root, recipe.epochs, seed, f"seed={seed}")
                for seed in dict.fromkeys(args.seeds) for recipe in recipes if not recipe.failed]
        for run in runs:
            run.check_unchanged()
        write_all_tables = partial(write_tables, out, recipes=recipes, command=typed_command(), minutes=args.minutes)
        write_all_tables(table_rows(recipes, runs))
        for run in for_each(partial(train_and_test, root=root, splits=splits, truth=truth, scripts=scripts), runs):
            print(f"{run.folder}: {run.failed or 'done'}")
            try:
                write_all_tables(table_rows(recipes, runs))
            except RunError as error:  # say because a spreadsheet has the table open
                print(f"note: {error}; it will be tried again")
        finished = [run for run in runs if run.result]
        if not finished:
            raise RunError(f"no run came to its end; see {out / 'study.md'}")
        scripts.raise_if_stopped()
        raise_stopped(f"all runs are done; for the table and the figures: {typed_command()}", at_ctrl_c=True)
        draw_curves(out, finished)
        draw_frames(out, finished, root, truth)
        rows = table_rows(recipes, runs)
        write_all_tables(rows)
    print(f"\n{text_table([cells(row) for row in rows])}\n\nwritten to {out}")
    failed = [one for one in (*recipes, *runs) if one.failed]
    if failed:
        raise RunError(f"not every run came to its end, such as {failed[0].folder}; study.md says why")


def tested_splits(root, truth):
    """The splits on which runs are tested: the test sequences, where the dataset has any, and validation.

    Raises UsageError if they could not be tested at their end: sequences or ground truth are not as Tester.py wants.
    """
    from dataset_folder.listing import list_test_sequences  # loads torch, for which --help need not wait

    if not any(path.name.isdecimal() for path in (root / "test" / "test_label").glob("*")):
        print(f"note: {root} has no test sequences; the runs are scored on validation alone")
        return ["val"]
    frames = sum(map(len, list_test_sequences(root)[2]))
    rows = count_rows(truth) if truth.is_file() else frames
    if rows != frames:
        raise UsageError(f"{truth} has {rows} rows, and the test sequences have {frames} labels; mend the file, or "
                         "remove it")
    return ["test", "val"]


def check_dataset(recipes, root):
    """Raise UsageError if what is done of a recipe is of other images than those in `root` now.

    That is its first run or, before any is done, its calibration. A run in progress is checked by Trainer.py.
    """
    from dataloader import Dataset_Dance
    from engine.saving.resume import identity_of, load_run_checkpoint, same_dataset

    for recipe in recipes:
        results = sorted(recipe.folder.glob("seed=*/result.json"))
        done = [path.parent for path in (*results, *recipe.folder.glob("calibration/last.ckpt"))]
        if not done:
            continue
        try:
            checkpoint = load_run_checkpoint(done[0] / "last.ckpt")
        except UsageError:  # it is damaged or gone: a run that is done does not need it
            continue
        flags = checkpoint["arguments"]
        size = {"frame_size": (flags["frame_H"], flags["frame_W"])}
        train_set = Dataset_Dance(root, None, "train", flags["train_vi_len"], flags["partial"], **size)
        val_set = Dataset_Dance(root, None, "val", flags["val_vi_len"], **size)
        if not same_dataset(checkpoint, identity_of(train_set, val_set)):
            raise UsageError(f"--DR {root} has changed since {done[0]} was trained on it; give another --out")


def study_parser():
    parser = Parser("Train recipes with several seeds under one budget, test every run, and compare them. Started "
                    "again, it continues where it stopped.", recipes=False)  # @recipe.txt is for Trainer.py
    parser.add_argument("recipes", nargs="+", metavar="RECIPE",
                        help='a file of flags for Trainer.py or, in one quoted word, a file and more flags, as in '
                             '"recipes/demo.txt --bptt 2"')
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=positive_float,
                        help="budget of a run, for training and validation: as many epochs as fit. One epoch of each "
                             "recipe is trained first to measure it")
    budget.add_argument("--epochs", type=positive_int, help="budget of a run, in epochs")
    parser.add_argument("--seeds", type=seed_number, nargs="+", default=[0], help="a run of each recipe for each seed")
    parser.add_argument("--out", type=path_name, metavar="FOLDER", required=True, help="folder of the study")
    parser.add_argument("--DR", type=path_name, metavar="FOLDER",
                        help="dataset in the LAB4 layout; without it the stage dancer is made and used")
    parser.add_argument("--jobs", type=positive_int, default=1,
                        help="runs at a time; they share the machine, so each does less in the same minutes")
    return parser


def read_recipes(texts, out):
    """The recipes, each with a folder of its own in `out`; see `read_recipe`."""
    recipes = {}
    for text in texts:
        recipe = read_recipe(text, out)
        if recipe.folder in recipes:
            raise UsageError(f"two recipes would go to {recipe.folder}; give each once, under a name of its own")
        recipes[recipe.folder] = recipe
    return list(recipes.values())


def read_recipe(text, out):
    """A recipe, with its folder in `out`. Ends the program if the trainer would not take its flags."""
    if not text.strip():
        raise UsageError("a recipe is empty; give a file of flags for Trainer.py")
    path, *flags = split_words(text, f'"{text}"')
    path = Path(path.removeprefix("@"))
    words = [f"@{path}", *flags]
    check_flags(text, words, flags)
    name = " ".join([path.stem, *flags])
    folder = out / re.sub(r"[^\w.+-]+", "_", name.replace("--", ""))
    if len(os.fsencode(folder.name)) > MAX_NAME:
        raise UsageError(f'"{text}" is too long for the name of a folder; put its flags into a recipe file')
    return Recipe(name, words, folder)


def check_flags(text, words, flags):
    """Raise UsageError for flags that a recipe cannot have; ends the program if the trainer would not take them.

    words: all of the recipe's, `text`. flags: those behind its file.
    """
    parser = trainer_parser()
    parser.prog += f' "{text}"'
    args = parser.parse_args(words)
    if args.resume or args.test or args.overwrite:
        raise UsageError(f'"{text}": a recipe is trained from its start; leave --resume, --test and --overwrite out')
    typed = [word for word in flags if not word.startswith("@")]  # a recipe file has them for Trainer.py
    refused = parser.typed_flags(typed).keys() & {"DR", "seed", "save_root", "num_epoch"}
    if refused:
        raise UsageError(f'"{text}": leave --{min(refused)} out of a recipe; Study.py has --DR, --seeds, --epochs, '
                         "--minutes and --out")
    network_settings(args)  # these two refuse values that do not go together
    schedule_settings(args)


def set_epochs(recipes, root, epochs, minutes, scripts, for_each):
    """Set for how many epochs each recipe is trained: `epochs`, or as many as fit into `minutes`."""
    if epochs:
        for recipe in recipes:
            recipe.epochs = epochs
        return
    runs = [recipe.make_run(root, 1, 0, "calibration") for recipe in recipes]
    for run in runs:
        run.check_unchanged()
    for recipe in for_each(partial(calibrate, minutes=minutes, scripts=scripts), runs):
        chosen = f"{recipe.epochs} epochs of {recipe.epoch_seconds:.1f} s"
        print(f"{recipe.folder}: {recipe.failed or chosen}")


def draw_frames(out, runs, root, truth):
    """Draw frames of the first test sequence: label, truth, and the prediction of each recipe's first run.

    Nothing is drawn of runs whose submission.csv or args.json is gone, say because only their logs were kept.
    """
    first = {}  # of each recipe
    for run in runs:
        if submission(run).is_file() and read_arguments(run.folder):
            first.setdefault(run.recipe.name, run)
    if not first:
        return
    from dataset_folder.listing import list_test_sequences
    from media.images import read_image

    of_sequences = list_test_sequences(root)[2]
    wanted, labels = sum(map(len, of_sequences)), of_sequences[0]
    times = np.unique(np.linspace(1, len(labels) - 1, SHEET_COLUMNS).round().astype(int))

    def frames(pixels, run):
        flags = read_arguments(run.folder)
        return pixels[times].reshape(-1, 3, flags["frame_H"], flags["frame_W"]).transpose(0, 2, 3, 1)

    rows = {"label": [read_image(labels[time]).permute(1, 2, 0).numpy() for time in times]}
    scored = next((run for run in first.values() if truth_fits(truth, run.folder)), None)
    if scored:
        rows["truth"] = frames(read_pixels_csv(truth, "--gt")[0], scored)
    for name, run in first.items():
        pixels, _ = read_pixels_csv(submission(run), "submission")
        if len(pixels) != wanted:
            return print(f"note: no sheet is drawn, as the test sequences have {wanted} labels, and the submission in "
                         f"{run.folder} is of another number; remove its result.json, and it is tested again")
        rows[name] = frames(pixels, run)
    draw_sheet(out, rows, times)


def submission(run):
    return run.folder / "test" / "submission.csv"


if __name__ == "__main__":
    run_script(main)
