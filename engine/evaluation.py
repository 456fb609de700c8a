"""Roll a model out over sequences, and score its videos beside predictors that learn nothing."""

import torch

from cli.errors import RunError, is_full_memory
from cli.progress import Progress
from cli.tables import numeral, text_table
from modules.latent import z_usage
from modules.metrics import summarise
from modules.pixels import evenly_spread, to_uint8, to_unit
from modules.rollout import generate

from .devices import autocast

NUMBERS_AT_ONCE = 2**22  # of images in a comparison: 32 MiB as float64
PIXELS_ON_CPU = 2**17  # of the frames in a batch: 64 of 32 x 64
Z_CLIPS, Z_FRAMES = 4, 16  # on which z is measured: few, so that it costs little beside the validation


def generate_sequences(model, first_frames, labels, *, device, dtype, seed, temperature, clamp, after_frame=None):
    """Generate all sequences as one batch, or as smaller ones: on a CPU, and where memory is too small.

    Linux kills a process that runs out of memory, without an error. So on a CPU the frames of a batch never have more
    than PIXELS_ON_CPU, unless a single one has.
    first_frames: uint8 [3, H, W] each; labels: uint8 [T, 3, H, W] each. dtype: what the networks compute in.
    after_frame: called after each generated frame; it may raise, to end this. The other parameters: see
    modules.rollout.generate; the size of a batch changes nothing but rounding. Returns a list of uint8 [T, 3, H, W],
    frame 0 the given one. Raises RunError if one sequence alone is too much.
    """
    settings = {"device": device, "dtype": dtype, "temperature": temperature, "clamp": clamp,
                "after_frame": after_frame}
    at_once = len(labels)
    if device.type == "cpu":
        views = getattr(model, "views", 1)  # a MeanOfViews computes every frame once for each of its views
        at_once = max(1, PIXELS_ON_CPU // (views * labels[0][0, 0].numel()))
    videos = []
    for first in range(0, len(labels), at_once):
        part = slice(first, first + at_once)
        videos += _generate_or_halve(model, first_frames[part], labels[part], seed=seed + first, **settings)
    return videos


def _generate_or_halve(model, first_frames, labels, *, seed, **settings):
    """`generate_sequences` as one batch, or in halves, and halves of these, where memory is too small for that."""
    try:
        return _generate_batch(model, first_frames, labels, seed=seed, **settings)
    except (RuntimeError, MemoryError) as error:  # the error keeps tensors alive: the retry stands after this block
        if not is_full_memory(error):
            raise
        device = settings["device"]
        remedy = "or give --device cpu" if device.type != "cpu" else "or train with smaller frames"
        if device.type == "cuda":
            remedy += ", or in Trainer.py --no-cuda_graphs"  # recordings keep their memory for themselves
        if len(labels) == 1:
            raise RunError(f"the memory of this {device.type} is full with a single sequence; close other programs "
                           f"that use it, {remedy}") from None
    half = len(labels) // 2
    print(f"note: {len(labels)} sequences at once do not fit into memory; generating {half} and then the others")
    return (_generate_or_halve(model, first_frames[:half], labels[:half], seed=seed, **settings)
            + _generate_or_halve(model, first_frames[half:], labels[half:], seed=seed + half, **settings))


def _generate_batch(model, first_frames, labels, *, device, dtype, seed, temperature, clamp, after_frame):
    """`generate_sequences` as one batch. A shorter sequence is padded with its last label, and cut afterwards."""
    padded = torch.empty(len(labels), max(map(len, labels)), *labels[0].shape[1:], dtype=torch.uint8)
    for row, label in zip(padded, labels):
        row[:len(label)], row[len(label):] = label, label[-1]
    finite = [torch.ones(len(labels), dtype=torch.bool, device=device)]  # a [B] for each frame; frame 0 is given

    def watched(steps):
        for step in Progress(steps, total=padded.shape[1] - 1, desc="generating", unit="frame"):
            finite.append(step.frame.isfinite().flatten(1).all(dim=1))
            yield step
            if after_frame:
                after_frame()

    with autocast(device, dtype):
        videos = generate(model, torch.stack(list(first_frames)).to(device), padded.to(device), seed, temperature,
                          clamp, watched)
    of_videos = [row[:len(label)].tolist() for row, label in zip(torch.stack(finite, dim=1).cpu(), labels)]
    diverged = [row.index(False) for row in of_videos if not all(row)]
    if diverged:
        remedy = f"train with {'' if clamp else '--clamp_feedback or '}a lower --lr"
        if dtype == torch.float16:  # it ends at 65504
            remedy = f"try --amp off, or {remedy}"
        print(f"note: {len(diverged)} of {len(labels)} rollouts diverged, the first at frame {min(diverged)}: numbers "
              f"that are not finite are drawn as black or white; {remedy}")
    return [video[:len(label)] for video, label in zip(videos, labels)]


def validate(val_set, generate_videos):
    """Generate the validation clips: {"label", "prediction", "truth"}, uint8 [B, T, 3, H, W] each.

    generate_videos(first_frames, labels): see generate_sequences.
    """
    frames, labels = val_set.clips(val_set.clip_starts())
    prediction = torch.stack(generate_videos(frames[:, 0], labels))
    return {"label": labels, "prediction": prediction, "truth": frames}


def validation_metrics(videos):
    """Score the rollouts of a validation, as columns of metrics.csv; videos: see `validate`."""
    scores = summarise(videos["prediction"], videos["truth"])
    return {"val_psnr": scores["psnr"], "val_ssim": scores["ssim"]}


def measure_z(model, val_set, *, device, dtype, seed, clamp):
    """Measure z on a few clips, spread evenly over the validation clips; columns of metrics.csv as a dict."""
    videos = val_set.clips(val_set.clip_starts())  # frames and labels
    length = min(Z_FRAMES, val_set.video_len)
    count = val_set.video_len // length  # in each validation clip
    pieces = [video[:, :count * length].unflatten(1, (count, length)).flatten(0, 1) for video in videos]
    chosen = evenly_spread(len(pieces[0]), Z_CLIPS)
    frames, labels = (to_unit(piece[chosen].to(device)) for piece in pieces)  # [Z_CLIPS, Z_FRAMES, 3, H, W]
    with autocast(device, dtype):
        return {f"val_{name}": value for name, value in z_usage(model, frames, labels, seed, clamp).items()}


def baselines(train_set, first_frames, labels):
    """Yield the name and the videos of each predictor that learns nothing: lists of uint8 [T, 3, H, W].

    train_set: with uint8 `frames` and `labels`, [N, 3, H, W]. The nearest label is that of least L2 distance.
    """
    mean = to_uint8(mean_image(train_set.frames))
    yield "nearest label", [train_set.frames[nearest_images(label, train_set.labels)] for label in labels]
    yield "mean frame", [mean.expand(label.shape) for label in labels]
    yield "first frame", [frame.expand(label.shape) for frame, label in zip(first_frames, labels)]


def chunk_size(images):
    """How many of these images to compare at once, so that memory suffices."""
    return max(1, NUMBERS_AT_ONCE // images[0].numel())


def mean_image(images):
    """The mean of uint8 images [N, 3, H, W], in [0, 1]."""
    chunk = chunk_size(images)
    return sum(part.sum(0, dtype=torch.int64) for part in images.split(chunk)) / (255 * len(images))


def nearest_images(queries, images):
    """For each uint8 query [Q, 3, H, W], the index of the image [N, 3, H, W] of least L2 distance."""
    chunk = chunk_size(images)
    return torch.cat([_nearest(part, images, chunk) for part in queries.split(chunk)])


def _nearest(queries, images, chunk):
    queries = to_unit(queries).flatten(1).double()
    distances, indices = [], []
    for part in images.split(chunk):
        distance, index = torch.cdist(queries, to_unit(part).flatten(1).double()).min(dim=1)
        distances.append(distance)
        indices.append(index + len(indices) * chunk)
    best = torch.stack(distances).argmin(dim=0)
    return torch.stack(indices).gather(0, best[None])[0]


def score_all(predictions, truth, labels, train_set, score=summarise):
    """Score `predictions` and, with a training set, the baselines: {predictor: scores}.

    predictions, truth, labels: uint8 [T, 3, H, W] each. score(videos, truth) gives a dict of numbers.
    """
    scores = {"this model": score(predictions, truth)}
    if train_set is not None:
        for name, videos in baselines(train_set, [true[0] for true in truth], labels):  # one in memory at a time
            scores[name] = score(videos, truth)
    return scores


def score_table(scores):
    """The scores of `score_all` as a text table; a score that a later row lacks is a dash."""
    digits = {measure: 3 if measure in ("ssim", "lpips") else 2 for measure in scores["this model"]}
    return text_table([{"predictor": name} | {measure: numeral(row.get(measure), digits[measure]) for measure in digits}
                       for name, row in scores.items()])
