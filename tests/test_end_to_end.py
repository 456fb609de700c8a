"""The scripts, one after the other as a user runs them."""

import json
import shutil
import signal
import subprocess
import sys
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from cli.errors import RunError
from conftest import ROOT, TINY_NETWORK, TINY_TRAINING, call_script, flags, read_csv
from dataloader import Dataset_Dance
from engine.evaluation import validate
from engine.saving import start
from engine.saving.best_rollout import BEST_ROLLOUT
from engine.saving.checkpoint import load_checkpoint
from engine.saving.logs import read_split
from media.pixel_csv import read_pixels_csv
from modules import VAE_Model
from modules.pixels import to_uint8

# Frames are as large as those of the tests' ground truth. Beta and learning rate do not depend on the number of epochs,
# so that a run can be prolonged.
TRAINING = flags(**TINY_NETWORK, train_vi_len=6, val_vi_len=10, batch_size=2, partial=0.4, num_workers=1,
                 kl_anneal_type="Monotonic", kl_anneal_ratio=0.4, lr_schedule="MultiStep", milestones=1, bptt=0,
                 kl_weight=1, tfr_sde=1, tfr_d_step=0.5, tfr_per="frame", per_save=2, store_visualization=True,
                 device="cpu", amp="off")


FIGURES = {"loss.png", "teacher_forcing_ratio.png", "beta.png", "learning_rate.png", "validation_psnr.png",
           "psnr_over_seconds.png", "psnr_per_frame.png", "z.png"}


def run_script(script, *words, cwd):
    command = [sys.executable, str(ROOT / f"{script}.py"), *map(str, words)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def prolonged(dancer, tmp_path_factory):
    """The folder of a run of two epochs that was then resumed to make three."""
    folder = tmp_path_factory.mktemp("user")
    run_script("Trainer", "--DR", dancer, "--save_root", "run", "--num_epoch", 2, *TRAINING, cwd=folder)
    run_script("Trainer", "--resume", "--save_root", "run", "--num_epoch", 3, cwd=folder)
    return folder / "run"


def assert_same_run(ours, theirs):
    """Bit for bit: the metrics, the weights and what the optimizer remembers."""
    assert (ours / "metrics.csv").read_bytes() == (theirs / "metrics.csv").read_bytes()
    for name in ("last.ckpt", "best.ckpt"):
        one, other = load_checkpoint(ours / name), load_checkpoint(theirs / name)
        for key in ("lr", "tfr", "last_epoch", "best_psnr"):
            assert one[key] == other[key], (name, key)
        assert one["state_dict"].keys() == other["state_dict"].keys()
        for key, weights in one["state_dict"].items():
            assert torch.equal(weights, other["state_dict"][key]), (name, key)
        for number, state in one["optimizer"]["state"].items():
            for key, value in state.items():
                assert torch.equal(value, other["optimizer"]["state"][number][key]), (name, number, key)


def test_resumed_run_equals_an_uninterrupted_one(prolonged, dancer, tmp_path, call):
    call("Trainer", "--DR", dancer, "--save_root", "run", "--num_epoch", 3, *TRAINING)
    assert_same_run(prolonged, tmp_path / "run")


class Killed(BaseException):
    """As abrupt as a power cut: nothing in the scripts waits for it."""


def die():
    raise Killed


@pytest.fixture
def interrupted(call, monkeypatch):
    """interrupted(n, event, ...) is a training in which event() happens just before each step of the
    optimizer after the first n."""

    def train(number, event, *words, draw=False):
        left, take_step = iter(range(number)), torch.optim.Adam.step

        def step(self, *arguments, **more):
            if next(left, None) is None:
                event()
            return take_step(self, *arguments, **more)

        with monkeypatch.context() as patch:
            patch.setattr(torch.optim.Adam, "step", step)
            call("Trainer", *words, draw=draw)

    return train


@pytest.fixture(scope="module")
def whole(dancer, tmp_path_factory):
    """The words of a training of three epochs of three steps, and the folder of that run."""
    folder = tmp_path_factory.mktemp("whole")
    words = ["--DR", str(dancer), *TINY_TRAINING, *flags(num_epoch=3, kl_anneal_cycle=1, warmup_epochs=0.5,
                                                         input_noise=0.1, tfr=0.5, tfr_per="frame")]
    call_script(folder, "Trainer", *words, "--save_root", "run")
    return words, folder / "run"


def test_run_killed_twice_and_resumed_equals_an_uninterrupted_one(whole, interrupted, call, tmp_path):
    words, run = whole
    with pytest.raises(Killed):
        interrupted(4, die, *words, "--save_root", "killed")
    with pytest.raises(Killed):
        interrupted(4, die, "--resume", "--save_root", "killed", "--save_minutes", "1e-9")
    assert len(read_csv("killed/metrics.csv")) == 2
    call("Trainer", "--resume", "--save_root", "killed")
    assert_same_run(tmp_path / "killed", run)


def test_run_stopped_in_a_validation_and_resumed_equals_an_uninterrupted_one(whole, call, tmp_path, monkeypatch):
    words, run = whole
    frames = []

    def stop_at_the_third_frame(frame):
        frames.append(frame)
        if len(frames) == 3:
            signal.raise_signal(signal.SIGTERM)
        return to_uint8(frame)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr("modules.rollout.to_uint8", stop_at_the_third_frame)
        call("Trainer", *words, "--save_root", "stopped")
    assert ended.value.code == 128 + signal.SIGTERM and len(frames) == 3
    checkpoint = load_checkpoint(tmp_path / "stopped/last.ckpt")
    assert checkpoint["last_epoch"] == -1 and checkpoint["batches_done"] == 3
    call("Trainer", "--resume", "--save_root", "stopped")
    assert_same_run(tmp_path / "stopped", run)


def test_run_stopped_by_signals_and_resumed_equals_an_uninterrupted_one(
        whole, interrupted, call, tmp_path, capsys):
    words, run = whole
    for number, words in ((signal.SIGINT, words), (signal.SIGTERM, ["--resume"])):
        def stop():
            assert signal.getsignal(number) is not signal.SIG_DFL  # which would end the tests
            signal.raise_signal(number)

        with pytest.raises(SystemExit) as ended:
            interrupted(1, stop, *words, "--save_root", "stopped")
        assert ended.value.code == 128 + number
        assert "--resume --save_root stopped" in capsys.readouterr().err.splitlines()[-1]
    call("Trainer", "--resume", "--save_root", "stopped")
    assert_same_run(tmp_path / "stopped", run)


@pytest.fixture(scope="module")
def interleaved(whole):
    """The same of interleaved batches: an epoch is a round of four, of two steps each, and one of a single batch."""
    words = [*whole[0], *flags(bptt=3, batch_size=2, interleave=4, num_epoch=3, partial=0.9)]
    folder = whole[1].parent
    call_script(folder, "Trainer", *words, "--save_root", "interleaved")
    return words, folder / "interleaved"


@pytest.mark.parametrize("steps, saved", [(3, 0), (7, 0), (8, 4), (10, 5), (13, 0)])
def test_run_of_interleaved_batches_stops_at_once_and_continues(
        steps, saved, interleaved, interrupted, call, tmp_path):
    words, run = interleaved
    taken, once = [], iter([signal.SIGINT])

    def stop():
        taken.append(1)
        for number in once:
            signal.raise_signal(number)

    with pytest.raises(SystemExit):
        interrupted(steps - 1, stop, *words, "--save_root", "stopped")
    assert len(taken) == 1  # no step after it
    assert load_checkpoint(tmp_path / "stopped/last.ckpt")["batches_done"] == saved
    call("Trainer", "--resume", "--save_root", "stopped")
    assert_same_run(tmp_path / "stopped", run)


def test_stopped_run_draws_what_it_has_logged(whole, interrupted, tmp_path):
    with pytest.raises(SystemExit):
        interrupted(4, lambda: signal.raise_signal(signal.SIGINT), *whole[0], "--save_root", "run", draw=True)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert FIGURES | {"best.gif", "best.npz", "best.ckpt", "page.html"} <= names


def test_best_rollout_is_kept_over_a_kill_and_not_generated_again(whole, interrupted, call, tmp_path, monkeypatch):
    """best.gif of a run that was killed in its last epoch and resumed equals that of an uninterrupted run."""
    words, run = whole
    with pytest.raises(Killed):
        interrupted(7, die, *words, "--save_root", "run")
    generated = []
    monkeypatch.setattr("Trainer.validate", lambda *args: generated.append(1) or validate(*args))
    call("Trainer", "--resume", "--save_root", "run")
    assert len(generated) == 1  # the validation of the last epoch
    assert (tmp_path / "run/best.gif").read_bytes() == (run / "best.gif").read_bytes()


@pytest.mark.parametrize("stale", [False, True])
def test_rollout_of_another_model_is_not_shown_as_that_of_the_best(stale, whole, call, tmp_path, capsys):
    """A run may be killed after it has written the rollout, and before its checkpoint."""
    shutil.copytree(whole[1], tmp_path / "run")
    path = tmp_path / "run" / BEST_ROLLOUT
    if stale:
        np.save(path, 255 - np.load(path))
    call("Trainer", "--resume", "--save_root", "run")
    assert ("this model" in capsys.readouterr().out) != stale


@pytest.mark.parametrize("rollout", ["kept", "stale", "missing"])
@pytest.mark.parametrize("stale", [False, True])
def test_psnr_per_frame_is_of_the_best_or_goes(stale, rollout, whole, call, tmp_path):
    """A run may be killed after it has written the one, and before the other or the checkpoint."""
    shutil.copytree(whole[1], tmp_path / "run")
    path, other = tmp_path / "run/psnr_per_frame.csv", tmp_path / "run" / BEST_ROLLOUT
    written = path.read_text()
    if stale:
        path.write_text("frame,seq0\n1,99\n")
    if rollout == "stale":
        np.save(other, 255 - np.load(other))
    elif rollout == "missing":
        other.unlink()
    call("Trainer", "--resume", "--save_root", "run")
    if stale and rollout != "kept":
        assert not path.exists()
    else:
        assert path.read_text() == written


def test_psnr_per_frame_that_cannot_be_mended_costs_no_run(whole, call, tmp_path, monkeypatch, capsys):
    shutil.copytree(whole[1], tmp_path / "run")
    (tmp_path / "run/psnr_per_frame.csv").write_text("frame,seq0\n1,99\n")
    monkeypatch.setattr("engine.saving.best_rollout.write_psnr_per_frame", Mock(side_effect=RunError("in use")))
    call("Trainer", "--resume", "--save_root", "run")
    out = capsys.readouterr().out
    assert "note: in use; it is of a model that was lost" in out and "this model" in out


def test_run_leaves_the_files_that_it_promises(prolonged):
    names = {path.name for path in prolonged.iterdir()}
    assert {"args.json", "metrics.csv", "psnr_per_frame.csv", "epoch=1.ckpt", "last.ckpt", "best.ckpt",
            "best.gif", "best.npz", "page.html", "epoch=0.gif", "epoch=1.gif", "epoch=2.gif", *FIGURES} <= names
    assert not any(name.endswith(".tmp") for name in names)

    rows = read_csv(prolonged / "metrics.csv")
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert [float(row["beta"]) for row in rows] == pytest.approx([0, 0.4, 0.8])
    assert [float(row["tfr"]) for row in rows] == [1, 0.5, 0]
    for row in rows:
        loss, mse, beta, kl = (float(row[name]) for name in ("loss", "mse", "beta", "kl"))
        assert loss == pytest.approx(mse + beta * kl, rel=1e-5)
    assert [float(row["lr"]) for row in rows] == pytest.approx([1e-3, 1e-4, 1e-4])
    for name, row in (("epoch=1", rows[1]), ("last", rows[2])):
        [group] = load_checkpoint(prolonged / f"{name}.ckpt")["optimizer"]["param_groups"]
        assert group["lr"] == pytest.approx(float(row["lr"]))
    content = json.loads((prolonged / "args.json").read_text())
    assert content["arguments"].items() >= (TINY_NETWORK | {"num_epoch": 3}).items()
    assert {"versions", "machine", "git_commit", "seed", "command"} <= content.keys()

    best = max(range(3), key=lambda epoch: float(rows[epoch]["val_psnr"]))
    checkpoint = load_checkpoint(prolonged / "best.ckpt")
    assert checkpoint["last_epoch"] == best
    per_frame = read_csv(prolonged / "psnr_per_frame.csv")  # two validation clips of ten frames
    assert len(per_frame) == 9 and per_frame[0].keys() == {"frame", "seq0", "seq1"}
    psnr = np.mean([[float(row["seq0"]), float(row["seq1"])] for row in per_frame])
    assert psnr == pytest.approx(float(rows[best]["val_psnr"]), rel=1e-4)


def test_preparer_finds_the_dataset_whole(dancer, call, capsys):
    call("Preparer", "--check", dancer)
    assert "70 frames" in capsys.readouterr().out


def test_tester_writes_a_submission_and_the_scores_that_it_has(prolonged, dancer):
    truth = dancer / "test/gt.csv"
    shown = run_script("Tester", "--ckpt_path", "run/best.ckpt", "--gt", truth, cwd=prolonged.parent)

    out = prolonged / "test"
    assert {path.name for path in out.iterdir()} >= {"submission.csv", "scores.json", "psnr_per_frame.csv",
                                                     "pred_seq0.gif", "pred_seq1.gif"}
    ours, _ = read_pixels_csv(out / "submission.csv", "--gt")
    theirs, _ = read_pixels_csv(truth, "--gt")
    assert ours.shape == theirs.shape == (2 * 12, 3 * 32 * 64)
    given = [0, 12]
    np.testing.assert_array_equal(ours[given], theirs[given])
    predicted = [row for row in range(24) if row not in given]
    error = ((ours[predicted] / 255 - theirs[predicted] / 255) ** 2).mean(axis=1)
    scores = json.loads((out / "scores.json").read_text())
    assert scores["this model"]["score"] == pytest.approx(np.mean(-10 * np.log10(error)), rel=1e-4)
    assert {"this model", "nearest label", "mean frame", "first frame"} == scores.keys()
    assert all(name in shown for name in scores)
    rows = read_csv(out / "psnr_per_frame.csv")
    assert [row["frame"] for row in rows] == [str(frame) for frame in range(1, 12)]


def test_validation_split_is_tested_as_the_trainer_validated_it(dancer, tmp_path, call, capsys):
    """With its own clamping, temperature and seed; but not where another test is asked for."""
    call("Trainer", "--DR", dancer, *TINY_TRAINING, "--no-clamp_feedback",
         *flags(num_epoch=1, save_root="run", temperature=0.5, seed=3, device="cpu", amp="off"))
    for views in (1, 2):
        call("Tester", *flags(ckpt_path="run/best.ckpt", split="val", save_root=views, views=views, device="cpu",
                              amp="off"))
        said = "trained with --random_shift; run/best.ckpt was trained without" in capsys.readouterr().out
        assert said == (views > 1)
    one, two = (json.loads((tmp_path / f"{views}/scores.json").read_text())["this model"] for views in (1, 2))
    validated = pytest.approx(load_checkpoint(tmp_path / "run/best.ckpt")["best_psnr"], rel=1e-6)
    assert one["psnr"] == validated and two["psnr"] != validated
    assert not {"score", "public", "private"} & one.keys()  # the course's, of its test
    assert not (tmp_path / "1/submission.csv").exists()


def test_an_ensemble_of_equal_networks_is_one_of_them(dancer, tmp_path, call, capsys):
    """With z = 0, which each would draw otherwise. The mean of others is of none of them."""
    for seed in (0, 1):
        call("Trainer", "--DR", dancer, *TINY_TRAINING, *flags(num_epoch=1, save_root=seed, seed=seed))
    words = flags(ckpt_path="0/best.ckpt", split="val", temperature=0, device="cpu", amp="off")
    psnr = []
    shutil.copytree(tmp_path / "0", tmp_path / "copy")
    for number, ensemble in enumerate(([], ["copy/best.ckpt", "copy/last.ckpt"], ["1/best.ckpt"])):
        call("Tester", *words, "--save_root", f"test{number}", *(["--ensemble", *ensemble] if ensemble else []))
        assert (f"the mean of {1 + len(ensemble)} networks" in capsys.readouterr().out) == bool(ensemble)
        psnr.append(json.loads((tmp_path / f"test{number}/scores.json").read_text())["this model"]["psnr"])
        noted = json.loads((tmp_path / f"test{number}/split.json").read_text())
        assert noted == {"split": "val", "checkpoints": ["0/best.ckpt", *ensemble], "views": 1,
                         "epoch": None if ensemble else 0, "precision": "float32", "temperature": 0, "seed": 0,
                         "frames_per_second": 30}
    assert psnr[1] == pytest.approx(psnr[0], abs=1e-3) and psnr[2] != pytest.approx(psnr[0], abs=1e-3)


def test_training_split_is_tested_as_if_it_were_validation(prolonged, dancer, tmp_path, call):
    """The training frames that the run's --partial takes are here those of the validation sequence.

    The nearest label would be a frame's own.
    """
    for kind in ("img", "label"):
        folder = shutil.copytree(dancer / f"val/val_{kind}", tmp_path / f"swapped/train/train_{kind}")
        for number in range(20, 50):  # of these 50 frames the run's 0.4 are 20
            shutil.copy(dancer / f"train/train_{kind}/{number}.png", folder)
    for split, root in (("val", dancer), ("train", tmp_path / "swapped")):
        call("Tester", "--split", split,
             *flags(ckpt_path=prolonged / "best.ckpt", DR=root, save_root=split, device="cpu", amp="off"))
        assert read_split(tmp_path / split) == split
    val, train = (json.loads((tmp_path / split / "scores.json").read_text()) for split in ("val", "train"))
    assert train == {"this model": val["this model"]}
    assert (tmp_path / "train/compare_seq0.gif").is_file()


def test_plotting_draws_the_run(prolonged, tmp_path):
    run_script("Plotting", prolonged, "--out", tmp_path, cwd=tmp_path)
    assert {path.name for path in tmp_path.glob("*.png")} == FIGURES


def test_overwriting_leaves_nothing_of_the_run_before(prolonged, dancer, tmp_path, call):
    shutil.copytree(prolonged, tmp_path / "run")
    for folder in ("test", "drive"):
        (tmp_path / "run" / folder).mkdir(exist_ok=True)
    for mine in ("notes.txt", "mine.mp4", "test/pred_seq0_shown.gif", "drive/mine.gif"):
        (tmp_path / "run" / mine).write_text("mine")
    stale_tests = {"submission.csv", "scores.json", "first.npz", "pred_seq0.gif", "compare_seq12.mp4"}
    for stale in (*(f"test/{name}" for name in stale_tests), "best.mp4", "drive/driven.gif", "drive/driven.mp4"):
        (tmp_path / "run" / stale).write_text("of the model before")
    call("Trainer", "--DR", dancer, "--save_root", "run", *TINY_TRAINING, "--num_epoch", 1, "--overwrite")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"notes.txt", "mine.mp4"} <= names and not {"epoch=1.ckpt", "epoch=1.gif", "best.mp4"} & names
    tested = {path.name for path in (tmp_path / "run/test").iterdir()}
    assert "pred_seq0_shown.gif" in tested and not stale_tests & tested
    assert [path.name for path in (tmp_path / "run/drive").iterdir()] == ["mine.gif"]
    assert load_checkpoint("run/best.ckpt")["last_epoch"] == 0


def test_test_flag_validates_and_writes_nothing(prolonged, dancer, tmp_path, call, capsys):
    words = ["--DR", dancer, "--test", "--ckpt_path", prolonged / "best.ckpt", "--val_vi_len", 10]
    for more in ([], ["--store_visualization", "--save_root", "videos"]):
        call("Trainer", *words, *more)
        said = capsys.readouterr().out
        assert "this model" in said
        assert ("--test writes nothing, in spite of --save_root, --store_visualization" in said) == bool(more)
        assert list(tmp_path.iterdir()) == []


def test_truncation_to_the_whole_clip_is_no_truncation(dancer, tmp_path, call):
    logs = {}
    for frames in (0, 5, 100, 2):  # of the 5 that are predicted of a clip
        run = tmp_path / str(frames)
        call("Trainer", "--DR", dancer, *TINY_TRAINING, "--bptt", frames,
             *flags(num_epoch=1, partial=0.3, save_root=run))
        logs[frames] = (run / "metrics.csv").read_text()
    assert logs[0] == logs[5] == logs[100] != logs[2]


@pytest.fixture
def watched(monkeypatch):
    """What a run trains on, batch by batch: the starts of its clips and its masks of teacher forcing."""
    seen = {"starts": [], "masks": []}
    clips, forward = Dataset_Dance.clips, VAE_Model.forward

    def watched_clips(self, starts):
        if self.mode == "train":
            seen["starts"].append(starts.tolist())
        return clips(self, starts)

    def watched_forward(self, frames, labels, noise, beta, teacher_forced, **more):
        seen["masks"].append(teacher_forced.expand(frames.shape[:2]))
        return forward(self, frames, labels, noise, beta, teacher_forced, **more)

    monkeypatch.setattr(Dataset_Dance, "clips", watched_clips)
    monkeypatch.setattr(VAE_Model, "forward", watched_forward)
    return seen


def test_training_is_shuffled_anew_in_every_epoch_and_alike_for_a_seed(dancer, call, watched):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        call("Trainer", "--DR", dancer, *TINY_TRAINING, "--save_root", name, "--no-random_start",
             *flags(num_epoch=2, seed=seed, val_every=2, val_vi_len=2, train_vi_len=2, partial=0.4))
    starts = np.array([start for batch in watched["starts"] for start in batch]).reshape(3, 2, -1)
    for run in starts:
        assert sorted(run[0]) == sorted(run[1]) and list(run[0]) != list(run[1])
        assert list(run[0]) != sorted(run[0])
    assert (starts[0] == starts[1]).all() and not (starts[0] == starts[2]).all()


@pytest.mark.parametrize("per", ["epoch", "batch", "frame"])
def test_teacher_forcing_is_drawn_as_often_as_asked(dancer, call, watched, per):
    call("Trainer", "--DR", dancer, *TINY_TRAINING, "--save_root", "run", "--tfr_per", per,
         *flags(num_epoch=8, tfr=0.5, tfr_sde=8, batch_size=7, train_vi_len=3, partial=0.9, val_every=8))
    masks = torch.stack(watched["masks"]).unflatten(0, (8, 3)).flatten(2)  # [epoch, batch, its frames]
    varies = [part.float().std(dim=-1).max() > 0 for part in (masks, masks.flatten(1), masks.flatten())]
    assert varies == {"epoch": [False, False, True], "batch": [False, True, True], "frame": [True] * 3}[per]


@pytest.mark.parametrize("per", ["epoch", "batch", "frame"])
def test_teacher_forcing_falls_from_always_to_never(dancer, call, watched, per):
    call("Trainer", "--DR", dancer, *TINY_TRAINING, "--save_root", "run", "--tfr_per", per,
         *flags(num_epoch=3, tfr=1, tfr_sde=1, tfr_d_step=1, partial=0.4, val_every=3))  # an epoch is a batch
    assert [mask.unique().tolist() for mask in watched["masks"]] == [[True], [False], [False]]


def test_checkpoint_answers_what_a_test_or_a_new_run_needs(dancer, call, tmp_path, capsys, monkeypatch):
    call("Trainer", "--DR", dancer, *TINY_TRAINING, "--no-clamp_feedback", "--posterior", "current",
         *flags(num_epoch=1, save_root="run", network="pyramid", partial=0.9, temperature=0.5, seed=3))
    first = capsys.readouterr().out
    psnr = read_csv(tmp_path / "run/metrics.csv")[0]["val_psnr"]
    call("Trainer", "--test", *flags(ckpt_path="run/best.ckpt", device="cpu", amp="off"))
    said = capsys.readouterr().out
    assert "validation, 9 frames from one" in said and f"{float(psnr):.2f}" in said
    assert first.split("validation, 9")[1].split("\n\npage:")[0] == said.split("validation, 9")[1].rstrip("\n")
    call("Trainer", "--DR", dancer, *flags(ckpt_path="run/best.ckpt", save_root="new", num_epoch=1, device="cpu"))
    ours, theirs = (json.loads((tmp_path / run / "args.json").read_text())["arguments"] for run in ("new", "run"))
    for name in ("network", "F_dim", "posterior", "frame_H", "frame_W", "clamp_feedback", "val_vi_len"):
        assert ours[name] == theirs[name], name
    monkeypatch.setattr(sys, "argv", ["Tester.py", *flags(ckpt_path="run/best.ckpt")])
    tested, _ = start.tester_flags()
    for name in (*TINY_NETWORK, "network", "DR", "frame_H", "frame_W", "clamp_feedback", "partial", "train_vi_len",
                 "val_vi_len", "temperature", "seed"):
        assert vars(tested)[name] == theirs[name], name
    call("Trainer", "--DR", dancer, *flags(ckpt_path="run/best.ckpt", save_root="larger", num_epoch=1, device="cpu",
                                           frame_H=16))
    assert json.loads((tmp_path / "larger/args.json").read_text())["arguments"]["frame_H"] == 16


@pytest.mark.parametrize("start", [{}, {"ckpt_path": "run/best.ckpt"}], ids=["anew", "from a checkpoint"])
def test_resumed_run_has_the_flags_of_one_that_was_not_cut_off(start, dancer, call, tmp_path):
    """So that figures see one experiment in them."""
    call("Trainer", "--DR", dancer, *TINY_TRAINING, *flags(num_epoch=1, save_root="run"))
    call("Trainer", "--DR", dancer, *TINY_TRAINING, *flags(num_epoch=1, save_root="cut", **start))
    before = json.loads((tmp_path / "cut/args.json").read_text())["arguments"]
    call("Trainer", "--resume", *flags(num_epoch=2, save_root="cut"))
    after = json.loads((tmp_path / "cut/args.json").read_text())["arguments"]
    assert after == before | {"num_epoch": 2, "resume": True}
    assert before["ckpt_path"] == start.get("ckpt_path")


@pytest.mark.parametrize("shared_out", [{"batch_size": 1, "accumulate": 4}, {"batch_size": 2, "accumulate": 2}])
def test_resumed_run_may_share_out_a_step_otherwise(shared_out, dancer, call, tmp_path):
    """The pyramid has no BatchNorm, so the gradients are the same to rounding."""
    words = ["--DR", dancer, *TINY_TRAINING, *flags(network="pyramid", lr=1e-3, kl_weight=1e-3, num_epoch=1)]
    for run in ("whole", "shared"):
        call("Trainer", *words, *flags(save_root=run))
    call("Trainer", "--resume", *flags(save_root="whole", num_epoch=2))
    call("Trainer", "--resume", *flags(save_root="shared", num_epoch=2, **shared_out))
    ours, theirs = (load_checkpoint(tmp_path / run / "last.ckpt") for run in ("shared", "whole"))
    for name, weights in theirs["state_dict"].items():
        torch.testing.assert_close(ours["state_dict"][name], weights, rtol=1e-2, atol=1e-4)
    assert ours["rows"][1]["loss"] == pytest.approx(theirs["rows"][1]["loss"], rel=1e-4)
