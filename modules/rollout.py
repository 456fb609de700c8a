"""The one time loop. Training, validation and test differ in its arguments only."""

from typing import NamedTuple

import torch


# Standard deviation of z at most e^2: early in training a stray logvar would drown a clip in noise.
# The KL is taken of logvar as it is, so that it leads back from there.
LARGEST_LOGVAR = 4.0


class Step(NamedTuple):
    """What one time step gives: the predicted frame, [B, 3, H, W], not clamped, and the posterior
    of z, [B, N, H, W] each (None where z came from the prior)."""

    frame: torch.Tensor
    mu: torch.Tensor | None
    logvar: torch.Tensor | None


def rollout(model, frames, labels, draw_noise, teacher_forced=None, use_posterior=True, as_input=None):
    """Yield a Step for each of the frames 1..T-1, in order.

    frames: [B, T, 3, H, W] in [0, 1]. Only frame 0 is needed where no later one is asked for
    (no teacher forcing, and z from the prior or from the input frame).
    labels: [B, T, 3, H, W] in [0, 1]; frame t is predicted from label t, so label 0 is not used.
    draw_noise: called once a step for standard normal noise, [B, N, H, W].
    teacher_forced: bool [B, T]; where true at t, the true frame t is the input of step t+1 in
    place of the predicted one. None: never.
    use_posterior: z from the Gaussian predictor; else the noise itself is z.
    as_input: applied to every frame that becomes an input, given, true or predicted; see
    `input_filter`. None: the frame as it is.
    """
    frame = frames[:, 0]
    for t, label_features in enumerate(_encode_labels(model, labels), start=1):
        if as_input is not None:
            frame = as_input(frame)
        frame_features = model.frame_transformation(frame)  # [B, F, H, W]
        mu = logvar = None
        z = draw_noise()
        if use_posterior:
            seen = frame_features
            if model.posterior == "current":
                seen = model.frame_transformation(frames[:, t])
            mu, logvar = model.Gaussian_Predictor(seen, label_features)
            z = mu + torch.exp(logvar.clamp(max=LARGEST_LOGVAR) / 2) * z
        prediction = model.predict(frame_features, label_features, z)
        yield Step(prediction, mu, logvar)
        frame = prediction
        if teacher_forced is not None:
            frame = torch.where(teacher_forced[:, t, None, None, None], frames[:, t], prediction)


def input_filter(clamp=False, noise=0.0, generator=None):
    """What is done to the input frames of a rollout, against drift, as a function of a frame [B, 3, H, W].

    clamp: to [0, 1].
    noise: Gaussian noise whose standard deviation is drawn from [0, noise], for each clip and step,
    so that the network learns to mend a frame that is not quite right.
    """
    def as_input(frame):
        if clamp:
            frame = frame.clamp(0, 1)
        if noise:
            strength = noise * torch.rand((len(frame), 1, 1, 1), generator=generator)
            frame = frame + (strength * torch.randn(frame.shape, generator=generator)).to(frame.device)
        return frame

    return as_input


def _encode_labels(model, labels):
    """Yield the features of the labels 1..T-1, [B, L, H, W] each.

    In training they are encoded together, because BatchNorm takes its statistics over all labels
    of the clip batch; otherwise one by one, so that a long rollout holds one step's activations.
    """
    if model.training:
        features = model.label_transformation(labels[:, 1:].flatten(0, 1))
        yield from features.unflatten(0, (len(labels), -1)).unbind(1)
    else:
        for label in labels[:, 1:].unbind(1):
            yield model.label_transformation(label)


def generate(model, first_frames, labels, seed, temperature=1.0, clamp=False):
    """Generate the sequences whose first frames and labels are given, all as one batch.

    first_frames: [B, 3, H, W]; labels: [B, T, 3, H, W]; both in [0, 1], on the model's device.
    clamp: clamp each predicted frame before it is the next input.
    z ~ N(0, temperature^2 I). Sequence i draws from its own stream, seeded seed + i on the CPU, so that
    it is the same on every device and in every batch.
    Returns [B, T, 3, H, W] on the CPU, in [0, 1]; frame 0 is the given one.
    """
    device = first_frames.device
    streams = [torch.Generator().manual_seed(seed + i) for i in range(len(labels))]
    z_shape = (model.dimensions["N_dim"], *first_frames.shape[-2:])

    def draw_noise():
        noise = torch.stack([torch.randn(z_shape, generator=stream) for stream in streams])
        return temperature * noise.to(device)

    was_training = model.training
    model.eval()
    video = torch.empty(labels.shape, device="cpu")
    video[:, 0] = first_frames.cpu()
    with torch.inference_mode():
        steps = rollout(model, first_frames[:, None], labels, draw_noise, use_posterior=False,
                        as_input=input_filter(clamp=clamp))
        for t, step in enumerate(steps, start=1):
            video[:, t] = step.frame.clamp(0, 1).cpu()
    model.train(was_training)
    return video
