"""Train the conditional VAE, validate it as it goes, and keep what it learned."""

import argparse
import platform
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from dataloader import Dataset_Dance, dataset_or_dancer, epoch_starts
from modules import VAE_Model
from modules.checkpoint import load_checkpoint, load_weights, network_dimensions, save_checkpoint
from modules.devices import choose_device
from modules.errors import UsageError, run_script
from modules.images import to_uint8, to_unit
from modules.metrics import psnr, summarise, trivial_predictions
from modules.options import take_from_checkpoint, trainer_parser, typed_command
from modules.outputs import MetricsLog, table, write_comparison_gif, write_json, write_psnr_per_frame
from modules.rollout import generate, input_filter
from modules.schedules import kl_beta, learning_rate, teacher_forcing_ratio

# Another value on --resume would go on with other clips or another network, so it is refused.
FIXED_IN_A_RUN = ("batch_size", "train_vi_len", "val_vi_len", "partial", "fast_train", "fast_partial",
                  "fast_train_epoch", "shuffle", "random_start", "frame_H", "frame_W", "F_dim", "L_dim", "N_dim",
                  "D_out_dim", "posterior", "optim", "seed")
NOT_KEPT_ON_RESUME = ("resume", "overwrite", "test", "save_root", "ckpt_path")


def main():
    args, checkpoint = parse_arguments()
    device = choose_device(args.device, args.gpu)
    root = dataset_or_dancer(args.DR)
    options = {"frame_size": (args.frame_H, args.frame_W), "num_workers": args.num_workers}
    val = Dataset_Dance(root, None, "val", args.val_vi_len, **options)
    train = Dataset_Dance(root, None, "train", args.train_vi_len, args.partial, **options)

    torch.manual_seed(args.seed)
    model = VAE_Model(args.F_dim, args.L_dim, args.N_dim, args.D_out_dim, args.posterior)
    if checkpoint:
        load_weights(model, checkpoint, args.ckpt_path)
    model = model.to(device, memory_format=torch.channels_last)
    print(f"{sum(weights.numel() for weights in model.parameters()):,} parameters on {device}; "
          f"{len(train)} clips of {args.train_vi_len} frames to train on", flush=True)
    if args.test:
        print_scores(*validate(model, val, args, device), train)
        return

    optimizer = getattr(torch.optim, args.optim)(model.parameters(), args.lr)
    first_epoch, best_psnr = 0, -float("inf")
    if args.resume:
        if checkpoint["sequence_lengths"] != train.sequence_lengths:
            raise UsageError(f"--DR {root} is not the dataset that {args.ckpt_path} was trained on; give that one")
        optimizer.load_state_dict(checkpoint["optimizer"])
        first_epoch, best_psnr = checkpoint["last_epoch"] + 1, checkpoint["best_psnr"]
    run = open_run(args)
    log = MetricsLog(run / "metrics.csv", first_epoch)

    for epoch in range(first_epoch, args.num_epoch):
        started = time.monotonic()
        metrics = train_one_epoch(model, optimizer, train, epoch, args, device)
        improved = False
        if (epoch + 1) % args.val_every == 0 or epoch + 1 == args.num_epoch:
            videos = validate(model, val, args, device)
            scores = summarise(videos["prediction"], videos["truth"])
            metrics |= {"val_psnr": scores["psnr"], "val_ssim": scores["ssim"]}
            improved = scores["psnr"] > best_psnr
            best_psnr = max(best_psnr, scores["psnr"])
            if args.store_visualization:
                write_gif_of(run / f"epoch={epoch}.gif", videos)
            if improved:
                write_gif_of(run / "best.gif", videos)
                per_frame = psnr(videos["prediction"][:, 1:], videos["truth"][:, 1:])
                write_psnr_per_frame(run / "psnr_per_frame.csv", per_frame.tolist())
        log.append(metrics)
        save(run, model, optimizer, metrics, best_psnr, improved, train, args)
        print_epoch(metrics, best_psnr, args.num_epoch, time.monotonic() - started)

    best = load_checkpoint(run / "best.ckpt")
    load_weights(model, best, run / "best.ckpt")
    print(f"\nbest.ckpt (epoch {best['last_epoch']}):")
    print_scores(*validate(model, val, args, device).values(), train)
    print(f"\nfigures: python Plotting.py {run}\ntest:    python Tester.py --ckpt_path {run / 'best.ckpt'}")


def parse_arguments():
    """The flags, and the checkpoint that they start from, if any. A flag that the checkpoint answers
    need not be given; one that contradicts it is an error."""
    parser = trainer_parser()
    args, typed = parser.parse_args(), parser.given()
    if args.resume:
        if not args.save_root:
            raise UsageError("--resume needs --save_root, the folder of the run to go on with")
        if args.overwrite or args.ckpt_path:
            raise UsageError("--resume goes on from last.ckpt; leave --overwrite and --ckpt_path out")
        path = Path(args.save_root) / "last.ckpt"
        checkpoint = load_checkpoint(path, "--resume:")
        if "arguments" not in checkpoint:
            raise UsageError(f"--resume: {path} is no checkpoint of a run of this program; start from --ckpt_path")
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


def open_run(args):
    """Make the run's folder, write args.json into it, and return it."""
    run = Path(args.save_root or Path("runs") / f"{datetime.now():%Y-%m-%d_%H%M%S}")
    if not args.resume:
        if (run / "metrics.csv").exists():
            if not args.overwrite:
                raise UsageError(f"--save_root {run} holds another run; give --resume to go on with it, "
                                 "--overwrite to replace it, or another folder")
            for pattern in ("*.ckpt", "*.gif", "*.csv", "*.json", "*.png"):
                for path in run.glob(pattern):
                    path.unlink()
        try:
            run.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--save_root {run} cannot be made ({error.strerror}); give another folder") from None
    write_json(run / "args.json", {
        "arguments": vars(args),
        "command": typed_command(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "git_commit": git_commit(),
        "seed": args.seed,
    })
    print(f"the run is in {run}", flush=True)
    return run


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


def train_one_epoch(model, optimizer, dataset, epoch, args, device):
    """One pass over the clips; returns the epoch's row of metrics.csv, means over the clips."""
    model.train()
    beta = args.kl_weight * kl_beta(
        epoch, args.kl_anneal_type, args.num_epoch, args.kl_anneal_cycle, args.kl_anneal_ratio)
    tfr = teacher_forcing_ratio(epoch, args.tfr, args.tfr_sde, args.tfr_d_step)
    partial = args.fast_partial if args.fast_train and epoch < args.fast_train_epoch else 1.0
    order = random_stream(args.seed, epoch)
    force_epoch = torch.rand((), generator=order) < tfr
    batches = epoch_starts(dataset, order, args.shuffle, args.random_start, partial).split(args.batch_size)

    totals = {"loss": 0.0, "mse": 0.0, "kl": 0.0, "grad_norm": 0.0}
    clips = 0
    progress = tqdm(batches, desc=f"epoch {epoch}", unit="batch", disable=None, leave=False)
    for step, starts in enumerate(progress):
        lr = learning_rate(epoch + step / len(batches), args.lr, args.lr_schedule, args.num_epoch,
                           args.milestones, args.gamma, args.warmup_epochs)
        for group in optimizer.param_groups:
            group["lr"] = lr
        frames, labels = (to_unit(part.to(device)) for part in dataset.clips(starts))  # [B, T, 3, H, W]
        random = random_stream(args.seed, epoch, step)
        teacher_forced = draw_teacher_forcing(args.tfr_per, tfr, force_epoch, frames.shape[:2], random)
        as_input = input_filter(args.clamp_feedback, args.detach_feedback, args.input_noise, random)
        terms = model(frames, labels, random, beta, teacher_forced, as_input)
        optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if not torch.isfinite(grad_norm):
            sys.exit(f"loss {terms['loss'].item()} with gradient norm {grad_norm.item()} in epoch {epoch}, batch {step}: "
                     "stopped before the optimizer's step; try a lower --lr")
        optimizer.step()

        predicted = frames.shape[1] - 1
        means = {name: term.item() / predicted for name, term in terms.items()} | {"grad_norm": grad_norm.item()}
        totals = {name: totals[name] + len(starts) * value for name, value in means.items()}
        clips += len(starts)
        progress.set_postfix_str(
            f"loss {means['loss']:.4f} mse {means['mse']:.4f} kl {means['kl']:.3g} beta {beta:.3g} "
            f"tfr {tfr:.2g} lr {lr:.2e}", refresh=False)
    return {"epoch": epoch, **{name: total / clips for name, total in totals.items()},
            "beta": beta, "tfr": tfr, "lr": lr}


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


def print_scores(labels, prediction, truth, train):
    """Print the scores of a validation beside those of the trivial predictors."""
    rows = [{"predictor": "this model", **summarise(prediction, truth)}]
    for name, video in trivial_predictions(train, truth, labels).items():
        rows.append({"predictor": name, **summarise(video, truth)})
    print(f"validation: {truth.shape[1] - 1} frames from one\n{table(rows)}", flush=True)


def save(run, model, optimizer, metrics, best_psnr, improved, train, args):
    """Write last.ckpt, best.ckpt after an improvement, and the numbered one when its epoch has come."""
    epoch = metrics["epoch"]
    content = {
        "state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "lr": metrics["lr"],
        "tfr": metrics["tfr"], "last_epoch": epoch, "best_psnr": best_psnr, "arguments": vars(args),
        "sequence_lengths": train.sequence_lengths,
    }
    if improved:
        save_checkpoint(run / "best.ckpt", content)
    if (epoch + 1) % args.per_save == 0:
        save_checkpoint(run / f"epoch={epoch}.ckpt", content)
    save_checkpoint(run / "last.ckpt", content)


def print_epoch(metrics, best_psnr, num_epoch, seconds):
    line = (f"epoch {metrics['epoch']:3d}/{num_epoch}  loss {metrics['loss']:.5f}  mse {metrics['mse']:.5f}  "
            f"kl {metrics['kl']:.4g}  beta {metrics['beta']:.3g}  tfr {metrics['tfr']:.2g}  lr {metrics['lr']:.2e}")
    if "val_psnr" in metrics:
        line += f"  PSNR {metrics['val_psnr']:.2f} dB (best {best_psnr:.2f})"
    tqdm.write(f"{line}  {seconds:.1f} s")


if __name__ == "__main__":
    run_script(main)
