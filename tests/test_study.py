"""A study of tiny recipes: what it writes, what it does not do twice, and what it survives."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

import Study
from cli.errors import RunError, Stopped, UsageError
from cli.flags import trainer_parser
from cli.folders import locked
from conftest import (
    PATIENCE, ROOT, TINY_NETWORK, call_script, change_images, copy_dataset, flags, link, posix_only, read_csv,
    signals_restored, started, wait_until)
from engine import study as engine_study
from engine.saving.logs import TIMES_COLUMNS
from figures.study import draw_curves, table_rows, write_tables

RECIPE = " ".join(flags(**TINY_NETWORK, train_vi_len=6, val_vi_len=10, batch_size=2, partial=0.2, num_workers=1,
                        tfr=0, kl_weight=1e-5, num_epoch=9, device="cpu"))
PNGS = {"psnr_over_seconds.png", "psnr_per_frame.png", "sheet.png"}


def call_study(folder, *words, status=0):
    """Do what Study.py would, the other scripts in this process as well; returns their command lines.

    status: with which it must end.
    """
    called = []

    def call(scripts, script, words, log):
        called.append([script, *words])
        with redirect_stdout(log), redirect_stderr(log):
            try:
                call_script(folder, script, *words)
            except SystemExit as ended:
                return ended.code
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_study.Scripts, "call", call)
        with pytest.raises(SystemExit) if status else nullcontext() as ended:
            call_script(folder, "Study", *words, "--out", "study")
    assert not status or ended.value.code == status
    return called


@pytest.fixture
def study(tmp_path):
    (tmp_path / "tiny.txt").write_text(RECIPE)
    return partial(call_study, tmp_path)


@pytest.fixture(scope="module")
def done(dancer, tmp_path_factory):
    """The folder in which a study of three recipes, of which one diverges, was made, and its words."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "tiny.txt").write_text(RECIPE)
    words = ["tiny.txt", "tiny.txt --bptt 1 --no-shuffle", "tiny.txt --lr 1e30", *flags(epochs=2, DR=dancer),
             "--seeds", 0, 3]
    called = call_study(folder, *words, status=1)
    assert [call[0] for call in called].count("Trainer") == 6
    return folder, words


def files_and_times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.glob("*/**/*") if path.is_file()}


def test_study_writes_table_and_figures(done):
    out = done[0] / "study"
    assert {path.name for path in out.iterdir() if path.suffix in (".csv", ".md", ".png")} == {
        "study.csv", "study.md", *PNGS}
    rows = {row["recipe"]: row for row in read_csv(out / "study.csv")}
    names = ["tiny", "tiny --bptt 1 --no-shuffle", "tiny --lr 1e30", "nearest label", "mean frame", "first frame"]
    assert list(rows) == names
    for name, folder in zip(names, ("tiny", "tiny_bptt_1_no-shuffle")):
        runs = [out / folder / f"seed={seed}" for seed in (0, 3)]
        tested = [json.loads((run / "test/split.json").read_text())["checkpoints"] for run in runs]
        assert [[Path(path).name for path in paths] for paths in tested] == [["best.ckpt"]] * 2
        scores = [json.loads((run / "test/scores.json").read_text())["this model"] for run in runs]
        values = [score["psnr"] for score in scores]
        row = {column: float(cell) for column, cell in rows[name].items() if column not in ("recipe", "failed")}
        expected = {"seeds": 2, "epochs": 2, "parameters": 26734, "test_psnr": sum(values) / 2,
                    "test_psnr_min": min(values), "test_psnr_max": max(values),
                    "test_ssim": sum(score["ssim"] for score in scores) / 2,
                    "test_score": sum(score["score"] for score in scores) / 2,
                    "val_psnr": sum(max(float(epoch["val_psnr"]) for epoch in read_csv(run / "metrics.csv"))
                                    for run in runs) / 2,
                    "seconds": sum(float(read_csv(run / "times.csv")[-1]["seconds"]) for run in runs) / 2}
        assert {column: row[column] for column in expected} == pytest.approx(expected, rel=1e-4)
        assert rows[name]["failed"] == ""
    trivial = json.loads((out / "tiny/seed=0/test/scores.json").read_text())["mean frame"]
    assert float(rows["mean frame"]["test_psnr"]) == pytest.approx(trivial["psnr"], rel=1e-4)
    table = (out / "study.md").read_text()
    assert all(f"\n| {name} | " in table for name in names)
    assert table.count(f"{values[0]:.2f}") and all(name in table for name in PNGS)


def test_diverging_recipe_is_a_failed_row(done):
    out = done[0] / "study"
    row = read_csv(out / "study.csv")[2]
    assert row["recipe"] == "tiny --lr 1e30" and row["seeds"] == "0" and row["val_psnr"] == ""
    assert row["failed"].startswith("seed=0, seed=3: Trainer.py: stopped: the training has diverged in epoch ")
    assert "\n" not in row["failed"]
    assert row["failed"] in (out / "study.md").read_text()


def test_recipe_of_other_frames_than_the_ground_truth_is_validated_only(dancer, study, tmp_path):
    study("tiny.txt --frame_H 16 --frame_W 32", "tiny.txt", *flags(epochs=1, DR=dancer))
    small, whole = read_csv(tmp_path / "study/study.csv")[:2]
    assert small["failed"] == whole["failed"] == ""
    assert small["val_psnr"] and not small["test_psnr"]
    assert whole["val_psnr"] and whole["test_psnr"]
    assert (tmp_path / "study/sheet.png").is_file()


def test_study_of_a_recipe_that_starts_from_a_checkpoint_goes_on(done, dancer, study, tmp_path):
    """The checkpoint answers the flags of the network, and that of the validation's length."""
    (tmp_path / "further.txt").write_text(" ".join(flags(train_vi_len=6, partial=0.2, device="cpu")))
    recipe, words = f"further.txt --ckpt_path {done[0] / 'study/tiny/seed=0/best.ckpt'}", flags(epochs=1, DR=dancer)
    assert study(recipe, *words)
    assert study(recipe, *words) == []
    (tmp_path / "further.txt").write_text((tmp_path / "further.txt").read_text() + " --lr 0.5")
    with pytest.raises(SystemExit) as ended:
        study(recipe, *words)
    assert ended.value.code == 2


def test_started_again_it_runs_nothing(done):
    folder, words = done
    before, table = files_and_times(folder / "study"), (folder / "study/study.csv").read_bytes()
    assert call_study(folder, *words, status=1) == []
    assert files_and_times(folder / "study") == before
    assert (folder / "study/study.csv").read_bytes() == table


def test_a_damaged_result_is_named_and_a_run_without_flags_is_no_error(done, tmp_path, capsys):
    folder, words = done
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "study/tiny/seed=0/args.json").unlink()
    assert call_study(tmp_path, *words, status=1) == []
    (tmp_path / "study/tiny/seed=0/result.json").write_text("")
    with pytest.raises(SystemExit) as ended:
        call_study(tmp_path, *words)
    assert ended.value.code == 2 and "seed=0/result.json is damaged; remove it" in capsys.readouterr().err


def test_a_run_whose_checkpoints_are_gone_is_not_trained_anew_over_its_logs(study, dancer, tmp_path):
    words = ["tiny.txt", *flags(epochs=1, DR=dancer)]
    study(*words)
    run = tmp_path / "study/tiny/seed=0"
    for path in [*run.glob("*.ckpt"), run / "result.json"]:
        path.unlink()
    before = (run / "metrics.csv").read_bytes()
    with pytest.raises(SystemExit):
        study(*words)
    assert (run / "metrics.csv").read_bytes() == before
    assert "holds the logs of a run, but no checkpoint" in (tmp_path / "study/study.md").read_text()


def test_a_resumed_run_of_a_dataset_that_lies_elsewhere_is_still_a_run_of_the_study(study, dancer, tmp_path):
    """Also one that was resumed with the flag that a full memory asks for."""
    words = ["tiny.txt", *flags(epochs=1)]
    study(*words, "--DR", dancer)
    run, elsewhere = tmp_path / "study/tiny/seed=0", tmp_path / "elsewhere"
    link(elsewhere, dancer)
    call_script(tmp_path, "Trainer", "--resume", "--save_root", run, "--checkpoint_frames")
    assert json.loads((run / "args.json").read_text())["arguments"]["checkpoint_frames"]
    assert study(*words, "--DR", elsewhere) == []
    (run / "result.json").unlink()
    trained, *_ = study(*words, "--DR", elsewhere)
    assert trained[0] == "Trainer" and "--resume" in trained
    assert json.loads((run / "args.json").read_text())["arguments"]["DR"] == str(elsewhere)


def test_runs_are_tested_again_on_a_truth_that_has_changed(study, dancer, tmp_path, capsys):
    data, gt = tmp_path / "data", tmp_path / "data/test/gt.csv"
    copy_dataset(dancer, data)
    words = ["tiny.txt", *flags(epochs=1, DR=data)]
    result, content = tmp_path / "study/tiny/seed=0/result.json", gt.read_text()

    def scored():
        engine_study.sha256.cache_clear()
        called = [call[0] for call in study(*words)]
        return called, json.loads(result.read_text())["scores"].get("test", {}).get("this model", {}).get("psnr")

    gt.unlink()
    assert scored() == (["Trainer", "Tester", "Tester"], None) and scored()[0] == []
    header, *rows = content.splitlines()
    gt.write_text(content)
    called, first = scored()
    assert called == ["Trainer", "Tester", "Tester"] and first > 0 and scored() == ([], first)
    gt.write_text("\n".join([header, *(re.sub(r",\d+,(\w+)$", r",255,\1", row) for row in rows)]))
    called, second = scored()
    assert called == ["Trainer", "Tester", "Tester"] and second != first and scored() == ([], second)
    gt.write_text(content)
    (result.parent / "best.ckpt").unlink()
    assert scored() == ([], second) and "are of another" in capsys.readouterr().out


def test_what_git_keeps_of_a_study_draws_it_again(done, tmp_path):
    """The patterns of .gitignore leave the logs in docs/runs: nothing is trained again, and all but frames drawn."""
    folder, words = done
    copy = tmp_path / "docs/runs/study"
    shutil.copytree(folder / "study", copy)
    shutil.copy(ROOT / ".gitignore", tmp_path)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "clean", "-q", "-fdX"], cwd=tmp_path, check=True)  # removes what is ignored
    assert not [path for path in copy.glob("**/*") if path.suffix in (".ckpt", ".png", ".npy")]
    copy.rename(tmp_path / "study")
    shutil.copy(folder / "tiny.txt", tmp_path)
    assert call_study(tmp_path, *words, status=1) == []
    assert {path.name for path in (tmp_path / "study").glob("*.png")} == PNGS - {"sheet.png"}
    assert "sheet.png" not in (tmp_path / "study/study.md").read_text()
    old, new = ((parent / "study/study.csv").read_bytes() for parent in (folder, tmp_path))
    assert old == new


def test_baselines_are_of_the_run_with_a_test_and_the_most_training_frames(tmp_path):
    """The nearest label is one of those frames, and all recipes are beside it in one table."""
    runs = []
    for number, (splits, partial) in enumerate(((["val"], 1.0), (["val", "test"], 0.1), (["val", "test"], 1.0))):
        scores = {split: {name: {"psnr": 20.0 + number} for name in ("this model", "nearest label")}
                  for split in splits}
        recipe = SimpleNamespace(name=str(number), failed="", epochs=2)
        (tmp_path / str(number)).mkdir()
        (tmp_path / f"{number}/args.json").write_text(json.dumps({"arguments": {"partial": partial}}))
        runs.append(SimpleNamespace(recipe=recipe, folder=tmp_path / str(number), failed="",
                                    result={"parameters": 1, "seconds": 1.0, "scores": scores}))
    for order in (runs, runs[::-1]):
        *rows, nearest = table_rows([run.recipe for run in order], order)
        assert nearest["recipe"] == "nearest label" and nearest["val_psnr"] == nearest["test_psnr"] == 22
        assert [row["val_psnr"] for row in rows] == [run.result["scores"]["val"]["this model"]["psnr"] for run in order]


def test_figures_show_every_recipe_as_a_curve_over_its_seeds(done, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr("figures.study.save", lambda figure, folder, name: drawn.update({name: figure}))
    call_study(*done[:1], *done[1], status=1)
    lines = drawn["psnr_over_seconds"].axes[0].lines
    times = read_csv(done[0] / "study/tiny/seed=0/times.csv")
    others = read_csv(done[0] / "study/tiny/seed=3/times.csv")
    seconds = [(float(one["seconds"]) + float(other["seconds"])) / 2 for one, other in zip(times, others)]
    assert lines[0].get_xdata().tolist() == pytest.approx(seconds)
    assert len(lines) == 2 == len(drawn["psnr_over_seconds"].axes[0].collections)
    legends = {name: [text.get_text() for box in drawn[name].legends for text in box.get_texts()]
               for name in ("psnr_over_seconds", "psnr_per_frame")}
    assert legends["psnr_over_seconds"] == ["tiny", "tiny --bptt 1 --no-shuffle"]
    assert [text.split(":")[0] for text in legends["psnr_per_frame"]] == legends["psnr_over_seconds"]
    sheet = drawn["sheet"].axes
    assert len(sheet) == 4 * 8 and sheet[0].get_title() == "frame 1" and sheet[7].get_title() == "frame 11"


def test_what_is_gone_of_a_run_is_left_out_of_the_figures(done, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr("figures.study.save", lambda figure, folder, name: drawn.update({name: figure}))
    shutil.copytree(done[0], tmp_path / "copy", symlinks=True)
    folders = [Path(folder) for folder in sorted((tmp_path / "copy/study").glob("*/seed=*"))]
    recipe = SimpleNamespace(name="tiny")
    runs = [SimpleNamespace(recipe=recipe, folder=folder) for folder in folders]
    (folders[0] / "metrics.csv").unlink()
    (folders[1] / "times.csv").unlink()
    (folders[2] / "test/psnr_per_frame.csv").unlink()
    draw_curves(tmp_path, runs)
    assert drawn.keys() == {"psnr_over_seconds", "psnr_per_frame"}
    drawn.clear()
    draw_curves(tmp_path, runs[:1])
    assert drawn.keys() == {"psnr_per_frame"}


def test_no_sheet_is_drawn_of_submissions_of_other_sequences(done, tmp_path, monkeypatch, capsys):
    """As where a test sequence has become longer since."""
    drawn = []
    monkeypatch.setattr(Study, "draw_sheet", lambda out, rows, times: drawn.append([*rows]))
    folder = tmp_path / "run"
    shutil.copytree(done[0] / "study/tiny/seed=0", folder)
    runs = [SimpleNamespace(recipe=SimpleNamespace(name="tiny"), folder=folder)]
    root = Path(json.loads((folder / "args.json").read_text())["arguments"]["DR"])
    Study.draw_frames(tmp_path, runs, root, root / "test/gt.csv")
    assert drawn == [["label", "truth", "tiny"]]
    path = folder / "test/submission.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    Study.draw_frames(tmp_path, runs, root, root / "test/gt.csv")
    assert len(drawn) == 1 and f"the submission in {folder} is of another number" in capsys.readouterr().out


def test_run_older_than_a_flag_has_what_was_done_then(dancer, study, tmp_path, capsys):
    """Not the default of today."""
    words = flags(epochs=1, DR=dancer)
    study("tiny.txt", *words)
    path = tmp_path / "study/tiny/seed=0/args.json"
    content = json.loads(path.read_text())
    assert content["arguments"].pop("label_norm") == "fixed"
    path.write_text(json.dumps(content))
    with pytest.raises(SystemExit) as ended:
        study("tiny.txt", *words)
    assert ended.value.code == 2 and "is a run with --label_norm batch, not fixed" in capsys.readouterr().err
    (tmp_path / "tiny.txt").write_text(f"{RECIPE} --label_norm batch")
    assert study("tiny.txt", *words) == []


def test_other_flags_in_the_folder_of_a_run_are_an_error(done, capsys):
    folder, words = done
    before = files_and_times(folder / "study")
    with pytest.raises(SystemExit) as ended:
        call_study(folder, *words, "--epochs", 3)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1 and "seed=0 is a run with --num_epoch 2, not 3" in error
    assert files_and_times(folder / "study") == before


@pytest.mark.parametrize("words, changed, refused", [
    ("", {"batch_size": 1, "accumulate": 2, "checkpoint_frames": True}, ""),
    ("", {"save_minutes": 2.0, "per_save": 9, "video_format": "mp4", "tensorboard": True}, ""),
    ("", {"batch_size": 1}, "is a run with --batch_size 1, not 2"),
    ("", {"input_noise": 0.1}, "is a run with --input_noise 0.1"),
    ("--label_norm batch", {"batch_size": 1, "accumulate": 2}, "is a run with --accumulate 2, not 1")])
def test_what_helped_a_run_on_makes_it_no_other_run(words, changed, refused, tmp_path):
    """What the program advises where memory is full, and what changes files alone."""
    words = [*RECIPE.split(), *words.split()]
    arguments = vars(trainer_parser().parse_args(words)) | changed
    (tmp_path / "args.json").write_text(json.dumps({"arguments": arguments}))
    with pytest.raises(UsageError, match=refused) if refused else nullcontext():
        engine_study.Run(words, tmp_path, None).check_unchanged()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_after_the_last_run_ends_the_study_at_once(number, study, dancer, monkeypatch, capsys):
    """While it draws the figures; one that was noted until then would be passed on to no run."""
    monkeypatch.setattr("Study.draw_curves", lambda *_: signal.raise_signal(number))
    with signals_restored():
        study("tiny.txt", *flags(epochs=1, DR=dancer), status=128 + number)
    assert "Study.py: all runs are done; for the table and the figures: " in capsys.readouterr().err


@posix_only
def test_interrupted_study_goes_on(study, dancer, tmp_path):
    words = ["tiny.txt", *map(str, flags(epochs=12, DR=dancer)), "--seeds", "0", "1", "--jobs", "2"]
    runs = [tmp_path / "study/tiny" / f"seed={seed}" for seed in (0, 1)]
    with started([sys.executable, ROOT / "Study.py", *words, "--out", "study"], cwd=tmp_path,
                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: all((run / "last.ckpt").is_file() for run in runs), process)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGINT and "Traceback" not in error
    assert error.splitlines()[-1].startswith(f"Study.py: continue with: {sys.executable} {ROOT / 'Study.py'} tiny.txt ")
    assert read_csv(tmp_path / "study/study.csv")[0]["seeds"] == "0"
    assert not any((run / "failed.txt").exists() for run in runs)

    called = study(*words[:-3])
    assert called[0] == ["Trainer", "--resume", "--DR", str(dancer), "--save_root", "study/tiny/seed=0"]
    assert [call[0] for call in called[1:]] == ["Tester", "Tester"]
    assert len(read_csv(runs[0] / "metrics.csv")) == 12
    assert read_csv(tmp_path / "study/study.csv")[0]["seeds"] == "1"


def run_a_script(folder, script):
    with signals_restored():  # Scripts handles them
        engine_study.Scripts().run(folder, script)


@pytest.mark.parametrize("status, name", [
    (128 + signal.SIGINT, "nt"), (0xC000013A, "nt"), (128 + signal.SIGINT, "posix")])
def test_study_on_windows_stops_where_ctrl_c_has_ended_a_training(status, name, tmp_path, monkeypatch):
    """Its main thread waits for the others, and hears of a signal only when one of them has ended."""
    monkeypatch.setattr(engine_study.Scripts, "call", lambda *_: status)
    monkeypatch.setattr(engine_study, "os", SimpleNamespace(SEEK_END=os.SEEK_END, name=name))
    with pytest.raises(Stopped if name == "nt" else RunError):
        run_a_script(tmp_path / "run", "Trainer")


@pytest.mark.parametrize("name, ended", [("nt", ["terminate"]), ("posix", ["send_signal"])])
def test_a_script_that_starts_after_the_signal_is_ended(name, ended, monkeypatch):
    process = Mock()
    monkeypatch.setattr(engine_study, "subprocess", SimpleNamespace(Popen=lambda *_, **__: process, STDOUT=None))
    monkeypatch.setattr(engine_study, "os", SimpleNamespace(environ={}, name=name))
    with signals_restored():
        scripts = engine_study.Scripts()
        scripts.signal_number = signal.SIGINT
        scripts.call("Trainer", [], None)
    assert [name for name, *_ in process.method_calls] == [*ended, "wait"]


@pytest.mark.parametrize("said, kept", [
    ("Trainer.py: stopped: run/last.ckpt cannot be written (No space left on device)", False), ("", False),
    ("Trainer.py: stopped: the training has diverged in epoch 0: ...; try a lower --lr", True)])
def test_only_a_training_that_diverges_is_not_tried_again(tmp_path, monkeypatch, said, kept):
    def call(scripts, script, words, log):
        print(said, file=log)
        return 1

    monkeypatch.setattr(engine_study.Scripts, "call", call)
    with pytest.raises(RunError) as failed:
        run_a_script(tmp_path, "Trainer")
    assert str(failed.value) == (said or "Trainer.py: exit status 1")
    assert (tmp_path / "failed.txt").is_file() == kept


def test_reason_of_a_failure_is_what_this_try_said_last(tmp_path, monkeypatch):
    """And not what an earlier one did, which the same log holds."""
    said = ["Trainer.py: stopped: the training has diverged in epoch 0", ""]

    def call(scripts, script, words, log):
        print(said.pop(0), file=log)
        return 1

    monkeypatch.setattr(engine_study.Scripts, "call", call)
    for reason in ("Trainer.py: stopped: the training has diverged in epoch 0", "Trainer.py: exit status 1"):
        with pytest.raises(RunError, match=reason):
            run_a_script(tmp_path, "Trainer")
        (tmp_path / "failed.txt").unlink(missing_ok=True)  # as a user does to try again
    assert not said


def test_a_reason_that_a_full_disk_left_empty_is_no_reason(tmp_path, monkeypatch):
    called = []
    (tmp_path / "failed.txt").touch()
    monkeypatch.setattr(engine_study.Scripts, "call", lambda *_: called.append(1) or 0)
    run_a_script(tmp_path, "Trainer")
    assert called


def test_log_of_a_script_is_in_utf_8_whatever_the_system_writes_in(tmp_path, monkeypatch):
    """Windows in Taiwan writes in cp950."""
    monkeypatch.setattr(engine_study, "ROOT", tmp_path)
    monkeypatch.setenv("PYTHONIOENCODING", "cp950")
    (tmp_path / "Script.py").write_text("import sys; sys.exit('\u821e\u8005 is not a folder')", encoding="utf-8")
    with pytest.raises(RunError, match="^\u821e\u8005 is not a folder$"):
        run_a_script(tmp_path / "run", "Script")


@pytest.mark.parametrize("allotted, jobs, threads", [(4, 2, "2"), (5, 2, "2"), (1, 3, "1"), (4, 1, None)])
def test_jobs_share_the_cores_that_the_process_may_use(allotted, jobs, threads, tmp_path, monkeypatch):
    """Which Slurm or taskset may have made fewer than the machine has."""
    monkeypatch.setattr("cli.cores.CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(allotted)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS")
    engine_study.share_cores(jobs)
    assert os.environ.pop("OMP_NUM_THREADS", None) == threads


@pytest.mark.parametrize("minutes, seconds, epochs", [(5, 71.2, 4), (5, 75, 4), (0.5, 71.2, 1)])
def test_minutes_and_the_seconds_of_an_epoch_choose_the_epochs(tmp_path, minutes, seconds, epochs):
    for columns in (TIMES_COLUMNS[:2], TIMES_COLUMNS):  # an older version wrote two
        values = ["0", str(seconds), "3.25"][:len(columns)]
        (tmp_path / "times.csv").write_text(f"{','.join(columns)}\n{','.join(values)}\n")
        recipe = engine_study.Recipe("tiny", [], tmp_path)
        engine_study.calibrate(engine_study.Run([], tmp_path, recipe), minutes, scripts=None)
        assert recipe.epochs == epochs and recipe.epoch_seconds == seconds


@pytest.mark.parametrize("words", ["", "--val_every 3", "--val_every 100", "--fast_train --fast_train_epoch 0",
                                   "--fast_train --val_every 4", "--fast_train --fast_partial 0.1",
                                   "--fast_train --fast_train_epoch 100 --fast_partial 0.25"])
@pytest.mark.parametrize("minutes", [0.01, 0.5, 2.3])
def test_a_run_of_the_chosen_epochs_takes_the_minutes(words, minutes, tmp_path):
    """Shorter epochs of --fast_train and epochs without a validation included; one more would take longer."""
    def seconds(epochs):
        spent = 0.0
        for epoch in range(epochs):
            is_fast = "--fast_train" in words.split() and epoch < args.fast_train_epoch
            spent += 4.0 * (args.fast_partial if is_fast else 1.0)
            spent += 2.5 * ((epoch + 1) % args.val_every == 0 or epoch + 1 == epochs)
        return spent

    args = trainer_parser().parse_args(words.split())
    (tmp_path / "times.csv").write_text(f"{','.join(TIMES_COLUMNS)}\n0,{seconds(1)},2.5\n")
    recipe = engine_study.Recipe("tiny", [], tmp_path)
    engine_study.calibrate(engine_study.Run(words.split(), tmp_path, recipe), minutes, scripts=None)
    assert recipe.epoch_seconds == pytest.approx(seconds(recipe.epochs) / recipe.epochs)
    assert recipe.epochs == 1 or seconds(recipe.epochs) <= 60 * minutes + 1e-9
    assert seconds(recipe.epochs + 1) > 60 * minutes


def test_times_that_cannot_be_are_measured_again(tmp_path):
    for row in ("0,0,0", "0,nan,1", ""):
        (tmp_path / "times.csv").write_text(f"{','.join(TIMES_COLUMNS)}\n{row}\n" if row else ",".join(TIMES_COLUMNS))
        assert engine_study.times_of_an_epoch(tmp_path) is None


def test_recipe_is_calibrated_once(study, dancer, tmp_path, monkeypatch):
    run, trained = engine_study.Scripts.run, []

    def run_and_time(scripts, folder, script, *words):
        run(scripts, folder, script, *words)
        if script == "Trainer":
            trained.append(folder.name)
        if folder.name == "calibration":
            [row] = read_csv(folder / "times.csv")
            assert 0 < float(row["validation_seconds"]) < float(row["seconds"])
            (folder / "times.csv").write_text(f"{','.join(TIMES_COLUMNS)}\n0,2.9,0\n")

    monkeypatch.setattr(engine_study.Scripts, "run", run_and_time)
    words = ["tiny.txt", *flags(minutes=0.1, DR=dancer)]
    study(*words, "--seeds", 0)
    study(*words, "--seeds", 0, 1)
    assert trained == ["calibration", "seed=0", "seed=1"]
    assert len(read_csv(tmp_path / "study/tiny/seed=1/metrics.csv")) == 2
    assert "tiny 2 (2.9 s an epoch)" in (tmp_path / "study/study.md").read_text()


def test_without_a_run_that_ends_the_study_fails(study, dancer, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        study("tiny.txt --partial 1 --lr 1e30", *flags(minutes=0.1, DR=dancer))
    error = capsys.readouterr().err
    assert ended.value.code == 1 and error.count("\n") == 1 and "study.md" in error
    assert "was not finite" in read_csv(tmp_path / "study/study.csv")[0]["failed"]
    assert not list(tmp_path.glob("study/*/seed=0"))


@pytest.mark.parametrize("words, named", [
    (["nowhere.txt", "--epochs", "1"], "nowhere.txt"),
    (["", "--epochs", "1"], "recipe is empty"),
    (["tiny.txt --tfr 2", "--epochs", "1"], '"tiny.txt --tfr 2": error: argument --tfr'),
    (["tiny.txt --tfr '2", "--epochs", "1"], "No closing quotation"),
    (["tiny.txt", "tiny.txt", "--epochs", "1"], "two recipes would go to study/tiny"),
    (["tiny.txt", "--epochs", "1", "--tfr", "1"], "--tfr"),
    (["tiny.txt"], "--minutes --epochs"),
    (["tiny.txt" + " --tfr 1" * 50, "--epochs", "1"], "too long for the name of a folder"),
    (["tiny.txt", "--epochs", "1", "--minutes", "1"], "not allowed with"),
    (["tiny.txt", "--epochs", "1", "--DR", "nowhere"], "--DR nowhere"),
    (["tiny.txt --resume", "--epochs", "1"], '"tiny.txt --resume": a recipe is trained from its start'),
    (["tiny.txt --overwrite", "--epochs", "1"], "leave --resume, --test"),
    (["tiny.txt --test", "--epochs", "1"], "leave --resume, --test and --overwrite out"),
    *[([f"tiny.txt {flag}", "--epochs", "1"], f'"tiny.txt {flag}": leave {flag.split()[0]} out of a recipe')
      for flag in ("--DR data/me", "--seed 7", "--num_epoch 3", "--save_root runs/x")],
    (["tiny.txt --network pyramid --F_dim 8", "--epochs", "1"], "--F_dim 8"),
    (["tiny.txt --kl_anneal_type Cyclical --kl_anneal_ratio 2", "--epochs", "1"], "--kl_anneal_ratio"),
])
def test_mistakes_are_named(study, tmp_path, capsys, words, named):
    with pytest.raises(SystemExit) as ended:
        study(*words)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1 and named in error
    assert not (tmp_path / "study").exists()


def test_runs_on_a_dataset_without_test_sequences_are_validated(study, dancer, tmp_path):
    data = copy_dataset(dancer, tmp_path / "data")
    shutil.rmtree(data / "test")
    called = study("tiny.txt", *flags(epochs=1, DR=data))
    assert [words[0] for words in called] == ["Trainer", "Tester"]
    row = read_csv(tmp_path / "study/study.csv")[0]
    assert row["recipe"] == "tiny" and float(row["val_psnr"]) > 0 and not row.get("test_psnr")


@pytest.mark.parametrize("faulty", ["rows of gt.csv", "labels of a sequence"])
def test_test_sequences_that_would_fail_at_the_end_fail_at_the_start(faulty, study, dancer, tmp_path, capsys):
    data = copy_dataset(dancer, tmp_path / "data")
    if faulty == "rows of gt.csv":
        (data / "test/gt.csv").write_text("\n".join((data / "test/gt.csv").read_text().splitlines()[:-1]))
    else:
        shutil.rmtree(data / "test/test_label/1")
    with pytest.raises(SystemExit) as ended:
        study("tiny.txt", *flags(epochs=1, DR=data))
    assert ended.value.code == 2 and str(data / "test") in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


def test_a_study_does_not_go_on_with_other_images(study, dancer, tmp_path, capsys):
    data = copy_dataset(dancer, tmp_path / "data")
    words = ["tiny.txt", *flags(epochs=1, DR=data)]
    study(*words, "--seeds", 0)
    change_images(data / "train/train_label", "mirrored")
    with pytest.raises(SystemExit) as ended:
        study(*words, "--seeds", 0, 1)
    assert ended.value.code == 2 and f"--DR {data} has changed since" in capsys.readouterr().err
    assert not (tmp_path / "study/tiny/seed=1").exists()
    (tmp_path / "study/tiny/seed=0/last.ckpt").write_bytes(b"half")  # which a finished run does not need
    study(*words, "--seeds", 0)


def test_a_study_does_not_take_the_seconds_of_other_images(study, dancer, tmp_path, capsys, monkeypatch):
    """It was stopped after its calibration, and is given another dataset."""
    data = copy_dataset(dancer, tmp_path / "data")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("Study.write_tables", Mock(side_effect=KeyboardInterrupt))
        patch.setattr("Study.run_script", lambda main: main())
        patch.setattr("conftest.run_script", lambda main: main())
        study("tiny.txt", *flags(minutes=0.01, DR=data))
    assert (tmp_path / "study/tiny/calibration/last.ckpt").is_file()
    change_images(data / "train/train_label", "mirrored")
    with pytest.raises(SystemExit) as ended:
        study("tiny.txt", *flags(minutes=0.01, DR=data))
    assert ended.value.code == 2 and "calibration was trained on it; give another --out" in capsys.readouterr().err


def test_a_table_that_cannot_be_written_at_the_end_of_a_run_ends_no_study(study, dancer, tmp_path, capsys, monkeypatch):
    """Say because a spreadsheet has it open."""
    tried = []

    def write(*arguments, **more):
        tried.append(1)
        if len(tried) == 2:
            raise RunError("study.csv cannot be written (Permission denied)")
        write_tables(*arguments, **more)

    monkeypatch.setattr("Study.write_tables", write)
    study("tiny.txt", *flags(epochs=1, DR=dancer), "--seeds", 0, 1)
    assert "note: study.csv cannot be written" in capsys.readouterr().out
    assert read_csv(tmp_path / "study/study.csv")[0]["seeds"] == "2"


def test_two_studies_in_one_folder(study, dancer, tmp_path, capsys):
    with locked("--out", tmp_path / "study"), pytest.raises(SystemExit) as ended:
        study("tiny.txt", *flags(epochs=1, DR=dancer))
    assert ended.value.code == 2 and "--out study is in use by process" in capsys.readouterr().err
