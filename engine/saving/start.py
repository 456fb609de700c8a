"""What a run or a test starts from: its flags, completed by those of a checkpoint, and that checkpoint."""

import os
from argparse import Namespace
from contextlib import suppress
from pathlib import Path

import torch

from cli.errors import UsageError
from cli.flags import FROM_A_CHECKPOINT, LPIPS_MIN_SIDE, idle_flags, network_settings, tester_parser, trainer_parser

from ..processes import is_under_torchrun
from .checkpoint import load_checkpoint, network_dimensions
from .resume import FIXED_IN_A_RUN, NOT_KEPT_ON_RESUME, check_resumable, newest_checkpoint

FIXED_IN_A_TEST = ("frame_H", "frame_W", "clamp_feedback")  # a test uses the training's values
ADOPTED_IN_A_TEST = ("DR", "partial", "train_vi_len", "val_vi_len", "temperature", "seed")  # unless they are typed
NOT_WITH = {  # flags of Tester.py that one rules out, and why
    "drive": (("gt", "samples", "lpips", "onnx", "split", "make_gif"),
              "the test sequences, whose place --drive takes"),
    "onnx": (("gt", "samples", "lpips", "split", "views", "ensemble", "make_gif"),
             "generated sequences, and --onnx writes a single step")}
ASK_FOR_FILES = ("save_root", "overwrite", "store_visualization", "video_format", "tensorboard")


def trainer_flags():
    """Return the flags of Trainer.py, the checkpoint that it starts from, and its path; without one, None twice.

    A flag that the checkpoint answers need not be given.
    """
    parser = trainer_parser()
    args, typed = parser.parse_args(), parser.typed_flags()
    checkpoint, path = None, args.ckpt_path
    if args.resume:
        checkpoint, path = resumed_checkpoint(parser, args, typed)
    elif path:
        load = tested_checkpoint if args.test else starting_checkpoint
        checkpoint = load(parser, args, typed)
    elif args.test:
        raise UsageError("--test needs --ckpt_path, the checkpoint to validate")
    if args.test:
        tell_unwritten_files(typed)
    else:
        tell_idle_flags(vars(args), typed)
    return args, checkpoint, path


def tell_unwritten_files(typed):
    """Print which of the typed flags ask for files that --test does not write."""
    if asking := [f"--{name}" for name in ASK_FOR_FILES if name in typed]:
        print(f"note: --test writes nothing, in spite of {', '.join(asking)}; Tester.py --split val writes scores and "
              "videos")


def tell_idle_flags(arguments, typed):
    """Print which of the typed flags change nothing beside the others."""
    for name, cause in idle_flags(arguments).items():
        if name in typed:
            value = arguments[cause]
            print(f"note: --{name} changes nothing "
                  + (f"without --{cause}" if value is False else f"where --{cause} is {value}"))


def starting_checkpoint(parser, args, typed):
    """The checkpoint that a new run starts from; it sets the flags of its network and others that are not typed."""
    path = Path(args.ckpt_path)
    if args.save_root and is_in(path, args.save_root):
        raise UsageError(f"--save_root {args.save_root} is the folder of --ckpt_path, which a new run would overwrite; "
                         "give another folder, or --resume to continue that run")
    checkpoint, saved, network = read_checkpoint(path, parser, FROM_A_CHECKPOINT)
    require_flags(args, typed, network, path)
    adopt_flags(args, typed, saved, FROM_A_CHECKPOINT)
    return checkpoint


def is_in(path, folder):
    """Whether a file lies in a folder; on a Mac and on Windows one folder may be spelt in several ways."""
    with suppress(OSError):  # one of them is not there
        return os.path.samefile(path.resolve().parent, folder)
    return False


def resumed_checkpoint(parser, args, typed):
    """The newest checkpoint of the run in --save_root, and its path; it sets the flags that are not typed."""
    if not args.save_root:
        raise UsageError("--resume needs --save_root, the folder of the run to continue")
    if args.overwrite or args.ckpt_path or args.test:
        raise UsageError("--resume continues from last.ckpt; leave --overwrite, --ckpt_path and --test out")
    path, checkpoint = newest_checkpoint(Path(args.save_root))
    if path.name != "last.ckpt":
        print(f"--resume: {Path(args.save_root) / 'last.ckpt'} is damaged or missing; continuing from {path}, the "
              "newest that is intact")
    check_resumable(checkpoint, parser, path)
    saved = {name: value for name, value in checkpoint["arguments"].items()
             if hasattr(args, name) and name not in NOT_KEPT_ON_RESUME}  # a flag may be gone since
    require_flags(args, typed, {name: saved.pop(name) for name in FIXED_IN_A_RUN}, path)
    for name, value in saved.items():
        if name not in typed:
            setattr(args, name, value)
        elif typed[name] != value:
            print(f"--{name} is now {typed[name]}; it was {value}")
    is_used = args.device in ("auto", "cuda") and not is_under_torchrun()
    if "gpu" not in typed and is_used and 0 < torch.cuda.device_count() <= args.gpu:
        print(f"note: the run was on --gpu {args.gpu}, and here is none of that number; continuing on --gpu 0")
        args.gpu = 0
    trained = checkpoint["last_epoch"] + 1
    if trained >= args.num_epoch:
        print(f"note: --num_epoch {args.num_epoch} leaves nothing to train, as {trained} epochs are done; to train "
              "more, give a higher one")
    return checkpoint, path


def tester_flags():
    """The flags of Tester.py, completed by what the checkpoint answers, and the checkpoints to test.

    Each is a tuple: the parameters of its network, see cli.flags.network_settings, its content and its path. The first
    is that of --ckpt_path, the others are those of --ensemble.
    """
    parser = tester_parser()
    args, typed = parser.parse_args(), parser.typed_flags()
    if not args.ckpt_path:
        raise UsageError("--ckpt_path is missing: the checkpoint to test")
    check_test_flags(args, typed)
    checkpoint = tested_checkpoint(parser, args, typed)
    if args.lpips and min(args.frame_H, args.frame_W) < LPIPS_MIN_SIDE:
        raise UsageError(f"--lpips needs frames of at least {LPIPS_MIN_SIDE} x {LPIPS_MIN_SIDE} pixels, and those of "
                         f"{args.ckpt_path} are {args.frame_H} x {args.frame_W}; leave --lpips out")
    checkpoints = [(network_settings(args), checkpoint, args.ckpt_path),
                   *(ensemble_checkpoint(path, parser, args) for path in args.ensemble)]
    unshifted = [path for _, checkpoint, path in checkpoints if not saved_flags(checkpoint).get("random_shift")]
    if args.views > 1 and unshifted:
        print(f"note: --views is for networks trained with --random_shift; {unshifted[0]} was trained without")
    return args, checkpoints


def check_test_flags(args, typed):
    """Raise UsageError for flags of a test that do not go together."""
    if args.gt and args.split != "test":
        raise UsageError(f"--gt goes with --split test; the sequences of --split {args.split} bring their own truth")
    for name, (others, reason) in NOT_WITH.items():
        given = [flag for flag in others if flag in typed]
        if getattr(args, name) and given:
            raise UsageError(f"--{given[0]} goes with {reason}; leave one of them out")
    if args.drive and not Path(args.drive).exists():
        raise UsageError(f"--drive {args.drive}: there is no such file or folder")
    if args.poses and not args.drive:
        raise UsageError("--poses goes with --drive, the video that they are of")
    if args.poses and Path(args.drive).is_dir():
        raise UsageError(f"--poses goes with a video, and --drive {args.drive} is a folder of labels; leave it out")
    paths = [Path(path).resolve() for path in (args.ckpt_path, *args.ensemble)]
    if twice := [path for path in paths if paths.count(path) > 1]:
        raise UsageError(f"--ensemble: {twice[0]} is given twice, or is --ckpt_path; give each checkpoint once")
    if args.lpips and args.split == "test" and not args.gt:
        raise UsageError("--lpips needs the true frames; give them by --gt, or score --split val")


def tested_checkpoint(parser, args, typed):
    """The checkpoint to test; it sets what it was trained with, which a typed flag must not contradict."""
    path = args.ckpt_path
    checkpoint, saved, network = read_checkpoint(path, parser, (*FIXED_IN_A_TEST, *ADOPTED_IN_A_TEST))
    answers = {name: saved[name] for name in FIXED_IN_A_TEST if name in saved}
    require_flags(args, typed, network | answers, path)
    of_another_program = "clamp_feedback" not in saved
    if of_another_program:  # the template feeds its frames back as they are
        args.clamp_feedback = typed.get("clamp_feedback", False)
    if of_another_program or saved.get("amp") == "off":  # it may not be fit for 16 bits
        args.amp = typed.get("amp", "off")
    if not getattr(args, "onnx", None):  # a single step, of no dataset
        adopt_flags(args, typed, saved, ADOPTED_IN_A_TEST)
    return checkpoint


def ensemble_checkpoint(path, parser, args):
    """A checkpoint of --ensemble, see `tester_flags`. args: the flags of --ckpt_path, which must be its own too."""
    checkpoint, saved, network = read_checkpoint(path, parser, FIXED_IN_A_TEST, "--ensemble")
    for name in FIXED_IN_A_TEST:
        if saved.get(name, getattr(args, name)) != getattr(args, name):
            raise UsageError(f"--ensemble {path} was trained with --{name} {saved[name]}, and --ckpt_path "
                             f"{args.ckpt_path} with {getattr(args, name)}; leave it out")
    return network, checkpoint, path


def read_checkpoint(path, parser, used, flag="--ckpt_path"):
    """Read a checkpoint given by `flag`: its content, the flags in it ({} if none), the parameters of its network.

    used: the names of the flags in it that are used. Another program's values of others may be any.
    """
    checkpoint = load_checkpoint(path, flag)
    saved = saved_flags(checkpoint)
    parser.check_saved(saved, path, ("network", *used))
    return checkpoint, saved, network_dimensions(checkpoint["state_dict"], path, saved.get("network"), flag)


def saved_flags(checkpoint):
    """The flags in a checkpoint; in one of another program they may be a Namespace."""
    saved = checkpoint.get("arguments", {})
    return vars(saved) if isinstance(saved, Namespace) else saved


def adopt_flags(args, typed, saved, names):
    """Set the flags of these names to their values in a checkpoint, unless they are typed; say so of --DR."""
    for name in names:
        if name not in typed and name in saved:
            setattr(args, name, saved[name])
    if args.DR and "DR" not in typed:
        print(f"no --DR given: using that of {args.ckpt_path}, {args.DR}")


def require_flags(args, typed, answers, path):
    """Set flags to their values in a checkpoint, which a typed flag must not contradict."""
    for name, value in answers.items():
        if name in typed and typed[name] != value:
            raise UsageError(f"--{name} {typed[name]} contradicts {path}, which has {value}; leave the flag out")
        setattr(args, name, value)
