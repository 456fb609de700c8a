"""Building blocks of the networks. All but GaussianPosterior keep height and width; feature maps are [B, C, H, W].

The submodules have the names of the course template, so that its checkpoints load.
"""

import torch
from torch import nn

MAX_LOGVAR = 4.0  # a standard deviation of e^2


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with LeakyReLU(0.01), added to the input (He et al. 2016)."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.act = nn.LeakyReLU(0.01)
        same = in_channels == out_channels
        self.skip = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x):
        y = self.act(self.conv1(x))
        y = self.act(self.conv2(y))
        return y + self.skip(x)


class DepthConv(nn.Module):
    """1x1 convolution, depthwise 3x3, 1x1, added to the input."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(in_channels, in_channels, 1), nn.LeakyReLU(0.01))
        self.depth_conv = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels)
        self.conv2 = nn.Conv2d(in_channels, out_channels, 1)
        same = in_channels == out_channels
        self.adaptor = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x):
        y = self.conv2(self.depth_conv(self.conv1(x)))
        return y + self.adaptor(x)


class ConvFFN(nn.Module):
    """Gated pointwise network: one half of 4C channels scales the other; added to the input."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * channels, 1)
        self.conv_out = nn.Conv2d(2 * channels, channels, 1)
        self.act = nn.LeakyReLU(0.1)

    def forward(self, x):
        value, gate = self.conv(x).chunk(2, dim=1)  # [B, 2C, H, W] each
        return x + self.conv_out(value * self.act(gate))


class DepthConvBlock(nn.Module):
    """DepthConv, then ConvFFN, as in the video codec DCVC-DC (Li et al. 2023, arXiv:2302.14402)."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.block = nn.Sequential(DepthConv(in_channels, out_channels), ConvFFN(out_channels))

    def forward(self, x):
        return self.block(x)


class GaussianPosterior(nn.Sequential):
    """Layers that end in 2N channels, mu and logvar of z, and the draw of z from them."""

    def forward(self, img, label, epsilon=None):
        """Frame features [B, F, h, w] and label features [B, L, h, w] -> z, mu and logvar, [B, N, h', w'] each.

        epsilon: see `reparameterize`.
        """
        features = torch.cat([img, label], dim=1)  # [B, F+L, h, w]
        outputs = super().forward(features).to(self[-1].weight.dtype)  # float32 under autocast too
        mu, logvar = self.moments(outputs)
        return self.reparameterize(mu, logvar, epsilon), mu, logvar

    def moments(self, outputs):
        """Part outputs [B, 2N, h', w'] into mu and logvar."""
        return outputs.chunk(2, dim=1)

    def reparameterize(self, mu, logvar, epsilon=None):
        """z = mu + exp(logvar / 2) * epsilon (Kingma & Welling 2014, arXiv:1312.6114).

        epsilon: standard normal noise of the shape of mu; drawn from torch's global generator if left out.
        logvar is clamped to MAX_LOGVAR here: early in training a stray value would drown the frame in noise. The
        KL takes logvar unclamped, so its gradient leads back.
        """
        if epsilon is None:
            epsilon = torch.randn_like(mu)
        return mu + torch.exp(logvar.clamp(max=MAX_LOGVAR) / 2) * epsilon
