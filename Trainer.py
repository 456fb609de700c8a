"""Train the conditional VAE, validate it as it goes, and keep what it learned."""

import math
import platform
import shutil
import subprocess
import time
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from dataloader import Dataset_Dance, dataset_or_dancer, epoch_starts
from modules import VAE_Model
from modules.checkpoint import (load_checkpoint, load_optimizer, load_weights, network_dimensions,
                                save_checkpoint)
from modules.devices import choose_device
from modules.errors import RunError, Stopped, StopSignals, UsageError, run_script
from modules.images import to_uint8, to_unit
from modules.metrics import psnr, summarise, trivial_predictions
from modules.options import take_from_checkpoint, trainer_parser, typed_command
from modules.outputs import (MetricsLog, lock_folder, table, write_comparison_gif, write_json,
                             write_psnr_per_frame)
from modules.rollout import generate, input_filter
from modules.schedules import kl_beta, learning_rate, teacher_forcing_ratio

# Another value on --resume would go on with other clips or another network, so it is refused.
FIXED_IN_A_RUN = ("batch_size", "train_vi_len", "val_vi_len", "partial", "fast_train", "fast_partial",
                  "fast_train_epoch", "shuffle", "random_start", "frame_H", "frame_W", "F_dim", "L_dim", "N_dim",
                  "D_out_dim", "posterior", "optim", "bptt", "seed")
CHECKPOINT_KEYS = {"optimizer", "last_epoch", "step", "totals", "best_psnr", "arguments", "sequence_lengths"}
EPOCH_MEANS = ("loss", "mse", "kl", "grad_norm")
NOT_KEPT_ON_RESUME = ("resume", "overwrite", "test", "save_root", "ckpt_path")


def main():
    args, checkpoint = parse_arguments()
    device = choose_device(args.device, args.gpu)
    root = dataset_or_dancer(args.DR)
    options = {"frame_size": (args.frame_H, args.frame_W), "num_workers": args.num_workers}
    val = Dataset_Dance(root, None, "val", args.val_vi_len, **options)
    train = Dataset_Dance(root, None, "train", args.train_vi_len, args.partial, **options)

    if args.fast_train and not len(train.starts(args.fast_partial)):
        raise UsageError(f"--fast_partial {args.fast_partial} leaves no clip of {args.train_vi_len} frames; raise it")

    torch.manual_seed(args.seed)
    model = VAE_Model(args.F_dim, args.L_dim, args.N_dim, args.D_out_dim, args.posterior)
    if checkpoint:
        load_weights(model, checkpoint, args.ckpt_path)
    model = model.to(device, memory_format=torch.channels_last)
    print(f"{sum(weights.numel() for weights in model.parameters()):,} parameters on {device}; "
          f"{len(train)} clips of {args.train_vi_len} frames to train on", flush=True)
    if args.test:
        print_scores(validate(model, val, args, device), train)
        return

    optimizer = getattr(torch.optim, args.optim)(model.parameters(), args.lr)
    state = {"last_epoch": -1, "step": 0, "totals": None, "best_psnr": -float("inf")}
    if args.resume:
        if checkpoint["sequence_lengths"] != train.sequence_lengths:
            raise UsageError(f"--DR {root} is not the dataset that {args.ckpt_path} was trained on; give that one")
        load_optimizer(optimizer, checkpoint, args.ckpt_path, "--resume:")
        state = {name: checkpoint[name] for name in state}
    with open_run(args, model) as run:
        try:
            fit(model, optimizer, train, val, state, run, args, device)
        except torch.OutOfMemoryError:
            raise RunError("the GPU's memory is full; lower --batch_size or --train_vi_len, or give --bptt, and "
                           f"start again (the last checkpoint in {run} is intact)") from None
        show_best(model, run, train, val, args, device)


def fit(model, optimizer, train, val, state, run, args, device):
    """Train from `state` to the last epoch; see `checkpoint_content` for the state."""
    stop = StopSignals()
    log = MetricsLog(run / "metrics.csv", state["last_epoch"] + 1)
    saved_at = time.monotonic()

    def save(names, metrics):
        nonlocal saved_at
        content = checkpoint_content(model, optimizer, metrics, state, train, args)
        for name in names:
            save_checkpoint(run / name, content)
        saved_at = time.monotonic()
        if stop.signal_number:
            raise Stopped(stop.signal_number, f"saved; go on with: python Trainer.py --resume --save_root {run}")

    def after_step(step, totals, metrics):
        state.update(step=step, totals=totals)
        if stop.signal_number or time.monotonic() - saved_at > 60 * args.save_minutes:
            save(["last.ckpt"], metrics)

    for epoch in range(state["last_epoch"] + 1, args.num_epoch):
        started = time.monotonic()
        metrics = train_one_epoch(model, optimizer, train, epoch, args, device, state, after_step)
        names = ["last.ckpt"]
        if (epoch + 1) % args.val_every == 0 or epoch + 1 == args.num_epoch:
            videos = validate(model, val, args, device)
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
        log.append(metrics)
        print_epoch(metrics, state["best_psnr"], args.num_epoch, time.monotonic() - started)
        state.update(last_epoch=epoch, step=0, totals=None)
        save(names[::-1], metrics)


def show_best(model, run, train, val, args, device):
    """Show and score what best.ckpt generates, beside the trivial predictors, and say what to do next."""
    path = run / "best.ckpt"
    if not path.exists():
        raise RunError(f"there is no {path}: no validation gave a finite PSNR, or it was removed; "
                       "try --clamp_feedback or a lower --lr")
    best = load_checkpoint(path)
    load_weights(model, best, path)
    print(f"\n{path}, epoch {best['last_epoch']}:")
    videos = validate(model, val, args, device)
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
    missing = [name for name in FIXED_IN_A_RUN if name not in checkpoint["arguments"]]
    if missing:
        raise UsageError(f"--resume: {path} does not say its --{missing[0]}; start from its weights with --ckpt_path")
    totals, step = checkpoint["totals"], checkpoint["step"]
    whole = (type(checkpoint["last_epoch"]) is int and checkpoint["last_epoch"] >= -1
             and type(checkpoint["best_psnr"]) is float and type(step) is int and step >= 0)
    if step == 0 or totals is None:
        whole = whole and step == 0 and totals is None
    else:
        whole = (whole and isinstance(totals, dict) and totals.keys() == {"clips", *EPOCH_MEANS}
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


def random_stream(seed, *place):
    """A random stream that is a pure function of the seed and of the place in training (epoch, step),
    so that a resumed run draws what an uninterrupted one draws, and nothing need be saved for it."""
    state = np.random.SeedSequence([seed, *place]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) & (2**63 - 1))


def train_one_epoch(model, optimizer, dataset, epoch, args, device, state, after_step):
    """One pass over the clips, from the batch `state["step"]` on; returns the epoch's row of metrics.csv,
    means over the clips. Calls after_step(step, totals, metrics) after each step of the optimizer."""
    model.train()
    beta = args.kl_weight * kl_beta(
        epoch, args.kl_anneal_type, args.num_epoch, args.kl_anneal_cycle, args.kl_anneal_ratio)
    tfr = teacher_forcing_ratio(epoch, args.tfr, args.tfr_sde, args.tfr_d_step)
    partial = args.fast_partial if args.fast_train and epoch < args.fast_train_epoch else 1.0
    order = random_stream(args.seed, epoch)
    force_epoch = torch.rand((), generator=order) < tfr
    batches = epoch_starts(dataset, order, args.shuffle, args.random_start, partial).split(args.batch_size)

    totals = state["totals"] or dict.fromkeys(("clips", *EPOCH_MEANS), 0.0)
    progress = tqdm(batches[state["step"]:], desc=f"epoch {epoch}", initial=state["step"], total=len(batches),
                    unit="batch", disable=None, leave=False)

    def lr_of(step):
        return learning_rate(epoch + (step + 0.5) / len(batches), args.lr, args.lr_schedule, args.num_epoch,
                             args.milestones, args.gamma, args.warmup_epochs)

    def metrics_after(step):
        means = {name: totals[name] / totals["clips"] for name in EPOCH_MEANS}
        return {"epoch": epoch, **means, "beta": beta, "tfr": tfr, "lr": lr_of(step)}

    for step, starts in enumerate(progress, start=state["step"]):
        lr = lr_of(step)
        for group in optimizer.param_groups:
            group["lr"] = lr
        frames, labels = (to_unit(part.to(device)) for part in dataset.clips(starts))  # [B, T, 3, H, W]
        random = random_stream(args.seed, epoch, step)
        teacher_forced = draw_teacher_forcing(args.tfr_per, tfr, force_epoch, frames.shape[:2], random).to(device)
        means = train_on_clips(model, optimizer, frames, labels, teacher_forced, beta, random, args,
                               f"epoch {epoch}, batch {step}")

        totals = {name: totals[name] + len(starts) * value for name, value in {"clips": 1, **means}.items()}
        metrics = metrics_after(step)
        progress.set_postfix_str(
            f"loss {metrics['loss']:.4f} mse {metrics['mse']:.4f} kl {metrics['kl']:.3g} beta {beta:.3g} "
            f"tfr {tfr:.2g} lr {lr:.2e} best PSNR {state['best_psnr']:.2f}", refresh=False)
        after_step(step + 1, totals, metrics)
    return metrics_after(len(batches) - 1)  # also if a resumed run finds all batches done


def train_on_clips(model, optimizer, frames, labels, teacher_forced, beta, random, args, where):
    """Take the optimizer's step on a batch of clips, [B, T, 3, H, W], or with --bptt one for every so many
    predicted frames. Returns the terms of the loss, means over the predicted frames, and the gradient norm."""
    as_input = input_filter(args.clamp_feedback, args.input_noise, random)
    predicted = frames.shape[1] - 1
    segments = range(0, predicted, args.bptt or predicted)
    means = dict.fromkeys(EPOCH_MEANS, 0.0)
    first = frames[:, 0]
    for start in segments:
        part = slice(start, start + segments.step + 1)  # its first frame is given, as x_0 is
        given = torch.cat([first[:, None], frames[:, part][:, 1:]], dim=1)
        terms, first = model(given, labels[:, part], random, beta, teacher_forced[:, part], as_input)
        optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
        terms = {name: term.item() for name, term in terms.items()}
        if not (math.isfinite(terms["loss"]) and math.isfinite(grad_norm)):
            raise RunError(f"{where}: loss {terms['loss']}, gradient norm {grad_norm}; the step was not taken and what "
                           "was saved is intact; try a lower --lr or --kl_weight")
        optimizer.step()
        for name, term in terms.items():
            means[name] += term / predicted
        means["grad_norm"] += grad_norm / len(segments)
    return means


def draw_teacher_forcing(tfr_per, tfr, force_epoch, shape, random):
    """Which true frames are fed back: bool [B, T]. Drawn with probability tfr for the whole epoch
    (`force_epoch` is that draw), for this batch, or for each frame by itself."""
    if tfr_per == "epoch":
        return force_epoch.expand(shape)
    if tfr_per == "batch":
        return (torch.rand((), generator=random) < tfr).expand(shape)
    return torch.rand(shape, generator=random) < tfr


def validate(model, val, args, device):
    """Roll out the validation clips as one batch: {"label", "prediction", "truth"}, [B, T, 3, H, W]."""
    frames, labels = (torch.stack(part) for part in zip(*(val[index] for index in range(len(val)))))
    prediction = generate(model, frames[:, 0].to(device), labels.to(device), args.seed, args.temperature,
                          args.clamp_feedback)
    return {"label": labels, "prediction": prediction, "truth": frames}


def write_gif_of(path, videos):
    write_comparison_gif(path, {name: to_uint8(video[0]) for name, video in videos.items()})


def print_scores(videos, train):
    """Print the scores of a validation beside those of the trivial predictors."""
    truth = videos["truth"]
    contenders = {"this model": videos["prediction"], **trivial_predictions(train, truth, videos["label"])}
    rows = [{"predictor": name, **summarise(video, truth)} for name, video in contenders.items()]
    print(f"validation, {truth.shape[1] - 1} frames from one:\n{table(rows)}", flush=True)


def checkpoint_content(model, optimizer, metrics, state, train, args):
    """What a checkpoint holds. state: `last_epoch` done, `best_psnr`, and for the epoch after it the
    batches done (`step`) with the sums of their metrics (`totals`)."""
    return {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "lr": metrics["lr"],
            "tfr": metrics["tfr"], **state, "arguments": vars(args), "sequence_lengths": train.sequence_lengths}


def print_epoch(metrics, best_psnr, num_epoch, seconds):
    line = (f"epoch {metrics['epoch']:3d}/{num_epoch}  loss {metrics['loss']:.5f}  mse {metrics['mse']:.5f}  "
            f"kl {metrics['kl']:.4g}  beta {metrics['beta']:.3g}  tfr {metrics['tfr']:.2g}  lr {metrics['lr']:.2e}")
    if "val_psnr" in metrics:
        line += f"  PSNR {metrics['val_psnr']:.2f} dB (best {best_psnr:.2f})"
    tqdm.write(f"{line}  {seconds:.1f} s")


if __name__ == "__main__":
    run_script(main)
