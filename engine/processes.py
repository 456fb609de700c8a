"""Data-parallel training: the processes that torchrun starts, and what they tell one another.

    python -m torch.distributed.run --nproc_per_node 2 Trainer.py ...  # or torchrun, for short

Without torchrun there is one process, and every function here treats it as a group of one. Variables like RANK alone
make no group: other programs set them, too.
"""

import os
import sys
from contextlib import contextmanager, nullcontext
from datetime import timedelta

import torch
from torch import distributed, nn

from cli.errors import RunError, UsageError, one_line

PATIENCE = timedelta(hours=2)  # for a process that validates while the others wait
# in the messages of gloo and of NCCL, where another process is gone
BROKEN = ("gloo", "ncclRemoteError", "communicator was aborted", "Connection closed", "Connection reset")


def is_under_torchrun():
    return "TORCHELASTIC_RUN_ID" in os.environ


@contextmanager
def joined_processes(device, precision):
    """Join the group that torchrun made, if it did: NCCL on CUDA, else gloo. All processes leave it together.

    precision: what this process computes in, as a word; raises UsageError where others differ.
    """
    if not is_under_torchrun():
        yield
        return
    if device.type == "mps":
        raise UsageError("--device mps computes in one process; start Trainer.py without torchrun, or give --device "
                         "cpu")
    if device.type == "cuda" and not distributed.is_nccl_available():
        raise UsageError("torchrun with GPUs needs NCCL, which PyTorch has on Linux alone; start Trainer.py without "
                         "torchrun, or in WSL")
    backend, device_id = ("nccl", device) if device.type == "cuda" else ("gloo", None)
    with report_lost_process():
        distributed.init_process_group(backend, timeout=PATIENCE, device_id=device_id)
    check_alike(precision)
    yield
    barrier()
    distributed.destroy_process_group()


def silence_other_processes():
    """Let only rank 0 print; errors are printed by all."""
    if is_under_torchrun() and os.environ["RANK"] != "0":
        sys.stdout = open(os.devnull, "w", encoding="utf-8")


def is_one_of_several():
    """Whether this process is in a group; a PyTorch built without groups, as for AMD on Windows, has none."""
    return distributed.is_available() and distributed.is_initialized()


def rank():
    return distributed.get_rank() if is_one_of_several() else 0


def world_size():
    return distributed.get_world_size() if is_one_of_several() else 1


@contextmanager
def rank_0_first():
    """Run the body on rank 0 first, so that the other ranks find its cached files."""
    if rank() > 0:
        barrier()
    yield
    if rank() == 0:
        barrier()


def all_reduce(values, operation, device):
    """The "SUM" or "MAX" of each value over all processes, as a list of numbers."""
    if world_size() == 1:
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    with report_lost_process():
        distributed.all_reduce(tensor, getattr(distributed.ReduceOp, operation))
    return tensor.tolist()


def broadcast(value, device):
    """Broadcast a picklable value from rank 0, and return it on every rank; device: this rank's, for NCCL."""
    if world_size() == 1:
        return value
    values = [value]
    with report_lost_process():
        distributed.broadcast_object_list(values, device=device)
    return values[0]


def check_alike(precision):
    """Raise UsageError unless all processes compute in the same precision, as the mean of their gradients needs."""
    if world_size() == 1:
        return
    names = [None] * world_size()
    with report_lost_process():
        distributed.all_gather_object(names, precision)
    if len(set(names)) > 1:
        raise UsageError("--amp: the devices of these processes differ, and would compute in "
                         f"{' and in '.join(sorted(set(names)))}; give --amp off")


def data_parallel(model, device):
    """Wrap the model in DistributedDataParallel; a no-op in a single process.

    On CUDA BatchNorm takes its statistics over all processes; on the CPU each process takes its own, and rank 0's are
    kept.
    """
    if world_size() == 1:
        return model
    if device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)


def averaging(model, wanted):
    """A context for a forward and backward pass that averages its gradients over the processes if `wanted`."""
    return model.no_sync() if world_size() > 1 and not wanted else nullcontext()


@contextmanager
def report_lost_process():
    """Turn the error of a broken connection to another process, or of NCCL, into a RunError."""
    try:
        yield
    except RuntimeError as error:
        if not is_under_torchrun():
            raise
        if any(word in str(error) for word in BROKEN):
            raise RunError(f"another process (this is rank {os.environ['RANK']}) has ended or cannot be reached; what "
                           "was saved is intact: continue with --resume") from None
        if "NCCL" in str(error):
            cause = one_line(str(error).strip().splitlines()[-1])  # after "Last error:"
            raise RunError(f"these GPUs cannot exchange their gradients by NCCL ({cause}); in a container with a small "
                           "/dev/shm set NCCL_SHM_DISABLE=1, or start Trainer.py without torchrun") from None
        raise


def barrier():
    """Wait for all processes."""
    if world_size() > 1:
        with report_lost_process():
            distributed.barrier()
