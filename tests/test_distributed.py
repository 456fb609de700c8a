"""Training by several processes: what one process makes of the same batches, and what a lost process leaves."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from cli.errors import RunError, UsageError
from conftest import PATIENCE, ROOT, TINY_NETWORK, call_script, flags, posix_only, read_csv, started, wait_until
from dataloader import Dataset_Dance
from engine import batches, processes
from engine.batches import EpochBatches
from engine.optimization import TERMS
from engine.saving import resume
from engine.saving.checkpoint import load_checkpoint
from modules.pixels import to_unit

# 14 clips: the last batch of 8 has 6, which two processes share.
TRAINING = flags(**TINY_NETWORK, frame_H=8, frame_W=16, train_vi_len=5, val_vi_len=8, num_epoch=2, num_workers=1,
                 tfr=0.5, tfr_per="frame", input_noise=0.05, lr=1e-3, kl_weight=1e-3, kl_anneal_type="None",
                 reconstruction="log_mse", save_minutes=1e-4, per_save=1, device="cpu", amp="off")


def started_training(number, *words, cwd=None, **more):
    """A training in `number` processes for a with statement, see `started`; all that they say is in its `stdout`.

    more: what tests/frozen_trainer.py is to do besides, `processes` and `hold`.
    """
    command = [sys.executable]
    if number > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", number]
    command += [ROOT / "tests/frozen_trainer.py", *words]
    environment = os.environ | {name.upper(): str(value) for name, value in more.items()}
    return started(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, cwd=cwd)


def train(number, *words, **settings):
    """Train to the end in `number` processes."""
    with started_training(number, *words, **settings) as process:
        said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture(scope="module")
def by_two(dancer, folder):
    """The folder of a run by two processes with a batch of 4 each."""
    train(2, "--DR", dancer, *TRAINING, *flags(batch_size=4, save_root=folder / "two"))
    return folder / "two"


def assert_same_training(ours, theirs):
    """To rounding, which Adam enlarges where a gradient is next to nothing."""
    for one, other in zip(read_csv(ours / "metrics.csv"), read_csv(theirs / "metrics.csv"), strict=True):
        for name in TERMS:
            assert float(one[name]) == pytest.approx(float(other[name]), rel=1e-4), name
        for name in ("beta", "tfr", "lr"):
            assert one[name] == other[name]
    one, other = (load_checkpoint(run / "last.ckpt")["state_dict"] for run in (ours, theirs))
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-2, atol=1e-4)


def assert_equal_training(ours, theirs):
    """Bit for bit."""
    assert (ours / "metrics.csv").read_bytes() == (theirs / "metrics.csv").read_bytes()
    one, other = (load_checkpoint(run / "last.ckpt")["state_dict"] for run in (ours, theirs))
    assert all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_every_process_takes_part_as_often_as_the_others(processes, batch_size, accumulate, dancer, monkeypatch):
    """Each forward pass of SyncBatchNorm waits for all of them. No part is larger than a batch, and no clip is lost."""
    clips = Dataset_Dance(dancer, None, "train", 3, frame_size=(8, 16))
    monkeypatch.setattr(batches, "world_size", lambda: processes)
    parts = []
    for rank in range(processes):
        monkeypatch.setattr(batches, "rank", lambda rank=rank: rank)
        epoch = EpochBatches(clips, 0, torch.device("cpu"), tfr=0.5, tfr_per="frame", partial=1.0, seed=0,
                             batch_size=batch_size, accumulate=accumulate, interleave=1, shuffle=True,
                             random_start=True)
        parts.append([epoch.batch(step).parts for step in range(len(epoch))])
    for step in range(len(epoch)):
        assert len({len(ours[step]) for ours in parts}) == 1
        of_all = [part for ours in parts for part in ours[step]]
        assert sum(part.counted for part in of_all) == len(epoch.starts[step])
        assert all(part.counted <= len(part.frames) <= batch_size for part in of_all)
        counted = torch.cat([part.frames[:part.counted] for part in of_all])
        assert torch.equal(counted, to_unit(clips.clips(epoch.starts[step])[0]))


def test_two_processes_train_as_one_with_the_same_batches(by_two, dancer, folder):
    train(1, "--DR", dancer, *TRAINING, *flags(batch_size=8, save_root=folder / "one"))
    assert_same_training(by_two, folder / "one")
    assert load_checkpoint(by_two / "last.ckpt")["world_size"] == 2


def test_processes_without_save_root_agree_on_a_folder(dancer, tmp_path):
    train(2, "--DR", dancer, *TRAINING, "--num_epoch", 1, processes=tmp_path, cwd=tmp_path)
    [run] = (tmp_path / "runs").iterdir()
    assert (run / "last.ckpt").is_file()
    assert [(tmp_path / f"{rank}.folder").read_text() for rank in (0, 1)] == [f"runs/{run.name}"] * 2


def test_accumulated_batches_train_as_one(by_two, dancer, folder):
    train(1, "--DR", dancer, *TRAINING, *flags(batch_size=2, accumulate=4, save_root=folder / "parts"))
    assert_same_training(by_two, folder / "parts")


def test_processes_that_would_compute_differently_are_refused(monkeypatch):
    monkeypatch.setattr(processes, "world_size", lambda: 2)
    for theirs, alike in (("bfloat16", True), ("float16", False)):
        def gather(names, ours, theirs=theirs):
            names[:] = [ours, theirs]

        monkeypatch.setattr(processes.distributed, "all_gather_object", gather)
        with nullcontext() if alike else pytest.raises(UsageError, match="in bfloat16 and in float16; give --amp off"):
            processes.check_alike("bfloat16")


def test_process_without_a_clip_of_the_last_batch_takes_part(dancer, folder):
    """13 clips in batches of 12, 6 for each process: the last batch has a clip, and one of its two shares none."""
    words = ["--DR", dancer, *TRAINING, *flags(bptt=2, num_epoch=1, partial=0.95)]
    train(2, *words, *flags(batch_size=6, save_root=folder / "shares"))
    train(1, *words, *flags(batch_size=12, save_root=folder / "whole"))
    assert_same_training(folder / "shares", folder / "whole")


@posix_only
@pytest.mark.parametrize("victim", [0, 1])
def test_lost_process_ends_the_run_with_a_line_and_a_checkpoint_to_go_on_from(victim, by_two, dancer, folder):
    run, processes = folder / f"lost{victim}", folder / f"processes{victim}"
    processes.mkdir()
    words = ["--DR", dancer, *TRAINING, *flags(batch_size=4, save_root=run)]
    with started_training(2, *words, processes=processes, hold=processes / "go") as training:
        wait_until((run / "last.ckpt").exists, training)
        os.kill(int((processes / str(victim)).read_text()), signal.SIGKILL)
        (processes / "go").touch()
        said, _ = training.communicate(timeout=PATIENCE)
    assert training.returncode == 1
    assert f"another process (this is rank {1 - victim}) has ended" in said and "--resume" in said
    assert load_checkpoint(run / "last.ckpt")["last_epoch"] < 1
    train(2, "--resume", "--save_root", run)
    assert_equal_training(run, by_two)


@posix_only
def test_stopped_run_of_two_processes_goes_on_as_if_nothing_had_been(by_two, dancer, folder):
    """A cluster sends SIGTERM to torchrun, which hands it on."""
    run = folder / "stopped"
    words = ["--DR", dancer, *TRAINING, *flags(batch_size=4, save_root=run)]
    with started_training(2, *words, hold=folder / "never") as training:
        wait_until((run / "last.ckpt").exists, training)
        training.terminate()
        said, _ = training.communicate(timeout=PATIENCE)
    assert "saved; continue with: " in said
    assert said.count(" parameters on cpu in each of 2 processes") == 1  # rank 0 alone prints
    assert f" -m torch.distributed.run --standalone --nproc_per_node 2 Trainer.py --resume --save_root {run}" in said
    assert "another process" not in said  # both stopped after the same step
    assert load_checkpoint(run / "last.ckpt")["last_epoch"] < 1
    train(2, "--resume", "--save_root", run)
    assert_equal_training(run, by_two)


def test_a_run_of_two_processes_is_told_and_noted_as_such(by_two, monkeypatch):
    launched = " -m torch.distributed.run --standalone --nproc_per_node 2 "
    assert launched in json.loads((by_two / "args.json").read_text())["command"]
    monkeypatch.setattr(resume, "world_size", lambda: 2)
    assert f"{launched}Trainer.py --resume --save_root run" in resume.resume_command("run")


def test_run_of_two_processes_is_resumed_by_one_with_batches_twice_as_large(by_two, tmp_path):
    shutil.copy(by_two / "epoch=0.ckpt", tmp_path / "last.ckpt")
    train(1, "--resume", *flags(save_root=tmp_path, batch_size=8))
    assert_same_training(tmp_path, by_two)


def test_run_of_two_processes_is_not_resumed_by_one(by_two, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        call_script(tmp_path, "Trainer", "--resume", "--save_root", by_two, "--num_epoch", 3)
    assert ended.value.code == 2
    assert "-m torch.distributed.run --standalone --nproc_per_node 2 Trainer.py --resume" in capsys.readouterr().err


@pytest.mark.parametrize("said, told", [
    ("NCCL error in: /a/b.cpp:2251, remote process exited or there was a network error, NCCL version 2.27.5\n"
     "ncclRemoteError: A call failed possibly due to a network error.\nLast error:\nsocketProgress: closed",
     "another process (this is rank 1) has ended"),
    ("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.1.1]:1234", "another process"),
    ("NCCL error in: /a/b.cpp:94, unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL version 2.27.5\n"
     "ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error.\n"
     "Last error:\nError while creating shared memory segment /dev/shm/nccl-a1b2 (size 9637888)",
     "by NCCL (Error while creating shared memory segment /dev/shm/nccl-a1b2 (size 9637888)); in a container"),
])
def test_a_lost_process_is_told_from_another_fault_of_nccl(said, told, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(RunError) as raised, processes.report_lost_process():
        raise RuntimeError(said)
    assert told in str(raised.value) and ("another process" in told) == ("--resume" in str(raised.value))
    with pytest.raises(RuntimeError, match="of another kind"), processes.report_lost_process():
        raise RuntimeError("of another kind")


def test_a_torch_built_without_groups_of_processes_is_one_process(monkeypatch):
    """As AMD's for Windows, whose torch.distributed has little more than is_available."""
    monkeypatch.setattr(processes, "distributed", SimpleNamespace(is_available=lambda: False))
    assert processes.rank() == 0 and processes.world_size() == 1
    with processes.joined_processes(torch.device("cpu"), "float32"), processes.rank_0_first():
        assert processes.all_reduce((1.5,), "SUM", torch.device("cpu")) == [1.5]
