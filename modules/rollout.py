"""The time loop: `rollout` frame by frame; `forced_rollout` joins teacher-forced frames, whose inputs are all known.

Training, validation and test differ only in the arguments.
"""

from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from .noise import Noise
from .pixels import to_uint8, to_unit

COARSE = 8  # pixels, about, from point to point of the coarse noise: a rollout goes astray in areas, not in pixels


class Step(NamedTuple):
    """One time step: the predicted frame [B, 3, H, W], not clamped, and the posterior of z, [B, N, h', w'] each.

    mu and logvar are None where z came from the prior.
    """

    frame: torch.Tensor
    mu: torch.Tensor | None
    logvar: torch.Tensor | None


def rollout(model, frames, labels, noise, teacher_forced=None, *, temperature=None, clamp=False, input_noise=0.0,
            shift=None, recompute=False):
    """Yield a Step for each of the frames 1..T-1.

    frames: [B, T, 3, H, W] in [0, 1]. Frame 0 is enough without teacher forcing, unless model.posterior is `current`.
    labels: [B, T, 3, H, W], uint8 or in [0, 1]. Frame t is predicted from label t; label 0 is not used.
    noise: a Noise, or a GivenNoise.
    teacher_forced: bool [B, T], on the device; where it is true at t, the true frame t is the input of step t+1. None:
        nowhere.
    temperature: None: z from the posterior; a number: z from the prior N(0, temperature^2 I).
    clamp: clamp each input frame to [0, 1], so that an overshoot cannot grow.
    input_noise: add Gaussian noise to each input frame, so that the network learns to repair one that is not quite
        right: a number for each pixel and channel, and one for each channel at the points of a coarse grid,
        interpolated in between. The standard deviation of each is drawn from [0, input_noise) for each clip and frame.
    shift: by how many pixels the clips are shifted to the right, int64 [B]; None: by none.
    recompute: store no activations of a step for the backward pass, compute them again there.
    Shapes: L and N are the channels of label features and of z, h x w and h' x w' their sizes.
    """
    step = recomputed(model.step) if recompute else model.step
    z_shape = model.z_shape(*frames.shape[-2:])
    sees_current = temperature is None and model.posterior == "current"
    if model.training:  # all labels at once, because in training BatchNorm takes its statistics over them
        features_of_labels = model.encode_labels(labels[:, 1:]).unbind(1)  # T-1 of [B, L, h, w]
    else:
        features_of_labels = map(model.encode_labels, labels[:, 1:].unbind(1))
    frame = frames[:, 0]  # [B, 3, H, W]
    for t, label_features in enumerate(features_of_labels, start=1):
        if t > 1:
            frame = next_input(predicted.frame, frames, teacher_forced, t - 1)  # [B, 3, H, W]
        frame = disturb(frame, noise, clamp, input_noise)  # [B, 3, H, W]
        epsilon = noise.normal(*z_shape)  # [B, N, h', w']
        current = frames[:, t] if sees_current else None  # [B, 3, H, W]
        predicted = step(frame, label_features, epsilon, current, temperature, shift)
        yield predicted


def forced_rollout(model, frames, labels, noise, images_at_once, *, clamp=False, input_noise=0.0, shift=None,
                   recompute=False):
    """Yield the Steps of `rollout` with every frame teacher-forced.

    All inputs are known then, so several time steps are joined to one batch of at most `images_at_once` images.
    """
    step = recomputed(model.step) if recompute else model.step
    clips, z_shape = len(frames), model.z_shape(*frames.shape[-2:])
    all_label_features = model.encode_labels(labels[:, 1:])  # [B, T-1, L, h, w]
    chunk = max(images_at_once // clips, 1)
    for first in range(1, labels.shape[1], chunk):
        times = range(first, min(first + chunk, labels.shape[1]))
        inputs, epsilon = [], []
        for t in times:
            inputs.append(disturb(frames[:, t - 1], noise, clamp, input_noise))
            epsilon.append(noise.normal(*z_shape))
        label_features = torch.cat([all_label_features[:, t - 1] for t in times])  # [n B, L, h, w]
        current = torch.cat([frames[:, t] for t in times]) if model.posterior == "current" else None
        shifts = shift.repeat(len(times)) if shift is not None else None  # [n B]
        predicted = step(torch.cat(inputs), label_features, torch.cat(epsilon), current, shift=shifts)  # [n B, ...]
        for parts in zip(*(part.split(clips) for part in predicted)):
            yield Step(*parts)


def recomputed(step):
    """Wrap a step so that its activations are computed again in the backward pass (activation checkpointing).

    This is right because a step has neither dropout nor BatchNorm, which would update its statistics twice.
    """
    return partial(checkpoint, step, use_reentrant=False, preserve_rng_state=False)


def disturb(frame, noise, clamp, input_noise):
    """Apply `clamp` and `input_noise` of `rollout` to an input frame [B, 3, H, W].

    Noise on inputs against the errors that add up in a rollout: as Sanchez-Gonzalez et al. 2020, arXiv:2002.09405.
    """
    if clamp:
        frame = frame.clamp(0, 1)
    if input_noise:
        channels, height, width = frame.shape[1:]
        frame = frame + input_noise * noise.uniform(1, 1, 1) * noise.normal(channels, height, width)
        # two points at least: older MPS cannot stretch a single one
        grid = noise.normal(channels, max(height // COARSE, 1) + 1, max(width // COARSE, 1) + 1)
        coarse = functional.interpolate(grid, size=(height, width), mode="bilinear", align_corners=True)
        frame = frame + input_noise * noise.uniform(1, 1, 1) * coarse
    return frame


def next_input(prediction, frames, teacher_forced, t):
    """The input after frame t, [B, 3, H, W]: the true frame t where it is forced, else the predicted one."""
    if teacher_forced is None:
        return prediction
    return torch.where(teacher_forced[:, t, None, None, None], frames[:, t], prediction)


@contextmanager
def in_eval_mode(model):
    """Put a model into eval mode; afterwards each of its modules is in the mode that it was in."""
    in_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in in_training:
            module.training = True


@torch.inference_mode()
def generate(model, first_frames, labels, seed, temperature=1.0, clamp=False, watch=iter):
    """Generate videos from their first frames and labels, all as one batch.

    first_frames: [B, 3, H, W]; labels: [B, T, 3, H, W]; uint8 or in [0, 1], on the model's device.
    temperature, clamp: see `rollout`. Video i draws z from a stream of its own, seeded `seed + i`, which the other
    videos and the device do not change. watch: wraps the iterator over the Steps, as a progress bar does.
    Returns uint8 [B, T, 3, H, W] on the CPU; frame 0 is the given one.
    """
    frame = to_unit(first_frames)
    noise = Noise.seeded(seed, len(labels), frame.device)
    video = torch.empty(labels.shape, dtype=torch.uint8, device=frame.device)  # [B, T, 3, H, W]
    video[:, 0] = to_uint8(frame)
    with in_eval_mode(model):
        steps = rollout(model, frame[:, None], labels, noise, temperature=temperature, clamp=clamp)
        for t, step in enumerate(watch(steps), start=1):
            video[:, t] = to_uint8(step.frame)
    return video.cpu()
