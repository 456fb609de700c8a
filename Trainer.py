"""Train the conditional VAE, validate it as it goes, and keep what it learned."""

import math
import platform
import shutil
import subprocess
import time
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from dataloader import Dataset_Dance, dataset_or_dancer, epoch_starts, place_on
from modules import VAE_Model
from modules.checkpoint import (load_checkpoint, load_optimizer, load_weights, network_dimensions,
                                save_checkpoint)
from modules.devices import choose_device, choose_precision
from modules.distributed import (first_process_first, joined_processes, launcher, rank, reduce_over_processes,
                                 silence_other_processes, world_size)
from modules.errors import RunError, Stopped, StopSignals, UsageError, run_script
from modules.metrics import psnr, summarise, trivial_predictions
from modules.options import network_of, take_from_checkpoint, trainer_parser, typed_command
from modules.outputs import (METRICS_COLUMNS, TIMES_COLUMNS, EpochLog, lock_folder, table, write_comparison_gif,
                             write_json, write_psnr_per_frame)
from modules.rollout import generate
from modules.schedules import kl_beta, learning_rate, teacher_forcing_ratio
from modules.training import TERMS, Clips, ClipTrainer

# Another value on --resume would go on with other clips or another network, so it is refused.
FIXED_IN_A_RUN = ("batch_size", "accumulate", "train_vi_len", "val_vi_len", "partial", "fast_train", "fast_partial",
                  "fast_train_epoch", "shuffle", "random_start", "frame_H", "frame_W", "network", "F_dim", "L_dim",
                  "N_dim", "D_out_dim", "posterior", "reconstruction", "optim", "bptt", "seed")
CHECKPOINT_KEYS = {"optimizer", "last_epoch", "step", "totals", "best_psnr", "arguments", "sequence_lengths",
                   "scaler", "world_size"}
BEFORE_TRAINING = {"last_epoch": -1, "step": 0, "totals": None, "best_psnr": -float("inf")}
READ_EVERY = 10  # steps between two looks at the losses on a GPU, which need not wait for the host in between
NOT_KEPT_ON_RESUME = ("resume", "overwrite", "test", "save_root", "ckpt_path")


def main():
    silence_other_processes()
    args, checkpoint = parse_arguments()
    device = choose_device(args.device, args.gpu)
    dtype = choose_precision(args.amp, device)
    with joined_processes(device):
        train(args, checkpoint, device, dtype)


def train(args, checkpoint, device, dtype):
    """Make of the flags what they name, and train it (or, with --test, validate it)."""
    options = {"frame_size": (args.frame_H, args.frame_W), "num_workers": args.num_workers}
    with first_process_first():
        root = dataset_or_dancer(args.DR)
        val = Dataset_Dance(root, None, "val", args.val_vi_len, **options)
        training_set = Dataset_Dance(root, None, "train", args.train_vi_len, args.partial, **options)

    if args.fast_train and not len(training_set.starts(args.fast_partial)):
        raise UsageError(f"--fast_partial {args.fast_partial} leaves no clip of {args.train_vi_len} frames; raise it")

    torch.manual_seed(args.seed)
    model = VAE_Model(**network_of(args))
    if checkpoint:
        load_weights(model, checkpoint, args.ckpt_path)
    model = model.to(device, memory_format=torch.channels_last)
    processes = f" in each of {world_size()} processes" if world_size() > 1 else ""
    print(f"{sum(weights.numel() for weights in model.parameters()):,} parameters on {device}{processes}, computing in "
          f"{str(dtype).removeprefix('torch.')}; {len(training_set)} clips of {args.train_vi_len} frames to train on",
          flush=True)
    if args.test:
        print_scores(validate(model, val, args, device, dtype), training_set)
        return

    trainer = ClipTrainer(model, device, dtype, args)
    state = dict(BEFORE_TRAINING)
    if args.resume:
        if checkpoint["sequence_lengths"] != training_set.sequence_lengths:
            raise UsageError(f"--DR {root} is not the dataset that {args.ckpt_path} was trained on; give that one")
        if checkpoint["world_size"] != world_size():
            number = checkpoint["world_size"]
            raise UsageError(f"--resume: {args.ckpt_path} was trained by {number} processes, not {world_size()}; start "
                             f"as many: {launcher(number)} Trainer.py --resume ...")
        load_optimizer(trainer.optimizer, checkpoint, args.ckpt_path, "--resume:")
        if checkpoint["scaler"]:
            trainer.scaler.load_state_dict(checkpoint["scaler"])
        state = {name: checkpoint[name] for name in state}
    with open_run(args, model) if rank() == 0 else nullcontext(args.save_root) as run:
        try:
            fit(trainer, training_set, val, state, run, args)
        except torch.OutOfMemoryError:
            raise RunError("the GPU's memory is full; lower --batch_size (--accumulate makes up for it) or "
                           "--train_vi_len, give --checkpoint_frames, --bptt or --amp bf16, and start again (the last "
                           f"checkpoint in {run} is intact)") from None
        if rank() == 0:
            show_best(model, run, training_set, val, args, device, dtype)


def fit(trainer, train, val, state, run, args):
    """Train from `state` to the last epoch; see `checkpoint_content` for the state. The process of rank 0 alone
    validates and writes."""
    stop = StopSignals()
    clips = place_on(train, trainer.device, args.data_device)
    writes = rank() == 0
    if writes:
        log = EpochLog(run / "metrics.csv", METRICS_COLUMNS, state["last_epoch"] + 1)
        times = EpochLog(run / "times.csv", TIMES_COLUMNS, state["last_epoch"] + 1)
        seconds = float(times.rows[-1][1]) if times.rows else 0.0
    saved_at = time.monotonic()

    def save(names, metrics):
        nonlocal saved_at
        if writes:
            content = checkpoint_content(trainer, metrics, state, train, args)
            for name in names:
                save_checkpoint(run / name, content)
        saved_at = time.monotonic()

    def after_steps(step, totals, metrics):
        state.update(step=step, totals=totals)
        due = time.monotonic() - saved_at > 60 * args.save_minutes
        number, due = reduce_over_processes((stop.signal_number or 0, due), "MAX", trainer.device)
        if number or due:
            save(["last.ckpt"], metrics)
        if number:
            stop_on(number)

    def stop_on(number):
        raise Stopped(int(number), f"saved; go on with: {launcher(world_size())} Trainer.py --resume --save_root {run}")

    for epoch in range(state["last_epoch"] + 1, args.num_epoch):
        started = time.monotonic()
        metrics = train_one_epoch(trainer, clips, epoch, args, state, after_steps)
        names = ["last.ckpt"]
        if writes and ((epoch + 1) % args.val_every == 0 or epoch + 1 == args.num_epoch):
            videos = validate(trainer.model, val, args, trainer.device, trainer.dtype)
            scores = summarise(videos["prediction"], videos["truth"])
            metrics |= {"val_psnr": scores["psnr"], "val_ssim": scores["ssim"]}
            if args.store_visualization:
                write_gif_of(run / f"epoch={epoch}.gif", videos)
            if scores["psnr"] > state["best_psnr"]:
                state["best_psnr"] = scores["psnr"]
                names.append("best.ckpt")
                per_frame = psnr(videos["prediction"][:, 1:], videos["truth"][:, 1:])
                write_psnr_per_frame(run / "psnr_per_frame.csv", per_frame.tolist())
        if (epoch + 1) % args.per_save == 0:
            names.append(f"epoch={epoch}.ckpt")
        if writes:
            log.append(metrics)
            seconds += time.monotonic() - started
            times.append({"epoch": epoch, "seconds": seconds})
        print_epoch(metrics, state["best_psnr"], args.num_epoch, time.monotonic() - started)
        state.update(last_epoch=epoch, step=0, totals=None)
        save(names[::-1], metrics)
        number, = reduce_over_processes((stop.signal_number or 0,), "MAX", trainer.device)
        if number:
            stop_on(number)


def show_best(model, run, train, val, args, device, dtype):
    """Show and score what best.ckpt generates, beside the trivial predictors, and say what to do next."""
    path = run / "best.ckpt"
    if not path.exists():
        raise RunError(f"there is no {path}: no validation gave a finite PSNR, or it was removed; "
                       "try --clamp_feedback or a lower --lr")
    best = load_checkpoint(path)
    load_weights(model, best, path)
    print(f"\n{path}, epoch {best['last_epoch']}:")
    videos = validate(model, val, args, device, dtype)
    write_gif_of(run / "best.gif", videos)
    print_scores(videos, train)
    print(f"\nfigures: python Plotting.py {run}\ntest:    python Tester.py --ckpt_path {path}")


def parse_arguments():
    """The flags, and the checkpoint that they start from, if any. A flag that the checkpoint answers
    need not be given; one that contradicts it is an error."""
    parser = trainer_parser()
    args, typed = parser.parse_args(), parser.given()
    if args.kl_anneal_type == "Cyclical" and args.kl_anneal_ratio > 1:
        raise UsageError(f"--kl_anneal_ratio {args.kl_anneal_ratio}: Cyclical rises in a part of a period; give 0 to 1")
    if args.resume:
        if not args.save_root:
            raise UsageError("--resume needs --save_root, the folder of the run to go on with")
        if args.overwrite or args.ckpt_path:
            raise UsageError("--resume goes on from last.ckpt; leave --overwrite and --ckpt_path out")
        path, checkpoint = newest_checkpoint(Path(args.save_root))
        check_resumable(checkpoint, parser, path)
        saved = {name: value for name, value in checkpoint["arguments"].items() if name not in NOT_KEPT_ON_RESUME}
        fixed = {name: saved.pop(name) for name in FIXED_IN_A_RUN}
        take_from_checkpoint(args, typed, fixed, path)
        for name, value in saved.items():
            if name not in typed:
                setattr(args, name, value)
            elif typed[name] != value:
                print(f"--{name} is now {typed[name]}; it was {value}", flush=True)
        args.ckpt_path = str(path)
        return args, checkpoint
    if args.ckpt_path:
        checkpoint = load_checkpoint(args.ckpt_path)
        take_from_checkpoint(args, typed, network_dimensions(checkpoint, args.ckpt_path), args.ckpt_path)
        return args, checkpoint
    if args.test:
        raise UsageError("--test needs --ckpt_path, the checkpoint to validate")
    return args, None


def check_resumable(checkpoint, parser, path):
    """Raise UsageError unless the flags and the state in a checkpoint are such as a run of this program writes."""
    parser.check_saved(checkpoint["arguments"], path)
    checkpoint["arguments"].setdefault("reconstruction", "mse")  # a run older than the flag
    missing = [name for name in FIXED_IN_A_RUN if name not in checkpoint["arguments"]]
    if missing:
        raise UsageError(f"--resume: {path} does not say its --{missing[0]}; start from its weights with --ckpt_path")
    totals, step = checkpoint["totals"], checkpoint["step"]
    whole = (type(checkpoint["last_epoch"]) is int and checkpoint["last_epoch"] >= -1
             and type(checkpoint["best_psnr"]) is float and type(step) is int and step >= 0
             and type(checkpoint["world_size"]) is int and isinstance(checkpoint["scaler"], dict))
    if step == 0 or totals is None:
        whole = whole and step == 0 and totals is None
    else:
        whole = (whole and isinstance(totals, dict) and totals.keys() == {"clips", *TERMS}
                 and all(isinstance(total, (int, float)) for total in totals.values()) and totals["clips"] > 0)
    if not whole:
        raise UsageError(f"--resume: {path} does not say how far the run had come; start from its weights with "
                         "--ckpt_path")


def newest_checkpoint(run):
    """Path and content of the run's last.ckpt or, if that is damaged, of its newest good checkpoint."""
    others = sorted({*run.glob("*.ckpt")} - {run / "last.ckpt"}, key=lambda path: path.stat().st_mtime, reverse=True)
    for path in (run / "last.ckpt", *others):
        try:
            checkpoint = load_checkpoint(path, "--resume:")
            if not CHECKPOINT_KEYS <= checkpoint.keys():
                raise UsageError(f"--resume: {path} is no checkpoint of a run of this program; start from --ckpt_path")
            return path, checkpoint
        except UsageError as error:
            if not others or path == others[-1]:
                raise
            print(f"{error}; trying the next newest", flush=True)


@contextmanager
def open_run(args, model):
    """The folder of this run, made, locked against a second run, and with args.json written into it."""
    run = Path(args.save_root or Path("runs") / f"{datetime.now():%Y-%m-%d_%H%M%S}")
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(run)
    except OSError as error:
        raise UsageError(f"--save_root {run} cannot be written ({error.strerror}); give another folder") from None
    with lock:
        if not args.resume and (run / "metrics.csv").exists():
            if not args.overwrite:
                raise UsageError(f"--save_root {run} holds another run; give --resume to go on with it, "
                                 "--overwrite to replace it, or another folder")
            for pattern in ("*.ckpt", "*.gif", "*.csv", "*.json", "*.png"):
                for path in run.glob(pattern):
                    path.unlink()
        for stale in run.glob(".*.tmp"):
            stale.unlink()
        check_room(run, model, args)
        write_json(run / "args.json", {
            "arguments": vars(args),
            "command": typed_command(),
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
            "git_commit": git_commit(),
            "parameters": sum(weights.numel() for weights in model.parameters()),
            "processes": world_size(),
            "seed": args.seed,
        })
        print(f"the run is in {run}", flush=True)
        yield run


def check_room(run, model, args):
    """Raise UsageError if the disk has no room for the checkpoints to come: weights and two moments each."""
    each = 3 * sum(weights.numel() * weights.element_size() for weights in model.parameters())
    wanted = each * (args.num_epoch // args.per_save + 3)
    free = shutil.disk_usage(run).free
    if free < wanted:
        raise UsageError(f"--save_root {run}: the disk has {free / 2**20:.0f} MiB of room, the checkpoints need "
                         f"{wanted / 2**20:.0f} MiB; make room, or raise --per_save")


def git_commit():
    """The commit of this program, or None where it is not in a repository."""
    try:
        answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent,
                                capture_output=True, text=True)
    except OSError:
        return None
    return answer.stdout.strip() or None


def random_stream(seed, *place, device="cpu"):
    """A random stream that is a pure function of the seed and of the place in training (epoch, step, clip),
    so that a resumed run draws what an uninterrupted one draws, and nothing need be saved for it.
    It is on the device if that is CUDA, else on the CPU."""
    place_of_stream = device if torch.device(device).type == "cuda" else "cpu"
    state = np.random.SeedSequence([seed, *place]).generate_state(1, np.uint64)[0]
    return torch.Generator(place_of_stream).manual_seed(int(state) & (2**63 - 1))


def train_one_epoch(trainer, dataset, epoch, args, state, after_steps):
    """One pass over the clips, from the batch `state["step"]` on; returns the epoch's row of metrics.csv,
    means over the clips. Calls after_steps(step, totals, metrics) whenever it has looked at the losses."""
    trainer.model.train()
    beta = args.kl_weight * kl_beta(
        epoch, args.kl_anneal_type, args.num_epoch, args.kl_anneal_cycle, args.kl_anneal_ratio)
    tfr = teacher_forcing_ratio(epoch, args.tfr, args.tfr_sde, args.tfr_d_step)
    partial = args.fast_partial if args.fast_train and epoch < args.fast_train_epoch else 1.0
    order = random_stream(args.seed, epoch)
    force_epoch = torch.rand((), generator=order) < tfr
    starts_of_epoch = epoch_starts(dataset, order, args.shuffle, args.random_start, partial)
    batches = starts_of_epoch.to(dataset.frames.device).split(args.batch_size * args.accumulate * world_size())

    totals = state["totals"] or dict.fromkeys(("clips", *TERMS), 0.0)  # over all processes
    sums = torch.zeros(len(TERMS), dtype=torch.float64, device=trainer.device)  # of this one
    if rank() == 0:
        sums += torch.tensor([totals[name] for name in TERMS], dtype=torch.float64, device=trainer.device)
    progress = tqdm(batches[state["step"]:], desc=f"epoch {epoch}", initial=state["step"], total=len(batches),
                    unit="batch", disable=None if rank() == 0 else True, leave=False)

    def lr_of(step):
        return learning_rate(epoch + (step + 0.5) / len(batches), args.lr, args.lr_schedule, args.num_epoch,
                             args.milestones, args.gamma, args.warmup_epochs)

    def metrics_after(step):
        means = {name: totals[name] / totals["clips"] for name in TERMS}
        return {"epoch": epoch, **means, "beta": beta, "tfr": tfr, "lr": lr_of(step)}

    for step, starts in enumerate(progress, start=state["step"]):
        for group in trainer.optimizer.param_groups:
            group["lr"] = lr_of(step)
        parts = clips_of_this_process(dataset, starts, tfr, force_epoch, (epoch, step), trainer.device, args)
        sums += trainer.train_on(parts, len(starts), beta)
        totals["clips"] += len(starts)

        if trainer.device.type != "cpu" and (step + 1) % READ_EVERY and step + 1 < len(batches):
            continue
        totals |= zip(TERMS, reduce_over_processes(sums.tolist(), "SUM", trainer.device))
        metrics = metrics_after(step)
        if not all(map(math.isfinite, totals.values())):
            raise RunError(f"epoch {epoch}, batch {step}: loss {metrics['loss']}, gradient norm "
                           f"{metrics['grad_norm']}; what was saved is intact; try a lower --lr or --kl_weight")
        progress.set_postfix_str(
            f"loss {metrics['loss']:.4f} mse {metrics['mse']:.4f} kl {metrics['kl']:.3g} beta {beta:.3g} "
            f"tfr {tfr:.2g} lr {metrics['lr']:.2e} best PSNR {state['best_psnr']:.2f}", refresh=False)
        after_steps(step + 1, dict(totals), metrics)
    return metrics_after(len(batches) - 1)  # also if a resumed run finds all batches done


def clips_of_this_process(dataset, starts, tfr, force_epoch, place, device, args):
    """What this process computes of a batch that begins at `starts`: a Clips for each of --accumulate.

    A batch too small for all is shared out all the same: processes without a clip take the first one for nothing.
    """
    forced = draw_teacher_forcing(args.tfr_per, tfr, force_epoch, (len(starts), args.train_vi_len),
                                  random_stream(args.seed, *place))
    shares = world_size() * args.accumulate
    bounds = [share * len(starts) // shares for share in range(shares + 1)]
    mine = range(rank() * args.accumulate, (rank() + 1) * args.accumulate)
    rows = [range(bounds[share], bounds[share + 1]) for share in mine]
    parts = []
    for counted in [part for part in rows if part] or [range(0)]:
        part = counted or range(1)
        chosen = slice(part.start, part.stop)
        frames, labels = (clip.to(device, non_blocking=True) for clip in dataset.clips(starts[chosen]))
        streams = [random_stream(args.seed, *place, row, device=device) for row in part]
        parts.append(Clips(frames, labels, forced[chosen], streams, len(counted)))
    return parts


def draw_teacher_forcing(tfr_per, tfr, force_epoch, shape, random):
    """Which true frames are fed back: bool [B, T], on the CPU. Drawn with probability tfr for the whole epoch
    (`force_epoch` is that draw), for this batch, or for each frame by itself."""
    if tfr_per == "epoch":
        return force_epoch.expand(shape)
    if tfr_per == "batch":
        return (torch.rand((), generator=random) < tfr).expand(shape)
    return torch.rand(shape, generator=random) < tfr


def validate(model, val, args, device, dtype):
    """Roll out the validation clips as one batch: {"label", "prediction", "truth"}, uint8 [B, T, 3, H, W]."""
    frames, labels = val.clips(val.starts())
    prediction = generate(model, frames[:, 0].to(device), labels.to(device), args.seed, args.temperature,
                          args.clamp_feedback, dtype=dtype, cuda_graphs=args.cuda_graphs)
    return {"label": labels, "prediction": prediction, "truth": frames}


def write_gif_of(path, videos):
    write_comparison_gif(path, {name: video[0] for name, video in videos.items()})


def print_scores(videos, train):
    """Print the scores of a validation beside those of the trivial predictors."""
    truth = videos["truth"]
    contenders = {"this model": videos["prediction"], **trivial_predictions(train, truth, videos["label"])}
    rows = [{"predictor": name, **summarise(video, truth)} for name, video in contenders.items()]
    print(f"validation, {truth.shape[1] - 1} frames from one:\n{table(rows)}", flush=True)


def checkpoint_content(trainer, metrics, state, train, args):
    """What a checkpoint holds. state: `last_epoch` done, `best_psnr`, and for the epoch after it the
    batches done (`step`) with the sums of their metrics (`totals`)."""
    return {"state_dict": trainer.model.state_dict(), "optimizer": trainer.optimizer.state_dict(),
            "scaler": trainer.scaler.state_dict(), "lr": metrics["lr"], "tfr": metrics["tfr"], **state,
            "arguments": vars(args), "sequence_lengths": train.sequence_lengths, "world_size": world_size()}


def print_epoch(metrics, best_psnr, num_epoch, seconds):
    line = (f"epoch {metrics['epoch']:3d}/{num_epoch}  loss {metrics['loss']:.5f}  mse {metrics['mse']:.5f}  "
            f"kl {metrics['kl']:.4g}  beta {metrics['beta']:.3g}  tfr {metrics['tfr']:.2g}  lr {metrics['lr']:.2e}")
    if "val_psnr" in metrics:
        line += f"  PSNR {metrics['val_psnr']:.2f} dB (best {best_psnr:.2f})"
    tqdm.write(f"{line}  {seconds:.1f} s")


if __name__ == "__main__":
    run_script(main)
