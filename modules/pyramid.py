"""The five networks of the conditional VAE as a pyramid: features at 1/2, 1/4 and 1/8 of the frame's
resolution, in plain 3x3 convolutions, for a few per cent of the template's time.

Height and width must be even. Nothing here normalises over the batch.
"""

import torch
from torch import nn
from torch.nn import functional

Z_STRIDE = 8  # z has an eighth of the frame's height and width


def conv(in_channels, out_channels, stride=1):
    """3x3 convolution and LeakyReLU(0.1)."""
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, stride, padding=1), nn.LeakyReLU(0.1))


def enlarge(x, like):
    """Repeat the pixels of x to the height and width of `like`."""
    return functional.interpolate(x, size=like.shape[-2:])


class RGB_Encoder(nn.Module):
    """Features of a frame: [B, 3, H, W] -> [B, F, H/2, W/2]; the first 12 channels are its own pixels."""

    def __init__(self, in_channels, F_dim):
        super().__init__()
        self.conv = conv(4 * in_channels, F_dim - 4 * in_channels)

    def forward(self, frame):
        pixels = functional.pixel_unshuffle(frame, 2)  # [B, 12, H/2, W/2]
        return torch.cat([pixels, self.conv(pixels)], dim=1)


class Label_Encoder(nn.Module):
    """Features of a label: [B, 3, H, W] -> [B, L, H/2, W/2]."""

    def __init__(self, in_channels, L_dim):
        super().__init__()
        self.conv = conv(4 * in_channels, L_dim)

    def forward(self, label):
        return self.conv(functional.pixel_unshuffle(1 - label, 2))  # 1 - label: lines on zero, as the padding is


class Gaussian_Predictor(nn.Sequential):
    """Posterior of z: frame and label features -> mu and logvar, [B, N, H/8, W/8] each (rounded up)."""

    def __init__(self, in_channels, N_dim):
        super().__init__(
            conv(in_channels, 8 * N_dim, stride=2),
            conv(8 * N_dim, 8 * N_dim, stride=2),
            nn.Conv2d(8 * N_dim, 2 * N_dim, 1),
        )

    def forward(self, frame_features, label_features):
        features = torch.cat([frame_features, label_features], dim=1)  # [B, F+L, H/2, W/2]
        mu, logvar = super().forward(features).chunk(2, dim=1)
        return mu, logvar


class Decoder_Fusion(nn.Module):
    """Frame features, label features and z -> [B, D, H/2, W/2].

    A U-Net (Ronneberger et al. 2015) of three levels, whose skips are added.
    """

    def __init__(self, in_channels, D_out_dim):
        super().__init__()
        half, quarter, eighth = D_out_dim, 2 * D_out_dim, 2 * D_out_dim  # channels at 1/2, 1/4, 1/8
        self.enter = conv(in_channels, half)
        self.down_quarter = conv(half, quarter, stride=2)
        self.down_eighth = conv(quarter, eighth, stride=2)
        self.deepest = nn.Sequential(conv(eighth, eighth), nn.Conv2d(eighth, eighth, 3, padding=1))
        self.up_quarter = nn.Conv2d(eighth, quarter, 1)
        self.merge_quarter = conv(quarter, quarter)
        self.up_half = nn.Conv2d(quarter, half, 1)
        self.merge_half = conv(half, half)

    def forward(self, frame_features, label_features, z):
        z = enlarge(z, like=frame_features)
        half = self.enter(torch.cat([frame_features, label_features, z], dim=1))  # [B, D, H/2, W/2]
        quarter = self.down_quarter(half)  # [B, 2D, H/4, W/4]
        eighth = self.down_eighth(quarter)  # [B, 2D, H/8, W/8]
        eighth = eighth + self.deepest(eighth)
        quarter = self.merge_quarter(quarter + enlarge(self.up_quarter(eighth), like=quarter))
        return self.merge_half(half + enlarge(self.up_half(quarter), like=half))


class LeakySigmoid(nn.Sigmoid):
    """A sigmoid whose slope in the backward pass is LEAK more. Without that a network that has come to generate only
    black frames, early in training, stays there, because the sigmoid is flat."""

    LEAK = 0.02

    def forward(self, x):
        frame = super().forward(x)
        return frame + self.LEAK * (x - x.detach()).nan_to_num() if torch.is_grad_enabled() else frame


class Generator(nn.Sequential):
    """Fused features -> frame: [B, D, H/2, W/2] -> [B, 3, H, W].

    In (0, 1) by its sigmoid, so that nothing can grow without bound over a long rollout.
    """

    def __init__(self, D_out_dim, out_channels):
        super().__init__(nn.Conv2d(D_out_dim, 4 * out_channels, 3, padding=1), nn.PixelShuffle(2), LeakySigmoid())


def dimensions_of(weights):
    """The dimensions of the network that a state_dict is of; KeyError or IndexError if it is of another."""
    encoder = weights["frame_transformation.conv.0.weight"]
    return {
        "F_dim": encoder.shape[0] + encoder.shape[1],
        "L_dim": weights["label_transformation.conv.0.weight"].shape[0],
        "N_dim": weights["Gaussian_Predictor.2.weight"].shape[0] // 2,
        "D_out_dim": weights["Decoder_Fusion.enter.0.weight"].shape[0],
    }
