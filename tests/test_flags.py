"""What the flags become: the trainer and the batches that they ask for."""

import pytest
import torch

import Trainer
from cli.flags import trainer_parser
from conftest import tiny_model
from pretend_device import pretend

CPU = torch.device("cpu")


def parsed(words):
    return trainer_parser().parse_args(words.split())


@pytest.mark.parametrize("words, optimizer, of_trainer, of_loss", [
    ("", torch.optim.Adam, {"bptt": 1, "label_norm": "fixed"},
     {"reconstruction": "mse", "clamp": True, "input_noise": 0.3, "recompute": False, "random_shift": False}),
    ("--optim AdamW --lr 0.02 --bptt 3 --label_norm batch --reconstruction log_mse --no-clamp_feedback "
     "--input_noise 0.1 --checkpoint_frames --random_shift", torch.optim.AdamW, {"bptt": 3, "label_norm": "batch"},
     {"reconstruction": "log_mse", "clamp": False, "input_noise": 0.1, "recompute": True, "random_shift": True})])
def test_trainer_is_as_its_flags_ask(words, optimizer, of_trainer, of_loss):
    args = parsed(words)
    trainer = Trainer.build_trainer(args, tiny_model(), CPU, torch.float32)
    assert type(trainer.optimizer) is optimizer and trainer.optimizer.defaults["lr"] == args.lr
    assert {name: getattr(trainer, name) for name in of_trainer} == of_trainer
    assert trainer.loss_settings.items() >= of_loss.items()


@pytest.mark.parametrize("words, recorded", [("", True), ("--no-cuda_graphs", False)])
def test_steps_are_recorded_on_cuda_unless_their_flag_is_off(words, recorded):
    with pretend("cuda"):
        device = torch.device("cuda")
        trainer = Trainer.build_trainer(parsed(words), tiny_model().to(device), device, torch.float32)
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


def test_whole_clips_are_not_trained_in_turn():
    assert Trainer.batch_settings(parsed("--bptt 0"), 0)["interleave"] == 1
