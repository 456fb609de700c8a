"""One epoch of training, and the state of a run."""

import math
from dataclasses import dataclass, field, fields

import torch

from cli.errors import DIVERGED, RunError
from cli.progress import Progress

from .optimization import FP16_HALVINGS, TERMS, TOTALS
from .processes import all_reduce, rank

READ_EVERY = 10  # batches, at least, between two looks at the losses on a GPU: each look waits for it
SKIPPED_IN_A_ROW = 50  # optimizer steps, after which a run has diverged


@dataclass
class RunState:
    """How far a run has come: what a checkpoint holds beside weights and optimizer."""

    last_epoch: int = -1  # the last complete one
    batches_done: int = 0  # of the epoch after it
    totals: dict | None = None  # sums of TOTALS over the steps on these batches
    skipped_in_a_row: int = 0  # optimizer steps, up to the last one
    best_psnr: float = -math.inf  # of the validations, in dB
    seconds: float = 0.0  # of training and validation
    rows: list = field(default_factory=list)  # of the complete epochs, dicts; metrics.csv and times.csv show them

    @classmethod
    def of(cls, content):
        """The state in a checkpoint."""
        return cls(**{field.name: content[field.name] for field in fields(cls)})


def train_one_epoch(trainer, batches, schedules, state, recorder):
    """Train on the batches of an epoch that are not done. Returns its row of metrics.csv, means over the clips.

    batches: EpochBatches. recorder: a RunRecorder; it may save after a look at the losses, and stop there or earlier.
    """
    trainer.training_mode()
    epoch, beta = batches.epoch, schedules.beta(batches.epoch)
    unread = []  # TOTALS since the last look at them, on the device
    steps_per_batch = len(trainer.segments(batches.dataset.video_len))
    with Progress(total=steps_per_batch * len(batches), initial=steps_per_batch * state.batches_done,
                  desc=f"epoch {epoch}", unit="step", disable=rank() > 0) as progress:
        for numbers in batches.rounds(state.batches_done):  # of the batches that are trained in turn
            count = steps_per_batch * len(numbers)
            if count > 1 and not unread:  # `state` is complete: a stop within the round goes back to here
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
            may_wait = trainer.device.type != "cpu" and numbers.stop < len(batches)
            if may_wait and numbers.stop - state.batches_done < READ_EVERY:
                continue
            of_steps = torch.stack(unread).cpu().double()  # [steps, TOTALS]
            skipped = of_steps[:, TOTALS.index("skipped_steps")] > 0
            longest, state.skipped_in_a_row = skipped_in_a_row(skipped, state.skipped_in_a_row)
            sums = all_reduce(of_steps.sum(dim=0).tolist(), "SUM", trainer.device)
            state.totals = {name: (state.totals or {}).get(name, 0.0) + value for name, value in zip(TOTALS, sums)}
            unread, state.batches_done = [], numbers.stop
            row = metrics_row(epoch, schedules, state, len(batches), steps_per_batch)
            epoch_is_over = numbers.stop == len(batches)
            check_steps_taken(row, steps_per_batch * len(batches), longest, epoch_is_over, trainer)
            best = f" best PSNR {state.best_psnr:.2f}" if math.isfinite(state.best_psnr) else ""  # no validation yet
            progress.set_postfix_str(shown_metrics(row) + best, refresh=False)
            recorder.after_steps(row)
    return metrics_row(epoch, schedules, state, len(batches), steps_per_batch)


def skipped_in_a_row(skipped, before):
    """How many steps of bool [steps] were skipped in a row: the most, and those at the end.

    before: how many were at the end of the steps before these.
    """
    longest = last = before
    for is_skipped in skipped.tolist():
        last = last + 1 if is_skipped else 0
        longest = max(longest, last)
    return longest, last


def check_steps_taken(row, steps, in_a_row, epoch_is_over, trainer):
    """Raise RunError if SKIPPED_IN_A_ROW optimizer steps were skipped, or most of the `steps` of an epoch that is over.

    in_a_row: how many were skipped in a row, the most. With fp16 the first few steps are skipped in any run.
    """
    is_fp16 = trainer.dtype == torch.float16
    most = epoch_is_over and 2 * (row["skipped_steps"] - FP16_HALVINGS * is_fp16) > steps
    if in_a_row < SKIPPED_IN_A_ROW and not most:
        return
    which = f"{row['skipped_steps']} of {steps} steps" if most else f"{in_a_row} steps in a row"
    remedy = ("--amp off, " if is_fp16 else "") + ("" if trainer.loss_settings["clamp"] else "--clamp_feedback, ")
    raise RunError(f"{DIVERGED} in epoch {row['epoch']}: the gradient of {which} was not finite; what was saved is "
                   f"intact; try {remedy}a lower --lr or a lower --kl_weight")


def metrics_row(epoch, schedules, state, batch_count, steps_per_batch):
    """The row of metrics.csv after some of the batches of an epoch: means over the steps that were taken.

    Its learning rate is that of the last step.
    """
    clips = state.totals["clips"]
    means = {name: state.totals[name] / clips if clips else math.nan for name in TERMS}
    lr = schedules.lr(epoch + (state.batches_done - 0.5 / steps_per_batch) / batch_count)
    return {"epoch": epoch, **means, "beta": schedules.beta(epoch), "tfr": schedules.tfr(epoch), "lr": lr,
            "skipped_steps": round(state.totals["skipped_steps"])}


def shown_metrics(row):
    """The metrics of a row in a few words."""
    skipped = f"  skipped steps {row['skipped_steps']}" if row["skipped_steps"] else ""
    return (f"loss {row['loss']:.5f}  mse {row['mse']:.5f}  kl {row['kl']:.4g}  beta {row['beta']:.3g}  "
            f"tfr {row['tfr']:.2g}  lr {row['lr']:.2e}{skipped}")
