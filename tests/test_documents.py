"""What README.md and docs/ say: their commands are understood, and their numbers are those of the kept logs."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import Plotting
import Preparer
import Study
from benchmarks import bench, film, gpu, poses
from cli import flags
from cli.files import read_json
from conftest import ROOT, posix_only
from engine.saving.logs import read_arguments, read_metrics
from figures.curves import mean_and_range

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")),
         ROOT / "benchmarks" / "README.md"]
PARSERS = {"Trainer.py": flags.trainer_parser(), "Tester.py": flags.tester_parser(),
           "Preparer.py": Preparer.build_parser(), "Plotting.py": Plotting.plotting_parser(),
           "Study.py": Study.study_parser(), "benchmarks/bench.py": bench.build_parser(),
           "benchmarks/film.py": film.build_parser(), "benchmarks/gpu.py": gpu.build_parser(),
           "benchmarks/poses.py": poses.build_parser()}
RUNS = ROOT / "docs" / "runs" / "version_2"
COLUMNS = [("val", "psnr"), ("val", "ssim"), ("val", "psnr_person"), ("test", "psnr"), ("test", "ssim"),
           ("test", "psnr_person"), ("test", "psnr_first_100"), ("test", "psnr_last_100"), ("test", "score")]
BASELINES = {"nearest label": "nearest label", "training mean frame": "mean frame",
             "first frame repeated": "first frame"}


def code_blocks(page):
    """The indented lines of a page, block by block."""
    text = page.read_text(encoding="utf-8")
    return ["\n".join(line.strip() for line in block.splitlines())
            for block in re.findall(r"(?:^ {4,}.*\n(?:\n(?= {4}))?)+", text, re.MULTILINE)]


def commands(block):
    """The scripts that a block of shell commands starts, each as a list of words; nothing is started or written."""
    script = 'noted() { printf "%s\\0" "$@" $\'\\n\'; }\n' + re.sub(r"(?:\.venv/bin/|\b)python3? ", "noted ", block)
    said = subprocess.run([shutil.which("bash"), "-r", "-c", script], cwd=ROOT, env={"PATH": ""}, capture_output=True,
                          text=True, encoding="utf-8").stdout
    started = [line.split("\0") for line in said.split("\0\n\0") if line]
    assert len(started) >= len(re.findall(r"(?<!Scripts\\)python3? \S+\.py", block)), block
    return started


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_comment_stands_behind_a_command(page):
    """zsh, the shell of a Mac, would take it for words of the command."""
    lines = [line for block in code_blocks(page) for line in block.splitlines()]
    assert not [line for line in lines if re.match(r"make |.*python3? ", line) and " # " in line]


@posix_only
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_a_page_are_understood(page, monkeypatch):
    """And the recipes and scripts in them exist."""
    monkeypatch.chdir(ROOT)
    started = [words for block in code_blocks(page) for words in commands(block)]
    assert started
    for script, *words in started:
        if script in PARSERS:
            args = PARSERS[script].parse_args(words)
            if script == "Study.py":
                Study.read_recipes(args.recipes, Path(args.out))
        else:
            assert script == "-m" or (ROOT / script).is_file()


def anchors(page):
    """What GitHub calls the headings of a page in links."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_pages_lead_somewhere(page):
    for path, _, anchor in re.findall(r"\]\((?!http)([^)#]*)(#([^)]*))?\)", page.read_text(encoding="utf-8")):
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


@posix_only
def test_the_figures_of_the_lab_report_are_of_runs_that_its_study_trains(monkeypatch):
    monkeypatch.chdir(ROOT)
    [study], *others = [commands(block) for block in code_blocks(PAGES[0]) if "runs/lab" in block]
    args = PARSERS["Study.py"].parse_args(study[1:])
    trained = {recipe.folder / "seed=0" for recipe in Study.read_recipes(args.recipes, Path(args.out))}
    used = {Path(word.removesuffix("/best.ckpt")) for block in others for words in block for word in words
            if "/seed=" in word}
    assert study[0] == "Study.py" and len(trained) == 7 and used == trained


def test_commands_for_windows_are_those_of_the_demo():
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").split("\ndemo:")[1].split("\n\n")[0]
    [block] = [block for block in code_blocks(PAGES[0]) if ".venv\\Scripts" in block]
    ours, theirs = (re.findall(r"(?:\$\(RUN\)|Scripts\\python) (\w+\.py .*)", text.replace('"', ""))
                    for text in (recipe, block))
    assert ours == theirs and len(ours) == 4


def table_rows(page, heading):
    """The cells of the rows of the first table after a line that begins with `heading`, by their first cell."""
    text = page.read_text(encoding="utf-8").split(f"\n{heading}")[1]
    rows = [line.strip("|").split("|") for line in text.split("\n|", 1)[1].split("\n\n")[0].splitlines()]
    return {name.strip(" *`"): [cell.strip(" *`") for cell in cells] for name, *cells in rows[2:]}


def shown(scores, who, columns=COLUMNS):
    """The means of a predictor's scores over some runs, as the pages show them."""
    return [f"{np.mean([of_run[split][who][name] for of_run in scores]):.{3 if name == 'ssim' else 2}f}"
            for split, name in columns]


def scores_of_splits(folder):
    """What Tester.py has written into folder/val and folder/test, as in a result.json."""
    return {split: read_json(folder / split / "scores.json") for split in ("val", "test")}


def test_results_are_those_of_the_kept_runs():
    """The table of README.md."""
    rows = table_rows(PAGES[0], "## Results")
    scores = [read_json(run / "result.json")["scores"] for run in sorted((RUNS / "demo").glob("seed=*"))]
    views = [{"val": found, "test": found} for found in
             (read_json(run / "views_2/scores.json") for run in sorted((RUNS / "demo").glob("seed=*")))]
    assert len(scores) == 5
    assert rows["this model"] == shown(scores[:1], "this model")
    assert rows["five seeds, mean"] == shown(scores, "this model")
    assert rows["these five with `--views 2"][3:] == shown(views, "this model")[3:]
    together = scores_of_splits(RUNS.parent / "ensemble" / "seeds_0+1+2+3+4")
    assert rows["five networks as one, `--ensemble"] == shown([together], "this model")
    for name, who in BASELINES.items():
        assert rows[name] == shown(scores[:1], who)


def test_table_of_ensembles_is_of_the_kept_tests():
    """In docs/study.md."""
    rows = table_rows(ROOT / "docs" / "study.md", "### Several networks as one")
    names = {"seeds 0 and 1": "0+1", "seeds 2 and 3": "2+3", "seeds 0, 1 and 2": "0+1+2", "seeds 0 to 3": "0+1+2+3",
             "all five": "0+1+2+3+4", "seeds 0 and 1, `--views 2": "0+1_views_2",
             "all five, `--views 2": "0+1+2+3+4_views_2"}
    kept = RUNS.parent / "ensemble"
    for name, seeds in names.items():
        assert rows[name] == shown([scores_of_splits(kept / f"seeds_{seeds}")], "this model")
    alone = [read_json(kept / f"demo/seed={seed}/result.json")["scores"] for seed in range(5)]
    cells = [cell.split(" (")[0] for cell in rows["each of the five"]]
    assert cells == shown(alone, "this model") and len(rows) == 1 + len(names)


def test_table_of_the_courses_size_is_of_the_kept_runs():
    """In docs/study.md."""
    rows = table_rows(ROOT / "docs" / "study.md", "## At the course's size")
    results = {name: read_json(RUNS / name / "seed=0/result.json") for name in ("best", "gpu")}
    wanted = [column for column in COLUMNS[:-1] if column[1] != "ssim"]
    for name, result in results.items():
        seconds, *cells = rows[f"recipes/{name}.txt"][2:]
        assert seconds == f"{result['seconds']:.0f}" and cells == shown([result["scores"]], "this model", wanted)
    for name, who in BASELINES.items():
        assert rows[name][3:] == shown([results["gpu"]["scores"]], who, wanted)
    assert len(rows) == 5


def test_table_of_the_hour_is_of_the_kept_runs():
    """In docs/study.md."""
    rows = table_rows(ROOT / "docs" / "study.md", "**In an hour on two cores**")
    kept = RUNS.parent / "hour"
    runs = {f"gpu.txt, seed {seed}": kept / f"gpu_val_every_6/seed={seed}" for seed in (0, 1)}
    runs |= {f"gpu.txt with `--random_shift`, seed {seed}": kept / f"gpu_random_shift_val_every_6/seed={seed}"
             for seed in (0, 1)}
    runs |= {f"{recipe}.txt with `--optim AMSGrad`, seed {seed}": kept / f"{recipe}_optim_AMSGrad_{every}/seed={seed}"
             for recipe, every in (("gpu", "val_every_6"), ("best", "val_every_5")) for seed in (0, 1)}
    runs |= {f"best.txt, seed {seed}": kept / f"best_val_every_5/seed={seed}" for seed in (0, 1)}
    for name, run in runs.items():
        result = read_json(run / "result.json")
        assert rows[name][1:] == [f"{result['seconds']:,.0f}", *shown([result["scores"]], "this model")]
    together = {"both of gpu.txt as one": "seeds_0+1",
                "both of gpu.txt with `--optim AMSGrad` as one": "amsgrad_seeds_0+1",
                "both of best.txt as one": "best_seeds_0+1",
                "both of gpu.txt with `--random_shift` as one": "shift_seeds_0+1",
                "these two, `--views 2": "shift_seeds_0+1_views_2"}
    for name, folder in together.items():
        assert rows[name][2:] == shown([scores_of_splits(kept / folder)], "this model")
    assert len(rows) == len(runs) + len(together)


@pytest.mark.parametrize("name", ["forced", "free"])
def test_table_of_the_defaults_is_of_the_kept_runs(name):
    """Its rows of version 2 with several seeds, in docs/study.md."""
    text = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    rows = re.findall(rf"^\| small \| \*\*defaults, {name}\*\*.* \| (\d+) to (\d+) \| (.*?) \|$", text, re.MULTILINE)
    assert len(rows) == 2
    for first, last, cells in rows:
        runs = [RUNS / f"small_val_every_5{'_tfr_0' * (name == 'free')}/seed={seed}"
                for seed in range(int(first), int(last) + 1)]
        scores = [read_json(run / "result.json")["scores"] for run in runs]
        ranges = [mean_and_range([of_run[split]["this model"]["psnr"] for of_run in scores])
                  for split in ("val", "test")]
        first_and_last = shown(scores, "this model")[-3:-1]
        assert cells.replace("*", "").split(" | ") == ranges + first_and_last


def test_table_of_the_course_s_values_is_of_the_kept_runs(statements):
    """In docs/report.md: PSNR after some epochs, of the best one, and of the test, forced and free; of three seeds."""
    rows = table_rows(ROOT / "docs" / "report.md", "## With the course's values")
    runs = {}
    for run in (ROOT / "docs" / "runs" / "course").glob("*/seed=*"):
        flags = read_arguments(run)
        annealing = flags["kl_anneal_type"], flags["kl_anneal_cycle"], flags["kl_anneal_ratio"]
        runs.setdefault((annealing, flags["tfr"]), []).append(run)
    assert len(runs) == 8
    for name, annealing in statements.ANNEALINGS.items():
        expected = []
        for tfr in statements.FORCINGS.values():
            of_seeds = runs[annealing, tfr]
            psnr = np.array([read_metrics(run)["val_psnr"] for run in of_seeds])
            assert len(psnr) == 3
            expected += [", ".join(f"{psnr[:, epochs - 1].mean():.2f}" for epochs in (5, 10, 15, 20)),
                         *(mean_and_range([*map(measure, of_seeds)])
                           for measure in (statements.best_psnr, statements.test_psnr))]
        assert rows[name] == expected


def test_table_of_the_cost_of_annealing_is_of_the_kept_runs(statements):
    """In docs/report.md: the best validation PSNR of seeds 0 and 1."""
    rows = table_rows(ROOT / "docs" / "report.md", "**Why annealing costs something here.**")
    kept = {"as above": ("course", "course_pyramid_kl_anneal_type_{}_tfr_0"),
            "kl_weight": ("course_cause", "course_pyramid_tfr_0_kl_anneal_type_{}_kl_weight_1e-4"),
            "milestones": ("course_cause", "course_pyramid_tfr_0_kl_anneal_type_{}_milestones_3_6")}
    assert len(rows) == len(kept)
    for (name, cells), (word, (study, folder)) in zip(rows.items(), kept.items()):
        runs = [ROOT / "docs" / "runs" / study / folder.format(annealing) for annealing in ("Monotonic", "None")]
        assert word in name
        assert cells == [", ".join(f"{statements.best_psnr(run / f'seed={seed}'):.2f}" for seed in (0, 1))
                         for run in runs]


def test_table_of_fifty_epochs_is_of_the_kept_runs(statements):
    """In docs/study.md: validation PSNR on the way and at its best, of the test, and what the truth adds."""
    rows = table_rows(ROOT / "docs" / "study.md", "**Fifty epochs of the small network**")
    for name, folder in (("Cyclical, forced", ""), ("Cyclical, free", "_tfr_0"),
                         ("None, forced", "_kl_anneal_type_None"), ("None, free", "_tfr_0_kl_anneal_type_None")):
        of_runs = []
        for run in sorted((RUNS.parent / "fifty" / f"small_val_every_5{folder}").iterdir()):
            psnr = read_metrics(run)["val_psnr"]
            of_runs.append((psnr[9], psnr[19], statements.best_psnr(run), statements.test_psnr(run),
                            statements.drift(run)))
        assert len(of_runs) == 3
        assert rows[name] == [mean_and_range(values) for values in zip(*of_runs)]


@pytest.mark.parametrize("name, folder", [
    ("**defaults, forced, fifty epochs**", "small_val_every_5"),
    ("**defaults, free, fifty epochs**", "small_val_every_5_tfr_0"),
    ("**forced, fifty epochs**, `--kl_anneal_type None`", "small_val_every_5_kl_anneal_type_None"),
    ("**free, fifty epochs**, `--kl_anneal_type None`", "small_val_every_5_tfr_0_kl_anneal_type_None")])
def test_rows_of_fifty_epochs_are_of_the_kept_runs(name, folder):
    """In the same table: a number for each seed."""
    text = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    row = rf"^\| small \| {re.escape(name)}.* \| ([\d, ]+) \| (.*?) \|$"
    [(seeds, cells)] = re.findall(row, text, re.MULTILINE)
    runs = {seed: RUNS.parent / "fifty" / folder / f"seed={seed}" for seed in seeds.split(", ")}
    assert len(runs) == len(list(runs["0"].parent.iterdir()))
    scores = [read_json(run / "result.json")["scores"] for run in runs.values()]
    of_seeds = [", ".join(f"{of_run[split]['this model']['psnr']:.2f}" for of_run in scores)
                for split in ("val", "test")]
    assert cells.replace("*", "").split(" | ") == of_seeds + shown(scores, "this model")[-3:-1]
