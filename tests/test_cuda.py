"""An epoch on fake CUDA tensors: they have a device and a shape but no memory, and refuse to mix devices.

A CPU build of torch cannot index such tensors or run backward on them, so the optimizer's step itself is left out.
"""

from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import Trainer
from modules.options import trainer_parser
from modules.training import TERMS

CUDA = torch.device("cuda", 0)


class FakeDataset:
    """Twelve clips of zeros in main memory."""

    frames = torch.zeros(0, dtype=torch.uint8)

    def starts(self, partial, generator):
        return torch.arange(12) * 5

    def clips(self, starts):
        return torch.zeros(2, len(starts), 5, 3, 8, 16, dtype=torch.uint8).unbind()


class FakeTrainer:
    """Sums up terms of 1 a clip on the GPU, and takes no step."""

    device = CUDA

    def __init__(self):
        self.model, self.optimizer = torch.nn.Identity(), SimpleNamespace(param_groups=[{}])
        self.devices = set()

    def train_on(self, parts, total, beta):
        self.devices |= {clips.frames.device for clips in parts} | {clips.labels.device for clips in parts}
        return torch.zeros(len(TERMS), dtype=torch.float64, device=CUDA)


@pytest.mark.parametrize("words", [[], ["--accumulate", "2", "--tfr_per", "frame", "--tfr", "0.5"]], ids=" ".join)
@pytest.mark.parametrize("step", [0, 1])
def test_an_epoch_begun_or_resumed_mixes_no_devices(words, step, monkeypatch):
    monkeypatch.setattr(FakeTensor, "tolist", lambda tensor: [1.0] * tensor.numel())  # there is nothing to read
    monkeypatch.setattr(Trainer, "random_stream", lambda *place, device="cpu": torch.Generator().manual_seed(0))
    args = trainer_parser().parse_args(["--batch_size", "2", "--train_vi_len", "5", *words])
    trainer, saved = FakeTrainer(), []
    totals = {"clips": step * 2, **dict.fromkeys(TERMS, 1.0)} if step else None
    state = Trainer.BEFORE_TRAINING | {"step": step, "totals": totals}
    with FakeTensorMode(allow_non_fake_inputs=True):
        metrics = Trainer.train_one_epoch(trainer, FakeDataset(), 0, args, state,
                                          lambda number, *_: saved.append(number))
    assert trainer.devices == {CUDA}
    assert saved == [6 if args.accumulate == 1 else 3] and metrics["loss"] > 0
