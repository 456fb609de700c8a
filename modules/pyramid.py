"""The five networks as a pyramid: features at 1/2, 1/4 and 1/8 of the frame's resolution, in plain 3x3 convolutions.

A few per cent of the template's time. Height and width must be even. Nothing here normalises over the batch.
Each part was measured against its alternatives: docs/tried.md.
"""

import torch
from torch import nn
from torch.nn import functional

from .layers import GaussianPosterior
from .pixels import shifted

Z_STRIDE = 8  # z has an eighth of the frame's height and width
INK = 10  # the lines of a label are thin and pale; the first convolution sees them this many times stronger
CANVAS_SIZE = 32, 64  # of the default frames


def conv(in_channels, out_channels, stride=1):
    """3x3 convolution and SiLU."""
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, stride, padding=1), nn.SiLU())


def enlarge(x, like):
    """Repeat the pixels of x up to the height and width of `like`."""
    return functional.interpolate(x, size=like.shape[-2:])


def stored_like(features, x):
    """x in the precision and memory format of some features, so that what joins them is not converted again."""
    channels_last = features.is_contiguous(memory_format=torch.channels_last)
    return x.to(features.dtype, memory_format=torch.channels_last if channels_last else torch.contiguous_format)


class RGB_Encoder(nn.Module):
    """Encode a frame: [B, 3, H, W] -> [B, F, H/2, W/2]. The first 12 channels are the frame's own pixels."""

    def __init__(self, in_chans, out_chans):
        super().__init__()
        self.conv = conv(4 * in_chans, out_chans - 4 * in_chans)

    def forward(self, image):
        pixels = functional.pixel_unshuffle(image, 2)  # [B, 12, H/2, W/2]
        features = self.conv(pixels)  # [B, F - 12, H/2, W/2]
        return torch.cat([stored_like(features, pixels), features], dim=1)


class Label_Encoder(nn.Module):
    """Encode a label: [B, 3, H, W] -> [B, L, H/2, W/2]."""

    def __init__(self, in_chans, out_chans):
        super().__init__()
        self.conv = conv(4 * in_chans, out_chans)

    def forward(self, image):
        ink = INK * (1 - image)  # lines on zero, like the padding
        return self.conv(functional.pixel_unshuffle(ink, 2))


class Gaussian_Predictor(GaussianPosterior):
    """Predict the posterior of z from frame and label features, and draw z: [B, N, H/8, W/8], rounded up."""

    def __init__(self, in_chans, out_chans):
        super().__init__(
            conv(in_chans, 8 * out_chans, stride=2),
            conv(8 * out_chans, 8 * out_chans, stride=2),
            nn.Conv2d(8 * out_chans, 2 * out_chans, 1),
        )

    def moments(self, outputs):
        """Part outputs into mu and logvar. The variance is exp(x) up to x = 0, and 1 + x above.

        An exponential there lets a single step of the optimizer raise the KL to millions of nats.
        """
        mu, x = outputs.chunk(2, dim=1)
        return mu, torch.where(x > 0, torch.log1p(x.clamp(min=0)), x)


class Decoder_Fusion(nn.Module):
    """Fuse frame features, label features and z: -> [B, D, H/2, W/2].

    A U-Net (Ronneberger et al. 2015) of three levels, equally wide: detail needs the channels, and with more of them at
    the lower levels it memorises the training poses. Its skips are added.
    """

    def __init__(self, in_chans, out_chans):
        super().__init__()
        self.enter = conv(in_chans, out_chans)
        self.down_quarter = conv(out_chans, out_chans, stride=2)
        self.down_eighth = conv(out_chans, out_chans, stride=2)
        self.up_quarter = nn.Conv2d(out_chans, out_chans, 1)
        self.merge_quarter = conv(out_chans, out_chans)
        self.up_half = nn.Conv2d(out_chans, out_chans, 1)
        self.merge_half = conv(out_chans, out_chans)

    def forward(self, img, label, parm):
        z = enlarge(parm, like=img)
        half = self.enter(torch.cat([img, label, z], dim=1))  # [B, D, H/2, W/2]
        quarter = self.down_quarter(half)  # [B, D, H/4, W/4]
        eighth = self.down_eighth(quarter)  # [B, D, H/8, W/8]
        quarter = self.merge_quarter(quarter + enlarge(self.up_quarter(eighth), like=quarter))
        return self.merge_half(half + enlarge(self.up_half(quarter), like=half))


class LeakySigmoid(nn.Sigmoid):
    """A sigmoid with a slope that is larger by LEAK in the backward pass.

    A network that generates only black frames early in training would stay there, because the sigmoid is flat.
    """

    LEAK = 0.02

    def forward(self, x):
        frame = super().forward(x)
        if not torch.is_grad_enabled():
            return frame
        return frame + self.LEAK * (x - x.detach()).nan_to_num()  # adds 0, with a gradient; inf - inf is NaN


class Generator(nn.Module):
    """Generate a frame from fused features: [B, D, H/2, W/2] -> [B, 3, H, W].

    A learned bias for each pixel, the canvas, holds what never moves. The sigmoid keeps the frame in (0, 1), so nothing
    can grow without bound over a long rollout.
    """

    def __init__(self, input_nc, output_nc):
        super().__init__()
        self.draw = nn.Sequential(nn.Conv2d(input_nc, 4 * output_nc, 3, padding=1), nn.PixelShuffle(2))
        self.canvas = nn.Parameter(torch.zeros(1, output_nc, *CANVAS_SIZE))
        self.squash = LeakySigmoid()

    def forward(self, input, shift=None):
        """shift: by how many pixels to shift the canvas to the right, int64 [B]; None: by none."""
        drawn = self.draw(input)  # [B, 3, H, W]
        canvas = self.canvas
        if drawn.shape[-2:] != CANVAS_SIZE:
            canvas = functional.interpolate(canvas, size=drawn.shape[-2:], mode="bilinear")
        if shift is not None:
            canvas = shifted(canvas.expand_as(drawn), shift)
        return self.squash(drawn + canvas)


def dimensions_of(weights):
    """Read the four dimensions off a state_dict; KeyError or IndexError if it is of another network."""
    encoder = weights["frame_transformation.conv.0.weight"]
    return {
        "F_dim": encoder.shape[0] + encoder.shape[1],
        "L_dim": weights["label_transformation.conv.0.weight"].shape[0],
        "N_dim": weights["Gaussian_Predictor.2.weight"].shape[0] // 2,
        "D_out_dim": weights["Decoder_Fusion.enter.0.weight"].shape[0],
    }
