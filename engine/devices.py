"""Where the networks are computed, and in which precision."""

import ctypes
import os
from contextlib import contextmanager

import torch

from cli.errors import RunError, UsageError


def choose_device(name, gpu=0):
    """Return the torch.device of --device and --gpu: `auto` takes CUDA if there is one, else MPS, else the CPU.

    Under torchrun each process takes the CUDA device of its local rank.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda":
        if not torch.cuda.is_available():
            raise UsageError("--device cuda: there is no usable CUDA device here; give --device auto or cpu")
        gpu = int(os.environ.get("LOCAL_RANK", gpu))
        if gpu >= torch.cuda.device_count():
            raise UsageError(f"--gpu {gpu}: there are {torch.cuda.device_count()} CUDA devices, counted from 0")
        torch.cuda.set_device(gpu)
        return torch.device("cuda", gpu)
    if name == "mps" and not torch.backends.mps.is_available():
        raise UsageError("--device mps: there is no usable MPS device here; give --device auto or cpu")
    return torch.device(name)


def choose_precision(amp, device):
    """Return the torch.dtype in which --amp asks the networks to be computed on `device`.

    `auto` is bfloat16 where the processor computes it natively, else float32. `off` is float32 throughout; the others
    allow TF32 on CUDA for what stays float32.
    """
    native = _computes_bfloat16(device)
    if amp == "fp16" and device.type != "cuda":
        raise UsageError(f"--amp fp16 is for CUDA, and this is {device.type}; give --amp auto, bf16 or off")
    if amp == "bf16" and not native:
        print(f"note: this {device.type} does not compute bfloat16 natively; --amp bf16 will be slow", flush=True)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = amp != "off"
    return {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16,
            "auto": torch.bfloat16 if native else torch.float32}[amp]


def autocast(device, dtype):
    """A context in which the networks compute in `dtype`; the weights stay float32."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def _computes_bfloat16(device):
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


@contextmanager
def telling_full_memory(folder):
    """Turn an out-of-memory error of the GPU into a RunError that says what helps. folder: that of the run."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise RunError("the GPU's memory is full; lower --batch_size (--accumulate makes up for it) or --train_vi_len, "
                       "give --checkpoint_frames, --bptt or --amp bf16, and start again (the last checkpoint in "
                       f"{folder} is intact)") from None


def tune_cpu():
    """Round denormal numbers to zero, and let glibc keep freed memory for the next tensors.

    What each is worth: benchmarks/README.md. Other allocators than glibc's are left alone.
    """
    torch.set_flush_denormal(True)
    try:
        glibc = ctypes.CDLL("libc.so.6")
    except OSError:
        return
    trim_threshold, mmap_max = -1, -4
    glibc.mallopt(mmap_max, 0)
    glibc.mallopt(trim_threshold, 2**31 - 1)
