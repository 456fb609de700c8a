"""How good a generated video is, and how good the trivial predictors are. Images are in [0, 1]."""

import torch

from .images import to_unit

PERFECT_PSNR = 100.0


def psnr(prediction, target):
    """PSNR in dB of each frame: [..., 3, H, W] -> [...], of images in [0, 1] or uint8. The prediction is clamped to
    [0, 1] first; an error below that of 100 dB counts as 100 dB, so that a perfect frame is not infinite."""
    error = (to_unit(prediction).clamp(0, 1) - to_unit(target)).square().mean(dim=(-3, -2, -1))
    return -10 * torch.log10(error.clamp(min=10 ** (-PERFECT_PSNR / 10)))


def ssim(prediction, target):
    """Structural similarity of each frame, [..., 3, H, W] -> [...], mean over channels and over the
    places where the window fits (Wang et al. 2004: Gaussian window of 11 x 11, sigma 1.5, K 0.01 and
    0.03). A frame with a side below 11 takes the largest odd window that fits."""
    x, y = prediction.clamp(0, 1), target
    size = min(11, *(side - 1 + side % 2 for side in x.shape[-2:]))
    offsets = torch.arange(size, dtype=x.dtype, device=x.device) - size // 2
    window = torch.exp(-(offsets**2) / (2 * 1.5**2))
    window = window / window.sum()

    def band(side):  # [side - size + 1, side]: the window at each of its places, so that blurring is a product
        rows = torch.arange(side - size + 1, device=x.device)[:, None]
        matrix = x.new_zeros(len(rows), side)
        return matrix.scatter_(1, rows + torch.arange(size, device=x.device), window.expand(len(rows), size))

    vertical, horizontal = band(x.shape[-2]), band(x.shape[-1]).T

    def blur(image):
        return vertical @ (image @ horizontal)

    mean_x, mean_y = blur(x), blur(y)
    variance_x = blur(x * x) - mean_x**2
    variance_y = blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))
    return similarity.mean(dim=(-3, -2, -1))


def summarise(predictions, targets):
    """PSNR (dB) and SSIM of generated videos, means over the frames 1..T-1 of each, then over the videos.

    predictions, targets: [T, 3, H, W] each, in [0, 1] or uint8; frame 0 is the given one. `psnr_first_100` and
    `psnr_last_100` are those of a video's first and last 100 generated frames: they differ by its drift.
    """
    rows = []
    for prediction, target in zip(predictions, targets):
        prediction, target = to_unit(prediction), to_unit(target)
        per_frame = psnr(prediction[1:], target[1:])
        rows.append([per_frame.mean(), ssim(prediction[1:], target[1:]).mean(),
                     per_frame[:100].mean(), per_frame[-100:].mean()])
    means = torch.tensor(rows).mean(dim=0).tolist()
    return dict(zip(("psnr", "ssim", "psnr_first_100", "psnr_last_100"), means))


def trivial_predictions(train, frames, labels):
    """What a video looks like to predictors that learn nothing, by name: [B, T, 3, H, W] each, in [0, 1].

    train: training set with uint8 `frames` and `labels`, [N, 3, H, W]; frames: [B, >=1, 3, H, W];
    labels: [B, T, 3, H, W]; uint8 too, or in [0, 1]. The nearest label is that of least L2 distance.
    """
    batch, length = labels.shape[:2]
    nearest = _nearest(to_unit(labels).flatten(0, 1).flatten(1), train.labels)
    return {
        "nearest label": to_unit(train.frames[nearest]).unflatten(0, (batch, length)),
        "mean frame": mean_image(train.frames).expand(labels.shape),
        "first frame": to_unit(frames[:, :1]).expand(labels.shape),
    }


def mean_image(images, chunk=4096):
    """Mean of uint8 images [N, 3, H, W], as float in [0, 1]."""
    return sum(part.sum(0, dtype=torch.int64) for part in images.split(chunk)) / (255 * len(images))


def _nearest(queries, images, chunk=4096):
    """For each query [Q, 3HW], in [0, 1], the index of the uint8 image of least L2 distance."""
    distances, indices = [], []
    for part in images.split(chunk):
        distance, index = torch.cdist(queries.double(), to_unit(part).flatten(1).double()).min(dim=1)
        distances.append(distance)
        indices.append(index + len(indices) * chunk)
    best = torch.stack(distances).argmin(dim=0)
    return torch.stack(indices).gather(0, best[None])[0]


SCORED_FRAMES = 600
PUBLIC_SEQUENCES = 3


def course_score(prediction, target, public=None):
    """The score of the course: mean PSNR over frames 1..600 of every sequence, rounded to 0..255.

    prediction, target: uint8 lists of [T, 3, H, W]. public: for each sequence whether it counts to
    the public part; by default the first three do. A part without sequences is None.
    """
    if public is None:
        public = [number < PUBLIC_SEQUENCES for number in range(len(target))]
    scored = slice(1, SCORED_FRAMES + 1)
    scores = torch.stack([
        psnr(predicted[scored], true[scored]).mean() for predicted, true in zip(prediction, target)
    ])
    public = torch.tensor(public)
    parts = {"score": scores, "public": scores[public], "private": scores[~public]}
    return {name: part.mean().item() if len(part) else None for name, part in parts.items()}
