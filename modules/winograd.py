"""3x3 convolutions for training on a CPU by Winograd's minimal filtering, F(4x4, 3x3): tiles of 6 x 6 pixels and the
kernel are transformed so that a quarter of the multiplications remain (Lavin & Gray 2016, arXiv:1509.09308).

The library's own 3x3 convolution is as fast forward, but takes twice as long for the two gradients. In float32 the
result differs from a direct convolution's by about 1e-5 of its size.
"""

from functools import cache

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

LEAST_CHANNELS = 4096  # in times out; below it the transforms cost more than the products save
TILE = 4  # pixels of output a side

# The matrices of the paper; a tile d of input, a kernel g and a tile of output are INPUT d INPUT', KERNEL g KERNEL'
# and OUTPUT m OUTPUT'.
INPUT = [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
         [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]
KERNEL = [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6],
          [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]]
OUTPUT = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]


class Conv3x3(nn.Conv2d):
    """3x3 convolution with padding 1, by Winograd's way where that is faster."""

    def __init__(self, in_channels, out_channels):
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, x):
        if self._winograd_pays(x):
            return WinogradConvolution.apply(x, self.weight, self.bias)
        return super().forward(x)

    def _winograd_pays(self, x):
        return (torch.is_grad_enabled() and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
                and self.in_channels * self.out_channels >= LEAST_CHANNELS
                and x.shape[2] % TILE == 0 and x.shape[3] % TILE == 0
                and x.is_contiguous(memory_format=torch.channels_last))


class WinogradConvolution(torch.autograd.Function):
    """x [B, C, H, W], weight [O, C, 3, 3], bias [O] -> [B, O, H, W]; H and W are multiples of 4."""

    @staticmethod
    def forward(context, x, weight, bias):
        tiles = _transform_input(x)
        context.save_for_backward(tiles, weight)
        return _multiply(tiles, weight, x.shape).add_(bias[:, None, None])

    @staticmethod
    @once_differentiable
    def backward(context, gradient):
        tiles, weight = context.saved_tensors
        of_x = of_weight = None
        if context.needs_input_grad[0]:  # a convolution with the kernel turned round
            of_x = _multiply(_transform_input(gradient), weight.flip(2, 3).transpose(0, 1), gradient.shape)
        if context.needs_input_grad[1]:
            products = torch.bmm(tiles.transpose(1, 2), _transform_output_gradient(gradient))  # [36, C, O]
            of_weight = _matrix("KERNEL", gradient.dtype).T @ products.flatten(1)
            of_weight = of_weight.view(3, 3, *products.shape[1:]).permute(3, 2, 0, 1)
        return of_x, of_weight, gradient.sum((0, 2, 3))


@cache
def _matrix(name, dtype):
    """The matrix that transforms both sides of a tile laid out in a row."""
    matrix = torch.tensor(globals()[name], dtype=torch.float64)
    return torch.kron(matrix, matrix).to(dtype)


def _transform_input(x):
    """[B, C, H, W] -> [36, tiles, C]: the tiles of 6 x 6 pixels, 4 pixels apart."""
    padded = functional.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    tiles = padded.unfold(1, TILE + 2, TILE).unfold(2, TILE + 2, TILE)  # [B, H/4, W/4, C, 6, 6]
    rows = tiles.permute(4, 5, 0, 1, 2, 3).reshape(36, -1)
    return (_matrix("INPUT", x.dtype) @ rows).view(36, -1, x.shape[1])


def _multiply(tiles, weight, shape):
    """Transformed tiles [36, tiles, C], weight [O, C, 3, 3] -> [B, O, H, W]; shape: [B, ., H, W]."""
    out_channels, in_channels = weight.shape[:2]
    kernel = _matrix("KERNEL", weight.dtype) @ weight.permute(2, 3, 1, 0).reshape(9, -1)
    products = torch.bmm(tiles, kernel.view(36, in_channels, out_channels))
    rows = _matrix("OUTPUT", weight.dtype) @ products.flatten(1)
    batch, _, height, width = shape
    pixels = rows.view(TILE, TILE, batch, height // TILE, width // TILE, out_channels).permute(2, 3, 0, 4, 1, 5)
    return pixels.reshape(batch, height, width, out_channels).permute(0, 3, 1, 2)


def _transform_output_gradient(gradient):
    """[B, O, H, W] -> [36, tiles, O]: the transpose of how the output was made of the products."""
    batch, channels, height, width = gradient.shape
    tiles = gradient.permute(0, 2, 3, 1).reshape(batch, height // TILE, TILE, width // TILE, TILE, channels)
    rows = tiles.permute(2, 4, 0, 1, 3, 5).reshape(TILE * TILE, -1)
    return (_matrix("OUTPUT", gradient.dtype).T @ rows).view(36, -1, channels)
