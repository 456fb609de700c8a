"""The checkpoint that a run continues from: found, checked, and restored."""

import math
from contextlib import suppress
from dataclasses import fields

import torch

from cli.errors import UsageError
from cli.parser import script_command

from ..optimization import TOTALS
from ..processes import world_size
from ..training import RunState
from .checkpoint import load_checkpoint, load_optimizer
from .logs import checkpoints_in

# Another value on --resume would continue with other clips or another network, so it is refused. How the clips of a
# step are shared out, by --batch_size, --accumulate and processes, is free: see check_step.
FIXED_IN_A_RUN = ("train_vi_len", "val_vi_len", "partial", "fast_train", "fast_partial",
                  "fast_train_epoch", "shuffle", "random_start", "frame_H", "frame_W", "network", "F_dim", "L_dim",
                  "N_dim", "D_out_dim", "posterior", "label_norm", "reconstruction", "optim", "bptt", "interleave",
                  "random_shift", "temperature", "seed")
NOT_KEPT_ON_RESUME = ("resume", "overwrite", "test", "save_root")
SAME_IMAGE = 1  # of 255, by which thumbnails of one image differ at most, whatever reads it
CHECKPOINT_KEYS = {"optimizer", "scaler", "clipper", "arguments", "world_size", "sequence_lengths",
                   "val_sequence_lengths", "thumbnails", *(field.name for field in fields(RunState))}


def resume_command(folder):
    """The command line that continues the run in a folder, in as many processes as now."""
    return script_command("Trainer.py", "--resume", "--save_root", folder, processes=world_size())


def newest_checkpoint(folder):
    """Path and content of the run's last.ckpt or, if that is damaged, of its intact checkpoint with the most steps."""
    last, newest = folder / "last.ckpt", None
    try:
        return last, load_run_checkpoint(last)
    except UsageError:
        for path in [path for path in checkpoints_in(folder) if path != last]:
            with suppress(UsageError):
                checkpoint = load_run_checkpoint(path)
                if newest is None or progress(checkpoint) > progress(newest[1]):
                    newest = path, checkpoint
        if newest is None:
            raise
        return newest


def check_newest(folder, checkpoint):
    """Raise UsageError if another process has trained the run in a folder further since this checkpoint was read."""
    if progress(newest_checkpoint(folder)[1]) != progress(checkpoint):
        raise UsageError(f"--resume: another process has trained the run in {folder} further meanwhile; give the "
                         "command again")


def progress(checkpoint):
    """How far a run had come, as numbers to compare."""
    return tuple(number if type(number) is int else -math.inf for number in
                 (checkpoint["last_epoch"], checkpoint["batches_done"]))


def load_run_checkpoint(path):
    """A checkpoint that a run of this program can continue from; raises UsageError."""
    checkpoint = load_checkpoint(path, "--resume:")
    if not CHECKPOINT_KEYS <= checkpoint.keys():
        raise UsageError(f"--resume: {path} is not a checkpoint of this version of the program, but of an older one or "
                         "of another; start from its weights with --ckpt_path")
    return checkpoint


def epoch_of(checkpoint):
    """The epoch after which the weights of a checkpoint were saved; None within an epoch, or if it does not say."""
    epoch = checkpoint.get("last_epoch")
    return epoch if type(epoch) is int and not checkpoint.get("batches_done") else None


def check_resumable(checkpoint, parser, path):
    """Raise UsageError unless the flags and the state in a checkpoint can be those of a run of this program."""
    parser.check_saved(checkpoint["arguments"], path)
    missing = [name for name in (*FIXED_IN_A_RUN, "batch_size", "accumulate") if name not in checkpoint["arguments"]]
    if missing:
        raise UsageError(f"--resume: {path} does not hold its --{missing[0]}; start from its weights with --ckpt_path")
    totals, batches_done = checkpoint["totals"], checkpoint["batches_done"]
    valid = (type(checkpoint["last_epoch"]) is int and checkpoint["last_epoch"] >= -1
             and type(checkpoint["best_psnr"]) is float and type(batches_done) is int and batches_done >= 0
             and type(checkpoint["world_size"]) is int and isinstance(checkpoint["scaler"], dict)
             and type(checkpoint["skipped_in_a_row"]) is int and type(checkpoint["seconds"]) is float
             and is_clipper(checkpoint["clipper"]) and are_rows(checkpoint["rows"])
             and are_thumbnails(checkpoint["thumbnails"]))
    if totals is None:
        valid = valid and batches_done == 0
    else:
        valid = (valid and batches_done > 0 and isinstance(totals, dict) and totals.keys() == {*TOTALS}
                 and all(isinstance(total, (int, float)) for total in totals.values()) and totals["clips"] >= 0)
    if not valid:
        raise UsageError(f"--resume: {path} does not hold how far the run had come; start from its weights with "
                         "--ckpt_path")


def is_clipper(state):
    """Whether this can be the state of a GradientClipper."""
    return isinstance(state, dict) and all(
        type(value) is float and 0 <= value <= torch.finfo(torch.float32).max for value in state.values())


def are_thumbnails(value):
    return isinstance(value, dict) and value.keys() == {"train", "val"} and all(
        isinstance(images, torch.Tensor) and images.dtype == torch.uint8 for images in value.values())


def are_rows(rows):
    """Whether these can be the rows of metrics.csv."""
    return isinstance(rows, list) and all(
        isinstance(row, dict) and "epoch" in row and all(isinstance(value, (int, float)) for value in row.values())
        for row in rows)


def restore(trainer, checkpoint, path, train_set, val_set, *, batch_size, accumulate):
    """Restore optimizer, scaler and clipper of a resumed run; returns its RunState.

    Raises UsageError if the dataset or the number of clips in a step is not the run's.
    """
    if not same_dataset(checkpoint, identity_of(train_set, val_set)):
        raise UsageError(f"--DR {train_set.root} is not the dataset that {path} was trained on, or has changed since; "
                         "give that one, or start from its weights with --ckpt_path")
    check_step(checkpoint, batch_size, accumulate)
    load_optimizer(trainer.optimizer, checkpoint, path)
    if checkpoint["scaler"]:
        trainer.scaler.load_state_dict(checkpoint["scaler"])
    trainer.clipper.load_state_dict(checkpoint["clipper"])
    return RunState.of(checkpoint)


def identity_of(train_set, val_set):
    """What tells the dataset of a run from another, as a checkpoint holds it."""
    return {"sequence_lengths": train_set.sequence_lengths, "val_sequence_lengths": val_set.sequence_lengths,
            "thumbnails": {"train": train_set.thumbnails(), "val": val_set.thumbnails()}}


def same_dataset(before, now):
    """Whether a run was trained and validated on this dataset: see `identity_of`."""
    if any(before[name] != now[name] for name in ("sequence_lengths", "val_sequence_lengths")):
        return False
    return all(images.shape == now["thumbnails"][split].shape
               and (images.short() - now["thumbnails"][split].short()).abs().max() <= SAME_IMAGE
               for split, images in before["thumbnails"].items())


def check_step(checkpoint, batch_size, accumulate):
    """Raise UsageError unless a step takes as many clips as before, however they are shared out."""
    saved, processes = checkpoint["arguments"], checkpoint["world_size"]
    before = saved["batch_size"] * saved["accumulate"] * processes
    now = batch_size * accumulate * world_size()
    if now != before:
        again = script_command("Trainer.py", "--resume", processes=processes)
        raise UsageError(f"--resume: a step of this run takes {before} clips, but --batch_size {batch_size} x "
                         f"--accumulate {accumulate} x {world_size()} processes is {now}; give flags whose product is "
                         f"{before}, or as many processes as before: {again} ...")
