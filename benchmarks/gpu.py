"""Seconds of an optimizer step and of an epoch on a CUDA GPU, with its kernels recorded and without.

    .venv/bin/python benchmarks/gpu.py

Steps are ClipTrainer.train_on on clips of random pixels. Writes what it prints to --out as JSON, too.
"""

import argparse
import gc
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch

from benchmarks.measure import BETA, make_model, noise_streams
from cli.flags import trainer_parser
from cli.parser import split_words
from cli.tables import text_table
from engine.batches import Clips
from engine.devices import choose_device, choose_precision, memory_format
from engine.evaluation import generate_sequences
from engine.optimization import ClipTrainer
from modules.noise import Noise

FRAMES = 23410  # of the course's training set
RECIPES = ("--tfr 1", "--tfr 0", "--tfr 1 --amp off", "--tfr 1 --amp fp16", "@recipes/course.txt --tfr 1",
           "@recipes/course.txt --tfr 0", "@recipes/small.txt --tfr 1", "@recipes/best.txt", "@recipes/demo.txt",
           "@recipes/gpu.txt")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", metavar="FILE")
    parser.add_argument("--recipes", nargs="+", default=RECIPES, metavar="FLAGS")
    options = parser.parse_args()
    rows = []
    for recipe in options.recipes:
        args = trainer_parser().parse_args(split_words(recipe, "--recipes"))
        for cuda_graphs in (False, True):
            rows.append({"recipe": recipe, "cuda_graphs": cuda_graphs} | measured(args, cuda_graphs))
            print(rows[-1], flush=True)
    print(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}\n{table(rows)}")
    if options.out:
        Path(options.out).write_text(json.dumps(rows, indent=1) + "\n")


def measured(args, cuda_graphs):
    """Milliseconds of an optimizer step, seconds of an epoch, MiB that torch reserved, frames a second of a rollout."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    device = choose_device("cuda")
    dtype = choose_precision(args.amp, device)
    model = make_model(args).to(device, memory_format=memory_format(device, dtype))
    trainer = ClipTrainer(
        model, device, dtype, optim=args.optim, lr=args.lr, reconstruction=args.reconstruction, bptt=args.bptt,
        clamp_feedback=args.clamp_feedback, input_noise=args.input_noise, label_norm=args.label_norm,
        checkpoint_frames=args.checkpoint_frames, random_shift=args.random_shift, cuda_graphs=cuda_graphs)
    trainer.training_mode()
    batches = [random_batch(args, number, device) for number in range(args.interleave if args.bptt else 1)]
    steps = len(trainer.segments(args.train_vi_len)) * len(batches)
    turns = -(-5 // steps)  # at least five steps, after which all kernels are recorded
    for _ in range(turns):
        trainer.train_on(batches, BETA)
    seconds = seconds_of(lambda: trainer.train_on(batches, BETA), turns=-(-30 // steps))
    batches_of_an_epoch = -(-(FRAMES // args.train_vi_len) // args.batch_size)
    labels = torch.zeros(5, 60, 3, args.frame_H, args.frame_W, dtype=torch.uint8)
    rollout = seconds_of(lambda: generate_sequences(model, labels[:, 0], labels, device=device, dtype=dtype, seed=0,
                                                    temperature=1.0, clamp=args.clamp_feedback), turns=2)
    return {"step_ms": 1000 * seconds / steps, "epoch_s": seconds / len(batches) * batches_of_an_epoch,
            "memory_MiB": torch.cuda.max_memory_reserved() / 2**20, "rollout_fps": 5 * 59 / rollout}


def random_batch(args, number, device):
    """What ClipTrainer.train_on takes as a batch."""
    size = args.batch_size, args.train_vi_len
    frames, labels = torch.rand(2, *size, 3, args.frame_H, args.frame_W, device=device)
    noise = Noise(noise_streams(number, args.batch_size, device), device, frames=args.train_vi_len - 1)
    forced = torch.full(size, args.tfr == 1)
    return [Clips(frames, labels, forced, noise, args.batch_size)], args.batch_size


def seconds_of(work, turns):
    """The mean seconds of a turn."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(turns):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / turns


def table(rows):
    return text_table([{
        "recipe": plain["recipe"], "ms a step": f"{plain['step_ms']:.1f}", "recorded": f"{recorded['step_ms']:.1f}",
        "ratio": f"{plain['step_ms'] / recorded['step_ms']:.1f}", "s an epoch": f"{plain['epoch_s']:.0f}",
        "recorded ": f"{recorded['epoch_s']:.0f}", "MiB": f"{plain['memory_MiB']:.0f}",
        "recorded  ": f"{recorded['memory_MiB']:.0f}", "frames/s": f"{recorded['rollout_fps']:.0f}",
    } for plain, recorded in zip(rows[::2], rows[1::2])])


if __name__ == "__main__":
    main()
