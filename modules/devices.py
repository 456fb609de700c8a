"""Where the computation runs, and in which precision."""

import ctypes
import os

import torch

from .errors import UsageError


def choose_device(name, gpu=0):
    """The torch.device of --device and --gpu: `auto` takes CUDA if it is there, else MPS, else the CPU.
    Under torchrun each process takes the CUDA device of its own local rank.

    Also rounds denormal numbers to zero, as a CPU computes with them many times slower.
    """
    torch.set_flush_denormal(True)
    _keep_freed_memory()
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
    """The torch.dtype that --amp asks the networks' products to be computed in on `device`.

    `auto` is bfloat16 where the processor has it natively, else float32. `off` is float32 throughout; under the
    others what stays float32 may use TF32 on CUDA.
    """
    native = _computes_bfloat16(device)
    if amp == "fp16" and device.type != "cuda":
        raise UsageError(f"--amp fp16 is for CUDA, and this is {device.type}; give --amp auto, bf16 or off")
    if amp == "bf16" and not native:
        print(f"note: this {device.type} has no bfloat16 arithmetic of its own; --amp bf16 will be slow", flush=True)
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


def _keep_freed_memory():
    """Let glibc keep the memory of freed tensors for the next ones; by default large ones are given back to the
    system and come anew, page by page. Other systems' allocators are left alone."""
    try:
        glibc = ctypes.CDLL("libc.so.6")
    except OSError:
        return
    trim_threshold, mmap_max = -1, -4
    glibc.mallopt(mmap_max, 0)
    glibc.mallopt(trim_threshold, 2**31 - 1)
