"""Roll a trained model out over the test (or validation) sequences: submission, GIFs and scores."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from dataloader import Dataset_Dance, dataset_or_dancer
from modules import VAE_Model
from modules.checkpoint import load_checkpoint, load_weights, network_dimensions
from modules.devices import choose_device, choose_precision
from modules.errors import UsageError, run_script
from modules.images import to_uint8
from modules.metrics import course_score, psnr, summarise, trivial_predictions
from modules.options import network_of, take_from_checkpoint, tester_parser
from modules.outputs import (read_pixels_csv, table, write_comparison_gif, write_gif, write_json, write_pixels_csv,
                             write_psnr_per_frame)
from modules.rollout import generate


def main():
    args, checkpoint = parse_arguments()
    device = choose_device(args.device, args.gpu)
    dtype = choose_precision(args.amp, device)
    root = dataset_or_dancer(args.DR)
    options = {"frame_size": (args.frame_H, args.frame_W), "num_workers": args.num_workers}
    model = VAE_Model(**network_of(args))
    load_weights(model, checkpoint, args.ckpt_path)
    model = model.to(device, memory_format=torch.channels_last)

    sequences = Dataset_Dance(root, None, args.split, args.val_vi_len, **options)
    if args.split == "test":
        names, frames, labels = sequences.names, sequences.frames, sequences.labels
    else:
        names = [str(number) for number in range(len(sequences))]
        frames, labels = sequences.clips(sequences.starts())
    truth = frames if args.split == "val" else None
    if args.gt:
        truth, public = read_truth(args.gt, labels, frames)
    folder = open_folder(args)

    predictions = roll_out(model, frames, labels, device, dtype, args)
    print(f"{len(names)} sequence{'s' * (len(names) > 1)} of up to {max(map(len, labels)) - 1} generated frames "
          f"on {device}", flush=True)
    if args.split == "test":
        submission = folder / "submission.csv"
        write_pixels_csv(submission, [video.numpy() for video in predictions])
        if not args.no_sanity:
            check_submission(submission, predictions)
    if args.make_gif:
        write_gifs(folder, names, labels, predictions, truth)
    if args.samples:
        write_samples(folder, names[0], model, frames[0], labels[0], device, dtype, args)
    if truth is not None:
        write_psnr_per_frame(folder / "psnr_per_frame.csv", [
            psnr(prediction[1:], true[1:]).tolist() for prediction, true in zip(predictions, truth)])
        train = Dataset_Dance(root, None, "train", 1, **options) if (root / "train").is_dir() else None
        scores = score(predictions, truth, labels, train, public if args.gt else None)
        write_json(folder / "scores.json", scores)
        print(table([{"predictor": name, **values} for name, values in scores.items()]))
    print(f"written to {folder}")


def parse_arguments():
    """The flags, completed by what the checkpoint answers, and the checkpoint."""
    parser = tester_parser()
    args, typed = parser.parse_args(), parser.given()
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


def open_folder(args):
    """Make the folder for the results: --save_root, or one beside the checkpoint."""
    folder = Path(args.save_root or Path(args.ckpt_path).parent / args.split)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--save_root {folder} cannot be made ({error.strerror}); give another folder") from None
    return folder


def roll_out(model, frames, labels, device, dtype, args):
    """Generate all sequences as one batch; a shorter one is padded with its last label, and cut after.

    frames, labels: lists of [>=1, 3, H, W] and [T, 3, H, W], uint8. Returns a list of uint8 [T, 3, H, W].
    """
    longest = max(map(len, labels))
    padded = [torch.cat([label, label[-1:].expand(longest - len(label), -1, -1, -1)]) for label in labels]
    first = torch.stack([frame[0] for frame in frames])
    videos = generate(model, first.to(device), torch.stack(padded).to(device), args.seed, args.temperature,
                      args.clamp_feedback, dtype=dtype, cuda_graphs=args.cuda_graphs)
    return [video[: len(label)] for video, label in zip(videos, labels)]


def read_truth(path, labels, frames):
    """True frames of each sequence from the course's ground truth file, and which sequences are public."""
    pixels, usage = read_pixels_csv(path, "--gt")
    rows, columns = sum(map(len, labels)), frames[0][0].numel()
    if pixels.shape != (rows, columns):
        raise UsageError(f"--gt {path} has {pixels.shape[0]} rows of {pixels.shape[1]} pixels; these test sequences "
                         f"need {rows} rows of {columns}")
    lengths = [len(label) for label in labels]
    truth = [part.unflatten(1, frames[0][0].shape) for part in torch.from_numpy(pixels).split(lengths)]
    if usage is None:
        return truth, None
    starts = np.cumsum([0, *lengths])
    return truth, ["Public" in usage[start:stop] for start, stop in zip(starts, starts[1:])]


def check_submission(path, predictions):
    """Read the submission back and compare it with what was to be in it."""
    pixels, _ = read_pixels_csv(path, "submission")
    expected = torch.cat(predictions).flatten(1).numpy()
    if not np.array_equal(pixels, expected):
        sys.exit(f"{path} does not hold what was written; is the disk full?")


def write_gifs(folder, names, labels, predictions, truth):
    """pred_seq{s}.gif, and compare_seq{s}.gif with the label and any truth beside it, in parallel threads."""

    def write(number):
        videos = {"label": labels[number], "prediction": predictions[number]}
        if truth is not None:
            videos["truth"] = truth[number]
        write_gif(folder / f"pred_seq{names[number]}.gif", predictions[number])
        write_comparison_gif(folder / f"compare_seq{names[number]}.gif", videos)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(len(names))))


def write_samples(folder, name, model, frames, labels, device, dtype, args):
    """samples_seq{s}.gif: the futures that several draws of z make of one sequence, side by side. Prints how much
    they differ."""
    alike = [part[None].expand(args.samples, -1, -1, -1, -1) for part in (frames, labels)]
    samples = torch.stack(roll_out(model, *alike, device, dtype, args))
    write_comparison_gif(folder / f"samples_seq{name}.gif", {
        "label": labels, **{f"z {number}": video for number, video in enumerate(samples, start=1)}})
    spread = samples[:, 1:].float().std(dim=0, correction=0).mean().item()
    print(f"{args.samples} samples of sequence {name}: standard deviation {spread:.3f} of 255, mean over its pixels",
          flush=True)


def score(predictions, truth, labels, train, public):
    """Scores by predictor: the model's, and the trivial ones' where there is a training set."""
    contenders = {"this model": predictions}
    if train:
        for number, (true, label) in enumerate(zip(truth, labels)):
            for name, video in trivial_predictions(train, true[None], label[None]).items():
                contenders.setdefault(name, []).append(to_uint8(video[0]))
    return {name: summarise(videos, truth) | course_score(videos, truth, public)
        for name, videos in contenders.items()}


if __name__ == "__main__":
    run_script(main)
