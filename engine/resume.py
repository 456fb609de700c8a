"""Where a run starts from: the flags, completed by those of a checkpoint, and the checkpoint itself."""

from pathlib import Path

from cli.errors import UsageError
from cli.flags import tester_parser, trainer_parser

from .checkpoint import load_checkpoint, load_optimizer, network_dimensions
from .optimization import TERMS
from .processes import launcher, world_size
from .training import RunState

# Another value on --resume would continue with other clips or another network, so it is refused.
FIXED_IN_A_RUN = ("batch_size", "accumulate", "train_vi_len", "val_vi_len", "partial", "fast_train", "fast_partial",
                  "fast_train_epoch", "shuffle", "random_start", "frame_H", "frame_W", "network", "F_dim", "L_dim",
                  "N_dim", "D_out_dim", "posterior", "reconstruction", "optim", "bptt", "seed")
NOT_KEPT_ON_RESUME = ("resume", "overwrite", "test", "save_root", "ckpt_path")
CHECKPOINT_KEYS = {"optimizer", "last_epoch", "step", "totals", "best_psnr", "arguments", "sequence_lengths",
                   "scaler", "world_size"}


def trainer_flags():
    """The flags of Trainer.py, and the checkpoint that it starts from, or None.

    A flag that the checkpoint answers need not be given; one that contradicts it is an error.
    """
    parser = trainer_parser()
    args, typed = parser.parse_args(), parser.typed_flags()
    if args.resume:
        return resumed_flags(parser, args, typed)
    if args.ckpt_path:
        checkpoint = load_checkpoint(args.ckpt_path)
        take_from_checkpoint(args, typed, network_dimensions(checkpoint, args.ckpt_path), args.ckpt_path)
        return args, checkpoint
    if args.test:
        raise UsageError("--test needs --ckpt_path, the checkpoint to validate")
    return args, None


def resumed_flags(parser, args, typed):
    """The flags of the run in --save_root with those now typed, and its newest checkpoint."""
    if not args.save_root:
        raise UsageError("--resume needs --save_root, the folder of the run to continue")
    if args.overwrite or args.ckpt_path:
        raise UsageError("--resume continues from last.ckpt; leave --overwrite and --ckpt_path out")
    path, checkpoint = newest_checkpoint(Path(args.save_root))
    check_resumable(checkpoint, parser, path)
    saved = {name: value for name, value in checkpoint["arguments"].items()
             if hasattr(args, name) and name not in NOT_KEPT_ON_RESUME}  # a flag may be gone since
    take_from_checkpoint(args, typed, {name: saved.pop(name) for name in FIXED_IN_A_RUN}, path)
    for name, value in saved.items():
        if name not in typed:
            setattr(args, name, value)
        elif typed[name] != value:
            print(f"--{name} is now {typed[name]}; it was {value}", flush=True)
    args.ckpt_path = str(path)
    return args, checkpoint


def newest_checkpoint(folder):
    """Path and content of the run's last.ckpt or, if that is damaged, of its newest intact checkpoint."""
    others = sorted({*folder.glob("*.ckpt")} - {folder / "last.ckpt"}, key=lambda path: path.stat().st_mtime,
                    reverse=True)
    for path in (folder / "last.ckpt", *others):
        try:
            checkpoint = load_checkpoint(path, "--resume:")
            if not CHECKPOINT_KEYS <= checkpoint.keys():
                raise UsageError(f"--resume: {path} is not a checkpoint of a run of this program; start from its "
                                 "weights with --ckpt_path")
            return path, checkpoint
        except UsageError as error:
            if not others or path == others[-1]:
                raise
            print(f"{error}; trying the next newest", flush=True)


def check_resumable(checkpoint, parser, path):
    """Raise UsageError unless the flags and the state in a checkpoint can be those of a run of this program."""
    parser.check_saved(checkpoint["arguments"], path)
    checkpoint["arguments"].setdefault("reconstruction", "mse")  # for a run older than the flag
    missing = [name for name in FIXED_IN_A_RUN if name not in checkpoint["arguments"]]
    if missing:
        raise UsageError(f"--resume: {path} does not hold its --{missing[0]}; start from its weights with --ckpt_path")
    totals, step = checkpoint["totals"], checkpoint["step"]
    valid = (type(checkpoint["last_epoch"]) is int and checkpoint["last_epoch"] >= -1
             and type(checkpoint["best_psnr"]) is float and type(step) is int and step >= 0
             and type(checkpoint["world_size"]) is int and isinstance(checkpoint["scaler"], dict))
    if step == 0 or totals is None:
        valid = valid and step == 0 and totals is None
    else:
        valid = (valid and isinstance(totals, dict) and totals.keys() == {"clips", *TERMS}
                 and all(isinstance(total, (int, float)) for total in totals.values()) and totals["clips"] > 0)
    if not valid:
        raise UsageError(f"--resume: {path} does not hold how far the run had come; start from its weights with "
                         "--ckpt_path")


def restore(trainer, checkpoint, path, train_set):
    """Restore optimizer and scaler of a resumed run; returns its RunState.

    Raises UsageError if the training set or the number of processes is not the run's.
    """
    if checkpoint["sequence_lengths"] != train_set.sequence_lengths:
        raise UsageError(f"--DR {train_set.root} is not the dataset that {path} was trained on; give that one")
    processes = checkpoint["world_size"]
    if processes != world_size():
        raise UsageError(f"--resume: {path} was trained by {processes} processes, not {world_size()}; start as many: "
                         f"{launcher(processes)} Trainer.py --resume ...")
    load_optimizer(trainer.optimizer, checkpoint, path, "--resume:")
    if checkpoint["scaler"]:
        trainer.scaler.load_state_dict(checkpoint["scaler"])
    return RunState.of(checkpoint)


def tester_flags():
    """The flags of Tester.py, completed by what the checkpoint answers, and the checkpoint."""
    parser = tester_parser()
    args, typed = parser.parse_args(), parser.typed_flags()
    if not args.ckpt_path:
        raise UsageError("--ckpt_path is missing: the checkpoint to test")
    if args.gt and args.split != "test":
        raise UsageError("--gt goes with --split test; the validation sequence brings its own truth")
    checkpoint = load_checkpoint(args.ckpt_path)
    answers = network_dimensions(checkpoint, args.ckpt_path)
    saved = checkpoint.get("arguments", {})
    parser.check_saved(saved, args.ckpt_path)
    answers |= {name: saved[name] for name in ("frame_H", "frame_W", "clamp_feedback") if name in saved}
    take_from_checkpoint(args, typed, answers, args.ckpt_path)
    for name in ("DR", "val_vi_len", "temperature", "seed"):
        if name not in typed and name in saved:
            setattr(args, name, saved[name])
    return args, checkpoint


def take_from_checkpoint(args, typed, answers, path):
    """Set the flags that a checkpoint answers; a typed one must not contradict it."""
    for name, value in answers.items():
        if name in typed and typed[name] != value:
            raise UsageError(f"--{name} {typed[name]} contradicts {path}, which has {value}; leave the flag out")
        setattr(args, name, value)
