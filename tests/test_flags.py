"""What the flags become, in recipes, in README.md and in the trainer and the batches that they ask for."""

import re
from types import SimpleNamespace

import pytest
import torch

import Trainer
import cli.flags
from cli.flags import network_settings, schedule_settings, trainer_parser, trainer_settings
from conftest import ROOT, TINY_NETWORK, flags, tiny_model
from engine.optimization import ClipTrainer
from engine.saving.start import trainer_flags
from modules import VAE_Model
from pretend_device import pretend

CPU = torch.device("cpu")
README = (ROOT / "README.md").read_text(encoding="utf-8")
RECIPES = sorted(path.name for path in (ROOT / "recipes").glob("*.txt"))
# Every flag of the course's template, with values that are nowhere the defaults.
COURSE = {
    "DR": "LAB4_Dataset", "save_root": "out", "ckpt_path": "epoch=69.ckpt", "device": "cpu", "gpu": 1, "num_workers": 2,
    "test": True, "store_visualization": True, "batch_size": 3, "lr": 0.002, "optim": "AdamW", "num_epoch": 30,
    "per_save": 2, "partial": 0.5, "train_vi_len": 8, "val_vi_len": 100, "frame_H": 64, "frame_W": 128, "F_dim": 64,
    "L_dim": 16, "N_dim": 8, "D_out_dim": 96, "tfr": 0.5, "tfr_sde": 5, "tfr_d_step": 0.2, "fast_train": True,
    "fast_partial": 0.3, "fast_train_epoch": 4, "kl_anneal_type": "Monotonic", "kl_anneal_cycle": 5,
    "kl_anneal_ratio": 0.5}


def parsed(words):
    return trainer_parser().parse_args(words.split())


def of_recipe(name):
    return trainer_parser().parse_args([f"@{ROOT / 'recipes' / name}"])


def test_table_of_recipes_names_all_of_them():
    assert sorted(re.findall(r"^\| `(\w+\.txt)` \|", README, re.MULTILINE)) == RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_right_and_its_network_is_that_of_the_table(name):
    args = of_recipe(name)
    schedule_settings(args)
    with torch.device("meta"):
        parameters = sum(weights.numel() for weights in VAE_Model(**network_settings(args)).parameters())
    assert f"| `{name}` | {args.network}, {parameters:,} |" in README


def test_table_of_defaults_is_where_the_recipe_of_the_course_differs_from_them():
    """But for its number of epochs."""
    rows = re.findall(r"^\| `--(\w+)` \| `?([\w.-]+)`? \| `?([\w.-]+)`? \|", README, re.MULTILINE)
    assert len(rows) == 7
    defaults, course = vars(parsed("")), vars(of_recipe("course.txt"))
    assert {name for name in defaults if defaults[name] != course[name]} == {name for name, *_ in rows} | {"num_epoch"}
    for name, default, of_course in rows:
        for shown, value in ((default, defaults[name]), (of_course, course[name])):
            words = {"on": f"--{name}", "off": f"--no-{name}"}.get(shown, f"--{name} {shown}")
            assert vars(parsed(words))[name] == value


@pytest.mark.parametrize("script, more", [("trainer", {}), ("tester", {"make_gif": True, "no_sanity": True})])
def test_command_line_of_the_course_is_understood(script, more):
    parser = getattr(cli.flags, f"{script}_parser")()
    assert parser.typed_flags(flags(**COURSE, **more)) == COURSE | more


@pytest.mark.parametrize("words, optimizer, of_trainer, of_loss", [
    ("", torch.optim.Adam, {"bptt": 1, "label_norm": "fixed"},
     {"reconstruction": "mse", "clamp": True, "input_noise": 0.3, "recompute": False, "random_shift": False}),
    ("--optim AMSGrad", torch.optim.Adam, {}, {}),
    ("--optim AdamW --lr 0.02 --bptt 3 --label_norm batch --reconstruction log_mse --no-clamp_feedback "
     "--input_noise 0.1 --checkpoint_frames --random_shift", torch.optim.AdamW, {"bptt": 3, "label_norm": "batch"},
     {"reconstruction": "log_mse", "clamp": False, "input_noise": 0.1, "recompute": True, "random_shift": True})])
def test_trainer_is_as_its_flags_ask(words, optimizer, of_trainer, of_loss):
    args = parsed(words)
    trainer = ClipTrainer(tiny_model(), CPU, torch.float32, **trainer_settings(args))
    assert type(trainer.optimizer) is optimizer and trainer.optimizer.defaults["lr"] == args.lr
    assert trainer.optimizer.defaults["amsgrad"] == (args.optim == "AMSGrad")
    assert {name: getattr(trainer, name) for name in of_trainer} == of_trainer
    assert trainer.loss_settings.items() >= of_loss.items()


@pytest.mark.parametrize("words, recorded", [("", True), ("--no-cuda_graphs", False), ("--accumulate 2", False)])
def test_steps_are_recorded_on_cuda_unless_flags_forbid_it(words, recorded):
    with pretend("cuda"):
        device = torch.device("cuda")
        trainer = ClipTrainer(tiny_model().to(device), device, torch.float32, **trainer_settings(parsed(words)))
    assert (trainer.graphed_gradient is not None) == recorded


@pytest.mark.parametrize("words, partial, others", [
    ("", [1, 1, 1], {"tfr_per": "epoch", "batch_size": 2, "accumulate": 1, "interleave": 8, "shuffle": True,
                     "random_start": True, "seed": 0}),
    ("--fast_train --fast_train_epoch 4 --fast_partial 0.3 --tfr_per frame --batch_size 3 --accumulate 5 "
     "--interleave 6 --no-shuffle --no-random_start --seed 7", [0.3, 0.3, 1],
     {"tfr_per": "frame", "batch_size": 3, "accumulate": 5, "interleave": 6, "shuffle": False, "random_start": False,
      "seed": 7})])
def test_batches_of_an_epoch_are_as_the_flags_ask(words, partial, others):
    for epoch, part in zip((0, 3, 4), partial, strict=True):
        assert Trainer.batch_settings(parsed(words), epoch) == {**others, "partial": part}


@pytest.mark.parametrize("words, in_turn", [
    ("--bptt 0", 1), ("--bptt 16", 1), ("--bptt 15", 1), ("--bptt 14", 8), ("", 8), ("--train_vi_len 2", 1)])
def test_whole_clips_are_not_trained_in_turn(words, in_turn):
    assert Trainer.batch_settings(parsed(words), 0)["interleave"] == in_turn


@pytest.mark.parametrize("size, measured", [((4, 8), 256), ((32, 64), 256), ((128, 256), 64), ((512, 1024), 16)])
def test_the_fixed_label_norm_takes_as_many_labels_as_fit_into_memory(size, measured, monkeypatch):
    args = parsed(f"--F_dim 8 --L_dim 2 --N_dim 4 --D_out_dim 8 --frame_H {size[0]} --frame_W {size[1]}")
    monkeypatch.setattr(VAE_Model, "fix_label_norm", lambda self, labels: shapes.append(labels.shape))
    shapes, labels = [], torch.zeros(1, 3, 1, 1, dtype=torch.uint8).expand(300, 3, *size)
    Trainer.starting_model(args, SimpleNamespace(labels=labels), CPU, torch.float32, None, None)
    assert shapes == [(measured, 3, *size)]


IDLE = [("--kl_anneal_cycle 3", "--kl_anneal_type Monotonic", "where --kl_anneal_type is Monotonic"),
        ("--milestones 3", "", "where --lr_schedule is Cosine"), ("--gamma 0.5", "", "where --lr_schedule is Cosine"),
        ("--tfr_per frame", "--tfr 0", "where --tfr is 0.0"), ("--fast_partial 0.1", "", "without --fast_train"),
        ("--interleave 3", "--bptt 0", "where --bptt is 0"), ("--interleave 3", "--bptt 15", "where --bptt is 15"),
        ("--label_norm batch", "--network pyramid", "where --network is pyramid")]


@pytest.mark.parametrize("idle, cause, said", IDLE)
def test_a_typed_flag_that_changes_nothing_is_told(idle, cause, said, monkeypatch, capsys):
    for words, told in ((f"{idle} {cause}", f"note: {idle.split()[0]} changes nothing {said}\n"), (cause, "")):
        monkeypatch.setattr("sys.argv", ["Trainer.py", *words.split()])
        trainer_flags()
        assert capsys.readouterr().out == told


@pytest.mark.parametrize("name", RECIPES)
def test_no_flag_of_a_recipe_changes_nothing(name, monkeypatch, capsys):
    """But for one of course.txt, which makes its single flags comparable: `--bptt 1` alone changes the clips."""
    monkeypatch.setattr("sys.argv", ["Trainer.py", f"@{ROOT / 'recipes' / name}"])
    trainer_flags()
    assert capsys.readouterr().out.count("changes nothing") == (name == "course.txt")


def test_each_seed_starts_from_weights_of_its_own():
    def weights(seed):
        args = trainer_parser().parse_args(flags(**TINY_NETWORK, seed=seed, label_norm="batch"))
        return Trainer.starting_model(args, None, torch.device("cpu"), torch.float32, None, None).Generator[-1].weight

    assert torch.equal(weights(3), weights(3)) and not torch.equal(weights(3), weights(4))
