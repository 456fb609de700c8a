"""The five networks of the conditional VAE, at the full resolution of the frame throughout.

Layer by layer and name by name those of the NYCU DLP course template, so that its checkpoints
load and give the same frames. All widths are integer divisions of the four dimensions.
"""

import torch
from torch import nn

from .layers import DepthConvBlock, ResidualBlock
from .winograd import Conv3x3

Z_STRIDE = 1  # z has the frame's height and width


class RGB_Encoder(nn.Sequential):
    """Features of a frame: [B, 3, H, W] -> [B, F, H, W]."""

    def __init__(self, in_channels, F_dim):
        super().__init__(
            ResidualBlock(in_channels, F_dim // 8),
            DepthConvBlock(F_dim // 8, F_dim // 8),
            ResidualBlock(F_dim // 8, F_dim // 4),
            DepthConvBlock(F_dim // 4, F_dim // 4),
            ResidualBlock(F_dim // 4, F_dim // 2),
            DepthConvBlock(F_dim // 2, F_dim // 2),
            Conv3x3(F_dim // 2, F_dim),
        )


class Label_Encoder(nn.Sequential):
    """Features of a label: [B, 3, H, W] -> [B, L, H, W]. H and W must exceed 3 (reflection padding).

    The template writes LeakyReLU(True) after the BatchNorm: a slope of 1, no activation at all.
    The identity keeps that function, and the place in the Sequential that names the parameters.
    """

    def __init__(self, in_channels, L_dim):
        super().__init__(
            nn.ReflectionPad2d(3),
            nn.Conv2d(in_channels, L_dim // 2, 7),
            nn.BatchNorm2d(L_dim // 2),
            nn.Identity(),
            ResidualBlock(L_dim // 2, L_dim),
        )


class Gaussian_Predictor(nn.Sequential):
    """Posterior of z: frame and label features -> mu and logvar, [B, N, H, W] each.

    The identity stands where the template has LeakyReLU(True), as in Label_Encoder.
    """

    def __init__(self, in_channels, N_dim):
        super().__init__(
            ResidualBlock(in_channels, N_dim // 4),
            DepthConvBlock(N_dim // 4, N_dim // 4),
            ResidualBlock(N_dim // 4, N_dim // 2),
            DepthConvBlock(N_dim // 2, N_dim // 2),
            ResidualBlock(N_dim // 2, N_dim),
            nn.Identity(),
            nn.Conv2d(N_dim, 2 * N_dim, 1),
        )

    def forward(self, frame_features, label_features):
        features = torch.cat([frame_features, label_features], dim=1)  # [B, F+L, H, W]
        mu, logvar = super().forward(features).chunk(2, dim=1)
        return mu, logvar


class Decoder_Fusion(nn.Sequential):
    """Frame features, label features and z -> [B, D, H, W]."""

    def __init__(self, in_channels, D_out_dim):
        super().__init__(
            DepthConvBlock(in_channels, in_channels),
            ResidualBlock(in_channels, in_channels // 4),
            DepthConvBlock(in_channels // 4, in_channels // 2),
            ResidualBlock(in_channels // 2, in_channels // 2),
            DepthConvBlock(in_channels // 2, D_out_dim // 2),
            nn.Conv2d(D_out_dim // 2, D_out_dim, 1),
        )

    def forward(self, frame_features, label_features, z):
        return super().forward(torch.cat([frame_features, label_features, z], dim=1))


class Generator(nn.Sequential):
    """Fused features -> frame: [B, D, H, W] -> [B, 3, H, W], not squashed into [0, 1]."""

    def __init__(self, D_out_dim, out_channels):
        super().__init__(
            DepthConvBlock(D_out_dim, D_out_dim),
            ResidualBlock(D_out_dim, D_out_dim // 2),
            DepthConvBlock(D_out_dim // 2, D_out_dim // 2),
            ResidualBlock(D_out_dim // 2, D_out_dim // 4),
            DepthConvBlock(D_out_dim // 4, D_out_dim // 4),
            ResidualBlock(D_out_dim // 4, D_out_dim // 8),
            DepthConvBlock(D_out_dim // 8, D_out_dim // 8),
            nn.Conv2d(D_out_dim // 8, out_channels, 1),
        )


def dimensions_of(weights):
    """The dimensions of the network that a state_dict is of; KeyError or IndexError if it is of another."""
    return {
        "F_dim": weights["frame_transformation.6.weight"].shape[0],
        "L_dim": weights["label_transformation.4.conv2.weight"].shape[0],
        "N_dim": weights["Gaussian_Predictor.6.weight"].shape[0] // 2,
        "D_out_dim": weights["Decoder_Fusion.5.weight"].shape[0],
    }
