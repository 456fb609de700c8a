"""Where the networks are computed, and in which precision."""

import ctypes
import os
import platform
import re
import shutil
import warnings
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from cli.cores import usable_cores
from cli.errors import NO_ENGINE, RunError, UsageError, is_full_memory, one_line

from .processes import is_under_torchrun

NO_CUDA = "there is no CUDA device here"
OTHER_TORCH = ("an older GPU or driver needs a torch for an older CUDA, see "
               "https://pytorch.org/get-started/previous-versions")
NO_TENSOR_CORES = re.compile(r"GTX 16|\bT\d{3,4}\b|\bMX[45]50\b|CMP 30HX")  # of the Turing GPUs; the T4 has them


def choose_device(name, gpu=0):
    """Return the torch.device of --device and --gpu: `auto` takes CUDA if it can be used, else MPS, else the CPU.

    Under torchrun each process takes the CUDA device of its local rank, and `auto` takes no MPS, which computes in one
    process.
    """
    if name in ("auto", "cuda"):
        gpu = int(os.environ["LOCAL_RANK"]) if is_under_torchrun() else gpu
        problem = cuda_problem(gpu)
        if problem is None:
            torch.cuda.set_device(gpu)
            return torch.device("cuda", gpu)
        if name == "cuda":
            raise UsageError(f"--device cuda: {problem}; give --device auto or cpu")
        if problem != NO_CUDA:
            print(f"note: {problem}; continuing without CUDA")
    of_one_process = name == "mps" or name == "auto" and not is_under_torchrun()
    if of_one_process and torch.backends.mps.is_available():
        if os.environ.get("PYTORCH_ENABLE_MPS_FALLBACK") == "1":  # see cli/__init__.py
            print("note: what MPS lacks is computed on the CPU")
        return torch.device("mps")
    if name == "mps":
        raise UsageError("--device mps: there is no usable MPS device here; give --device auto or cpu")
    return torch.device("cpu")


def cuda_problem(gpu):
    """Say in a few words why the CUDA device of this index cannot be used; None if it can.

    Raises UsageError if there are CUDA devices, but fewer, and RunError if other programs have taken this one.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if not torch.cuda.is_available():  # torch warns where only the driver is too old
            if caught:
                return f"CUDA cannot be used ({one_line(caught[0].message)}); {OTHER_TORCH}"
            if torch.version.cuda is None and torch.version.hip is None and shutil.which("nvidia-smi"):
                return (f"torch {torch.__version__} is built for the CPU alone, and here is an NVIDIA GPU; install a "
                        "torch built for CUDA, see https://pytorch.org/get-started")
            return NO_CUDA
        if gpu >= torch.cuda.device_count():
            lacking = "--nproc_per_node: process" if is_under_torchrun() else "--gpu"
            raise UsageError(f"{lacking} {gpu}: this machine has {torch.cuda.device_count()} CUDA devices, counted "
                             "from 0; give a lower number")
        reason = why_no_kernels(torch.device("cuda", gpu), torch.float32)
    if reason:
        return (f"{torch.cuda.get_device_name(gpu)} cannot be used with torch {torch.__version__} ({reason}); "
                f"{OTHER_TORCH}")
    return None


def why_no_kernels(device, dtype):
    """Say in a few words why a CUDA device cannot compute the networks in a dtype; None if it can.

    Raises RunError if other programs have taken it.
    """
    try:
        try_kernels(device, dtype)
    except RuntimeError as error:
        if (is_full_memory(error) and NO_ENGINE not in str(error)) or "busy or unavailable" in str(error):
            raise RunError(f"{torch.cuda.get_device_name(device)} is taken by other programs ({one_line(error)})"
                           "; wait for them, or give another --gpu or --device cpu") from None
        return one_line(error)
    return None


def try_kernels(device, dtype):
    """Compute convolutions in a dtype with their gradients: a GPU may be too old for those of torch, or of cuDNN.

    One is depthwise, as in the template network: a T4 has no bfloat16 kernel for it in the channels-last layout.
    """
    layout = {"device": device, "dtype": dtype, "memory_format": memory_format(device, dtype)}
    images = torch.empty(1, 3, 8, 8, **layout).fill_(1)
    for groups in (1, 3):
        weight = torch.empty(3, 3 // groups, 3, 3, **layout).fill_(1).requires_grad_()
        functional.conv2d(images, weight, groups=groups).sum().backward()
        weight.grad.sum().item()


def choose_precision(amp, device):
    """Return the torch.dtype in which --amp asks the networks to be computed on `device`.

    `auto` is bfloat16 on a GPU that computes it natively and on a CPU that multiplies matrices of it (AMX), float16 on
    a GPU whose tensor cores lack it (compute capability 7, like a T4), else float32: on a CPU with bfloat16 but without
    AMX it was slower (benchmarks/README.md). Where a GPU lacks a kernel for the chosen type, `auto` is float32, with a
    note, and `bf16` and `fp16` raise UsageError. Turns TF32 off: the labels need all of float32.
    """
    if amp == "fp16" and device.type != "cuda":
        raise UsageError(f"--amp fp16 is for CUDA, and this is {device.type}; give --amp auto, bf16 or off")
    fast = torch.float32
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        if torch.cuda.is_bf16_supported(including_emulation=False):
            fast = torch.bfloat16
        elif (torch.cuda.get_device_capability(device) >= (7, 0)
              and not NO_TENSOR_CORES.search(torch.cuda.get_device_name(device))):
            fast = torch.float16
    elif device.type == "cpu" and has_bfloat16_matrices():
        fast = torch.bfloat16
    dtype = {"auto": fast, "off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]
    if device.type == "cuda" and dtype != torch.float32 and (reason := why_no_kernels(device, dtype)):
        problem = f"{torch.cuda.get_device_name(device)} cannot compute the networks in {dtype_name(dtype)} ({reason})"
        if amp != "auto":
            raise UsageError(f"--amp {amp}: {problem}; give --amp auto")
        print(f"note: {problem}; computing in float32")
        return torch.float32
    if amp == "bf16" and fast != torch.bfloat16:
        print(f"note: --amp bf16 saves memory on this {device.type}, but may take more time")
    return dtype


def dtype_name(dtype):
    """The name of a torch.dtype without its module, as in bfloat16."""
    return str(dtype).removeprefix("torch.")


def has_bfloat16_matrices():
    """Whether the CPU multiplies matrices of bfloat16 in one instruction: Intel's AMX. An older torch cannot tell."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16"))


def machine_name(device, dtype):
    """Name what computes, and in which precision: the GPU, or the processor and the number of its threads in use."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif device.type == "mps":
        name = f"{platform.machine()} MPS"
    else:
        name = (f"{processor_name()}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} "
                f"thread{'s' * (torch.get_num_threads() > 1)}")
    return f"{name}, {dtype_name(dtype)}"


def processor_name():
    """The processor's name as Linux knows it, elsewhere as Python does."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def memory_format(device, dtype):
    """How weights and features lie in memory: channels-last on a CPU and where tensor cores compute, which want it."""
    fast = device.type == "cpu" or device.type == "cuda" and dtype != torch.float32
    return torch.channels_last if fast else torch.contiguous_format


def autocast(device, dtype):
    """A context in which the networks compute in `dtype`; the weights stay float32."""
    return torch.autocast(device.type, dtype) if dtype != torch.float32 else nullcontext()


@contextmanager
def report_full_memory(device, remedy):
    """Turn the error of a full memory into a RunError that says what helps."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_full_memory(error):
            raise
        raise RunError(f"the memory of this {device.type} is full; {remedy}") from None


def tune_cpu():
    """Round denormal numbers to zero, let glibc keep freed memory for the next tensors, and limit the threads.

    What the first two are worth: benchmarks/README.md. Other allocators than glibc's are left alone. torch starts a
    thread for each core, and does not know of a container's share of them; OMP_NUM_THREADS, if it is set, decides.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
    for kind in (np.float32, np.float64):
        np.finfo(kind)  # computed once; before 2.4 numpy warns of denormals that are zero
    torch.set_flush_denormal(True)
    try:
        glibc = ctypes.CDLL("libc.so.6")
    except OSError:  # on macOS and Windows
        return
    trim_threshold, mmap_max = -1, -4
    glibc.mallopt(mmap_max, 0)
    glibc.mallopt(trim_threshold, 2**31 - 1)
