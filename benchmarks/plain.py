"""The plain implementation that bench.py measures ours against: the loops as one first writes them.

float32 in the default memory layout, one frame at a time, PNGs decoded and resized by the loader in every epoch, one
test sequence at a time. The networks and their weights are ours; all else here is separate.
"""

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, Dataset

from modules.layers import MAX_LOGVAR


class Clips(Dataset):
    """Clips back to back, read anew whenever one is asked for: frames and labels, [T, 3, H, W] each, in [0, 1]."""

    def __init__(self, root, mode, video_len, frame_size):
        self.video_len, self.frame_size = video_len, frame_size
        self.frames, self.labels = (
            sorted((root / mode / f"{mode}_{kind}").iterdir(), key=lambda path: int(path.stem))
            for kind in ("img", "label"))

    def __len__(self):
        return len(self.frames) // self.video_len

    def __getitem__(self, index):
        clip = slice(index * self.video_len, (index + 1) * self.video_len)
        return tuple(torch.stack([self._read(path) for path in paths[clip]]) for paths in (self.frames, self.labels))

    def _read(self, path):
        height, width = self.frame_size
        image = Image.open(path).convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def open_data(root, args, mode):
    """A loader of batches of clips for training, or of the whole validation sequence."""
    training = mode == "train"
    clips = Clips(root, mode, args.train_vi_len if training else args.val_vi_len, (args.frame_H, args.frame_W))
    return DataLoader(clips, args.batch_size if training else 1, shuffle=training, num_workers=args.num_workers)


def clip_loss(model, frames, labels, beta, teacher_forced, noise=None):
    """Sum over the frames 1..T-1 of MSE + beta KL; frames and labels [B, T, 3, H, W].

    noise: standard normal, [T-1, B, N, H, W]; drawn as it is needed if left out.
    """
    clips, length = labels.shape[:2]
    label_features = model.label_transformation(labels[:, 1:].flatten(0, 1))  # BatchNorm's batch is the whole clip
    label_features = label_features.unflatten(0, (clips, length - 1))
    loss, frame = 0, frames[:, 0]
    for t in range(1, length):
        frame_features, pose = model.frame_transformation(frame), label_features[:, t - 1]
        seen = model.frame_transformation(frames[:, t]) if model.posterior == "current" else frame_features
        _, mu, logvar = model.Gaussian_Predictor(seen, pose)
        epsilon = torch.randn_like(mu) if noise is None else noise[t - 1]
        z = mu + torch.exp(logvar.clamp(max=MAX_LOGVAR) / 2) * epsilon
        predicted = model.Generator(model.Decoder_Fusion(frame_features, pose, z))
        kl = -0.5 * torch.sum(1 + logvar - mu**2 - logvar.exp()) / clips
        loss = loss + mse_loss(predicted, frames[:, t]) + beta * kl
        frame = frames[:, t] if teacher_forced else predicted
    return loss


def train_on(model, optimizer, frames, labels, beta, teacher_forced, noise=None):
    """One optimizer step; returns the loss, mean over the predicted frames. See `clip_loss`."""
    optimizer.zero_grad()
    loss = clip_loss(model, frames, labels, beta, teacher_forced, noise)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item() / (frames.shape[1] - 1)


def train_one_epoch(model, optimizer, loader, beta, teacher_forced, device):
    """One pass over the clips; returns the mean loss."""
    model.train()
    losses = [train_on(model, optimizer, frames.to(device), labels.to(device), beta, teacher_forced)
              for frames, labels in loader]
    return sum(losses) / len(losses)


@torch.no_grad()
def generate(model, first_frame, labels, seed):
    """One sequence from its first frame [3, H, W] and its labels [T, 3, H, W]: [T, 3, H, W] on the CPU, in [0, 1]."""
    model.eval()
    random = torch.Generator().manual_seed(seed)
    frame = first_frame[None]
    video = [frame]
    for label in labels[1:]:
        frame_features, pose = model.frame_transformation(frame), model.label_transformation(label[None])
        z = torch.randn(1, *model.z_shape(*frame.shape[2:]), generator=random).to(frame.device)
        frame = model.Generator(model.Decoder_Fusion(frame_features, pose, z))
        video.append(frame)
    return torch.cat(video).clamp(0, 1).cpu()


def validate(model, loader, seed, device):
    """PSNR in dB, mean over the generated frames of the validation sequences."""
    scores = []
    for frames, labels in loader:
        video = generate(model, frames[0, 0].to(device), labels[0].to(device), seed)
        error = (video[1:] - frames[0, 1:]).square().mean(dim=(1, 2, 3))
        scores.append(-10 * torch.log10(error).mean().item())
    return sum(scores) / len(scores)
