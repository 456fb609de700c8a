"""Every wrong use ends with exit status 2 and one line that names the flag or the file, before any work."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cli.folders import locked
from conftest import CHANGES, ROOT, TINY_CLIPS, TINY_TRAINING, change_images, copy_dataset, flags, tiny_model
from dataloader import Dataset_Dance
from engine.saving import resume
from engine.saving.checkpoint import load_checkpoint, save_checkpoint
from stage_dancer.dataset import dancer_settings


def visible(folder):
    """All files below a folder but for those that begin with a dot: the cache and the lock."""
    return sorted(path for path in folder.rglob("[!.]*") if ".decoded" not in path.parts)


@pytest.fixture
def refusal(call, capsys, tmp_path):
    """refusal("Trainer", ...) is the one line with which a script refuses to work with these words."""

    def refuse(script, *words):
        there = visible(tmp_path)
        with pytest.raises(SystemExit) as ended:
            call(script, *words)
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and error.endswith("\n") and "Traceback" not in error
        assert visible(tmp_path) == there
        return error

    return refuse


@pytest.fixture
def train(refusal, dancer):
    """train(...) is the refusal of a training that is right but for these words."""
    return lambda *words: refusal("Trainer", "--DR", dancer, *TINY_TRAINING, "--num_epoch", 1, *words)


@pytest.fixture
def broken(dancer, tmp_path):
    """A copy of the dancer, to be broken."""
    return copy_dataset(dancer, tmp_path / "broken")


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint of the tiny network, made without any training."""
    path = tmp_path / "tiny.ckpt"
    save_checkpoint([path], {"state_dict": tiny_model().state_dict(), "last_epoch": 0, "lr": 0.1, "tfr": 1.0})
    return path


def test_folder_of_the_dataset_is_missing(refusal, checkpoint):
    assert "--DR nowhere" in refusal("Trainer", "--DR", "nowhere")
    assert "--DR nowhere" in refusal("Tester", "--DR", "nowhere", "--ckpt_path", checkpoint)
    assert "nowhere" in refusal("Preparer", "--check", "nowhere")


def test_folder_of_the_dataset_is_empty_or_a_file(refusal, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for name in ("empty", "file"):
        error = refusal("Trainer", "--DR", name, *TINY_TRAINING)
        assert "--DR" in error and name in error


def test_label_is_missing(refusal, broken):
    (broken / "train/train_label/17.png").unlink()
    error = refusal("Trainer", "--DR", broken, *TINY_TRAINING)
    assert "label missing for frame 17" in error and str(broken / "train/train_label") in error


def test_all_labels_are_missing(refusal, broken):
    for path in (broken / "val/val_label").iterdir():
        path.unlink()
    assert str(broken / "val/val_label") in refusal("Trainer", "--DR", broken, *TINY_TRAINING)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n\0\0"])
def test_image_cannot_be_read(refusal, broken, content):
    path = broken / "val/val_img/5.png"
    path.write_bytes(content)
    assert str(path) in refusal("Trainer", "--DR", broken, *TINY_TRAINING)


def test_training_image_that_cannot_be_read_is_told_before_poses_are_sought(refusal, broken, checkpoint, monkeypatch):
    """To find them in a video takes minutes."""
    path = broken / "train/train_img/5.png"
    path.write_bytes(b"")
    monkeypatch.setattr("Tester.open_drive", None)
    assert str(path) in refusal("Tester", "--DR", broken, "--ckpt_path", checkpoint, "--device", "cpu",
                                "--save_root", ".", "--drive", broken / "test/test_label/0")


def test_image_is_cut_short(refusal, broken):
    path = broken / "train/train_img/5.png"
    path.write_bytes(path.read_bytes()[:2000])
    assert str(path) in refusal("Trainer", "--DR", broken, *TINY_TRAINING)


def test_first_frame_of_a_test_sequence_is_missing(refusal, broken, checkpoint):
    (broken / "test/test_img/1/0.png").unlink()
    error = refusal("Tester", "--DR", broken, "--ckpt_path", checkpoint, "--device", "cpu")
    assert str(broken / "test/test_img/1") in error


@pytest.mark.parametrize("flag, frames", [("--train_vi_len", 71), ("--val_vi_len", 21)])
def test_too_few_frames_for_the_clips(train, flag, frames):
    error = train(flag, frames)
    assert flag in error and "--partial" not in error  # all are used


def test_too_few_frames_for_the_clips_because_of_partial(train):
    assert "or raise --partial" in train(*flags(train_vi_len=36, partial=0.5))


@pytest.mark.parametrize("words", [
    "--batch 2", "--no_such_flag", "--optim SGD", "--lr 0", "--lr nan", "--lr", "--tfr 1.5", "--num_epoch 0",
    "--batch_size two", "--partial 0", "--milestones 2 x", "--frame_H 0", "--frame_W 3", "--train_vi_len 1",
    "--val_vi_len 1", "--F_dim 3", "--L_dim 1", "--N_dim 1", "--D_out_dim 2", "--seed -1", "--per_save 0"])
def test_flag_is_unknown_abbreviated_or_of_no_use(train, words):
    assert words.split()[0] in train(*words.split())


@pytest.mark.parametrize("script, words", [
    ("Tester", []), ("Preparer", ["--check", "x"]), ("Plotting", ["x"])])
def test_other_scripts_know_their_flags_too(refusal, script, words):
    assert "--no_such_flag" in refusal(script, *words, "--no_such_flag")


@pytest.mark.parametrize("words, meant", [
    ("recipe.txt", "given as @recipe.txt"), ("@nothere.txt", "@nothere.txt: there is no such file"),
    ("@folder", "@folder: there is no such file"), ("--epochs 5", "did you mean --num_epoch?"),
    ("--num-epoch=5", "did you mean --num_epoch?"), ("num_epoch=3", "did you mean --num_epoch?"),
    ("--no_shuffle", "did you mean --no-shuffle?"), ("data/dancer", "arguments: data/dancer (see"),
    ("weights.ckpt", "arguments: weights.ckpt (see"), ("a" * 300, "aaa (see"), ("@" + "a" * 300, "too long"),
    ("--ckpt x", "did you mean --ckpt_path?"), ("--zzz 1", "unrecognized arguments: --zzz 1 (see")])
def test_what_an_unknown_word_was_meant_for_is_told(train, tmp_path, words, meant):
    for name in ("recipe.txt", "weights.ckpt"):
        (tmp_path / name).write_text("--lr 0.1")
    (tmp_path / "folder").mkdir()
    assert meant in train(*words.split())


@pytest.mark.parametrize("script", ["Trainer", "Tester", "Plotting", "Preparer", "Study"])
def test_a_python_without_the_packages_is_told_in_one_line(script):
    """-S leaves out the folder of the packages."""
    ended = subprocess.run([sys.executable, "-S", str(ROOT / f"{script}.py"), "--help"], capture_output=True, text=True,
                           env=os.environ | {"PYTHONPATH": ""})
    assert ended.returncode == 2 and ended.stdout == "" and ended.stderr.count("\n") == 1
    assert f"{script}.py: error: this Python lacks torch, " in ended.stderr and "requirements.txt" in ended.stderr


@pytest.mark.parametrize("script", ["Trainer", "Study"])
def test_a_python_that_is_too_old_is_told(script, tmp_path):
    code = (f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = ['{script}.py', '--help']; "
            f"sys.version_info = (3, 10, 4); runpy.run_path({str(ROOT / f'{script}.py')!r}, run_name='__main__')")
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 2 and "start it with 3.11 or newer" in ended.stderr and ended.stderr.count("\n") == 1


def test_smallest_values_that_the_flags_take_can_train(dancer, call):
    """So that the bounds of the flags are those of the network."""
    smallest = flags(F_dim=8, L_dim=2, N_dim=4, D_out_dim=8, frame_H=4, frame_W=4, val_vi_len=2,
                     train_vi_len=2, partial=0.1, num_epoch=1, num_workers=0, milestones=0, tfr=0)
    call("Trainer", "--DR", dancer, *smallest, *flags(batch_size=50, save_root="run", device="cpu"))
    assert Path("run/best.ckpt").is_file()


def test_cuda_is_asked_for_and_not_there(train, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "--device cuda" in train("--device", "cuda")


def test_cuda_device_is_not_there(train, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert "--gpu 2" in train("--device", "cuda", "--gpu", 2)


def test_checkpoint_is_missing_or_none(train, refusal, dancer, tmp_path):
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    (tmp_path / "folder.ckpt").mkdir()
    torch.save({"weights": torch.ones(3)}, tmp_path / "other.ckpt")
    torch.save({"state_dict": {"weights": torch.ones(3)}}, tmp_path / "network.ckpt")
    for name in ("nowhere.ckpt", "text.ckpt", "folder.ckpt", "other.ckpt", "network.ckpt"):
        for error in (train("--ckpt_path", name), refusal("Tester", "--DR", dancer, "--ckpt_path", name)):
            assert "--ckpt_path" in error and name in error


def test_flag_contradicts_the_checkpoint(train, refusal, dancer, checkpoint):
    for script, words in (("Trainer", TINY_CLIPS), ("Tester", [])):
        for flag, value in (("--N_dim", 8), ("--F_dim", 128)):
            error = refusal(script, "--DR", dancer, *words, "--ckpt_path", checkpoint, flag, value)
            assert f"{flag} {value}" in error and str(checkpoint) in error


def test_checkpoint_of_an_ensemble_that_does_not_fit_is_named(refusal, call, dancer, checkpoint, tmp_path):
    call("Trainer", "--DR", dancer, *TINY_TRAINING, *flags(num_epoch=1, save_root="large", frame_H=16))
    words = ["Tester", "--DR", dancer, *flags(ckpt_path="large/best.ckpt", device="cpu")]
    assert "--ensemble nowhere.ckpt: there is no such file" in refusal(*words, "--ensemble", "nowhere.ckpt")
    call("Trainer", "--DR", dancer, *TINY_TRAINING, *flags(num_epoch=1, save_root="small"))
    error = refusal(*words, "--ensemble", "large/last.ckpt", "small/best.ckpt")
    assert "--ensemble small/best.ckpt was trained with --frame_H 8, and --ckpt_path large/best.ckpt with 16" in error
    for paths in (["large/best.ckpt"], ["large/last.ckpt", "--ensemble", tmp_path / "large/last.ckpt"]):
        assert "is given twice" in refusal(*words, "--ensemble", *paths)
    torch.save({"state_dict": {"a": torch.ones(2)}}, tmp_path / "other.ckpt")
    assert "--ensemble other.ckpt is a checkpoint of another network" in refusal(*words, "--ensemble", "other.ckpt")


def test_run_does_not_start_from_a_checkpoint_in_its_own_folder(refusal, call, dancer, tmp_path):
    call("Trainer", "--DR", dancer, *TINY_TRAINING, *flags(num_epoch=1, save_root="run"))
    kept = (tmp_path / "run/best.ckpt").read_bytes()
    for words in ([], ["--overwrite"]):
        error = refusal("Trainer", "--DR", dancer, *flags(save_root="../" + tmp_path.name + "/run", num_epoch=1),
                        "--ckpt_path", "run/best.ckpt", *words)
        assert "--save_root" in error and "--ckpt_path" in error
    assert (tmp_path / "run/best.ckpt").read_bytes() == kept


def test_checkpoint_lacks_weights(train, tmp_path):
    weights = tiny_model().state_dict()
    del weights["Generator.7.bias"]
    save_checkpoint([tmp_path / "a.ckpt"], {"state_dict": weights})
    error = train("--ckpt_path", "a.ckpt")
    assert "a.ckpt" in error and "Generator.7.bias" in error


def test_test_needs_a_checkpoint(train, refusal, dancer):
    error = train("--test")
    assert "--test" in error and "--ckpt_path" in error
    assert "--ckpt_path" in refusal("Tester", "--DR", dancer)


def test_folder_of_the_run_holds_another(train, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.csv").write_text("epoch\n0\n")
    error = train("--save_root", "run")
    assert all(word in error for word in ("--save_root run", "--resume", "--overwrite"))


def test_checkpoints_without_their_logs_are_a_run_too(train, checkpoint, tmp_path):
    """As where only they were brought to a new machine."""
    checkpoint.rename(tmp_path / "last.ckpt")
    assert "holds another run" in train("--save_root", ".")


def test_folder_of_a_run_is_not_that_of_a_test(refusal, checkpoint, dancer, tmp_path):
    (tmp_path / "args.json").write_text("{}")
    (tmp_path / "psnr_per_frame.csv").write_text("the validation's")
    assert "--save_root . is the folder of a run" in refusal(
        "Tester", "--DR", dancer, "--ckpt_path", checkpoint, "--device", "cpu", "--save_root", ".")


def test_dancer_that_somebody_has_chosen_is_not_replaced(refusal, call, capsys):
    """Without --DR the default one is taken from data/dancer, or made there."""
    call("Preparer", *flags(dancer="data/dancer", frames=20, val_frames=10, test_sequences=1, test_frames=2))
    capsys.readouterr()
    error = refusal("Trainer", *TINY_TRAINING)
    assert "--frames 20" in error and "--DR data/dancer" in error


def test_dancer_of_an_older_version_is_kept(call, capsys, tmp_path):
    """A run may have been trained on it, and today's program cannot draw it again."""
    (tmp_path / "data").mkdir()
    call("Preparer", *flags(dancer="data/dancer", frames=20, val_frames=10, test_sequences=1, test_frames=2))
    (tmp_path / "data/dancer/dancer.json").write_text(json.dumps(dancer_settings() | {"version": 1}))
    capsys.readouterr()
    call("Trainer", *TINY_TRAINING, *flags(num_epoch=1, save_root="run"))
    assert "which an older version of this program drew" in capsys.readouterr().out
    assert len(list((tmp_path / "data/dancer/train/train_img").iterdir())) == 20


def test_dancer_is_made_where_there_is_none(call, capsys, tmp_path, monkeypatch):
    start, small = subprocess.Popen, flags(frames=20, val_frames=10, test_sequences=1, test_frames=2)
    monkeypatch.setattr("dataset_folder.choice.subprocess",
                        SimpleNamespace(Popen=lambda command: start([*command, *small])))
    call("Trainer", *TINY_TRAINING, *flags(num_epoch=1, save_root="run"))
    assert "making the stage dancer in data/dancer" in capsys.readouterr().out.replace("\\", "/")
    assert len(list((tmp_path / "data/dancer/train/train_img").iterdir())) == 20


def test_no_dancer_can_be_made_where_there_is_another_folder(refusal, tmp_path):
    (tmp_path / "data/dancer").mkdir(parents=True)
    (tmp_path / "data/dancer/mine.txt").write_text("mine")
    error = refusal("Trainer", *TINY_TRAINING)
    assert "no --DR given" in error and "give --DR" in error


def test_dataset_one_folder_away_is_named(refusal, broken, tmp_path):
    (tmp_path / "archive/__MACOSX").mkdir(parents=True)
    broken.rename(tmp_path / "archive/LAB4")
    for given in ("archive", "archive/LAB4/train"):
        assert f"give --DR {'archive/LAB4' if given == 'archive' else tmp_path / 'archive/LAB4'}" in refusal(
            "Trainer", "--DR", given, *TINY_TRAINING)


def test_test_sequence_without_labels_is_named(refusal, broken, checkpoint):
    shutil.rmtree(broken / "test/test_label/0")
    error = refusal("Tester", "--DR", broken, "--ckpt_path", checkpoint)
    assert f"{broken / 'test/test_img/0'} has no labels" in error


@pytest.mark.parametrize("flag", ["ckpt_path", "DR", "save_root"])
def test_empty_name_is_not_taken_for_none(flag, train):
    """As of a shell's variable that is not set."""
    assert f"--{flag}" in train(f"--{flag}", "")


def test_tilde_is_the_home(train, monkeypatch, tmp_path):
    """A shell leaves it as it is in a recipe, and in `--DR=~/data`."""
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    assert f"--DR {tmp_path / 'home' / 'data'} is not a folder" in train("--DR=~/data")
    (tmp_path / "home").mkdir()
    (tmp_path / "home/recipe.txt").write_text("--DR=~/data")
    assert f"--DR {tmp_path / 'home' / 'data'} is not a folder" in train("@~/recipe.txt")


@pytest.mark.parametrize("seed", [2**64, 2**62, -1])
def test_seed_is_too_large(seed, train):
    assert "--seed" in train(f"--seed={seed}")


def test_folder_that_may_not_be_entered_is_named(refusal, monkeypatch):
    stat = os.stat

    def refused(path, *more, **settings):
        if "secret" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, *more, **settings)

    monkeypatch.setattr(os, "stat", refused)  # root may enter any
    assert "secret/data cannot be read (Permission denied)" in refusal("Trainer", "--DR", "secret/data", *TINY_TRAINING)


def test_folder_of_the_run_is_in_use(train, tmp_path):
    (tmp_path / "run").mkdir()
    with locked("--save_root", tmp_path / "run"):
        assert "--save_root run" in train("--save_root", "run")


def test_folder_of_the_run_cannot_be_made(train, tmp_path):
    (tmp_path / "file").write_text("")
    assert "--save_root" in train("--save_root", "file")
    assert "--save_root" in train("--save_root", "file/run")


def test_nothing_to_resume(train, refusal, tmp_path):
    assert "--resume" in train("--resume")
    error = train("--resume", "--save_root", "nowhere")
    assert "--resume" in error and "nowhere" in error
    for other in (["--overwrite"], ["--ckpt_path", "a.ckpt"]):
        assert other[0] in train("--resume", "--save_root", "run", *other)


def test_checkpoint_of_another_program_is_not_resumed(refusal, checkpoint):
    checkpoint.rename(checkpoint.parent / "last.ckpt")
    error = refusal("Trainer", "--resume", "--save_root", checkpoint.parent)
    assert "--resume" in error and "last.ckpt" in error


def test_resumed_run_keeps_the_clips_of_a_step_and_its_dataset(refusal, call, dancer, broken, tmp_path):
    call("Trainer", "--DR", dancer, *TINY_TRAINING, *flags(num_epoch=1, save_root="run"))
    error = refusal("Trainer", "--resume", "--save_root", "run", "--batch_size", 2)
    assert "a step of this run takes 4 clips" in error and "--batch_size 2 x --accumulate 1" in error
    (broken / "train/sequences.txt").write_text("40 30")
    assert f"--DR {broken}" in refusal("Trainer", "--resume", "--save_root", "run", "--DR", broken)


def identity(root):
    """What a checkpoint tells of a dataset."""
    return resume.identity_of(*(Dataset_Dance(root, None, split, 6, frame_size=(8, 16), num_workers=1)
                                for split in ("train", "val")))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("split, kind", [("train", "img"), ("train", "label"), ("val", "label")])
def test_other_images_of_the_same_number_are_another_dataset(split, kind, change, dancer, broken):
    assert resume.same_dataset(identity(dancer), identity(broken))
    change_images(broken / split / f"{split}_{kind}", change)
    assert not resume.same_dataset(identity(dancer), identity(broken))


def test_run_is_not_resumed_on_another_dataset(refusal, call, dancer, broken, tmp_path):
    call("Trainer", "--DR", dancer, *TINY_TRAINING, *flags(num_epoch=1, save_root="run"))
    change_images(broken / "val/val_label", "shifted")
    error = refusal("Trainer", "--resume", "--save_root", "run", "--num_epoch", 2, "--DR", broken)
    assert f"--DR {broken}" in error and "has changed since" in error and "--ckpt_path" in error
    cut = shutil.copytree(dancer, tmp_path / "cut")
    (cut / "val/sequences.txt").write_text("10\n10\n")  # the same frames, but no clip across this seam
    assert "has changed since" in refusal("Trainer", "--resume", *flags(save_root="run", num_epoch=2, DR=cut))
    call("Trainer", "--resume", *flags(save_root="run", num_epoch=2, DR=shutil.copytree(dancer, tmp_path / "moved")))


def test_run_that_another_process_continues_meanwhile_is_not_continued_from_an_older_state(
        call, dancer, tmp_path, capsys, monkeypatch):
    call("Trainer", "--DR", dancer, *TINY_TRAINING, *flags(num_epoch=1, save_root="run"))
    older = load_checkpoint(tmp_path / "run/last.ckpt")
    call("Trainer", "--resume", *flags(save_root="run", num_epoch=2))
    newer = (tmp_path / "run/last.ckpt").read_bytes()
    monkeypatch.setattr("engine.saving.start.newest_checkpoint", lambda folder: (folder / "last.ckpt", older))
    with pytest.raises(SystemExit) as ended:
        call("Trainer", "--resume", *flags(save_root="run", num_epoch=3))
    assert ended.value.code == 2 and "meanwhile; give the command again" in capsys.readouterr().err
    assert (tmp_path / "run/last.ckpt").read_bytes() == newer


def test_run_from_the_weights_of_another_trains_on_its_dataset(call, dancer, tmp_path, capsys):
    call("Trainer", "--DR", dancer, *TINY_TRAINING, *flags(num_epoch=1, save_root="run"))
    capsys.readouterr()
    call("Trainer", *TINY_TRAINING, *flags(ckpt_path="run/last.ckpt", num_epoch=1, save_root="more"))
    told = f"no --DR given: using that of run/last.ckpt, {dancer}"
    assert told in capsys.readouterr().out
    assert json.loads((tmp_path / "more/args.json").read_text())["arguments"]["DR"] == str(dancer)
    call("Tester", *flags(ckpt_path="run/last.ckpt", device="cpu"), "--no-make_gif")
    said = capsys.readouterr().out
    assert told in said and f"give --gt {dancer / 'test/gt.csv'}" in said


def test_run_of_a_version_that_had_fewer_flags_is_resumed(call, refusal, dancer, tmp_path):
    """But not without one that shapes the run: its default now need not be what was done then."""
    call("Trainer", "--DR", dancer, *TINY_TRAINING, *flags(num_epoch=1, save_root="run"))
    whole = load_checkpoint(tmp_path / "run/last.ckpt")

    def forget(name):
        fewer = {flag: value for flag, value in whole["arguments"].items() if flag != name}
        save_checkpoint([tmp_path / "run/last.ckpt"], whole | {"arguments": fewer})

    words = ["Trainer", "--resume", *flags(save_root="run", num_epoch=2)]
    forget("label_norm")
    assert "does not hold its --label_norm; start from its weights" in refusal(*words)
    forget("val_every")
    call(*words)
    assert load_checkpoint(tmp_path / "run/last.ckpt")["last_epoch"] == 1


def test_a_grey_level_that_another_reader_makes_of_an_image_is_no_other_dataset():
    of_then = torch.tensor([[0, 5, 128, 255]], dtype=torch.uint8)
    for change, same in ((0, True), (1, True), (-1, True), (2, False), (-2, False)):
        of_now = (of_then.short() + change).clamp(0, 255).byte()
        before, now = ({"sequence_lengths": [9], "val_sequence_lengths": [9], "thumbnails": {"val": images}}
                       for images in (of_then, of_now))
        assert resume.same_dataset(before, now) == same


@pytest.mark.parametrize("text", [
    "--no_such_flag 1", "--lr", "--lr zero", "words", '--save_root "half', "--lr 1\xff"])
def test_recipe_is_wrong(train, tmp_path, text):
    (tmp_path / "a.txt").write_bytes(f"# a recipe\n--num_epoch 1\n{text}\n".encode("latin-1"))
    error = train("@a.txt")
    assert text.split()[0] in error or "a.txt" in error


@pytest.mark.parametrize("text, words, named", [
    ("--lr zero", "@b.txt", "error: @a.txt: argument --lr:"), ("--lr=zero", "@a.txt", "error: @a.txt: argument --lr:"),
    ("words", "@a.txt", "error: @a.txt: unrecognized arguments: words"),
    ("--epochs=5", "@a.txt", "error: @a.txt: unrecognized arguments: --epochs=5; did you mean --num_epoch?"),
    ("--shuffle=1", "@a.txt", "error: @a.txt: argument --shuffle/--no-shuffle:"),
    ("--lr 1", "@a.txt --tfr 3", "error: argument --tfr:"), ("--lr 1", "@a.txt --lr 0", "error: argument --lr:"),
    ("--lr 1", "@a.txt words", "error: unrecognized arguments: words"),
    ("--lr zero", "@a.txt @c.txt", "error: argument --lr: 'zero'")])
def test_the_recipe_with_the_mistake_is_named(train, tmp_path, text, words, named):
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.txt").write_text("--num_epoch 1 @a.txt")
    (tmp_path / "c.txt").write_text("--lr 0.1")
    assert named in train(*words.split())


def test_recipe_is_missing(train):
    assert "nowhere.txt" in train("@nowhere.txt")


def test_recipe_is_as_good_as_its_flags(train, tmp_path):
    lines = ["# Why", "", "--tfr 0.5 --milestones 2 5   # both in one line", "--save_root 'a b' --test"]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    assert "--test needs --ckpt_path" in train("@a.txt")


def test_ground_truth_does_not_fit(refusal, dancer, checkpoint, tmp_path):
    words = ["--DR", dancer, "--ckpt_path", checkpoint, "--device", "cpu", "--save_root", "out"]
    (tmp_path / "short.csv").write_text("id,0,1\n0,1,2\n")
    (tmp_path / "other.csv").write_text("some text")
    for name in ("nowhere.csv", "short.csv", "other.csv"):
        error = refusal("Tester", *words, "--gt", name)
        assert "--gt" in error and name in error
    assert "--gt" in refusal("Tester", *words, "--gt", "short.csv", "--split", "val")


@pytest.mark.parametrize("script, words, named", [
    ("Trainer", ["--DR", "nowhere"], "--DR nowhere"), ("Tester", ["--batch", "2"], "--batch")])
def test_so_it_is_for_the_shell(script, words, named, tmp_path):
    command = [sys.executable, str(ROOT / f"{script}.py"), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and named in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
