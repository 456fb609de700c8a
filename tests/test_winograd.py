"""Winograd's way of a 3x3 convolution is that convolution, and so are its gradients."""

import pytest
import torch
from torch.nn import functional

from modules import VAE_Model
from modules.winograd import Conv3x3, WinogradConvolution


def tensors(batch, in_channels, out_channels, height, width, dtype=torch.float64):
    random = torch.Generator().manual_seed(0)
    shapes = (batch, in_channels, height, width), (out_channels, in_channels, 3, 3), (out_channels,)
    return [torch.randn(shape, generator=random, dtype=dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("sizes", [(1, 1, 1, 4, 4), (2, 3, 5, 8, 12), (3, 7, 2, 32, 64), (1, 64, 64, 4, 8)])
def test_output_and_gradients_are_those_of_the_direct_convolution(sizes):
    arguments = tensors(*sizes)
    ours = WinogradConvolution.apply(*arguments)
    theirs = functional.conv2d(*arguments, padding=1)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    upstream = torch.randn(theirs.shape, dtype=theirs.dtype, generator=torch.Generator().manual_seed(1))
    for one, other in zip(torch.autograd.grad(ours, arguments, upstream),
                          torch.autograd.grad(theirs, arguments, upstream)):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-9)


def test_error_in_float32_is_a_rounding_error():
    arguments = tensors(2, 96, 64, 32, 64, torch.float32)
    exact = functional.conv2d(*(part.double() for part in arguments), padding=1)
    error = (WinogradConvolution.apply(*arguments) - exact).abs().max()
    assert error < 2e-5 * exact.abs().max()


@pytest.fixture
def used(monkeypatch):
    """The channels, in and out, of each convolution that goes Winograd's way."""
    calls = []
    apply = WinogradConvolution.apply

    def watched(x, weight, bias):
        calls.append((x.shape[1], len(weight)))
        return apply(x, weight, bias)

    monkeypatch.setattr(WinogradConvolution, "apply", watched)
    return calls


def test_it_is_taken_where_it_pays_only(used):
    wide, narrow = Conv3x3(64, 64), Conv3x3(32, 64)
    x = torch.randn(1, 64, 8, 8).to(memory_format=torch.channels_last)
    wide(x)
    assert used == [(64, 64)]
    narrow(x[:, :32].contiguous(memory_format=torch.channels_last))
    wide(x.contiguous())  # another layout
    wide(x[..., :6].contiguous(memory_format=torch.channels_last))  # no whole tiles
    with torch.no_grad():
        wide(x)  # as fast directly
    with torch.autocast("cpu", torch.bfloat16):
        wide(x)
    assert len(used) == 1


def test_the_template_trains_by_it_and_to_the_same_gradients(used):
    gradients = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        model = VAE_Model().to(memory_format=layout).double()
        frames, labels = torch.rand(2, 1, 2, 3, 8, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        frames, labels = (part.to(memory_format=torch.contiguous_format) for part in (frames, labels))
        model(frames, labels, lambda: torch.zeros(1, 12, 8, 16, dtype=torch.float64), 1e-3)[0]["loss"].backward()
        gradients.append([weights.grad for weights in model.parameters()])
        assert bool(used) == (layout == torch.channels_last)
    assert {(192, 96), (96, 96), (86, 86), (64, 128), (172, 43), (64, 64), (96, 48)} == set(used)
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)
