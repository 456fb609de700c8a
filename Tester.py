"""Generate the sequences of test, validation or training with a trained model: submission, videos and scores."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

from cli.errors import UsageError
from cli.files import usable, write_json
from cli.flags import tester_parser
from cli.folders import locked
from cli.script import run_script
from cli.signals import end_quietly_at_ctrl_c

if __name__ == "__main__":
    end_quietly_at_ctrl_c()
    tester_parser().parse_args()  # answers --help, and a mistyped flag, before torch takes seconds to load

import torch

from dataloader import Dataset_Dance
from dataset_folder.choice import dataset_or_dancer, noted_fps
from dataset_folder.listing import shorter_sequences
from engine.devices import choose_device, choose_precision, dtype_name, report_full_memory, tune_cpu
from engine.evaluation import generate_sequences, score_all, score_table
from engine.saving.checkpoint import build_model
from engine.saving.logs import (
    clear_test, save_videos, write_psnr_per_frame, write_samples_per_frame, write_test_note)
from engine.saving.resume import epoch_of
from engine.saving.start import tester_flags
from engine.testing.course import course_score, note_other_first_frames, read_truth, write_submission
from engine.testing.driving import nearest_start, open_drive
from engine.testing.onnx_export import write_onnx
from engine.testing.perceptual import load_lpips
from engine.testing.samples import METRICS, mean_scores, samples_over_frames, score_samples, spread, summarise_samples
from media.pixel_csv import PUBLIC_SEQUENCES
from media.video import VideoFormat, check_video_format, write_comparison, write_video
from modules.ensemble import MeanOfModels
from modules.metrics import psnr_per_frame, summarise
from modules.views import MeanOfViews

SAMPLES_SHOWN = 8  # side by side; a hundred would be too small to see, and too wide for an MP4
SAMPLES_ON_PAGE = 4
MOST_GIF_FRAMES = 3000  # of a dance; the writer of GIFs holds all frames in memory
MEMORY_REMEDY = "close other programs that use it, give fewer --samples, or on a GPU --device cpu"


def main():
    args, checkpoints = tester_flags()
    check_video_format(args.video_format if args.make_gif else None)
    tune_cpu()
    if args.onnx:
        return export(args, *checkpoints[0])
    device = choose_device(args.device, args.gpu)
    with report_full_memory(device, MEMORY_REMEDY):
        test(args, checkpoints, device)


def test(args, checkpoints, device):
    """Generate what the flags ask for: the sequences of a split, or the dance of --drive."""
    metrics = METRICS | ({"lpips": load_lpips(device)} if args.lpips else {})
    dtype = choose_precision(args.amp, device)
    root = dataset_or_dancer(args.DR)
    options = {"frame_size": (args.frame_H, args.frame_W), "num_workers": args.num_workers}
    model = build_tested_model(checkpoints, args.views, device, dtype)
    together = f", each frame the mean of {1 + len(args.ensemble)} networks" if args.ensemble else ""
    print(f"generating on {device}, computing in {dtype_name(dtype)}{together}")
    generate_videos = partial(generate_sequences, model, device=device, dtype=dtype, seed=args.seed,
                              temperature=args.temperature, clamp=args.clamp_feedback)
    if args.drive:
        with locked("--save_root", args.save_root or Path(args.ckpt_path).parent / "drive") as folder:
            # first, because open_drive takes minutes: an image that cannot be read is told at once
            train_set = Dataset_Dance(root, None, "train", 1, args.partial, **options)
            drive = open_drive(args.drive, args.poses, root, **options)
            return generate_drive(drive, folder, train_set, generate_videos, args.video_format)
    fps = noted_fps(root)
    video_format = VideoFormat(args.video_format, fps) if args.make_gif else None
    [(_, first, _), *others] = checkpoints
    note = {"split": args.split, "checkpoints": [args.ckpt_path, *args.ensemble],
            "epoch": None if others else epoch_of(first), "views": args.views, "precision": dtype_name(dtype),
            "temperature": args.temperature, "seed": args.seed, "frames_per_second": fps}
    generate_and_score(args, root, options, generate_videos, metrics, video_format, note)


def generate_and_score(args, root, options, generate_videos, metrics, video_format, note):
    """Generate the sequences of a split, write them, and score them where the truth is known.

    note: what the test is of, see `write_test_note`.
    """
    names, frames, labels = open_sequences(root, args.split, args.val_vi_len, args.partial, options)
    known = root / "test" / "gt.csv"
    if args.split == "test" and not args.gt and known.is_file():
        print(f"note: {known} has the true frames; to score this test against them, give --gt {known}")
    truth, public = open_truth(args.split, args.gt, labels, frames, names)
    train_set = None  # of the baselines
    if truth is not None and args.split != "train":
        if (root / "train").is_dir():
            train_set = Dataset_Dance(root, None, "train", 1, args.partial, **options)
        else:
            print(f"note: there is no {root / 'train'}; the scores are without those of predictors that learn nothing")

    folder = args.save_root or Path(args.ckpt_path).parent / args.split
    refuse_folder_of_run(folder)
    with locked("--save_root", folder) as folder:
        predictions = generate_videos([frame[0] for frame in frames], labels)
        print(f"{len(names)} sequence{'s' * (len(names) > 1)} of up to {max(map(len, labels)) - 1} frames generated")
        submission = folder / "submission.csv"
        if args.split == "test":  # first: it takes the place of an earlier one, which is lost only if this succeeds
            write_submission(submission, predictions, check=not args.no_sanity)
        with usable("--save_root", folder):
            clear_test(folder, keep=[submission.name] if args.split == "test" else [])
        write_test_note(folder, note)
        if video_format:
            write_videos(folder, names, labels, predictions, truth, video_format)
        of_samples = {}
        if args.samples:
            samples = draw_samples(args.samples, names, frames, labels, generate_videos, args.seed)
            of_samples = write_samples(folder, samples, labels[0], truth, metrics, video_format)
        if truth is not None:
            write_psnr_per_frame(folder, psnr_per_frame(predictions, truth), names)
            measures = measures_of(args.split, public, metrics)
            write_scores(folder, predictions, truth, labels, train_set, measures, of_samples)
    print(f"written to {folder}")


def build_tested_model(checkpoints, views, device, dtype):
    """The model of the checkpoints, see `tester_flags`: the mean of theirs, and of that the mean over several views."""
    models = [build_model(settings, device, dtype, checkpoint, path) for settings, checkpoint, path in checkpoints]
    model = MeanOfModels(models) if len(models) > 1 else models[0]
    return MeanOfViews(model, views) if views > 1 else model


def export(args, settings, checkpoint, path):
    """Write a time step of a checkpoint's model as ONNX."""
    model = build_model(settings, torch.device("cpu"), torch.float32, checkpoint, path)
    write_onnx(args.onnx, model, (args.frame_H, args.frame_W), clamp=args.clamp_feedback)


def generate_drive(drive, folder, train_set, generate_videos, video_files):
    """Generate the dance of --drive from the training frame nearest to its first label, and write it as `driven`.

    A video that drives is shown beside it, and the result is written as MP4 and, if it is not too long, as GIF.
    """
    [prediction] = generate_videos([nearest_start(train_set, drive.labels[0])], [drive.labels])
    videos = {"label": drive.labels, "prediction": prediction}
    if drive.video is not None:
        videos, video_files = {"driven by": drive.video, **videos}, "both"
        if len(prediction) > MOST_GIF_FRAMES:
            video_files = "mp4"
            print(f"note: {len(prediction)} frames are too many for a GIF; {folder / 'driven.mp4'} shows them")
    write_comparison(folder / "driven", videos, VideoFormat(video_files, drive.fps))
    print(f"{len(prediction) - 1} frames generated; the dance is in {folder}")


def refuse_folder_of_run(folder):
    """Raise UsageError if a test is to be written into the folder of a run."""
    if any(Path(folder, name).is_file() for name in ("args.json", "metrics.csv")):
        raise UsageError(f"--save_root {folder} is the folder of a run, whose logs the test would replace; give "
                         "another folder, or leave the flag out")


def open_sequences(root, split, val_vi_len, train_partial, options):
    """Names of the sequences of a split, their frames (one or all) and their labels: uint8 [T, 3, H, W] each.

    train_partial: the fraction of the frames to take if the split is train.
    """
    sequences = Dataset_Dance(root, None, split, val_vi_len, train_partial if split == "train" else 1.0, **options)
    if split == "test":
        if shorter := shorter_sequences(sequences.names, sequences.labels):
            print(f"note: the longest test sequence has {max(map(len, sequences.labels))} labels, but {shorter}; look "
                  "whether some are missing")
        return sequences.names, sequences.frames, sequences.labels
    clips = [slice(start, start + val_vi_len) for start in sequences.clip_starts().tolist()]
    names = list(map(str, range(len(clips))))
    return names, [sequences.frames[clip] for clip in clips], [sequences.labels[clip] for clip in clips]


def open_truth(split, gt, labels, frames, names):
    """The true frames of the sequences, and which sequences are public; None each if unknown. gt: the file of --gt."""
    if gt:
        truth, public = read_truth(gt, labels, frames)
        note_other_first_frames(gt, truth, frames, names)
        return truth, public or [int(name) < PUBLIC_SEQUENCES for name in names]
    return (None if split == "test" else frames), None


def draw_samples(count, names, frames, labels, generate_videos, seed):
    """Yield the name of each sequence and `count` videos generated from its first frame, [count, T, 3, H, W].

    No two of all these videos draw the same z: generate_videos takes the seeds from its `seed` on, one for each video.
    """
    for number, (name, frame, label) in enumerate(zip(names, frames, labels)):
        yield name, torch.stack(generate_videos([frame[0]] * count, [label] * count, seed=seed + number * count))


def write_videos(folder, names, labels, predictions, truth, video_format):
    """Write pred_seq{s}, and compare_seq{s} with the label and any truth beside it, in two threads.

    The videos of the first sequence are saved in first.npz as well, for the page of the run. Each thread holds all
    frames of its GIF, in a byte a pixel. video_format: a VideoFormat.
    """

    def write(number):
        videos = {"label": labels[number], "prediction": predictions[number]}
        if truth is not None:
            videos["truth"] = truth[number]
        write_video(folder / f"pred_seq{names[number]}", predictions[number], video_format)
        write_comparison(folder / f"compare_seq{names[number]}", videos, video_format)
        if number == 0:
            save_videos(folder / "first.npz", videos)

    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(write, range(len(names))))


def write_samples(folder, samples, first_labels, truth, metrics, video_format):
    """Print how much the samples of the sequences differ; with a truth, write and return their scores.

    samples: name of each sequence and its samples, uint8 [K, T, 3, H, W], one sequence in memory at a time.
    first_labels: of the first sequence, whose first samples are written side by side into samples_seq{s}, fewer into
    samples.npz as well, for the page of the run. video_format: a VideoFormat; None writes no video.
    Returns {"mean of K samples": {metric: number}, "best of K samples": ...}; {} without a truth.
    """
    scored, spreads = [], []
    for number, (name, videos) in enumerate(samples):
        if number == 0 and video_format:
            columns = {"label": first_labels} | {f"z {i}": video for i, video in enumerate(videos[:SAMPLES_SHOWN], 1)}
            write_comparison(folder / f"samples_seq{name}", columns, video_format)
            save_videos(folder / "samples.npz", dict(islice(columns.items(), 1 + SAMPLES_ON_PAGE)))
        spreads.append(spread(videos))
        if truth is not None:
            scored.append(score_samples(videos, truth[number], metrics))
    print(f"{len(videos)} samples of each sequence: a pixel has a standard deviation of "
          f"{sum(spreads) / len(spreads):.3f} of 255")
    if truth is None:
        return {}
    write_samples_per_frame(folder, samples_over_frames(scored))
    return summarise_samples(scored)


def measures_of(split, public, metrics):
    """The functions that score the videos of a split: measure(videos, truth) is {name: number}.

    public: see course_score; the course scores its test only. metrics: see engine.testing.samples.mean_scores.
    """
    further = {name: metric for name, metric in metrics.items() if name not in ("psnr", "ssim")}  # summarise has them
    measures = [summarise, partial(mean_scores, metrics=further)]
    return [*measures, partial(course_score, public=public)] if split == "test" else measures


def write_scores(folder, predictions, truth, labels, train_set, measures, of_samples):
    """Write and print the scores of the model and, with a training set, of the baselines.

    measures: see measures_of. of_samples: further rows of the table, see write_samples.
    """
    def score(videos, true):
        return {name: number for measure in measures for name, number in measure(videos, true).items()}

    scores = score_all(predictions, truth, labels, train_set, score)
    scores = {"this model": scores.pop("this model"), **of_samples, **scores}
    write_json(folder / "scores.json", scores)
    print(score_table(scores))


if __name__ == "__main__":
    run_script(main)
