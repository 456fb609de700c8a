"""Data-parallel training: the processes that torchrun starts, and what they tell one another.

    torchrun --nproc_per_node 2 Trainer.py ...

Without torchrun there is one process, and all functions here are those of a group of one.
"""

import os
import sys
from contextlib import contextmanager, nullcontext
from datetime import timedelta

import torch
from torch import distributed, nn

from .errors import RunError, UsageError

PATIENCE = timedelta(hours=2)  # with a process that validates while the others wait


def silence_other_processes():
    """Let the process of rank 0 alone print; errors are heard from all."""
    if os.environ.get("RANK", "0") != "0":
        sys.stdout = open(os.devnull, "w")


@contextmanager
def joined_processes(device):
    """Joins the group that torchrun made, if it did: NCCL on CUDA, else gloo. Processes leave it together."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    if device.type == "mps":
        raise UsageError("--device mps computes in one process; start Trainer.py without torchrun")
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    yield
    _wait_for_all()
    distributed.destroy_process_group()


def world_size():
    return distributed.get_world_size() if distributed.is_initialized() else 1


def launcher(processes):
    """What starts a script in so many processes."""
    return "python" if processes == 1 else f"torchrun --nproc_per_node {processes}"


def rank():
    return distributed.get_rank() if distributed.is_initialized() else 0


@contextmanager
def first_process_first():
    """Its body is run by the process of rank 0, and after that by the others: they find the files that it made."""
    if rank() > 0:
        _wait_for_all()
    yield
    if rank() == 0:
        _wait_for_all()


def reduce_over_processes(values, operation, device):
    """The sum ("SUM") or the largest ("MAX") of each of the values of all processes; a list of floats."""
    if world_size() == 1:
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    with lost_process_is_named():
        distributed.all_reduce(tensor, getattr(distributed.ReduceOp, operation))
    return tensor.tolist()


def data_parallel(model, device):
    """The model, of which the gradients are averaged over the processes, if there are several. On CUDA BatchNorm
    takes its statistics over all of them; on the CPU over those of each process, and rank 0's are kept."""
    if world_size() == 1:
        return model
    if device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)


def averaging(model, wanted):
    """A context for a forward and backward pass, whose gradients are averaged over the processes if `wanted`."""
    return model.no_sync() if world_size() > 1 and not wanted else nullcontext()


@contextmanager
def lost_process_is_named():
    """Turns the error of a broken connection to another process into a RunError."""
    try:
        yield
    except RuntimeError as error:
        broken = ("gloo", "NCCL", "ncclRemoteError", "Connection closed", "Connection reset")
        if world_size() == 1 or not any(word in str(error) for word in broken):
            raise
        raise RunError(f"another process than that of rank {rank()} has ended or cannot be reached; what was saved is "
                       "intact: go on from it with --resume") from None


def _wait_for_all():
    if world_size() > 1:
        with lost_process_is_named():
            distributed.barrier()
