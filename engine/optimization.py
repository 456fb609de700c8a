"""The optimizer's steps on batches of clips: as a whole or in parts, in one process or several."""

from contextlib import nullcontext
from functools import partial

import torch

from modules.transfer import to_device

from .clipping import GradientClipper
from .cuda_graphs import GraphedGradient
from .devices import autocast
from .processes import averaging, data_parallel, report_lost_process, world_size

TERMS = ("loss", "mse", "kl", "grad_norm")
TOTALS = (*TERMS, "clips", "skipped_steps")  # what a step adds to an epoch's totals
FP16_SCALE = 2.0**16  # of the loss at the start; the first steps halve it until no gradient overflows
# Each step whose gradient is not finite halves the scale, whatever the reason. Without a least scale a few dozen such
# steps would make every fp16 gradient 0. At this one a trained network's gradient has the same direction as in float32.
FP16_HALVINGS = 10
LEAST_FP16_SCALE = FP16_SCALE / 2**FP16_HALVINGS
# Adam that never forgets a large gradient (Reddi et al. 2018, arXiv:1904.09237): weights that rarely have one, like
# those of a pose that rarely comes, then make no large steps when it comes.
AMSGRAD = partial(torch.optim.Adam, amsgrad=True)
# Teacher-forced images in one batch. On a CPU more overflow its caches, and fewer leave cores idle. Where activations
# are computed again, such a batch is what fills the memory, on any device.
IMAGES_AT_ONCE = {"cpu": 8}


class ClipTrainer:
    """A model and its optimizer; `steps_on` trains it on batches of clips.

    dtype: what the networks compute in. optim: AMSGrad, or the name of a class in torch.optim. The other parameters are
    the flags of the same names.
    """

    def __init__(self, model, device, dtype, *, optim, lr, reconstruction, bptt, clamp_feedback, input_noise,
                 label_norm, checkpoint_frames, random_shift, cuda_graphs=True):
        self.model, self.device, self.dtype, self.bptt, self.label_norm = model, device, dtype, bptt, label_norm
        self.loss_settings = {"reconstruction": reconstruction, "clamp": clamp_feedback, "input_noise": input_noise,
                              "recompute": checkpoint_frames, "random_shift": random_shift,
                              "images_at_once": IMAGES_AT_ONCE.get("cpu" if checkpoint_frames else device.type, 10**9)}
        self.parallel_model = data_parallel(model, device)
        optimizer = AMSGRAD if optim == "AMSGrad" else getattr(torch.optim, optim)
        self.optimizer = optimizer(model.parameters(), lr, fused=True)
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16, init_scale=FP16_SCALE)
        self.clipper = GradientClipper(model, device)
        share = 1 / world_size()  # of a process: all of them skip the same steps
        self.totals_of_skipped = torch.tensor([share if name == "skipped_steps" else 0.0 for name in TOTALS],
                                              device=device)
        self.around_step = nullcontext
        if label_norm == "fixed":
            self.around_step = getattr(model.label_transformation, "learning_lines", nullcontext)
        self.graphed_gradient = None
        if device.type == "cuda" and cuda_graphs and not checkpoint_frames and world_size() == 1:
            self.graphed_gradient = GraphedGradient(self._add_gradient, model.parameters())

    def training_mode(self):
        """Put the model into training mode; with the label norm `fixed` all of it but the label encoder."""
        self.model.train()
        self.model.label_transformation.train(self.label_norm == "batch")

    def segments(self, video_len):
        """The frame from which each optimizer step on a clip of `video_len` frames starts, as a range; see --bptt."""
        return range(0, video_len - 1, self.bptt or video_len - 1)

    def steps_on(self, batches, beta):
        """Take the optimizer steps on some batches in turn: one on each, then the next one on each, up to the last.

        A batch has an optimizer step for each of its `segments`. Each batch starts at another segment, runs to the
        last one, and then does those before its start: consecutive steps are on early and on late frames.
        batches: see engine.batches.Batch.
        Yields the TOTALS of each step, [len(TOTALS)], on the device. Summed over all steps, each of the TERMS is its
        mean over the predicted frames, added up over this process's clips, and `clips` is their number. A step whose
        gradient is not finite is skipped: it adds only to `skipped_steps`. On one GPU nothing here waits for it.
        """
        segments = self.segments(batches[0].parts[0].labels.shape[1])
        of_each = [self._steps_on_batch(batch, beta, segments, begin=len(segments) * place // len(batches))
                   for place, batch in enumerate(batches)]
        for _ in segments:
            for steps in of_each:  # not zip(), which takes the steps on all batches before it yields any
                yield next(steps)

    def set_lr(self, lr):
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def _steps_on_batch(self, batch, beta, segments, begin):
        """Take the optimizer steps on a batch, one for each of its segments, and yield the TOTALS of each.

        segments: where each begins, in predicted frames; the one with index `begin` is the first. It and segment 0
        start from true frames, the others from what follows the segment before: the last prediction or, where that
        frame is teacher-forced, the true one.
        """
        parts = batch.parts
        predicted_frames = parts[0].labels.shape[1] - 1
        shares = [part.counted / batch.clips * world_size() for part in parts]  # DDP takes the mean
        # tensors: a CUDA graph would record the value of a Python number
        beta = torch.full((), float(beta), device=self.device)
        shares = [torch.full((), share, device=self.device) for share in shares]
        forced = [to_device(part.teacher_forced, self.device) for part in parts]
        clips = torch.full((1,), sum(part.counted for part in parts) / len(segments), device=self.device)  # of a step
        add_gradient = self._add_gradient
        if self.graphed_gradient and len(parts) == 1:  # those of several parts add up
            add_gradient = self.graphed_gradient
        for successive in (segments[begin:], segments[:begin]):
            inputs = [part.frames[:, successive.start] for part in parts]  # later what follows the segment before
            for start in successive:
                times = slice(start, start + segments.step + 1)  # the first frame is given, like x_0
                sums = torch.zeros(3, device=self.device)
                self.optimizer.zero_grad(set_to_none=True)
                for i, part in enumerate(parts):
                    with averaging(self.parallel_model, wanted=i == len(parts) - 1), report_lost_process():
                        terms, inputs[i] = add_gradient(
                            inputs[i], part.frames[:, times], part.labels[:, times], forced[i][:, times], beta,
                            shares[i], noise=part.noise, all_forced=bool(part.teacher_forced[:, times].all()))
                    sums += terms * part.counted
                with self.around_step():
                    norm, is_finite = self._clip_and_step()
                taken = torch.cat([sums / predicted_frames, norm * clips, clips, torch.zeros_like(clips)])
                yield torch.where(is_finite, taken, self.totals_of_skipped)

    def _add_gradient(self, first_frame, frames, labels, teacher_forced, beta, share, *, noise, all_forced):
        """Add the gradient of a segment's loss, times `share`, to the weights'.

        first_frame: [B, 3, H, W], in place of frame 0. beta, share: tensors with one number. The others: see
        VAE_Model.forward. Returns loss, mse and kl in one tensor, [3], and the input of the frame after the segment.
        """
        frames = torch.cat([first_frame[:, None], frames[:, 1:]], dim=1)
        with autocast(self.device, self.dtype):
            terms, following = self.parallel_model(frames, labels, noise, beta, teacher_forced, all_forced=all_forced,
                                                   **self.loss_settings)
        self.scaler.scale(terms["loss"] * share).backward()
        return torch.stack([terms[name].detach() for name in TERMS[:3]]), following

    def _clip_and_step(self):
        """Take a step with the clipped gradient, unless it is not finite.

        Returns the norm of the gradient before it was clipped, and whether it is finite.
        """
        self.scaler.unscale_(self.optimizer)
        norm, is_finite = self.clipper.clip()
        if self.device.type == "cuda":  # with this a fused optimizer leaves all as it is, and nothing waits for the GPU
            self.optimizer.found_inf = (~is_finite).float()
            self.optimizer.step()
        elif is_finite:
            self.optimizer.step()
        self.scaler.update()
        if self.scaler.is_enabled():
            self.scaler.update(self.scaler.scale(torch.ones_like(norm)).clamp(min=LEAST_FP16_SCALE))
        return norm, is_finite
