"""Where the computation runs."""

import torch

from .errors import UsageError


def choose_device(name, gpu=0):
    """The torch.device of --device and --gpu: `auto` takes CUDA if it is there, else MPS, else the CPU.

    Also rounds denormal numbers to zero, as a CPU computes with them many times slower.
    """
    torch.set_flush_denormal(True)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda":
        if not torch.cuda.is_available():
            raise UsageError("--device cuda: there is no usable CUDA device here; give --device auto or cpu")
        if gpu >= torch.cuda.device_count():
            raise UsageError(f"--gpu {gpu}: there are {torch.cuda.device_count()} CUDA devices, counted from 0")
        return torch.device("cuda", gpu)
    if name == "mps" and not torch.backends.mps.is_available():
        raise UsageError("--device mps: there is no usable MPS device here; give --device auto or cpu")
    return torch.device(name)
