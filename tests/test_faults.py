"""Faults of all kinds: a run goes on as if nothing had been, or ends with one line that says what is wrong."""

import errno
import json
import os
import pickle
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import faults
from cli.errors import RunError, Stopped, UsageError
from cli.flags import add_feedback_flags, add_network_flags, add_training_flags, flags_of
from cli.parser import interpreter
from cli.script import run_script
from cli.signals import StopSignals
from conftest import ROOT, Malicious, flags, link, posix_only, read_csv, signals_restored
from engine.saving.best_rollout import BEST_ROLLOUT
from engine.saving.checkpoint import load_checkpoint, save_checkpoint
from engine.saving.logs import read_videos
from engine.saving.recorder import RunRecorder
from engine.saving.resume import FIXED_IN_A_RUN
from engine.saving.run_folder import FIGURE_FILES, clear_run
from engine.training import RunState
from figures.curves import FIGURES
from media.images import read_image


class Killed(BaseException):
    """Ends a script as SIGKILL does: nothing in the program catches it."""


@pytest.fixture(scope="module")
def undisturbed(dancer, tmp_path_factory):
    """The folder of a run of three epochs that nobody disturbed, and how many seconds it trained."""
    folder = tmp_path_factory.mktemp("whole") / "undisturbed"
    return folder, faults.train_undisturbed(dancer, folder)


@pytest.fixture
def whole(undisturbed):
    return undisturbed[0]


@pytest.fixture
def run(whole, tmp_path):
    """A copy of the undisturbed run, to be broken; times are kept, as --resume looks at them."""
    return shutil.copytree(whole, tmp_path / "run")


@pytest.fixture
def ends(call, capsys):
    """ends(status, "Trainer", ...) is the one line with which a script ends so, and all that it said before."""

    def end(status, script, *words):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            call(script, *words)
        out, error = capsys.readouterr()
        assert ended.value.code == status, error
        assert error.count("\n") == 1 and error.endswith("\n") and error.startswith(f"{script}.py: ")
        return error, out

    return end


@pytest.fixture
def train(dancer):
    """The words of the undisturbed run, but for these."""
    return lambda **changed: ["--DR", str(dancer), *faults.TRAINING, *flags(**changed)]


@posix_only
@pytest.mark.parametrize("name, kills", [("KILL", 3), ("TERM", 2)])
def test_run_disturbed_at_random_moments_equals_the_undisturbed_one(dancer, undisturbed, name, kills):
    """tests/faults.py does the same as often as one likes."""
    folder, seconds = undisturbed
    whole = folder.parent / name / "undisturbed"  # the harness makes its runs beside it
    whole.parent.mkdir()
    link(whole, folder)
    harness = faults.Harness(dancer, whole, seconds, getattr(signal, f"SIG{name}"), seed=kills)
    harness.torment(kills)
    assert harness.wrong == [] and harness.counts["finished runs"] >= 1
    assert harness.counts["kills within training"] >= 1, "choose another seed"


def test_run_killed_between_the_last_batch_and_the_validation_goes_on(train, whole, call, tmp_path, monkeypatch):
    """The moment at which an epoch has no batch left, yet is not over."""
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("Trainer.validate", partial(raise_it, Killed()))
        call("Trainer", *train(save_root="run", save_minutes=1e-9))
    checkpoint = load_checkpoint(tmp_path / "run/last.ckpt")
    assert (checkpoint["last_epoch"], checkpoint["batches_done"]) == (-1, 7)
    call("Trainer", "--resume", "--save_root", "run")
    assert faults.differing_files(tmp_path / "run", whole) == []


def test_a_run_that_ends_before_any_validation_is_told_so(train, call, tmp_path, monkeypatch, capsys):
    """As one that was stopped, and whose --num_epoch is then lowered to what is trained."""
    train_one_epoch = import_module("Trainer").train_one_epoch

    def die_later(trainer, batches, *others):
        if batches.epoch == 1:
            raise KeyboardInterrupt
        return train_one_epoch(trainer, batches, *others)

    with monkeypatch.context() as patch, pytest.raises((KeyboardInterrupt, SystemExit)):
        patch.setattr("Trainer.train_one_epoch", die_later)
        call("Trainer", *train(save_root="run", val_every=3))
    call("Trainer", "--resume", "--save_root", "run", "--num_epoch", 1)
    said = capsys.readouterr().out
    assert "no epoch of this run was validated" in said
    command = re.search(r"to score its last.ckpt: .*(Trainer.py .*)", said)[1].split()
    call("Trainer", *command[1:])
    assert "this model" in capsys.readouterr().out


@pytest.mark.parametrize("error, epoch", [(RunError("the memory is full"), 0), (ValueError("a bug"), 0),
                                          (ValueError("a bug"), 1)])
def test_epoch_whose_validation_fails_is_saved(error, epoch, train, whole, call, tmp_path, monkeypatch):
    validate, validations = import_module("Trainer").validate, iter(range(9))

    def fail(*arguments):
        if next(validations) == epoch:
            raise error
        return validate(*arguments)

    with monkeypatch.context() as patch, pytest.raises((SystemExit, ValueError)):
        patch.setattr("Trainer.validate", fail)
        call("Trainer", *train(save_root="run", save_minutes=1000))
    checkpoint = load_checkpoint(tmp_path / "run/last.ckpt")
    assert (checkpoint["last_epoch"], checkpoint["batches_done"]) == (epoch - 1, 7)
    call("Trainer", "--resume", "--save_root", "run")
    assert faults.differing_files(tmp_path / "run", whole) == []


@pytest.mark.parametrize("moment, batches_done", [("engine.evaluation.generate", 7), ("Trainer.train_one_epoch", 0)])
def test_run_is_saved_within_a_long_validation_or_round(moment, batches_done, train, whole, tmp_path, call,
                                                        monkeypatch):
    """Killed there after --save_minutes it has lost no more than these."""
    module, name = moment.rsplit(".", 1)
    long = getattr(import_module(module), name)

    def long_one(*arguments, **more):
        patch.setattr(RunRecorder, "_is_time", lambda recorder: True)
        patch.setattr("engine.saving.recorder.save_checkpoint", save_and_die)
        return long(*arguments, **more)

    def save_and_die(*arguments):
        save_checkpoint(*arguments)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(moment, long_one)
        call("Trainer", *train(save_root="run", save_minutes=1000))
    assert load_checkpoint(tmp_path / "run/last.ckpt")["batches_done"] == batches_done
    call("Trainer", "--resume", "--save_root", "run")
    assert faults.differing_files(tmp_path / "run", whole) == []


def test_of_an_epochs_checkpoints_last_ckpt_is_written_last(train, call, monkeypatch):
    """A run that is killed between two of them then has the others once it is resumed."""
    saved, replace = [], os.replace

    def noted(temporary, path):
        saved.append(path.name)
        replace(temporary, path)

    monkeypatch.setattr(os, "replace", noted)
    call("Trainer", *train(save_root="run", num_epoch=1, per_save=1))
    saved = [name for name in saved if name.endswith(".ckpt")]
    assert saved[-1] == "last.ckpt" and sorted(saved[-3:]) == ["best.ckpt", "epoch=0.ckpt", "last.ckpt"]


def test_a_run_is_saved_once_every_save_minutes(recorder):
    """It counts from second 100, when it was resumed after 50 seconds of training."""
    recorder, now, saved = recorder
    for now[0] in (130, 161, 162, 221, 222.5, 223):
        recorder.after_steps({"lr": 0.1, "tfr": 1.0})
    assert saved == [111, 172.5]


def test_rank_0_alone_counts_the_save_minutes(recorder, monkeypatch):
    """What it saves within a round, the others do not hear of."""
    recorder, now, _ = recorder
    now[0] += 61
    assert recorder._is_time()
    monkeypatch.setattr("engine.saving.recorder.rank", lambda: 1)
    assert not recorder._is_time()


def test_error_of_a_validation_is_told_though_the_epoch_cannot_be_saved(train, ends, monkeypatch):
    monkeypatch.setattr("Trainer.validate", failing)
    monkeypatch.setattr("engine.saving.recorder.save_checkpoint", partial(raise_it, RunError("full")))
    error, said = ends(1, "Trainer", *train(save_root="run", save_minutes=1000))
    assert "memory" in error and "note: the epoch cannot be saved (full)" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_after_the_training_ends_the_program_at_once(number, train, ends, tmp_path, monkeypatch):
    monkeypatch.setattr("Trainer.draw", lambda *_: signal.raise_signal(number))
    error, said = ends(128 + number, "Trainer", *train(save_root="run", num_epoch=1))
    assert "done and saved; " in error and faults.RESUME in error and "saving" not in said


@posix_only
def test_first_signal_is_noted_and_a_later_one_quits_at_once(capsys, monkeypatch):
    later = []
    monkeypatch.setattr("cli.signals.ONE_SIGNAL", float("inf"))  # however slow this machine is
    with signals_restored():
        stop = StopSignals()
        assert stop.signal_number is None
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal_number == signal.SIGTERM and "second signal" in capsys.readouterr().err
        signal.raise_signal(signal.SIGTERM)  # at once: it is the same signal
        signal.raise_signal(signal.SIGINT)
        assert stop.signal_number == signal.SIGTERM
        monkeypatch.setattr("cli.signals.ONE_SIGNAL", -1)
        monkeypatch.setattr(signal, "raise_signal", later.append)  # as the default action would end the tests
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0)  # a bytecode later the handler has run
        assert later == [signal.SIGTERM] and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@posix_only
def test_full_disk_while_saving_ends_the_run_and_keeps_the_old_checkpoint(run):
    before = (run / "last.ckpt").read_bytes()
    limit = len(before) // 2  # in bytes a file: there is room for all files but the checkpoints

    def fill_disk():
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, str(ROOT / "Trainer.py"), "--resume", "--save_root", str(run), "--num_epoch", "4"]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=fill_disk)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert str(run / "last.ckpt") in done.stderr and "intact" in done.stderr
    assert (run / "last.ckpt").read_bytes() == before and load_checkpoint(run / "last.ckpt")["last_epoch"] == 2
    assert not list(run.glob(".*.tmp"))


@pytest.mark.parametrize("full", ["metrics.csv", "best.gif", "best.npz", "page.html"])
def test_full_disk_at_any_other_file_is_told_as_well(full, train, ends, monkeypatch):
    replace = os.replace

    def replace_unless_full(source, target):
        if str(target).endswith(full):
            raise OSError(28, "No space left on device")
        return replace(source, target)

    monkeypatch.setattr("os.replace", replace_unless_full)
    error, _ = ends(1, "Trainer", *train(save_root="run"))
    assert f"run/{full}" in error and "No space left on device" in error


def test_full_disk_where_no_file_is_named_ends_the_run_with_a_line(capsys):
    with pytest.raises(SystemExit) as ended:
        run_script(partial(raise_it, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    assert ended.value.code == 1 and "a file cannot be written (No space left on device)" in capsys.readouterr().err
    for error in (PermissionError(errno.EACCES, "denied"), FileNotFoundError(errno.ENOENT, "gone", "a.png")):
        with pytest.raises(type(error)):  # a bug of ours
            run_script(partial(raise_it, error))


@pytest.mark.parametrize("name, status", [("ENOSPC", 1), ("EDQUOT", 1), ("ESTALE", 1), ("ETIMEDOUT", 1), ("EPIPE", 0),
                                          ("EIO", 0)])
def test_a_script_goes_on_though_what_it_says_cannot_be_written(name, status, monkeypatch, capsys):
    """Its log may be on a full disk, or on a drive that is away, and its run on another; or nobody reads it."""
    number, done = getattr(errno, name), []

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    def main():
        for _ in range(2):
            done.append(print("epoch", flush=True))

    with monkeypatch.context() as patch, suppress(SystemExit):
        patch.setattr(sys, "stdout", SimpleNamespace(write=refuse, flush=refuse))
        run_script(main)
        assert status == 0
    error = capsys.readouterr().err
    assert len(done) == 2 and error.count("\n") == status
    assert ("all is done, but what it said could not all be written" in error) == (status == 1)


@posix_only
def test_a_script_can_be_started_without_output(tmp_path):
    command = shlex.join([sys.executable, str(ROOT / "Plotting.py"), *flags(schedule="tfr", out="figures")])
    assert subprocess.run(["sh", "-c", f"{command} >&- 2>&-"], cwd=tmp_path).returncode == 0
    assert list((tmp_path / "figures").glob("*.png"))


@pytest.mark.parametrize("read", [read_videos, read_image])
def test_a_signal_while_a_file_is_read_is_no_fault_of_the_file(read, tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"any")
    for name in ("numpy.load", "PIL.Image.open"):
        monkeypatch.setattr(name, partial(raise_it, Stopped(signal.SIGTERM, "stopped")))
    with pytest.raises(Stopped):
        read(path)


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_a_file_that_cannot_be_used_ends_a_script_with_a_line(number, capsys):
    with pytest.raises(SystemExit) as ended:
        run_script(partial(raise_it, OSError(number, os.strerror(number), "a.png")))
    assert ended.value.code == 1
    assert f"a.png cannot be used ({os.strerror(number)})" in capsys.readouterr().err


FULL_MEMORY = [
    MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")]


@pytest.mark.parametrize("error", FULL_MEMORY)
def test_full_memory_ends_a_script_with_a_line(error, capsys):
    with pytest.raises(SystemExit) as ended:
        run_script(partial(raise_it, error))
    assert ended.value.code == 1 and "memory is full" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="other"):
        run_script(partial(raise_it, RuntimeError("other")))


@pytest.mark.parametrize("name, error", [
    *[("torch.load", error) for error in FULL_MEMORY], ("zipfile.ZipFile.testzip", FULL_MEMORY[0]),
    ("media.images._load", FULL_MEMORY[0])])
def test_full_memory_is_not_told_as_a_damaged_file(name, error, run, monkeypatch):
    monkeypatch.setattr(name, lambda *_, **__: raise_it(error))
    with pytest.raises(type(error)):
        load_checkpoint(run / "last.ckpt")
        read_image(run / "loss.png")


def raise_it(error, *_, **__):
    raise error


@pytest.fixture
def full_disk(monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))


def test_too_little_room_on_the_disk_is_told_before_training(train, ends, full_disk, tmp_path):
    error, _ = ends(2, "Trainer", *train(save_root="run"))
    assert "--save_root run" in error and "room" in error
    assert not (tmp_path / "run/metrics.csv").exists()


@pytest.mark.parametrize("enough", [True, False])
def test_what_a_resumed_run_has_saved_already_needs_no_room(enough, run, call, ends, monkeypatch):
    """A checkpoint for each of two epochs, last.ckpt, best.ckpt, and a new one before it replaces its old one."""
    parameters = json.loads((run / "args.json").read_text())["parameters"]
    free = 5 * 12 * parameters - sum((run / name).stat().st_size for name in ("last.ckpt", "best.ckpt")) - (not enough)
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - free, free))
    words = ["Trainer", "--resume", "--save_root", run, "--num_epoch", 5]
    if enough:
        call(*words)
    else:
        assert "room" in ends(2, *words)[0]


@pytest.mark.parametrize("optim, moments", [("Adam", 2), ("AMSGrad", 3)])
def test_the_checkpoints_need_room_for_all_moments_of_the_optimizer(optim, moments, whole, train, ends, call,
                                                                     monkeypatch):
    """A checkpoint of the one epoch, last.ckpt, best.ckpt, and a new one before it replaces its old one."""
    needed = 4 * (1 + moments) * 4 * json.loads((whole / "args.json").read_text())["parameters"]
    for free in (needed - 1, needed):
        monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - free, free))
        words = ["Trainer", *train(save_root="run", num_epoch=1, per_save=1, optim=optim)]
        if free < needed:
            assert "room" in ends(2, *words)[0]
        else:
            call(*words, "--overwrite")


def test_a_run_replaces_what_a_run_has_written_and_nothing_else(run):
    ours = ["mine.ckpt", "epoch=5_good.ckpt", "epoch=1_good.gif", "gt.csv", "notes.json", "figure.png", "dance.gif",
            "mine.mp4"]
    for name in ours:
        (run / name).write_text("mine")
    theirs = sorted(path.name for path in run.iterdir() if path.name not in ours)
    clear_run(run)
    left = {path.name for path in run.iterdir()}
    assert left - {".lock", ".lock_holder", ".decoded"} == {*ours} and len(theirs) > 10


@contextmanager
def not_removable(monkeypatch, is_open):
    """Let no file be removed for which is_open(path) holds, as where another program has it open."""
    unlink = Path.unlink

    def refuse(path, **more):
        if is_open(path):
            raise PermissionError(errno.EACCES, "it is open elsewhere")
        unlink(path, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        yield


@pytest.mark.parametrize("kept", ["last.ckpt", "metrics.csv", "args.json", "loss.png", "page.html",
                                  "test/submission.csv", "val/scores.json"])
def test_a_run_that_could_not_all_be_removed_is_removed_by_the_next_try(kept, run, monkeypatch):
    """Say because a spreadsheet has a file open, or because the program was killed there."""
    for name in ("page.html", "loss.png", "test/submission.csv", "test/scores.json", "val/scores.json"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("of the old run")
    with not_removable(monkeypatch, lambda path: path == run / kept), pytest.raises(UsageError):
        clear_run(run)
    assert (run / kept).exists()
    clear_run(run)
    assert not [path for path in run.rglob("*") if path.is_file() and not path.name.startswith(".")]


def test_a_test_that_cannot_be_removed_leaves_the_run_as_it_is(run, monkeypatch):
    (run / "test").mkdir()
    (run / "test/submission.csv").write_text("of the old run")
    before = sorted(path.name for path in run.iterdir())
    with not_removable(monkeypatch, lambda path: path.parent == run / "test"), pytest.raises(UsageError):
        clear_run(run)
    assert sorted(path.name for path in run.iterdir()) == before


def test_every_figure_of_a_run_is_replaced_with_it(run):
    """All but that of samples, which belongs to a test."""
    for suffix in ("png", "pdf", "svg"):
        (run / f"loss.{suffix}").write_text("of the old run")
    clear_run(run)
    assert not list(run.glob("loss.*"))
    assert {kind.file for kind in FIGURES.values()} - {"samples"} == {*FIGURE_FILES}


def test_run_that_ended_before_its_first_epoch_can_be_started_again(train, ends, call, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("engine.optimization.ClipTrainer.steps_on", failing)
        ends(1, "Trainer", *train(save_root="run"))
    assert (tmp_path / "run/metrics.csv").is_file()
    call("Trainer", *train(save_root="run", num_epoch=1))


def failing(*_):
    raise MemoryError


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY cut", None, b"\x93NUMPY\x01\x00\x08\x00{'a': (\n"])
def test_damaged_best_rollout_costs_no_run(content, run, call, tmp_path):
    """It is drawn again at the next best validation."""
    path = run / BEST_ROLLOUT
    path.write_bytes(path.read_bytes()[:5000] if content is None else content)
    call("Trainer", "--resume", "--save_root", run, "--num_epoch", 4)
    assert len(read_csv(run / "metrics.csv")) == 4


def test_a_rollout_that_is_gone_is_told_with_what_scores_it_again(run, call, capsys):
    """Names that begin with a dot are left out by `cp run/* elsewhere`."""
    (run / BEST_ROLLOUT).unlink()
    call("Trainer", "--resume", "--save_root", run)
    assert f"{interpreter()} Trainer.py --test --ckpt_path {run / 'best.ckpt'}\n" in capsys.readouterr().out


def test_a_test_of_a_network_that_was_the_best_before_is_told(run, dancer, call, capsys):
    best = load_checkpoint(run / "best.ckpt")["last_epoch"]
    older = next(path for path in (run / "epoch=0.ckpt", run / "epoch=1.ckpt", run / "epoch=2.ckpt")
                 if load_checkpoint(path)["last_epoch"] != best)
    for checkpoint, told in (("best.ckpt", False), (older, True)):
        call("Tester", "--ckpt_path", run / checkpoint, "--save_root", run / "test", "--no-make_gif")
        capsys.readouterr()
        call("Trainer", "--resume", "--save_root", run)
        note = f"the test in {run / 'test'} is of the network of epoch {older.stem[-1]}, and best.ckpt of epoch {best}"
        assert (note in capsys.readouterr().out) == told


def test_no_epoch_is_noted_of_a_network_within_one(run, dancer, call):
    content = load_checkpoint(run / "last.ckpt")
    for batches_done, epoch in ((0, content["last_epoch"]), (3, None)):
        torch.save(content | {"batches_done": batches_done}, run / "last.ckpt")
        call("Tester", "--ckpt_path", run / "last.ckpt", "--no-make_gif")
        assert json.loads((run / "test/split.json").read_text())["epoch"] == epoch


def test_a_resumed_run_keeps_how_it_began(run, call):
    before = json.loads((run / "args.json").read_text())
    assert "resumed" not in before
    for epochs in (4, 5):
        call("Trainer", "--resume", *flags(save_root=run, num_epoch=epochs))
    after = json.loads((run / "args.json").read_text())
    assert after["arguments"]["num_epoch"] == 5
    for name in ("command", "versions", "machine", "git_commit", "processes"):
        assert after[name] == before[name]
    assert [session["command"].split()[-1] for session in after["resumed"]] == ["4", "5"]
    (run / "args.json").write_text("damaged")
    call("Trainer", "--resume", *flags(save_root=run, num_epoch=6))
    assert json.loads((run / "args.json").read_text())["command"].endswith("6")


def test_figures_that_fail_do_not_hide_why_a_run_ended(train, ends, tmp_path, monkeypatch):
    def broken(*_):
        raise ValueError("no figure\nat all")

    monkeypatch.setattr("Trainer.draw", broken)
    monkeypatch.setattr("engine.optimization.ClipTrainer.steps_on", failing)
    error, said = ends(1, "Trainer", *train(save_root="run"))
    assert "memory" in error and "not complete (no figure)" in said


def test_a_run_without_room_replaces_none(run, train, ends, full_disk):
    for path in run.glob("*.ckpt"):
        path.unlink()
    error, _ = ends(2, "Trainer", *train(save_root="run"), "--overwrite")
    assert "room" in error and (run / "metrics.csv").exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("script", ["Trainer", "Tester"])
def test_a_malicious_checkpoint_runs_nothing(script, zipped, whole, dancer, ends, tmp_path):
    content = load_checkpoint(whole / "last.ckpt") | {"lr": Malicious(tmp_path / "mark")}
    torch.save(content, tmp_path / "a.ckpt", _use_new_zipfile_serialization=zipped)
    error, _ = ends(2, script, *flags(DR=dancer, ckpt_path="a.ckpt", save_root="run"))
    assert "--ckpt_path a.ckpt" in error
    assert {path.name for path in tmp_path.iterdir()} == {"a.ckpt"}


@pytest.mark.parametrize("script", ["Trainer", "Tester"])
def test_a_bare_pickle_runs_nothing_either(script, dancer, ends, tmp_path):
    (tmp_path / "a.ckpt").write_bytes(pickle.dumps({"state_dict": Malicious(tmp_path / "mark")}))
    error, _ = ends(2, script, *flags(DR=dancer, ckpt_path="a.ckpt", save_root="run"))
    assert "--ckpt_path a.ckpt" in error
    assert {path.name for path in tmp_path.iterdir()} == {"a.ckpt"}


def test_a_malicious_last_checkpoint_is_not_run_by_resuming(run, call, tmp_path):
    torch.save({"state_dict": Malicious(tmp_path / "mark")}, run / "last.ckpt")
    call("Trainer", "--resume", "--save_root", run)
    assert not (tmp_path / "mark").exists()


def test_run_whose_last_checkpoints_are_damaged_goes_on_from_the_newest_good_one(run, whole, call, capsys):
    """The newest by what is in it: files that were copied are as old as one another, or in any order."""
    os.utime(run / "epoch=0.ckpt")
    link(run / "gone.ckpt", "nowhere")
    for name in ("last.ckpt", "best.ckpt", "epoch=2.ckpt"):
        damaged = bytearray((run / name).read_bytes())
        middle = len(damaged) // 2
        damaged[middle:middle + 500] = bytes(500)  # more than the padding between two tensors
        (run / name).write_bytes(damaged)
    call("Trainer", "--resume", "--save_root", run)
    said = capsys.readouterr().out
    assert f"--resume: {run / 'last.ckpt'} is damaged" in said and f"continuing from {run / 'epoch=1.ckpt'}" in said
    assert "epoch   2/3" in said and "epoch   1/3" not in said
    assert faults.differing_files(run, whole) == []


def test_run_without_any_good_checkpoint_is_not_resumed(run, ends):
    for path in run.glob("*.ckpt"):
        path.write_bytes(path.read_bytes()[:1000])
    error, _ = ends(2, "Trainer", "--resume", "--save_root", run)
    assert "--resume" in error and str(run) in error


REFUSED = [
    "--train_vi_len 6", "--val_vi_len 13", "--partial 0.5", "--fast_train", "--fast_partial 0.5",
    "--fast_train_epoch 4", "--no-shuffle", "--no-random_start", "--random_shift", "--frame_H 16", "--frame_W 32",
    "--network pyramid", "--F_dim 24", "--L_dim 16", "--N_dim 8", "--D_out_dim 24", "--label_norm batch",
    "--posterior current", "--reconstruction log_mse", "--optim AdamW", "--bptt 1", "--interleave 3",
    "--temperature 0.5", "--seed 1"]


@pytest.mark.parametrize("words", REFUSED)
def test_flags_that_would_break_a_resumed_run_are_refused(words, whole, ends):
    flag, _, value = words.partition(" ")
    error, _ = ends(2, "Trainer", "--resume", "--save_root", whole, *words.split())
    said = f"{flag.replace('--no-', '--')} {value or not flag.startswith('--no-')}"
    assert f"{said} contradicts {whole / 'last.ckpt'}" in error


@pytest.mark.parametrize("words", ["--overwrite", "--ckpt_path best.ckpt", "--test"])
def test_what_makes_no_sense_with_resume_is_refused(words, whole, ends):
    error, _ = ends(2, "Trainer", "--resume", "--save_root", whole, *words.split())
    assert "leave --overwrite, --ckpt_path and --test out" in error


def test_every_flag_of_training_is_fixed_in_a_run_or_free_on_purpose():
    """Free are those that change what a step costs, how a batch is shared out, or how the next frames are trained."""
    fixed = {words.split()[0].removeprefix("--").removeprefix("no-") for words in REFUSED}
    assert fixed == {*FIXED_IN_A_RUN}
    of_training = flags_of(add_training_flags, add_network_flags, add_feedback_flags)
    assert of_training.keys() - fixed == {"batch_size", "accumulate", "checkpoint_frames", "clamp_feedback",
                                          "input_noise"}


def test_flags_that_bend_a_resumed_run_are_told(run, call, capsys):
    call("Trainer", "--resume", "--save_root", run, *flags(num_epoch=4, per_save=2, lr=0.0005))
    said = capsys.readouterr().out
    for line in ("--num_epoch is now 4; it was 3", "--per_save is now 2; it was 1",
                 "--lr is now 0.0005; it was 0.001"):
        assert line in said
    assert "leaves nothing to train" not in said
    assert [row["epoch"] for row in read_csv(run / "metrics.csv")] == ["0", "1", "2", "3"]
    for words, number in (([], 4), (flags(num_epoch=2), 2)):
        call("Trainer", "--resume", "--save_root", run, *words)
        assert f"--num_epoch {number} leaves nothing to train, as 4 epochs are done" in capsys.readouterr().out
    assert len(read_csv(run / "metrics.csv")) == 4


def test_flags_that_a_resumed_run_was_given_hold_though_it_is_killed_before_its_first_save(run, call, capsys,
                                                                                           monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("Trainer.train_one_epoch", partial(raise_it, Killed()))
        for changed in ([], flags(num_epoch=4, lr=0.0005), flags(num_epoch=4)):
            before = (run / "last.ckpt").read_bytes()
            with suppress(Killed):  # without a flag there is nothing to train
                call("Trainer", "--resume", "--save_root", run, *changed)
            assert ((run / "last.ckpt").read_bytes() != before) == ("--lr" in changed)
    call("Trainer", "--resume", "--save_root", run)
    assert json.loads((run / "args.json").read_text())["arguments"]["lr"] == 0.0005
    assert [row["epoch"] for row in read_csv(run / "metrics.csv")] == ["0", "1", "2", "3"]
    resumed = load_checkpoint(run / "last.ckpt")
    assert resumed["last_epoch"] == 3 and resumed["arguments"]["num_epoch"] == 4


def test_a_resumed_run_of_a_gpu_that_is_not_here_goes_on_on_the_first(run, call, capsys, monkeypatch):
    """Another machine may have fewer, and so has a job of a cluster."""
    content = load_checkpoint(run / "last.ckpt")
    content["arguments"]["gpu"] = 3
    torch.save(content, run / "last.ckpt")
    for count, device, gpu in ((2, "auto", 0), (2, "cuda", 0), (2, "cpu", 3), (4, "auto", 3), (0, "auto", 3)):
        asked, folder = [], run.with_name(f"{count} {device}")
        shutil.copytree(run, folder)
        with monkeypatch.context() as patch:
            patch.setattr(torch.cuda, "device_count", lambda: count)
            patch.setattr("Trainer.choose_device", lambda *names: asked.append(names) or torch.device("cpu"))
            call("Trainer", "--resume", *flags(save_root=folder, device=device))
        assert ("continuing on --gpu 0" in capsys.readouterr().out) == (gpu == 0) and asked == [(device, gpu)]
        assert json.loads((folder / "args.json").read_text())["arguments"]["gpu"] == gpu


def test_second_run_in_a_folder_is_refused_until_the_first_is_dead(train, ends, call, tmp_path):
    with faults.start_training(*train(save_root=tmp_path / "run", num_epoch=10000)) as process:
        assert any(faults.STARTED in line for line in process.stdout)
        for words in (train(), [*train(), "--overwrite"]):
            error, _ = ends(2, "Trainer", *words, "--save_root", "run")
            assert "--save_root run" in error and f"process {process.pid} " in error
        process.kill()
    call("Trainer", *train(save_root="run", num_epoch=1), "--overwrite")
    assert load_checkpoint(tmp_path / "run/last.ckpt")["last_epoch"] == 0


def test_validation_changes_nothing_in_training(train, call, tmp_path):
    """Training without forcing and with all that is random, so that a draw too many would show."""
    for every in (1, 100):
        call("Trainer", *train(save_root=every, val_every=every, num_epoch=3, save_minutes=10))
    each, rare = (read_csv(tmp_path / name / "metrics.csv") for name in ("1", "100"))
    assert [row["val_psnr"] != "" for row in each] == [True] * 3
    assert [row["val_psnr"] != "" for row in rare] == [False, False, True]
    assert faults.differences(*(
        {key: load_checkpoint(tmp_path / name / "last.ckpt")[key] for key in ("state_dict", "optimizer")}
        for name in ("1", "100"))) == []
    for one, other in zip(each, rare, strict=True):
        assert {name: one[name] for name in one if "val" not in name} == {
            name: other[name] for name in other if "val" not in name}


def test_run_that_diverges_keeps_the_last_checkpoint(train, ends, tmp_path):
    error, _ = ends(1, "Trainer", *train(save_root="run", lr=1e30, bptt=0, num_epoch=3))
    assert "in epoch 0: the gradient of " in error and "--lr" in error and "intact" in error
    checkpoint = load_checkpoint(tmp_path / "run/last.ckpt")
    assert checkpoint["last_epoch"] == -1 and checkpoint["batches_done"] > 0
    assert all(weights.isfinite().all() for weights in checkpoint["state_dict"].values())


STRANGE_STATES = [
    ("arguments", None), ("arguments", {}), ("lr", "x"), ("frame_H", "x"), ("seed", -1), ("DR", 5),
    ("temperature", "x"), ("clamp_feedback", None), ("milestones", [1, "x"]), ("batches_done", "x"),
    ("batches_done", -5), ("batches_done", 1000), ("totals", {}), ("last_epoch", None), ("best_psnr", None),
    ("clipper", {"Generator": "x"}), ("clipper", {"Generator": 1e300}), ("clipper", {"norms_seen": -1.0}),
    ("skipped_in_a_row", "x"), ("thumbnails", "x"), ("optimizer", None)]


@pytest.mark.parametrize("key, value", STRANGE_STATES)
def test_resume_names_a_checkpoint_with_a_strange_state(key, value, run, ends):
    content = load_checkpoint(run / "last.ckpt")
    target = content["arguments"] if key in content["arguments"] else content
    target[key] = value
    torch.save(content, run / "last.ckpt")
    error, _ = ends(2, "Trainer", "--resume", "--save_root", run, "--num_epoch", "4")
    assert "last.ckpt" in error


@pytest.mark.parametrize("strange", [lambda moment: moment.flatten()[:1], lambda moment: moment.flatten()],
                         ids=["one number", "flat"])
def test_moments_of_another_shape_are_refused(strange, run, ends):
    """A single number would be taken for all of them."""
    content = load_checkpoint(run / "last.ckpt")
    moments = content["optimizer"]["state"][0]
    moments["exp_avg"] = strange(moments["exp_avg"]).clone()
    torch.save(content, run / "last.ckpt")
    error, _ = ends(2, "Trainer", "--resume", "--save_root", run, "--num_epoch", "4")
    assert "the optimizer's state does not fit the network in 1 places: exp_avg of parameter 0" in error


@pytest.mark.parametrize("key, value", [("arguments", None), ("frame_H", "x"), ("temperature", "x"), ("DR", 5)])
def test_tester_names_a_checkpoint_with_strange_flags(key, value, run, dancer, ends):
    content = load_checkpoint(run / "last.ckpt")
    target = content["arguments"] if key in content["arguments"] else content
    target[key] = value
    torch.save(content, run / "last.ckpt")
    error, _ = ends(2, "Tester", "--ckpt_path", run / "last.ckpt", "--DR", dancer)
    assert "last.ckpt" in error


def test_fast_partial_without_a_clip_is_named(train, ends):
    error, _ = ends(2, "Trainer", *train(save_root="run", fast_partial=0.001), "--fast_train")
    assert "--fast_partial" in error


@pytest.fixture
def recorder(tmp_path, monkeypatch):
    """A RunRecorder of a run that was resumed after 50 seconds; its clock, [now]; and the seconds that it has saved."""
    now, saved, part = [100.0], [], SimpleNamespace(state_dict=dict)
    monkeypatch.setattr("engine.saving.recorder.time.monotonic", lambda: now[0])
    monkeypatch.setattr("engine.saving.recorder.save_checkpoint", lambda _, content: saved.append(content["seconds"]))
    trainer = SimpleNamespace(device=torch.device("cpu"), model=part, optimizer=part, scaler=part, clipper=part)
    with signals_restored():
        yield RunRecorder(tmp_path, trainer, RunState(seconds=50.0, best_psnr=20.0), arguments={}, dataset={},
                          num_epoch=9, save_minutes=1, per_save=9), now, saved


def test_seconds_of_a_run_add_up_over_saves_epochs_and_a_resume(recorder, tmp_path):
    recorder, now, saved = recorder
    row = dict.fromkeys(("loss", "mse", "kl", "beta", "tfr", "lr", "grad_norm"), 1.0) | {"skipped_steps": 0}
    for epoch in (0, 1):
        now[0] += 70
        recorder.after_steps(row)
        now[0] += 5
        recorder.after_epoch({"epoch": epoch, **row})
    assert [line["seconds"] for line in read_csv(tmp_path / "times.csv")] == ["125", "200"]
    assert saved == [120, 125, 195, 200]


def test_videos_of_an_older_rollout_do_not_outlive_a_better_one(recorder, tmp_path):
    """Their frames would stand beside its PSNR on the page."""
    recorder, _, _ = recorder
    videos = {name: torch.zeros(1, 3, 3, 8, 16, dtype=torch.uint8) for name in ("label", "prediction", "truth")}
    for psnr, is_kept in ((19.0, True), (21.0, False)):
        (tmp_path / "best.npz").touch()
        recorder.keep_rollout({"epoch": 3, "val_psnr": psnr}, videos)
        assert (tmp_path / "best.npz").exists() == is_kept and (tmp_path / BEST_ROLLOUT).exists() != is_kept
