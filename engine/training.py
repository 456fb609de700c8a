"""One epoch of training, and the state of a run."""

import math
from dataclasses import dataclass, field, fields

import torch

from cli.errors import DIVERGED, RunError
from cli.progress import Progress

from .optimization import TERMS
from .processes import all_reduce, rank

READ_EVERY = 10  # batches, at least, between two looks at the losses on a GPU: each look waits for it


@dataclass
class RunState:
    """How far a run has come: what a checkpoint holds beside weights and optimizer."""

    last_epoch: int = -1  # the last complete one
    step: int = 0  # batches (not optimizer steps) done of the epoch after it
    totals: dict | None = None  # sums of TERMS over the `clips` of these batches, and the number of `clips`
    best_psnr: float = -math.inf  # of the validations, in dB
    seconds: float = 0.0  # of training and validation
    rows: list = field(default_factory=list)  # of the complete epochs, dicts; metrics.csv and times.csv show them

    @classmethod
    def of(cls, content):
        """The state in a checkpoint."""
        return cls(**{field.name: content[field.name] for field in fields(cls) if field.name in content})


def train_one_epoch(trainer, batches, epoch, schedules, state, recorder):
    """Train on the batches of an epoch, from `state.step` on. Returns its row of metrics.csv, means over the clips.

    recorder: a RunRecorder; it may save after any look at the losses, and stop the run there or before a step.
    """
    trainer.training_mode()
    beta = schedules.beta(epoch)
    unread, clips = [], 0  # TERMS since the last look at them, on the device, and the clips in these
    steps_per_batch = len(trainer.segments(batches.dataset.video_len))
    with Progress(total=steps_per_batch * len(batches), desc=f"epoch {epoch}", initial=steps_per_batch * state.step,
                  unit="step", disable=rank() > 0) as progress:
        for numbers in batches.rounds(state.step):  # of the batches that are trained in turn
            count = steps_per_batch * len(numbers)
            if count > 1 and numbers.start == state.step:  # a stop within the round goes back to its start
                lr = schedules.lr(epoch + numbers.start / len(batches))
                recorder.keep_state({"lr": lr, "tfr": schedules.tfr(epoch)})
            steps = trainer.steps_on([batches.batch(number) for number in numbers], beta)
            for done in range(count):
                middle = numbers.start + (done + 0.5) / count * len(numbers)  # of the step, in batches
                trainer.set_lr(schedules.lr(epoch + middle / len(batches)))
                recorder.stop_if_asked()
                unread.append(next(steps))
                progress.update()
            del steps  # it holds the batches: the next ones are built before it would be replaced
            clips += sum(map(batches.clips_in, numbers))
            may_wait = trainer.device.type != "cpu" and numbers.stop < len(batches)
            if may_wait and numbers.stop - state.step < READ_EVERY:
                continue
            sums = torch.stack(unread).cpu().double().sum(dim=0).tolist()
            state.totals = state.totals or dict.fromkeys(("clips", *TERMS), 0.0)  # over all processes
            add_to_totals(state.totals, clips, all_reduce(sums, "SUM", trainer.device))
            unread, clips, state.step = [], 0, numbers.stop
            row = metrics_row(epoch, schedules, state, len(batches))
            check_finite(row, numbers[-1], trainer.dtype)
            best = f" best PSNR {state.best_psnr:.2f}" if math.isfinite(state.best_psnr) else ""  # no validation yet
            progress.set_postfix_str(shown_metrics(row) + best, refresh=False)
            recorder.after_steps(row)
    return metrics_row(epoch, schedules, state, len(batches))


def check_finite(row, batch, dtype):
    """Raise RunError unless the losses and the gradient's norm, up to this batch of the epoch, are finite."""
    if all(math.isfinite(row[name]) for name in TERMS):
        return
    remedy = "--amp off, " if dtype == torch.float16 else ""
    raise RunError(f"{DIVERGED} in epoch {row['epoch']}, up to batch {batch}: loss {row['loss']}, gradient norm "
                   f"{row['grad_norm']}; what was saved is intact; try {remedy}--clamp_feedback, a lower --lr or a "
                   "lower --kl_weight")


def add_to_totals(totals, clips, sums):
    """Add the sums of TERMS over some clips to the totals of an epoch."""
    totals["clips"] += clips
    for name, value in zip(TERMS, sums):
        totals[name] += value


def metrics_row(epoch, schedules, state, batches):
    """The row of metrics.csv after `state.step` of the `batches` of an epoch."""
    means = {name: state.totals[name] / state.totals["clips"] for name in TERMS}
    lr = schedules.lr(epoch + (state.step - 0.5) / batches)
    return {"epoch": epoch, **means, "beta": schedules.beta(epoch), "tfr": schedules.tfr(epoch), "lr": lr}


def shown_metrics(row):
    """The metrics of a row in a few words."""
    return (f"loss {row['loss']:.5f}  mse {row['mse']:.5f}  kl {row['kl']:.4g}  beta {row['beta']:.3g}  "
            f"tfr {row['tfr']:.2g}  lr {row['lr']:.2e}")
