"""The batches of an epoch: which clips, in which order, with which teacher forcing and noise.

Everything random is a pure function of the seed, the epoch, the batch and the clip, so that a resumed run draws what
an uninterrupted one draws; on another model of GPU it draws other noise.
"""

import math
from copy import copy
from typing import NamedTuple

import numpy as np
import torch

from modules.noise import Noise
from modules.pixels import to_unit
from modules.transfer import to_device

from .processes import rank, world_size


class Clips(NamedTuple):
    """A part of a batch, on the device."""

    frames: torch.Tensor  # [B, T, 3, H, W] in [0, 1]
    labels: torch.Tensor  # [B, T, 3, H, W] in [0, 1]
    teacher_forced: torch.Tensor  # bool [B, T] on the CPU: which true frames are the next step's input
    noise: Noise
    counted: int  # the number of clips that count, of the B; see EpochBatches.batch


class Batch(NamedTuple):
    """What this process computes of a batch."""

    parts: list[Clips]  # their gradients add up
    clips: int  # of the whole batch, over all processes


def random_stream(seed, *place, device="cpu"):
    """A random stream for a place in training: (epoch,), (epoch, batch) or (epoch, batch, clip).

    On the GPU if `device` is CUDA, else on the CPU.
    """
    device = device if torch.device(device).type == "cuda" else "cpu"
    # with the length, because numpy treats [1], [1, 0] and [1, 0, 0] alike
    state = np.random.SeedSequence([seed, len(place), *place]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state) & (2**63 - 1))  # torch takes a signed number


def epoch_starts(dataset, stream, shuffle=True, random_start=True, partial=1.0):
    """Where the clips of one epoch begin: indices of frames, int64 [clips], in training order."""
    starts = dataset.clip_starts(partial, stream if random_start else None)
    return starts[torch.randperm(len(starts), generator=stream)] if shuffle else starts


def place_on(dataset, device, where="auto"):
    """Return the dataset with its pixels on the CUDA `device`; on another device, the dataset itself.

    where: see --data_device; `auto` leaves pixels that take more than a quarter of the free memory where they are.
    """
    if device.type != "cuda" or where == "cpu":
        return dataset
    size, free = dataset.frames.nbytes + dataset.labels.nbytes, torch.cuda.mem_get_info(device)[0]
    if where == "auto" and size > free / 4:
        print(f"note: the dataset takes {size / 2**30:.1f} GiB, more than a quarter of the GPU's free "
              f"{free / 2**30:.1f} GiB: its frames stay in main memory")
        return dataset
    placed = copy(dataset)
    placed.frames, placed.labels = dataset.frames.to(device), dataset.labels.to(device)
    return placed


class EpochBatches:
    """The batches of one epoch, each of `batch_size * accumulate` clips for every process.

    tfr: teacher forcing ratio. tfr_per: draw teacher forcing once an `epoch`, once a `batch`, or for each `frame`.
    interleave: how many batches are trained in turn, see ClipTrainer.steps_on.
    partial: the fraction of the training set to use, from its start.
    """

    def __init__(self, dataset, epoch, device, *, tfr, tfr_per, partial, batch_size, accumulate, interleave, shuffle,
                 random_start, seed):
        self.dataset, self.epoch, self.device, self.seed = dataset, epoch, device, seed
        self.tfr, self.tfr_per, self.batch_size, self.interleave = tfr, tfr_per, batch_size, interleave
        stream = random_stream(seed, epoch)
        self.epoch_is_forced = torch.rand((), generator=stream) < tfr
        starts = epoch_starts(dataset, stream, shuffle, random_start, partial)
        self.starts = starts.to(dataset.frames.device).split(batch_size * accumulate * world_size())

    def __len__(self):
        return len(self.starts)

    def rounds(self, first):
        """Yield the numbers of the batches from `first` on in ranges, each of batches that are trained in turn."""
        for start in range(first, len(self), self.interleave):
            yield range(start, min(start + self.interleave, len(self)))

    def batch(self, number):
        """The Batch of this number, for this process: in parts of at most `batch_size` clips.

        Every process has the same number of parts, because all of them must take part in every forward and backward
        pass. A part without a clip (the last batch may have too few) computes the batch's first one, with `counted` 0.
        """
        starts = self.starts[number]
        clips = len(starts)
        forced = self._teacher_forcing(number, clips)
        parts = math.ceil(clips / (self.batch_size * world_size()))  # of each process
        of_all = parts * world_size()
        rows_of_parts = [range(part * clips // of_all, (part + 1) * clips // of_all) for part in range(of_all)]
        mine = rows_of_parts[rank() * parts:(rank() + 1) * parts]
        return Batch([self._clips(number, starts, forced, rows or range(1), counted=len(rows)) for rows in mine], clips)

    def _clips(self, number, starts, forced, rows, counted):
        chosen = slice(rows.start, rows.stop)
        frames, labels = (to_unit(to_device(part, self.device)) for part in self.dataset.clips(starts[chosen]))
        streams = [random_stream(self.seed, self.epoch, number, row, device=self.device) for row in rows]
        noise = Noise(streams, self.device, steps_at_once=self.dataset.video_len - 1)
        return Clips(frames, labels, forced[chosen], noise, counted)

    def _teacher_forcing(self, number, clips):
        """Which true frames of a batch are the input of the next step: bool [B, T]."""
        shape = clips, self.dataset.video_len
        if self.tfr_per == "epoch":
            return self.epoch_is_forced.expand(shape)
        stream = random_stream(self.seed, self.epoch, number)
        if self.tfr_per == "batch":
            return (torch.rand((), generator=stream) < self.tfr).expand(shape)
        return torch.rand(shape, generator=stream) < self.tfr
