"""The five networks of the conditional VAE, at the full resolution of the frame.

Layer by layer and name by name those of the NYCU DLP course template: its checkpoints load and give the same frames,
and a program written against it runs with these. Divisions of widths are integer divisions.
"""

from contextlib import contextmanager

import torch
from torch import nn

from .layers import DepthConvBlock, GaussianPosterior, ResidualBlock

Z_STRIDE = 1  # z has the frame's height and width


class RGB_Encoder(nn.Sequential):
    """Encode a frame: [B, 3, H, W] -> [B, F, H, W]."""

    def __init__(self, in_chans, out_chans):
        super().__init__(
            ResidualBlock(in_chans, out_chans // 8),
            DepthConvBlock(out_chans // 8, out_chans // 8),
            ResidualBlock(out_chans // 8, out_chans // 4),
            DepthConvBlock(out_chans // 4, out_chans // 4),
            ResidualBlock(out_chans // 4, out_chans // 2),
            DepthConvBlock(out_chans // 2, out_chans // 2),
            nn.Conv2d(out_chans // 2, out_chans, 3, padding=1),
        )

    def forward(self, image):  # by this name, as programs written against the template call it
        return super().forward(image)


class Label_Encoder(nn.Sequential):
    """Encode a label: [B, 3, H, W] -> [B, L, H, W]. H and W must exceed 3 (reflection padding).

    The template writes LeakyReLU(True) after the BatchNorm: a slope of 1, so no activation. The identity here keeps
    that function, and the positions in the Sequential that name the parameters.

    Labels are thin lines on white. Where a label is white, the convolution gives the sum of its weights and its bias,
    and BatchNorm subtracts that again. An optimizer step can move the sum by 147 learning rates (7 x 7 x 3 weights): at
    0.001 by eleven standard deviations of BatchNorm's input. In training mode the mean over the batch follows at once;
    in eval mode, which is how `--label_norm fixed` trains, `learning_lines` moves the running mean along.
    """

    def __init__(self, in_chans, out_chans, norm_layer=nn.BatchNorm2d):
        super().__init__(
            nn.ReflectionPad2d(3),
            nn.Conv2d(in_chans, out_chans // 2, 7),
            norm_layer(out_chans // 2),
            nn.Identity(),
            ResidualBlock(out_chans // 2, out_chans),
        )

    def forward(self, image):
        return super().forward(image)

    @contextmanager
    def learning_lines(self):
        """Wrap an optimizer step, with BatchNorm in eval mode, so that the convolution learns from the lines alone.

        White adds the gradient of the bias to that of every weight; it is subtracted before the step. After the step
        the running mean moves by as much as the sum of the weights did, so that the layer computes what it would if
        white were 0. A norm without a running mean is left alone.
        """
        conv, norm = self[1], self[2]
        if getattr(norm, "running_mean", None) is None:
            yield
            return
        conv.weight.grad -= conv.bias.grad[:, None, None, None]
        white = conv.weight.detach().sum(dim=(1, 2, 3))
        yield
        norm.running_mean += conv.weight.detach().sum(dim=(1, 2, 3)) - white


class Gaussian_Predictor(GaussianPosterior):
    """Predict the posterior of z from frame and label features, and draw z: [B, N, H, W].

    The identity stands where the template has LeakyReLU(True), as in Label_Encoder.
    """

    def __init__(self, in_chans=48, out_chans=96):
        super().__init__(
            ResidualBlock(in_chans, out_chans // 4),
            DepthConvBlock(out_chans // 4, out_chans // 4),
            ResidualBlock(out_chans // 4, out_chans // 2),
            DepthConvBlock(out_chans // 2, out_chans // 2),
            ResidualBlock(out_chans // 2, out_chans),
            nn.Identity(),
            nn.Conv2d(out_chans, 2 * out_chans, 1),
        )


class Decoder_Fusion(nn.Sequential):
    """Fuse frame features, label features and z: -> [B, D, H, W]."""

    def __init__(self, in_chans=48, out_chans=96):
        super().__init__(
            DepthConvBlock(in_chans, in_chans),
            ResidualBlock(in_chans, in_chans // 4),
            DepthConvBlock(in_chans // 4, in_chans // 2),
            ResidualBlock(in_chans // 2, in_chans // 2),
            DepthConvBlock(in_chans // 2, out_chans // 2),
            nn.Conv2d(out_chans // 2, out_chans, 1),
        )

    def forward(self, img, label, parm):
        return super().forward(torch.cat([img, label, parm], dim=1))


class Generator(nn.Sequential):
    """Generate a frame from fused features: [B, D, H, W] -> [B, 3, H, W], not squashed into [0, 1]."""

    def __init__(self, input_nc, output_nc):
        super().__init__(
            DepthConvBlock(input_nc, input_nc),
            ResidualBlock(input_nc, input_nc // 2),
            DepthConvBlock(input_nc // 2, input_nc // 2),
            ResidualBlock(input_nc // 2, input_nc // 4),
            DepthConvBlock(input_nc // 4, input_nc // 4),
            ResidualBlock(input_nc // 4, input_nc // 8),
            DepthConvBlock(input_nc // 8, input_nc // 8),
            nn.Conv2d(input_nc // 8, output_nc, 1),
        )

    def forward(self, input, shift=None):
        """shift: of the frames, see VAE_Model.step; there is no canvas here to shift with them."""
        return super().forward(input)


def dimensions_of(weights):
    """Read the four dimensions off a state_dict; KeyError or IndexError if it is of another network."""
    return {
        "F_dim": weights["frame_transformation.6.weight"].shape[0],
        "L_dim": weights["label_transformation.4.conv2.weight"].shape[0],
        "N_dim": weights["Gaussian_Predictor.6.weight"].shape[0] // 2,
        "D_out_dim": weights["Decoder_Fusion.5.weight"].shape[0],
    }
