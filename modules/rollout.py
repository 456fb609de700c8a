"""The one time loop. Training, validation and test differ in its arguments only."""

from typing import NamedTuple

import torch
from torch.utils.checkpoint import checkpoint

from .devices import autocast
from .graphs import ReplayedNetworks, graph_notice
from .images import to_uint8, to_unit

# Standard deviation of z at most e^2: early in training a stray logvar would drown a clip in noise.
# The KL is taken of logvar as it is, so that it leads back from there.
LARGEST_LOGVAR = 4.0


class Step(NamedTuple):
    """What one time step gives: the predicted frame, [B, 3, H, W], not clamped, and the posterior
    of z, [B, N, ., .] each (None where z came from the prior)."""

    frame: torch.Tensor
    mu: torch.Tensor | None
    logvar: torch.Tensor | None


def rollout(model, frames, labels, draw_noise, teacher_forced=None, use_posterior=True, as_input=None,
            frames_at_once=1, recompute=False):
    """Yield a Step for each of the frames 1..T-1, in order.

    frames: [B, T, 3, H, W] in [0, 1]. Only frame 0 is needed where no later one is asked for
    (no teacher forcing, and z from the prior or from the input frame).
    labels: [B, T, 3, H, W], in [0, 1] or uint8; frame t is predicted from label t, so label 0 is not used.
    draw_noise: called once a step for standard normal noise of z's shape, [B, N, ., .].
    teacher_forced: bool [B, T] on the CPU; where true at t, the true frame t is the input of step t+1 in
    place of the predicted one. None: never.
    use_posterior: z from the Gaussian predictor; else the noise itself is z.
    as_input: applied to every frame that becomes an input, given, true or predicted; see
    `input_filter`. None: the frame as it is.
    frames_at_once: as many frames in a row are computed as one batch where all their inputs are known, that
    is after true ones. It changes nothing but the speed.
    recompute: keep no activations of a step for the backward pass, and compute them again there.
    """

    def compute(inputs, label_features, noise, seen):
        frame_features = model.frame_transformation(inputs)  # [B, F, ., .]
        label_features = label_features.to(frame_features.dtype)
        mu = logvar = None
        z = noise
        if use_posterior:
            seen_features = frame_features if seen is None else model.frame_transformation(seen)
            mu, logvar = (part.to(frames.dtype) for part in model.Gaussian_Predictor(seen_features, label_features))
            z = mu + torch.exp(logvar.clamp(max=LARGEST_LOGVAR) / 2) * noise
        return model.predict(frame_features, label_features, z.to(frame_features.dtype)).to(frames.dtype), mu, logvar

    frame = frames[:, 0]
    label_features = _encode_labels(model, labels)
    for times in _known_together(teacher_forced, labels.shape[1], frames_at_once):
        inputs, poses, noise, seen = [], [], [], []
        for t in times:
            given = frame if t == times[0] else frames[:, t - 1]
            inputs.append(given if as_input is None else as_input(given))
            poses.append(next(label_features))
            noise.append(draw_noise())
            if use_posterior and model.posterior == "current":
                seen.append(frames[:, t])
        arguments = _join(inputs), _join(poses), _join(noise), _join(seen)
        step = checkpoint(compute, *arguments, use_reentrant=False, preserve_rng_state=False) if recompute \
            else compute(*arguments)
        parts = [[None] * len(times) if part is None else part.split(len(labels)) for part in step]
        for t, prediction, mu, logvar in zip(times, *parts):
            yield Step(prediction, mu, logvar)
        frame = next_input(prediction, frames, teacher_forced, t)


def next_input(prediction, frames, teacher_forced, t):
    """What step t+1 starts from, [B, 3, H, W]: the true frame t where it is forced, else the predicted one."""
    if teacher_forced is None or not teacher_forced[:, t].any():
        return prediction
    if teacher_forced[:, t].all():
        return frames[:, t]
    forced = teacher_forced[:, t, None, None, None].to(frames.device)
    return torch.where(forced, frames[:, t], prediction)


def _known_together(teacher_forced, length, frames_at_once):
    """Cut the times 1..T-1 into lists of at most `frames_at_once`, in which each but the first comes after
    a true frame in all clips."""
    known = [False] * length if teacher_forced is None else teacher_forced.all(dim=0).tolist()
    times = []
    for t in range(1, length):
        if times and (len(times) == frames_at_once or not known[t - 1]):
            yield times
            times = []
        times.append(t)
    if times:
        yield times


def _join(parts):
    """Time steps as one batch, [steps * B, ...]; None of no parts."""
    return torch.cat(parts) if len(parts) > 1 else next(iter(parts), None)


def input_filter(clamp=False, noise=None):
    """What is done to the input frames of a rollout, against drift, as a function of a frame [B, 3, H, W].

    clamp: to [0, 1].
    noise: an iterator that gives each input frame what is added to it, so that the network learns to mend a
    frame that is not quite right. None: nothing.
    """
    def as_input(frame):
        if clamp:
            frame = frame.clamp(0, 1)
        return frame if noise is None else frame + next(noise)

    return as_input


def _encode_labels(model, labels):
    """Yield the features of the labels 1..T-1, [B, L, ., .] each.

    In training they are encoded together, because BatchNorm takes its statistics over all labels
    of the clip batch; otherwise one by one, so that a long rollout holds one step's activations.
    Always in float32: BatchNorm enlarges what bfloat16 rounds off a white background, by half a dB.
    """
    def encode(images):
        with autocast(images.device, torch.float32):
            return model.label_transformation(to_unit(images))

    if model.training:
        features = encode(labels[:, 1:].flatten(0, 1))
        yield from features.unflatten(0, (len(labels), -1)).unbind(1)
    else:
        for label in labels[:, 1:].unbind(1):
            yield encode(label)


def generate(model, first_frames, labels, seed, temperature=1.0, clamp=False, *, dtype=torch.float32,
             cuda_graphs=False, keep=to_uint8):
    """Generate the sequences whose first frames and labels are given, all as one batch.

    first_frames: [B, 3, H, W]; labels: [B, T, 3, H, W]; in [0, 1] or uint8, on the model's device.
    clamp: clamp each predicted frame before it is the next input.
    dtype: what the networks compute in. cuda_graphs: replay captured graphs, where there is CUDA.
    z ~ N(0, temperature^2 I). Sequence i draws from its own stream, seeded seed + i on the CPU, so that
    it is the same on every device and in every batch.
    keep: what is kept of a frame, [B, 3, H, W] in [0, 1]: the pixels of a submission, unless another function.
    Returns [B, T, 3, H, W] on the CPU; frame 0 is the given one.
    """
    first_frames = to_unit(first_frames)
    device = first_frames.device
    streams = [torch.Generator().manual_seed(seed + i) for i in range(len(labels))]
    z_shape = model.z_shape(*first_frames.shape[-2:])

    def draw_noise():
        noise = torch.stack([torch.randn(z_shape, generator=stream) for stream in streams])
        return temperature * noise.to(device, non_blocking=True)

    was_training = model.training
    networks = model.eval()
    kept = [keep(first_frames)]
    with torch.inference_mode(), autocast(device, dtype):
        if cuda_graphs and device.type == "cuda":
            try:
                networks = ReplayedNetworks(model, first_frames, to_unit(labels[:, 0]), torch.zeros(
                    len(labels), *z_shape, device=device))
            except RuntimeError as error:
                graph_notice(error)
        for step in rollout(networks, first_frames[:, None], labels, draw_noise, use_posterior=False,
                            as_input=input_filter(clamp=clamp)):
            kept.append(keep(step.frame.clamp(0, 1)))
    model.train(was_training)
    return torch.stack(kept, dim=1).cpu()
