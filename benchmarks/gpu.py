"""How long a CUDA GPU takes for an optimizer step and an epoch, with its kernels recorded as a CUDA graph and without.

    .venv/bin/python benchmarks/gpu.py

Steps are ClipTrainer.steps_on on clips of random pixels.
"""

import gc
import math
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch

from benchmarks.measure import BETA, Ours, noise_streams, random_batch, seconds_of
from cli.files import check_output, write_json
from cli.flags import has_segments, trainer_parser
from cli.parser import Parser, path_name, split_words
from cli.script import run_script
from cli.tables import text_table
from engine.batches import Batch, Clips
from engine.cuda_graphs import PLAIN_CALLS
from modules.noise import Noise

FRAMES = 23410  # of the course's training set
MEASURED_STEPS = 30  # at least
RECIPES = ("--tfr 1", "--tfr 0", "--tfr 1 --amp off", "--tfr 1 --amp fp16", "@recipes/course.txt --tfr 1",
           "@recipes/course.txt --tfr 0", "@recipes/small.txt --tfr 1", "@recipes/best.txt", "@recipes/demo.txt",
           "@recipes/gpu.txt")


def build_parser():
    parser = Parser(__doc__.split("\n")[0], recipes=False)
    parser.add_argument("--out", type=path_name, metavar="FILE.json", help="write what was measured as JSON, too")
    parser.add_argument("--recipes", nargs="+", default=RECIPES, metavar="FLAGS",
                        help='what to measure: flags of Trainer.py, as in "@recipes/demo.txt --amp off"')
    return parser


def main():
    options = build_parser().parse_args()
    if options.out:
        check_output("--out", options.out, ".json")
    measured = {}
    for recipe in options.recipes:
        measured[recipe] = {
            way: measure(trainer_parser().parse_args([*split_words(recipe, "--recipes"), "--device", "cuda", flag]))
            for way, flag in (("plain", "--no-cuda_graphs"), ("recorded", "--cuda_graphs"))}
        print(f"{recipe}: measured", flush=True)
    print(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}\n{table(measured)}")
    if options.out:
        write_json(Path(options.out), measured)


def measure(args):
    """Milliseconds of an optimizer step, seconds of an epoch, MiB that torch reserved, frames a second of a rollout."""
    ours = Ours(args)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    ours.trainer.training_mode()
    in_turn = args.interleave if has_segments(vars(args)) else 1
    batches = [training_batch(ours, args, number) for number in range(in_turn)]
    steps = len(ours.trainer.segments(args.train_vi_len)) * len(batches)

    def train(turns):
        for _ in range(turns):
            for _ in ours.trainer.steps_on(batches, BETA):
                pass

    train(turns=math.ceil((PLAIN_CALLS + 1) / len(batches)))  # after these all kernels are recorded
    turns = math.ceil(MEASURED_STEPS / steps)
    seconds = seconds_of(lambda: train(turns), ours.device) / (turns * steps)
    memory = torch.cuda.max_memory_reserved() / 2**20
    epoch = math.ceil(FRAMES // args.train_vi_len / args.batch_size) * len(ours.trainer.segments(args.train_vi_len))
    labels = torch.zeros(5, 60, 3, args.frame_H, args.frame_W, dtype=torch.uint8)
    ours.roll_out(labels[:, 0], labels[:, :3])
    rollout = seconds_of(lambda: ours.roll_out(labels[:, 0], labels), ours.device)
    return {"step_ms": 1000 * seconds, "epoch_s": seconds * epoch, "memory_MiB": memory,
            "rollout_fps": 5 * 59 / rollout}


def training_batch(ours, args, number):
    """Make a batch of random clips."""
    streams = noise_streams(number, args.batch_size, ours.device)
    noise = Noise(streams, ours.device, steps_at_once=args.train_vi_len - 1)
    forced = torch.full((args.batch_size, args.train_vi_len), args.tfr == 1)
    return Batch([Clips(*random_batch(ours, args), forced, noise, args.batch_size)], args.batch_size)


def table(measured):
    return text_table([row(recipe, **ways) for recipe, ways in measured.items()])


def row(recipe, plain, recorded):
    return {
        "recipe": recipe, "ms a step, plain": f"{plain['step_ms']:.1f}", "recorded": f"{recorded['step_ms']:.1f}",
        "ratio": f"{plain['step_ms'] / recorded['step_ms']:.1f}", "s an epoch, plain": f"{plain['epoch_s']:.0f}",
        "recorded, s": f"{recorded['epoch_s']:.0f}", "MiB, plain": f"{plain['memory_MiB']:.0f}",
        "recorded, MiB": f"{recorded['memory_MiB']:.0f}", "rollout, frames/s": f"{recorded['rollout_fps']:.0f}"}


if __name__ == "__main__":
    run_script(main)
