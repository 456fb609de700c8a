"""The optimizer's steps on a batch of clips: as a whole or in parts, in one process or several."""

import torch
from torch import nn

from .devices import autocast
from .processes import averaging, data_parallel, naming_a_lost_process, world_size

TERMS = ("loss", "mse", "kl", "grad_norm")
CLIP_AT, NORMS_IN_MEAN = 2, 100  # the gradient's norm is clipped to CLIP_AT times its running mean,
CLIP_RANGE = 0.001, 1  # and to a norm in here
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
        self.usual_norm = torch.ones((), device=device)  # running mean of the gradient's norm, as clipped

    def training_mode(self):
        """Put the model into training mode; with the label norm `fixed` all of it but the label encoder."""
        self.model.train()
        self.model.label_transformation.train(self.label_norm == "batch")

    def train_on(self, batches, beta, lr=None):
        """Train on some batches in turn: an optimizer step on each, then the next step on each, up to the last one.

        A batch has one optimizer step, or with --bptt one for every `bptt` predicted frames. Each batch begins at
        another frame of its clips and comes to the frames before it at last, so that steps in a row are on early and
        late frames. batches: pairs of the Clips of this process, whose gradients add up, and the number of clips of the
        batch in all processes. lr: function from the fraction of the steps that are done to the learning rate; None
        leaves the rate as it is.
        Returns TERMS, means over the predicted frames and sums over the clips of this process: [4], on the device.
        Nothing here waits for the GPU.
        """
        predicted = batches[0][0][0].labels.shape[1] - 1
        segments = range(0, predicted, self.bptt or predicted)
        in_turn = [self._steps(parts, total, beta, segments, begin=len(segments) * place // len(batches))
                   for place, (parts, total) in enumerate(batches)]
        sums = torch.zeros(len(TERMS), device=self.device)
        for number in range(len(segments) * len(in_turn)):
            for group in self.optimizer.param_groups if lr else ():
                group["lr"] = lr((number + 0.5) / (len(segments) * len(in_turn)))
            sums += next(in_turn[number % len(in_turn)])
        return sums

    def _steps(self, parts, total, beta, segments, begin):
        """Take the optimizer steps on a batch, one for each of its segments, and yield the TERMS of each.

        parts, total: see train_on. segments: where each begins, in predicted frames; the one with index `begin` is the
        first. It and segment 0 start from true frames, the others from the last prediction.
        """
        for start in [*segments[begin:], *segments[:begin]]:
            if start in (0, segments[begin]):
                inputs = [clips.frames[:, start] for clips in parts]
            times = slice(start, start + segments.step + 1)  # the first frame is given, like x_0
            sums = torch.zeros(len(TERMS), device=self.device)
            self.optimizer.zero_grad(set_to_none=True)
            for i, clips in enumerate(parts):
                share = clips.counted / total * world_size()  # DistributedDataParallel takes the mean
                with averaging(self.parallel_model, wanted=i == len(parts) - 1), naming_a_lost_process():
                    terms, inputs[i] = self._clip_loss(clips, times, inputs[i], beta)
                    self.scaler.scale(terms["loss"] * share).backward()
                sums[:3] += torch.stack([terms[name].detach() for name in TERMS[:3]]) * clips.counted
            sums[:3] /= clips.labels.shape[1] - 1
            sums[3] += self._step() * sum(clips.counted for clips in parts) / len(segments)
            yield sums

    def _clip_loss(self, clips, times, first_frame, beta):
        """The loss of a segment of some clips, and the input of the frame after it; see VAE_Model.forward."""
        frames = torch.cat([first_frame[:, None], clips.frames[:, times][:, 1:]], dim=1)
        with autocast(self.device, self.dtype):
            return self.parallel_model(frames, clips.labels[:, times], clips.noise, beta,
                                       clips.teacher_forced[:, times], **self.loss_settings)

    def _step(self):
        """Clip the gradient's norm and take a step; returns the norm before.

        A norm of 1, at which the course clips, is ten times what is usual or more. A few gradients of that norm move
        Adam farther than all before them: those of the KL after an epoch with beta 0 have ended a training in NaN.
        """
        self.scaler.unscale_(self.optimizer)
        weights = [weight for weight in self.model.parameters() if weight.grad is not None]
        norm = nn.utils.get_total_norm([weight.grad for weight in weights])
        limit = (CLIP_AT * self.usual_norm).clamp(*CLIP_RANGE)
        nn.utils.clip_grads_with_norm_(weights, 1.0, norm / limit)  # a limit on the device would be waited for
        if self.scaler.is_enabled():  # it skips a step whose gradient is not finite
            norm = norm.nan_to_num(0, 0, 0)
        self.usual_norm += (torch.minimum(norm, limit) - self.usual_norm) / NORMS_IN_MEAN
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return norm
