"""How many of the machine's processor cores this process may use."""

import math
import os
from contextlib import suppress
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")  # of the container that this process is in


def usable_cores():
    """The number of cores that the system lets this process run on, or its share of their time, if that is less.

    A container may have such a share (docker run --cpus, the limits of JupyterHub): it sees all cores, but
    with a thread on each of them it has soon used its time up, and is then paused.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _share_of_time())))


def _share_of_time():
    """The processor time of this container in cores; infinity if it is not limited."""
    with suppress(OSError, ValueError):
        quota, period = (CGROUP / "cpu.max").read_text(encoding="ascii").split()
        return int(quota) / int(period)  # ValueError of "max"
    with suppress(OSError, ValueError):  # the older layout
        quota, period = (int((CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text(encoding="ascii"))
                         for name in ("quota", "period"))
        return quota / period if quota > 0 else math.inf
    return math.inf
