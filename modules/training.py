"""The optimizer's steps on a batch of clips: in one piece or in parts, by one process or several."""

from typing import NamedTuple

import torch
from torch import nn

from .devices import autocast
from .distributed import averaging, data_parallel, lost_process_is_named, world_size
from .graphs import Replayed, graph_notice
from .images import to_unit
from .rollout import input_filter

TERMS = ("loss", "mse", "kl", "grad_norm")
IMAGES_AT_ONCE = 8  # on a CPU: more leave its caches, fewer leave its matrix units idle


class Clips(NamedTuple):
    """A part of a batch, on the device. teacher_forced (bool [B, T]) says which true frames are fed back, and stays
    on the CPU; streams are one torch.Generator a clip, so that a clip's noise is the same in any part; counted is
    how many of the clips count."""

    frames: torch.Tensor  # [B, T, 3, H, W], uint8
    labels: torch.Tensor  # [B, T, 3, H, W], uint8
    teacher_forced: torch.Tensor
    streams: list
    counted: int


class ClipTrainer:
    """A model with its optimizer: `train_on` a batch of clips.

    dtype: what the networks compute in. args: the flags --optim, --lr, --accumulate, --reconstruction, --bptt,
    --clamp_feedback, --input_noise, --frames_at_once, --checkpoint_frames and --cuda_graphs.
    """

    def __init__(self, model, device, dtype, args):
        self.model, self.device, self.dtype, self.args = model, device, dtype, args
        self.parallel_model = data_parallel(model, device)
        self.optimizer = getattr(torch.optim, args.optim)(model.parameters(), args.lr, fused=device.type != "mps")
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        self.graphs = {}
        self.capture = args.cuda_graphs and device.type == "cuda"
        if self.capture and (world_size() > 1 or args.accumulate > 1 or args.checkpoint_frames
                             or self.scaler.is_enabled()):
            graph_notice("not with several processes, --accumulate, --checkpoint_frames or --amp fp16")
            self.capture = False

    def train_on(self, parts, total, beta):
        """Take a step on a batch of `total` clips in all processes, or with --bptt one for every so many predicted
        frames. parts: the Clips of this process; their gradients add up to one step.

        Returns TERMS, means over the predicted frames and sums over the clips of this process: float64 [4], on
        the device. Nothing here waits for the GPU.
        """
        predicted = parts[0].labels.shape[1] - 1
        segments = range(0, predicted, self.args.bptt or predicted)
        first = [to_unit(clips.frames[:, 0]) for clips in parts]
        sums = torch.zeros(len(TERMS), dtype=torch.float64, device=self.device)
        for start in segments:
            times = slice(start, start + segments.step + 1)  # its first frame is given, as x_0 is
            self.optimizer.zero_grad(set_to_none=True)
            for number, clips in enumerate(parts):
                averaged = number == len(parts) - 1
                terms, first[number] = self._add_gradient(clips, times, first[number], total, beta, averaged)
                sums[:3] += terms * clips.counted / predicted
            self.scaler.unscale_(self.optimizer)
            grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            if self.scaler.is_enabled():  # it skips the steps whose gradient is not finite
                grad_norm = grad_norm.nan_to_num(0, 0, 0)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            sums[3] += grad_norm * sum(clips.counted for clips in parts) / len(segments)
        return sums

    def _add_gradient(self, clips, times, first, total, beta, averaged):
        """Add the gradient of a segment of some clips; `first` is its given frame. Returns the terms of the loss,
        sums over its predicted frames, float64 [3], and the input of the frame after it."""
        frames = torch.cat([first[:, None], to_unit(clips.frames[:, times][:, 1:])], dim=1)
        labels, forced = clips.labels[:, times], clips.teacher_forced[:, times]
        z_shape = self.model.z_shape(*frames.shape[-2:])
        noise = self._draw(torch.randn, clips.streams, frames.shape[1] - 1, z_shape)  # [T-1, B, N, ., .]
        arguments = [frames, labels, noise]
        if self.args.input_noise:
            strength = self._draw(torch.rand, clips.streams, len(noise), (1, 1, 1))
            arguments.append(self.args.input_noise * strength * self._draw(
                torch.randn, clips.streams, len(noise), frames.shape[2:]))
        share = clips.counted / total * world_size()  # DistributedDataParallel takes the mean

        def backward(beta, frames, labels, noise, input_noise=None):
            as_input = input_filter(self.args.clamp_feedback, None if input_noise is None else iter(input_noise))
            with autocast(self.device, self.dtype):
                terms, following = self.parallel_model(
                    frames, labels, iter(noise).__next__, beta, forced, as_input=as_input,
                    reconstruction=self.args.reconstruction, frames_at_once=self._frames_at_once(len(frames)),
                    recompute=self.args.checkpoint_frames)
            self.scaler.scale(terms["loss"] * share).backward()
            return torch.stack([terms[name].detach().double() for name in TERMS[:3]]), following

        with averaging(self.parallel_model, averaged), lost_process_is_named():
            if self.capture and (forced.all() or not forced.any()):
                return self._replay(backward, bool(forced.any()), beta, *arguments)
            return backward(beta, *arguments)

    def _frames_at_once(self, clips):
        if self.args.frames_at_once:
            return self.args.frames_at_once
        return 10**9 if self.device.type != "cpu" else max(IMAGES_AT_ONCE // clips, 1)

    def _draw(self, draw, streams, steps, shape):
        """Random numbers [steps, B, *shape], those of a clip from its own stream."""
        drawn = [draw((steps, *shape), generator=stream, device=stream.device) for stream in streams]
        return torch.stack(drawn, dim=1).to(self.device)

    def _replay(self, backward, forced, beta, *arguments):
        """What backward(beta, *arguments) does, from a captured CUDA graph for each shape and kind of feedback."""
        arguments = torch.full((), beta, device=self.device), *arguments
        key = (forced, *(argument.shape for argument in arguments))
        parameters, buffers = list(self.model.parameters()), list(self.model.buffers())
        if key not in self.graphs:
            before = [buffer.clone() for buffer in buffers]

            def gradients(*inputs):
                return *backward(*inputs), *(parameter.grad for parameter in parameters)

            def forget_trial():
                self.optimizer.zero_grad(set_to_none=True)
                for buffer, value in zip(buffers, before):
                    buffer.copy_(value)

            try:
                self.graphs[key] = Replayed(gradients, *arguments, after_trial=forget_trial)
            except RuntimeError as error:
                graph_notice(error)
                forget_trial()
                self.capture = False
                return backward(*arguments)
        terms, following, *captured = self.graphs[key](*arguments)
        for parameter, gradient in zip(parameters, captured):
            parameter.grad = gradient
        return terms, following.clone()
