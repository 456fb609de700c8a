"""Train the conditional VAE, validate it as it trains, and keep what it has learned."""

import math
from contextlib import contextmanager, suppress
from functools import partial

from cli.errors import RunError, Stopped, UsageError, one_line
from cli.flags import has_segments, network_settings, schedule_settings, trainer_parser, trainer_settings
from cli.parser import script_command
from cli.script import run_script
from cli.signals import end_quietly_at_ctrl_c, raise_stopped

if __name__ == "__main__":
    end_quietly_at_ctrl_c()
    trainer_parser().parse_args()  # answers --help, and a mistyped flag, before torch takes seconds to load

import torch

from dataloader import Dataset_Dance
from dataset_folder.choice import dataset_or_dancer, noted_fps
from engine.batches import EpochBatches, place_on
from engine.devices import (
    choose_device, choose_precision, dtype_name, machine_name, report_full_memory, tune_cpu)
from engine.evaluation import generate_sequences, measure_z, score_all, score_table, validate, validation_metrics
from engine.optimization import ClipTrainer
from engine.processes import barrier, joined_processes, rank, rank_0_first, silence_other_processes, world_size
from engine.saving.best_rollout import first_of_each, read_best_rollout, repair_psnr_per_frame
from engine.saving.checkpoint import build_model
from engine.saving.event_files import check_tensorboard
from engine.saving.logs import save_videos, tests_of_other_networks
from engine.saving.recorder import RunRecorder
from engine.saving.resume import identity_of, restore, resume_command
from engine.saving.run_folder import open_run
from engine.saving.start import trainer_flags
from engine.schedules import Schedules
from engine.training import RunState, train_one_epoch
from figures.curves import draw_runs
from figures.page import write_page
from media.video import VideoFormat, check_video_format, write_comparison
from modules.pixels import evenly_spread

MEMORY_REMEDY = "give smaller frames or a lower --partial, or on a GPU --data_device cpu"
MEASURED_PIXELS = 2**21  # of the labels that --label_norm fixed measures, in one batch
MEASURED_LABELS = 16, 256  # at least and at most, whatever their size


def main():
    silence_other_processes()
    args, checkpoint, checkpoint_path = trainer_flags()
    schedules = Schedules(**schedule_settings(args))
    check_packages(args)
    tune_cpu()
    device = choose_device(args.device, args.gpu)
    dtype = choose_precision(args.amp, device)
    with joined_processes(device, dtype_name(dtype)), report_full_memory(device, MEMORY_REMEDY):
        train_set, val_set = open_datasets(args)
        model = starting_model(args, train_set, device, dtype, checkpoint, checkpoint_path)
        announce(model, train_set, device, dtype, args)
        settings = {"device": device, "dtype": dtype, "seed": args.seed, "clamp": args.clamp_feedback}
        generate_videos = partial(generate_sequences, model, **settings, temperature=args.temperature)
        if args.test:
            return print_scores(validate(val_set, generate_videos), train_set)
        trainer = ClipTrainer(model, device, dtype, **trainer_settings(args))
        resumed = checkpoint if args.resume else None
        state = restore(trainer, resumed, checkpoint_path, train_set, val_set, batch_size=args.batch_size,
                        accumulate=args.accumulate) if resumed else RunState()
        placed = place_on(train_set, device, args.data_device)
        video_format = VideoFormat(args.video_format, noted_fps(train_set.root))
        with open_run(args.save_root, model, arguments=vars(args), machine=machine_name(device, dtype),
                      fps=video_format.fps, resumed=resumed, overwrite=args.overwrite,
                      first_epoch=state.last_epoch + 1, num_epoch=args.num_epoch, per_save=args.per_save) as folder, \
                draw_at_the_end(folder, val_set, state, device, video_format):
            recorder = RunRecorder(folder, trainer, state, arguments=vars(args), num_epoch=args.num_epoch,
                                   dataset=identity_of(train_set, val_set), save_minutes=args.save_minutes,
                                   per_save=args.per_save, tensorboard=args.tensorboard)
            for epoch in range(state.last_epoch + 1, args.num_epoch):
                batches = EpochBatches(placed, epoch, device, tfr=schedules.tfr(epoch), **batch_settings(args, epoch))
                row = train_one_epoch(trainer, batches, schedules, state, recorder)
                if rank() == 0 and ((epoch + 1) % args.val_every == 0 or epoch + 1 == args.num_epoch):
                    with recorder.validation(row):
                        videos = validate(val_set, partial(generate_videos, after_frame=recorder.stop_if_asked))
                        row |= validation_metrics(videos) | measure_z(model, val_set, **settings)
                        recorder.keep_rollout(row, videos, video_format if args.store_visualization else None)
                recorder.after_epoch(row)
        if rank() == 0:
            show_best(folder, val_set, train_set, state)


def check_packages(args):
    """Raise UsageError if a flag needs a package that is missing."""
    check_video_format(args.video_format)
    if args.tensorboard:
        check_tensorboard()


def open_datasets(args):
    """Open the training and the validation set; without --DR those of the stage dancer, made if need be."""
    options = {"frame_size": (args.frame_H, args.frame_W), "num_workers": args.num_workers}
    with rank_0_first():
        root = dataset_or_dancer(args.DR)
        val_set = Dataset_Dance(root, None, "val", args.val_vi_len, **options)
        train_set = Dataset_Dance(root, None, "train", args.train_vi_len, args.partial, **options)
    if args.fast_train and not len(train_set.clip_starts(args.fast_partial)):
        raise UsageError(f"--fast_partial {args.fast_partial} leaves no clip of {args.train_vi_len} frames; raise it")
    return train_set, val_set


def starting_model(args, train_set, device, dtype, checkpoint, checkpoint_path):
    """Build the model that the run starts from: with the weights of the checkpoint, or with fresh ones."""
    torch.manual_seed(args.seed)
    model = build_model(network_settings(args), device, dtype, checkpoint, checkpoint_path)
    if args.label_norm == "fixed" and checkpoint is None:
        least, most = MEASURED_LABELS
        wanted = min(max(MEASURED_PIXELS // (args.frame_H * args.frame_W), least), most)
        chosen = train_set.labels[evenly_spread(len(train_set.labels), wanted)]
        model.fix_label_norm(chosen.to(device))
    return model


def announce(model, train_set, device, dtype, args):
    """Print what is trained, where, and whether its beta has no time to rise."""
    processes = f" in each of {world_size()} processes" if world_size() > 1 else ""
    print(f"{sum(weights.numel() for weights in model.parameters()):,} parameters on {device}{processes}, computing in "
          f"{dtype_name(dtype)}; {len(train_set)} clips of {train_set.video_len} frames to train on")
    if not args.test and args.kl_anneal_type == "Cyclical" and args.num_epoch < 2 * args.kl_anneal_cycle:
        print(f"note: --kl_anneal_cycle {args.kl_anneal_cycle} cuts {args.num_epoch} epochs into periods of which some "
              "are one epoch long; beta is 1 there, without a rise: give fewer cycles, or more epochs")


def batch_settings(args, epoch):
    """The parameters of EpochBatches that the flags give."""
    fast = args.fast_train and epoch < args.fast_train_epoch
    return {"tfr_per": args.tfr_per, "partial": args.fast_partial if fast else 1.0, "batch_size": args.batch_size,
            "accumulate": args.accumulate, "interleave": args.interleave if has_segments(vars(args)) else 1,
            "shuffle": args.shuffle, "random_start": args.random_start, "seed": args.seed}


@contextmanager
def draw_at_the_end(folder, val_set, state, device, video_format):
    """Draw the figures and the best video of a run when it ends, also when it is stopped or fails."""
    remedy = (f"what was saved in {folder} is intact: if last.ckpt is there, continue with --resume and "
              "--checkpoint_frames, on a GPU --no-cuda_graphs, or a lower --batch_size and an --accumulate that "
              "keeps their product; or train anew with a lower --train_vi_len or --interleave, or with --bptt 1, which "
              "takes the least")
    try:
        with report_full_memory(device, remedy):
            yield
    except (RunError, Stopped) as error:
        try:
            draw(folder, val_set, state, video_format)
        except Exception as other:  # the first error is the one to report
            print(f"note: the figures of this run are not complete ({one_line(other)})")
        if isinstance(error, Stopped):
            with suppress(RunError):  # another process is gone
                barrier()  # torchrun ends all processes as soon as one has ended
        raise
    raise_stopped(f"the training is done and saved; for the rest of its figures: {resume_command(folder)}",
                  at_ctrl_c=True)
    draw(folder, val_set, state, video_format)


def draw(folder, val_set, state, video_format):
    """Draw what the run in the folder has logged, and write its best rollout beside label and truth, and its page.

    The page leaves out the tests in the folder, if there are any: they may be of another model.
    """
    if rank() > 0:
        return
    videos = read_best_rollout(folder, val_set, state.best_psnr)
    repair_psnr_per_frame(folder, videos, state.best_psnr)
    draw_runs([folder])
    if videos:
        write_comparison(folder / "best", first_of_each(videos), video_format)
        save_videos(folder / "best.npz", first_of_each(videos))
    write_page(folder / "page.html", [folder], tests=False)


def show_best(folder, val_set, train_set, state):
    """Score the best rollout beside the baselines, and say what to do next."""
    path = folder / "best.ckpt"
    if state.best_psnr == -math.inf:
        score = script_command("Trainer.py", "--test", "--ckpt_path", folder / "last.ckpt")
        return print(f"\nno epoch of this run was validated, so it has no best.ckpt; to score its last.ckpt: {score}")
    if not path.exists():
        raise RunError(f"there is no {path}: it was removed, or not brought along with last.ckpt; test "
                       f"{folder / 'last.ckpt'} instead")
    print(f"\n{path}:")
    videos = read_best_rollout(folder, val_set, state.best_psnr)
    if videos:
        print_scores(videos, train_set)
    else:
        print("its validation video is gone; to score it again: "
              + script_command("Trainer.py", "--test", "--ckpt_path", path))
    best = next((row["epoch"] for row in state.rows if row.get("val_psnr") == state.best_psnr), None)
    for split, epoch in tests_of_other_networks(folder, best).items():
        print(f"\nnote: the test in {folder / split} is of the network of epoch {epoch}, and {path.name} of epoch "
              f"{best}")
    test = script_command("Tester.py", "--ckpt_path", path)
    print(f"\npage:    {folder / 'page.html'}\nfigures: {folder}\ntest:    {test}")


def print_scores(videos, train_set):
    """Print the scores of a validation beside those of the baselines."""
    scores = score_all(videos["prediction"], videos["truth"], videos["label"], train_set)
    print(f"validation, {videos['truth'].shape[1] - 1} frames from one:\n{score_table(scores)}")


if __name__ == "__main__":
    run_script(main)
