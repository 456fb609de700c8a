"""An epoch on fake CUDA tensors: they have a device and a shape but no memory, and refuse to mix devices.

A CPU build of torch cannot index such tensors or run backward on them, so the optimizer's step itself is left out.
"""

from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from engine import batches
from engine.batches import EpochBatches
from engine.optimization import TERMS
from engine.training import RunState, train_one_epoch

CUDA = torch.device("cuda", 0)
CONSTANT = SimpleNamespace(beta=lambda epoch: 1.0, tfr=lambda epoch: 0.5, lr=lambda epoch: 0.1)  # schedules


class FakeDataset:
    """Twelve clips of zeros in main memory."""

    frames, video_len = torch.zeros(0, dtype=torch.uint8), 5

    def starts(self, partial, generator):
        return torch.arange(12) * 5

    def clips(self, starts):
        return torch.zeros(2, len(starts), 5, 3, 8, 16, dtype=torch.uint8).unbind()


class FakeTrainer:
    """Sums up terms on the GPU, and takes no step."""

    device = CUDA

    def __init__(self):
        self.model, self.optimizer = torch.nn.Identity(), SimpleNamespace(param_groups=[{}])
        self.devices = set()

    def train_on(self, parts, total, beta):
        self.devices |= {clips.frames.device for clips in parts} | {clips.labels.device for clips in parts}
        self.devices |= {clips.noise.normal(4, 8, 16).device for clips in parts}
        return torch.zeros(len(TERMS), dtype=torch.float64, device=CUDA)


@pytest.mark.parametrize("accumulate, tfr_per", [(1, "epoch"), (1, "batch"), (2, "frame")])
@pytest.mark.parametrize("step", [0, 1])
def test_an_epoch_begun_or_resumed_mixes_no_devices(accumulate, tfr_per, step, monkeypatch):
    monkeypatch.setattr(FakeTensor, "tolist", lambda tensor: [1.0] * tensor.numel())  # there is nothing to read
    monkeypatch.setattr(batches, "random_stream", lambda *place, device="cpu": torch.Generator().manual_seed(0))
    trainer, saved = FakeTrainer(), []
    state = RunState(step=step, totals={"clips": 2.0 * step, **dict.fromkeys(TERMS, 1.0)} if step else None)
    recorder = SimpleNamespace(after_steps=lambda row: saved.append(state.step))
    with FakeTensorMode(allow_non_fake_inputs=True):
        epoch = EpochBatches(FakeDataset(), 0, CUDA, tfr=0.5, tfr_per=tfr_per, partial=1.0, batch_size=2,
                             accumulate=accumulate, shuffle=True, random_start=True, seed=0)
        metrics = train_one_epoch(trainer, epoch, 0, CONSTANT, state, recorder)
    assert trainer.devices == {CUDA}
    assert saved == [12 // 2 // accumulate] and metrics["loss"] > 0
