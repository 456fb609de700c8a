"""What other systems, drives, notebooks and programs do to a run."""

import ast
import errno
import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path, PurePath
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from test_layout import product

import cli.files
import cli.folders
import cli.progress
import faults
from cli.errors import RunError, UsageError
from cli.files import atomic_write, usable, write_bytes
from cli.flags import trainer_parser
from cli.folders import locked, why_no_locks
from cli.parser import as_typed, interpreter, script_command, typed_command, words_of, words_of_line
from cli.progress import Progress
from cli.signals import StopSignals
from conftest import (
    PATIENCE, ROOT, call_script, commit_all, copy_dataset, flags, git, posix_only, read_csv, signals_restored, started,
    wait_until)
from dataloader import Dataset_Dance
from dataset_folder.check import describe_dataset
from engine.saving import run_folder
from engine.saving.checkpoint import load_checkpoint
from engine.saving.logs import clear_test
from engine.saving.resume import newest_checkpoint
from media.images import read_image
from media.pixel_csv import write_pixels_csv
from media.png import write_png


PRODUCT = [*product(), *sorted((ROOT / "docs").rglob("*.py"))]


@pytest.fixture
def train(dancer):
    return lambda **changed: ["--DR", str(dancer), *faults.TRAINING, *flags(**changed)]


@pytest.fixture
def at_once(monkeypatch):
    """No wait between two tries; a list of the waits."""
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    return waits


def failing(action, error, times):
    """An action that fails the first `times` times."""
    left = [times]

    def act(*arguments, **more):
        if left[0]:
            left[0] -= 1
            raise error
        return action(*arguments, **more)

    return act


def open_elsewhere():
    error = PermissionError(errno.EACCES, "The process cannot access the file")
    error.winerror = 32
    return error


# Files

@pytest.mark.parametrize("times, works, told", [(1, True, 0), (3, True, 1), (99, False, 1)])
def test_file_open_elsewhere_on_windows_is_replaced_when_it_is_closed(times, works, told, tmp_path, at_once,
                                                                      monkeypatch, capsys):
    path = tmp_path / "a.txt"
    path.write_text("old")
    monkeypatch.setattr(os, "replace", failing(os.replace, open_elsewhere(), times))
    if works:
        with atomic_write(path, "w") as file:
            file.write("new")
    else:
        with pytest.raises(RunError, match="a.txt cannot be written .*; close the program"), atomic_write(path) as file:
            file.write(b"new")
    assert path.read_text() == ("new" if works else "old") and list(tmp_path.iterdir()) == [path]
    assert len(at_once) == min(times, len(cli.files.WAITS))
    assert capsys.readouterr().out == told * f"waiting for {path}, which another program has open\n"


def test_old_scores_open_in_another_program_are_named_with_the_remedy(tmp_path, at_once, monkeypatch, capsys):
    monkeypatch.setattr(os, "unlink", failing(os.unlink, open_elsewhere(), 99))
    with pytest.raises(UsageError, match="--save_root .*; close the program .*, or give another one"), \
            usable("--save_root", tmp_path):
        clear_test(tmp_path)
    assert f"waiting for {tmp_path / 'split.json'}" in capsys.readouterr().out


def test_writers_of_one_process_number_do_not_meet(tmp_path):
    """In two containers that share a drive every process is number 1."""
    with cli.files.atomic_write(tmp_path / "x") as one:
        one.write(b"one")
        with cli.files.atomic_write(tmp_path / "x") as other:
            other.write(b"other")
        assert (tmp_path / "x").read_bytes() == b"other"
    assert (tmp_path / "x").read_bytes() == b"one" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOTCONN, errno.ESTALE])
@pytest.mark.parametrize("times, works", [(2, True), (99, False)])
def test_file_on_a_drive_that_is_away_is_written_when_it_is_back(number, times, works, tmp_path, at_once, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", failing(os.fsync, OSError(number, "away"), times))
    if works:
        write_bytes(path, b"new")
    else:
        with pytest.raises(RunError, match="a.txt cannot be written [(]away[)]; what was"):
            write_bytes(path, b"new")
    assert path.read_bytes() == (b"new" if works else b"old") and list(tmp_path.iterdir()) == [path]


def test_submission_on_a_drive_that_is_away_is_written_when_it_is_back(tmp_path, at_once, monkeypatch):
    """It is written row by row, and from its first row again."""
    monkeypatch.setattr(os, "fsync", failing(os.fsync, OSError(errno.EIO, "away"), 2))
    write_pixels_csv(tmp_path / "submission.csv", [np.full((2, 3, 1, 1), 7, np.uint8)])
    assert (tmp_path / "submission.csv").read_text() == "id,0,1,2\n0,7,7,7\n1,7,7,7\n"
    assert len(list(tmp_path.iterdir())) == 1


def test_runs_without_a_name_that_start_in_the_same_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_folder, "datetime", SimpleNamespace(now=lambda: datetime(2026, 1, 2, 3, 4, 5)))
    assert [run_folder.new_folder() for _ in range(3)] == [
        f"runs/2026-01-02_030405{end}" for end in ("", "_2", "_3")]


def test_a_page_that_is_drawn_while_a_run_starts_is_finished(train, tmp_path):
    """Plotting.py draws into the folder of a run without its lock; what a killed training has left goes."""
    run = tmp_path / "run"
    run.mkdir()
    for name in ("page.html", "loss.png", "last.ckpt", "metrics.csv"):
        (run / f".{name}.0123abcd.tmp").touch()
    call_script(tmp_path, "Trainer", *train(save_root="run", num_epoch=1))
    assert sorted(path.name for path in run.glob(".*.tmp")) == [".loss.png.0123abcd.tmp", ".page.html.0123abcd.tmp"]


def test_full_disk_is_told_at_once(tmp_path, at_once, monkeypatch):
    monkeypatch.setattr(os, "fsync", failing(os.fsync, OSError(errno.ENOSPC, "No space left on device"), 99))
    with pytest.raises(RunError, match="No space left"):
        write_bytes(tmp_path / "a.txt", b"new")
    assert not at_once


def test_drive_that_cannot_force_a_file_to_disk_is_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", failing(os.fsync, OSError(errno.EINVAL, "Invalid argument"), 99))
    write_bytes(tmp_path / "a.txt", b"new")
    assert (tmp_path / "a.txt").read_bytes() == b"new"


def test_log_that_cannot_be_written_costs_no_epoch(train, call, tmp_path, at_once, monkeypatch, capsys):
    """Every epoch tries again; if the last one cannot, --resume writes the whole log from the checkpoint."""
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
        replace, calls = os.replace, []

        def away_after_the_first(source, target):
            calls.extend([target] if "metrics" in str(target) else [])
            if len(calls) > 1 and "metrics" in str(target):
                raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")
            return replace(source, target)

        patch.setattr(os, "replace", away_after_the_first)
        call("Trainer", *train(save_root="run"))
    assert ended.value.code == 1 and len(at_once) == 3 * len(cli.files.WAITS)
    assert capsys.readouterr().out.count("the next epoch tries again") == 2
    assert load_checkpoint(tmp_path / "run/last.ckpt")["last_epoch"] == 2
    assert read_csv(tmp_path / "run/metrics.csv") == []
    call("Trainer", "--resume", "--save_root", "run")
    call("Trainer", *train(save_root="whole"))
    assert faults.differing_files(tmp_path / "run", tmp_path / "whole") == []


@pytest.mark.parametrize("saved", ["epoch;loss\n0;0,5\n", "", "\ufeffepoch,loss\n0,0.5\n"])
def test_log_that_a_spreadsheet_has_saved_is_whole_again_after_resume(saved, train, call, tmp_path):
    call("Trainer", *train(save_root="run", num_epoch=2))
    log = tmp_path / "run/metrics.csv"
    before = log.read_bytes()
    log.write_text(saved, encoding="utf-8")
    call("Trainer", "--resume", *flags(save_root="run", num_epoch=3))
    assert log.read_bytes().startswith(before) and len(read_csv(log)) == 3


def test_figures_that_cannot_be_kept_cost_no_checkpoint(train, call, tmp_path, monkeypatch, capsys):
    def fail(folder, prediction):
        raise RunError("the drive is away")

    monkeypatch.setattr("engine.saving.recorder.write_best_rollout", fail)
    call("Trainer", *train(save_root="run", num_epoch=1))
    assert load_checkpoint(tmp_path / "run/best.ckpt")["last_epoch"] == 0
    assert "note: the drive is away" in capsys.readouterr().out


# Locks and folders

def test_drive_that_refuses_a_lock_only_when_it_is_asked_for_is_one_without_locks(tmp_path, monkeypatch, capsys):
    """As Windows says "Incorrect function" of a drive of WSL."""
    def acquire(*_, **__):
        raise OSError(errno.EINVAL, "Incorrect function")

    monkeypatch.setattr(cli.folders, "why_no_locks", lambda path: None)
    monkeypatch.setattr(cli.folders.FileLock, "acquire", acquire)
    with locked("--save_root", tmp_path / "run") as folder:
        assert folder.is_dir() and not (folder / ".lock_holder").exists()
    assert "on a drive without locks (Incorrect function)" in capsys.readouterr().out


@posix_only
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_drive_without_locks_trains_with_a_note(number, train, call, tmp_path, monkeypatch, capsys):
    import fcntl

    monkeypatch.setattr(fcntl, "flock", failing(fcntl.flock, OSError(number, os.strerror(number)), 99))
    call("Trainer", *train(save_root="run", num_epoch=1))
    said = capsys.readouterr().out
    assert "without locks" in said and os.strerror(number) in said
    assert (tmp_path / "run/last.ckpt").exists()
    with pytest.raises(FileNotFoundError), locked("--save_root", tmp_path):
        (tmp_path / "none").read_text()  # an error of the run is not one of the lock


@posix_only
def test_lock_is_asked_for_with_a_file_that_can_be_read(tmp_path, monkeypatch):
    """NFS answers EBADF otherwise, as if it had no locks."""
    import fcntl

    modes = []
    monkeypatch.setattr(fcntl, "flock", lambda file, _: modes.append(fcntl.fcntl(file, fcntl.F_GETFL)))
    assert why_no_locks(tmp_path / ".lock") is None
    assert [mode & os.O_ACCMODE for mode in modes] == [os.O_RDWR]


def test_windows_has_locks_and_no_fcntl(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    assert why_no_locks(tmp_path / ".lock") is None
    with locked("--save_root", tmp_path), pytest.raises(UsageError, match="is in use"), locked("--save_root", tmp_path):
        pass


def test_nothing_that_windows_lacks_is_imported_with_a_file():
    """Within a function it may be, where an ImportError is met."""
    lacking = {"curses", "fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
    for path in [*PRODUCT, *(ROOT / "benchmarks").glob("*.py"), *(ROOT / "tests").glob("*.py")]:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = ([alias.name for alias in node.names] if isinstance(node, ast.Import) else
                     [node.module] if isinstance(node, ast.ImportFrom) else [])
            assert not lacking & set(names), path


def test_no_home_is_needed(train, call, dancer, tmp_path, monkeypatch):
    data = copy_dataset(dancer, tmp_path / "data")
    (data / ".decoded").write_text("in the way, like a dataset that cannot be written")
    for name in ("HOME", "XDG_CACHE_HOME", "USERPROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", failing(Path.home, RuntimeError("Could not determine home directory."), 99))
    call("Trainer", *train(save_root="run", num_epoch=1, DR=data))
    assert (tmp_path / "run/last.ckpt").exists()


@pytest.mark.parametrize("name", ["_a$x_$ 100% {x}", "ä b #1^2"])
def test_folder_of_any_name_holds_a_run_and_its_figures(name, train, tmp_path, capsys):
    call_script(tmp_path, "Trainer", *train(save_root=name, num_epoch=1), draw=True)
    told = capsys.readouterr().out.splitlines()[-1].removeprefix("test:")
    assert shlex.split(told) == [interpreter(), "Tester.py", "--ckpt_path", f"{name}/best.ckpt"]  # to be pasted
    call_script(tmp_path, "Trainer", *train(save_root=f"{name}2", num_epoch=1))
    call_script(tmp_path, "Plotting", name, f"{name}2", *flags(out="figures", figures="loss"))
    assert (tmp_path / name / "loss.png").exists() and (tmp_path / "figures/loss.png").exists()


@posix_only
@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGUSR2"])
@pytest.mark.parametrize("ignored, noted", [(False, True), (True, False)])
def test_closed_terminal_or_scheduler_stops_a_run_unless_it_is_to_be_ignored(name, ignored, noted):
    """nohup has the first ignored."""
    number = getattr(signal, name)
    with signals_restored():
        signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
        stop = StopSignals()
        signal.raise_signal(number)
        assert (stop.signal_number == number) == noted


def has_an_epoch(run):
    return (run / "metrics.csv").is_file() and len(read_csv(run / "metrics.csv")) > 0


def assert_goes_on(run):
    """It has all its epochs, and no process is left in its folder."""
    epochs = load_checkpoint(run / "last.ckpt")["last_epoch"] + 1
    assert epochs >= 1
    call_script(run.parent, "Trainer", "--resume", *flags(save_root=run, num_epoch=epochs + 1))
    assert [row["epoch"] for row in read_csv(run / "metrics.csv")] == list(map(str, range(epochs + 1)))


@posix_only
def test_run_whose_terminal_is_closed_is_saved(train, tmp_path):
    """Both the shell and the kernel send SIGHUP then, and all that it prints from then on fails."""
    import fcntl
    import pty
    import termios

    command = [sys.executable, str(ROOT / "Trainer.py"), *train(save_root=tmp_path / "run", num_epoch=10_000)]
    terminal, inside = pty.openpty()
    os.set_blocking(terminal, False)

    def enter_terminal():
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def is_saved():
        with suppress(BlockingIOError):  # nothing to read
            os.read(terminal, 10_000)
        return has_an_epoch(tmp_path / "run")

    with started(command, stdin=inside, stdout=inside, stderr=inside, preexec_fn=enter_terminal) as process:
        os.close(inside)
        wait_until(is_saved, process)
        process.send_signal(signal.SIGHUP)
        time.sleep(0.05)  # two at the same moment would be one
        os.close(terminal)
        assert process.wait(PATIENCE) == 128 + signal.SIGHUP
    assert not list((tmp_path / "run").glob(".*.tmp"))
    assert_goes_on(tmp_path / "run")


@posix_only
@pytest.mark.parametrize("script", ["Trainer", "Study"])
def test_run_whose_reader_ends_with_it_is_saved(script, train, tmp_path):
    """As by Ctrl-C at `python Trainer.py 2>&1 | tee log.txt`, which ends tee as well."""
    run, words = tmp_path / "run", train(save_root=tmp_path / "run", num_epoch=10_000)
    if script == "Study":
        run = tmp_path / "run/tiny/seed=0"
        (tmp_path / "tiny.txt").write_text(shlex.join(words[2:words.index("--save_root")]))
        words = [tmp_path / "tiny.txt", *words[:2], *flags(epochs=10_000, out=tmp_path / "run")]
    command = [sys.executable, ROOT / f"{script}.py", *words]
    try:
        with started(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            wait_until(lambda: has_an_epoch(run), process)
            process.stdout.close()
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 128 + signal.SIGINT
    finally:
        if script == "Study" and (run / ".lock_holder").exists():  # its training is in a session of its own
            with suppress(ProcessLookupError):
                os.kill(int((run / ".lock_holder").read_text().split()[1]), signal.SIGKILL)
    assert_goes_on(run)


def test_signal_while_something_is_printed_is_noted(monkeypatch):
    class Busy:
        def write(self, text):
            raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    with signals_restored():
        stop = StopSignals()
        monkeypatch.setattr(sys, "stderr", Busy())
        signal.raise_signal(signal.SIGINT)
        assert stop.signal_number == signal.SIGINT


@pytest.mark.parametrize("number, times, works", [(errno.EIO, 3, True), (errno.EIO, 99, False),
                                                  (errno.EACCES, 1, False)])
def test_last_checkpoint_that_cannot_be_read_is_not_replaced_by_an_older_one(number, times, works, train, call,
                                                                             tmp_path, at_once, monkeypatch):
    call("Trainer", *train(save_root="run", num_epoch=2, per_save=1))
    before = (tmp_path / "run/last.ckpt").read_bytes()
    last, opened = tmp_path / "run/last.ckpt", io.open
    fails = failing(opened, OSError(number, os.strerror(number)), times)
    monkeypatch.setattr(io, "open", lambda path, *more: (fails if str(path) == str(last) else opened)(path, *more))
    if works:
        assert newest_checkpoint(tmp_path / "run")[0] == last
    else:
        with pytest.raises(RunError, match=f"last.ckpt cannot be read .{os.strerror(number)}"):
            newest_checkpoint(tmp_path / "run")
    monkeypatch.undo()
    assert last.read_bytes() == before


@pytest.mark.parametrize("number, kind, said", [(errno.EIO, RunError, "its drive may be away: try again"),
                                                (errno.EACCES, UsageError, "check its permissions")])
def test_image_that_cannot_be_read_now_is_not_to_be_replaced(number, kind, said, dancer, at_once, monkeypatch):
    path = next((dancer / "val/val_img").iterdir())
    monkeypatch.setattr("PIL.Image.open", failing(None, OSError(number, os.strerror(number)), 99))
    with pytest.raises(kind, match=said):
        read_image(path)


def test_dataset_whose_drive_is_away_for_a_moment_is_read(dancer, tmp_path, at_once, monkeypatch):
    data = copy_dataset(dancer, tmp_path / "data")
    away = OSError(errno.EIO, os.strerror(errno.EIO))
    expected, stats, stat = Dataset_Dance(dancer, None, "val", 5).frames, {}, os.stat

    def asked(path, *more, **others):
        if str(path).startswith(str(data)):  # each of its files and folders is away at first
            stats.setdefault(str(path), failing(stat, away, 2))(path, *more, **others)
        return stat(path, *more, **others)

    monkeypatch.setattr("PIL.Image.open", failing(Image.open, away, 3))
    monkeypatch.setattr(os, "scandir", failing(os.scandir, away, 3))
    monkeypatch.setattr(os, "stat", asked)
    assert torch.equal(Dataset_Dance(data, None, "val", 5).frames, expected) and len(stats) > 10
    for name in ("scandir", "stat"):
        with monkeypatch.context() as patch, pytest.raises(RunError, match="cannot be read .*: try again"):
            patch.setattr(os, name, failing(None, away, 99))
            Dataset_Dance(data, None, "val", 5)


def test_folder_that_cannot_be_listed_is_one_problem_of_several(dancer, tmp_path, at_once, monkeypatch):
    data = copy_dataset(dancer, tmp_path / "data")
    shutil.rmtree(data / "val")
    scandir = os.scandir
    for name in ("test_label", "test_img"):
        for error in (errno.EACCES, errno.EIO):
            def list_others(path):
                if str(path).endswith(name):
                    raise OSError(error, os.strerror(error))
                return scandir(path)

            monkeypatch.setattr(os, "scandir", list_others)
            problems, _ = describe_dataset(data)
            assert len(problems) == 2 and "val_img is missing" in problems[0]
            assert f"{name} cannot be read ({os.strerror(error)})" in problems[1]


def test_drive_that_goes_away_while_a_png_is_written_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("imageio.v3.imwrite", failing(None, OSError(errno.ENOTCONN, "not connected"), 99))
    with pytest.raises(RunError, match="0.png cannot be written .not connected"):
        write_png(tmp_path / "0.png", np.zeros((2, 2, 3), np.uint8))


def test_drive_that_windows_lost_is_away_for_a_moment():
    error = OSError(errno.EINVAL, "The specified network name is no longer available")
    error.winerror = 64
    assert cli.files.is_away(error) and not cli.files.is_away(open_elsewhere())


@pytest.mark.parametrize("system, name, is_away", [
    ("posix", None, False), ("nt", None, True), ("nt", "data/0.png", True), ("nt", "runs/*/best.ckpt", False)])
def test_drive_that_is_away_is_an_invalid_argument_to_windows_where_it_reads(system, name, is_away, monkeypatch):
    error = OSError(errno.EINVAL, "Invalid argument", *([name] if name else []))
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", system)
        answer = cli.files.is_away(error)
    assert answer == is_away


def test_a_drive_that_windows_cannot_force_to_write_is_written_all_the_same(tmp_path, monkeypatch):
    def fsync(number):
        raise OSError(errno.EBADF, "Bad file descriptor")

    def write_on(name):
        system = SimpleNamespace(**vars(os) | {"name": name, "fsync": fsync})  # pathlib asks for the real one
        monkeypatch.setattr(cli.files, "os", system)
        write_bytes(tmp_path / "x", name.encode())

    with pytest.raises(RunError, match="Bad file descriptor"):
        write_on("posix")
    write_on("nt")
    assert (tmp_path / "x").read_bytes() == b"nt"


def test_folder_whose_name_is_not_utf_8_is_a_dataset_and_a_run(dancer, tmp_path, call):
    """As from an archive made on Windows in Taiwan."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xa4\xa4"))
    try:
        copy_dataset(dancer, folder)
    except OSError:
        pytest.skip("this file system takes no such name")
    call("Trainer", "--DR", str(folder), *faults.TRAINING, *flags(num_epoch=1, save_root=str(folder / folder.name)),
         draw=True)
    assert (folder / folder.name / "page.html").is_file() and (folder / folder.name / "loss.png").is_file()


# Recipes and command lines

@pytest.mark.parametrize("line, words", [
    (r"--DR C:\data\LAB4 --num_epoch 3", ["--DR", r"C:\data\LAB4", "--num_epoch", "3"]),
    (r'--DR "C:\my data\LAB4"  # comment', ["--DR", r"C:\my data\LAB4"]),
    ("--save_root runs/a#1 --lr 1", ["--save_root", "runs/a#1", "--lr", "1"]),
    ('--save_root "runs/a #1" --lr 1', ["--save_root", "runs/a #1", "--lr", "1"]),
    ("# it's a comment", []), ("--lr 1 # don't", ["--lr", "1"]), ("#--lr 1", []), ("", []),
    ("--lr 1\r", ["--lr", "1"]), ("--save_root 'it is'", ["--save_root", "it is"])])
def test_line_of_a_recipe(line, words):
    assert words_of_line(line) == words


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_recipe_is_read_as_editors_of_windows_save_it(encoding, tmp_path):
    (tmp_path / "a.txt").write_bytes("--DR C:\\資料\\é # Größe\r\n\r\n--lr 1\r\n".encode(encoding))
    args = trainer_parser().parse_args([f"@{tmp_path / 'a.txt'}"])
    assert (args.DR, args.lr) == ("C:\\資料\\é", 1)


@posix_only
def test_recipe_is_read_whatever_the_encoding_of_the_system_is(tmp_path):
    """argparse itself reads in that, before Python 3.12."""
    (tmp_path / "a.txt").write_text("--DR 資料\n", encoding="utf-8")
    code = "from cli.flags import trainer_parser; print(ascii(trainer_parser().parse_args(['@a.txt']).DR))"
    done = subprocess.run([sys.executable, "-X", "utf8=0", "-c", code], cwd=tmp_path, capture_output=True, text=True,
                          env={"PYTHONPATH": str(ROOT), "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"})
    assert done.stdout.strip() == ascii("資料"), done.stderr


def test_recipes_within_recipes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("--lr 1\n@b.txt --seed 3\n")
    Path("b.txt").write_text("--lr 2 --tfr 0.5\n")
    args = trainer_parser().parse_args(["--tfr", "0", "@a.txt", "--seed", "4"])
    assert (args.lr, args.tfr, args.seed) == (2, 0.5, 4)
    Path("b.txt").write_text("--lr 2\n@a.txt\n")
    with pytest.raises(SystemExit):
        trainer_parser().parse_args(["@a.txt"])
    assert "error: @b.txt has the word @a.txt" in capsys.readouterr().err


@posix_only
def test_a_recipe_that_is_a_pipe_is_refused(capsys):
    """Flags are read twice, before torch is loaded and after; a pipe would be empty then, and its flags lost."""
    reading, writing = os.pipe()
    os.write(writing, b"--lr 1\n")
    os.close(writing)
    with pytest.raises(SystemExit):
        trainer_parser().parse_args([f"@/dev/fd/{reading}"])
    assert "is no file, but say a pipe" in capsys.readouterr().err
    os.close(reading)


def test_quoted_flags_keep_their_backslashes():
    assert words_of(r'recipes\demo.txt --DR "C:\a b"') == [r"recipes\demo.txt", "--DR", r"C:\a b"]


def test_command_is_told_as_the_system_types_it(tmp_path, monkeypatch):
    """It begins with the Python that was typed, which has the packages that the program needs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dance").mkdir()
    for script in ("Trainer", "Tester"):
        (tmp_path / f"dance/{script}.py").touch()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys, "argv", ["dance/Trainer.py", "--DR", "my data"])
    monkeypatch.setattr(sys, "orig_argv", [".venv/bin/python", "-u", *sys.argv])
    assert typed_command() == ".venv/bin/python dance/Trainer.py --DR 'my data'"
    assert script_command("Tester.py", "--amp", "off") == ".venv/bin/python dance/Tester.py --amp off"
    assert (script_command("Trainer.py", processes=2)
            == ".venv/bin/python -m torch.distributed.run --standalone --nproc_per_node 2 dance/Trainer.py")
    monkeypatch.setattr(sys, "platform", "darwin")  # where orig_argv[0] is the Python that made the environment
    monkeypatch.setattr(sys, "executable", f"{tmp_path}/.venv/bin/python3")
    assert script_command("Tester.py") == ".venv/bin/python3 dance/Tester.py"
    for place in ("", "site-packages/ipykernel_launcher.py"):  # in an interactive Python, in a notebook's
        monkeypatch.setattr(sys, "argv", [place])
        assert script_command("Tester.py") == ".venv/bin/python3 Tester.py"


def test_command_is_told_as_windows_types_it(monkeypatch):
    monkeypatch.delenv("MSYSTEM", raising=False)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(sys, "argv", ["Trainer.py", "--DR", "my data"])
    monkeypatch.setattr(os, "name", "nt")
    for executable, told in (("C:\\me\\python.exe", "C:\\me\\python.exe"), ("C:\\Ann Lee\\python.exe", "python")):
        monkeypatch.setattr(sys, "executable", executable)
        monkeypatch.setattr("cli.parser.Path", PurePath)  # as os.name is checked when a Path is made
        monkeypatch.setattr("cli.parser.Path.cwd", lambda: PurePath("elsewhere"), raising=False)
        assert typed_command() == f'{told} Trainer.py --DR "my data"'


def test_command_is_told_as_git_bash_types_it_on_windows(monkeypatch):
    """To bash a bare backslash quotes the letter behind it."""
    words = [r".venv\Scripts\python.exe", "Trainer.py", "--save_root", r"my runs\best"]
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", "nt")
        patch.setenv("MSYSTEM", "MINGW64")
        told = as_typed(*words)
    assert shlex.split(told) == words


@posix_only
@pytest.mark.parametrize("script", ["Trainer", "Tester"])
def test_ctrl_c_while_torch_is_loaded_is_told_in_a_line(script, tmp_path):
    (tmp_path / "torch.py").write_text("print('loading', flush=True)\nimport time\ntime.sleep(60)\n")
    words = ["--ckpt_path", "x"] if script == "Tester" else []
    with started([sys.executable, ROOT / f"{script}.py", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                 text=True, env=os.environ | {"PYTHONPATH": str(tmp_path)},
                 preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) as process:  # as in a terminal
        assert process.stdout.readline() == "loading\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGINT and said == f"{script}.py: interrupted\n"


@pytest.mark.parametrize("word, typed", [
    ("@recipes/demo.txt", '"@recipes/demo.txt"'), ("C:\\a b\\", '"C:\\a b\\\\"'), ("C:\\a(1)\\", '"C:\\a(1)\\\\"'),
    ("C:\\a&b\\c", '"C:\\a&b\\c"'), ("C:\\a\\", "C:\\a\\"), ("runs/a=1-b_c.2", "runs/a=1-b_c.2"), ("", '""')])
def test_word_that_means_something_to_powershell_is_quoted(word, typed, monkeypatch):
    monkeypatch.delenv("MSYSTEM", raising=False)
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", "nt")
        told = as_typed("x", word, "y")
    assert told == f"x {typed} y"


# Text and logs

def test_every_text_file_is_opened_in_utf_8():
    """Windows would take the code page of its language."""
    wrong = []
    for path in PRODUCT:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
            if name not in ("open", "read_text", "write_text") or any(word.arg == "encoding" for word in node.keywords):
                continue
            of_bytes = name == "open" and "b" in mode_of(node)
            of_ours = isinstance(node.func, ast.Name) and name == "write_text" or "Image" in ast.unparse(node.func)
            if not (of_bytes or of_ours or path.name == "files.py" and name == "open"):  # atomic_write's callers say it
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert wrong == []


def mode_of(call):
    """The mode in a call of open(path, mode) or path.open(mode), "" where there is none."""
    place = int(isinstance(call.func, ast.Name))
    modes = [*call.args[place:place + 1], *[word.value for word in call.keywords if word.arg == "mode"]]
    return "".join(mode.value for mode in modes if isinstance(mode, ast.Constant))


@pytest.mark.parametrize("line, mode", [
    ("open('b.txt')", ""), ("open('b.txt', 'w')", "w"), ("open(path, mode='rb')", "rb"),
    ("path.open()", ""), ("path.open('ab')", "ab")])
def test_mode_of_an_opening_call(line, mode):
    assert mode_of(ast.parse(line, mode="eval").body) == mode


def test_log_file_has_each_epoch_at_once(train, tmp_path):
    """Also where Python buffers what goes to a file."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open(tmp_path / "log.txt", "w") as log:
        command = [sys.executable, str(ROOT / "Trainer.py"), *train(save_root=tmp_path / "run", num_epoch=10_000)]
        with started(command, stdout=log, stderr=subprocess.STDOUT, env=environment) as process:
            wait_until(lambda: "epoch   1/" in (tmp_path / "log.txt").read_text(), process)
    assert "loss" in (tmp_path / "log.txt").read_text()


def test_killed_program_is_not_told_to_have_leaked_a_lock_of_its_bar():
    """As on a Mac, where processes are not forked, and what they share is watched by one of its own."""
    code = ("import multiprocessing, os, signal; multiprocessing.set_start_method('spawn')\n"
            "from cli.progress import Progress; Progress(total=1, unit='step', desc='epoch 0')\n"
            "os.kill(os.getpid(), signal.SIGTERM)")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0 and done.stderr == ""


def test_no_git_is_called_where_there_is_no_repository(tmp_path, monkeypatch):
    """A Mac without developer tools has a git that asks to be installed."""
    monkeypatch.setattr(run_folder, "__file__", str(tmp_path / "engine/saving/run_folder.py"))
    monkeypatch.setattr(run_folder.subprocess, "run", None)
    assert run_folder.git_commit() is None


def test_the_commit_of_a_run_says_whether_files_were_changed_since(tmp_path, monkeypatch):
    (tmp_path / "a.py").write_text("1")
    commit_all(tmp_path)
    git(tmp_path, "tag", "--annotate", "--message", "v1", "v1")
    monkeypatch.setattr(run_folder, "__file__", str(tmp_path / "engine/saving/run_folder.py"))
    commit = run_folder.git_commit()
    assert re.fullmatch("[0-9a-f]{40}", commit)
    (tmp_path / "a.py").write_text("2")
    assert run_folder.git_commit() == f"{commit}-dirty"


@pytest.mark.parametrize("environment, is_a_terminal", [({}, False), ({"JPY_PARENT_PID": "7"}, True)])
def test_long_job_without_a_terminal_says_how_far_it_is(environment, is_a_terminal, monkeypatch, capsys):
    """Nor does a command of a notebook have one that somebody sees, though it believes so."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_a_terminal)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cli.progress, "SECONDS_BETWEEN_LINES", 0)
    assert list(Progress(range(3), total=3, unit="step", desc="epoch 4")) == [0, 1, 2]
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("epoch 4: 3 of 3 steps, 00:00 gone, 00:00 left") and len(lines) >= 3
    monkeypatch.setattr(cli.progress, "SECONDS_BETWEEN_LINES", 60)
    assert list(Progress(range(3), total=3, unit="step", desc="epoch 4")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")
