"""The optimizer's steps on a batch of clips: as a whole or in parts, in one process or several."""

import torch
from torch import nn

from .devices import autocast
from .processes import averaging, data_parallel, naming_a_lost_process, world_size

TERMS = ("loss", "mse", "kl", "grad_norm")
IMAGES_AT_ONCE = {"cpu": 8}  # teacher-forced ones as one batch: more leave a CPU's caches, fewer its cores idle


class ClipTrainer:
    """A model with its optimizer: `train_on` a batch of clips.

    dtype: what the networks compute in. The other parameters are the flags of the same names.
    """

    def __init__(self, model, device, dtype, *, optim, lr, reconstruction, bptt, clamp_feedback, input_noise,
                 label_norm, checkpoint_frames, random_shift):
        self.model, self.device, self.dtype, self.bptt, self.label_norm = model, device, dtype, bptt, label_norm
        self.loss_settings = {"reconstruction": reconstruction, "clamp": clamp_feedback, "input_noise": input_noise,
                              "recompute": checkpoint_frames, "random_shift": random_shift,
                              "images_at_once": IMAGES_AT_ONCE.get(device.type, 10**9)}
        self.parallel_model = data_parallel(model, device)
        self.optimizer = getattr(torch.optim, optim)(model.parameters(), lr, fused=device.type != "mps")
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)

    def training_mode(self):
        """Put the model into training mode; with the label norm `fixed` all of it but the label encoder."""
        self.model.train()
        self.model.label_transformation.train(self.label_norm == "batch")

    def train_on(self, parts, total, beta):
        """Take one optimizer step on a batch, or with --bptt one for every `bptt` predicted frames.

        parts: the Clips of this process; their gradients add up. total: clips of the batch in all processes.
        Returns TERMS, means over the predicted frames and sums over the clips of this process: [4], on the device.
        Nothing here waits for the GPU.
        """
        predicted = parts[0].labels.shape[1] - 1
        segments = range(0, predicted, self.bptt or predicted)
        inputs = [clips.frames[:, 0] for clips in parts]
        sums = torch.zeros(len(TERMS), device=self.device)
        for start in segments:
            times = slice(start, start + segments.step + 1)  # the first frame is given, like x_0
            self.optimizer.zero_grad(set_to_none=True)
            for i, clips in enumerate(parts):
                share = clips.counted / total * world_size()  # DistributedDataParallel takes the mean
                with averaging(self.parallel_model, wanted=i == len(parts) - 1), naming_a_lost_process():
                    terms, inputs[i] = self._clip_loss(clips, times, inputs[i], beta)
                    self.scaler.scale(terms["loss"] * share).backward()
                sums[:3] += clips.counted / predicted * torch.stack([terms[name].detach() for name in TERMS[:3]])
            sums[3] += self._step() * sum(clips.counted for clips in parts) / len(segments)
        return sums

    def _clip_loss(self, clips, times, first_frame, beta):
        """The loss of a segment of some clips, and the input of the frame after it; see VAE_Model.forward."""
        frames = torch.cat([first_frame[:, None], clips.frames[:, times][:, 1:]], dim=1)
        with autocast(self.device, self.dtype):
            return self.parallel_model(frames, clips.labels[:, times], clips.noise, beta,
                                       clips.teacher_forced[:, times], **self.loss_settings)

    def _step(self):
        """Clip the gradient's norm to 1 and take a step; returns the norm before."""
        self.scaler.unscale_(self.optimizer)
        grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if self.scaler.is_enabled():  # it skips a step whose gradient is not finite
            grad_norm = grad_norm.nan_to_num(0, 0, 0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return grad_norm
