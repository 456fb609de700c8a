"""The processes that draw: jobs shared out among them, and their results in order."""

import multiprocessing
import os
import signal
import sys
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from functools import partial
from threading import Thread

from cli.cores import usable_cores
from cli.errors import RunError, one_line
from cli.progress import Progress, bars_are_seen

MOST_ON_WINDOWS = 61  # worker processes that a ProcessPoolExecutor can wait for there


def default_workers():
    return min(usable_cores(), 8)


def pool_size(num_workers, jobs):
    """Return how many worker processes to start for a number of jobs."""
    return min(num_workers, jobs, MOST_ON_WINDOWS if sys.platform == "win32" else num_workers)


def end_with_parent():
    """End this worker when its parent is gone, even if that was killed; else it waits for jobs for ever.

    Ctrl-C, which a terminal sends to both, is for the parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Windows; elsewhere it was started with that signal blocked

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()


@contextmanager
def ctrl_c_held_back():
    """Hold Ctrl-C back until the end of the block; on Linux and macOS processes started within never get it."""
    if hasattr(signal, "pthread_sigmask"):  # Windows has none
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    else:
        yield


def in_order(pool, ahead, draw, jobs):
    """Return draw(job) of each job as a pool's `map` does, with at most `ahead` of them drawn that nobody has taken."""
    waiting = deque(pool.submit(draw, job) for job in jobs[:ahead])

    def results():
        for job in jobs[ahead:]:
            result = waiting.popleft().result()
            waiting.append(pool.submit(draw, job))
            yield result
        while waiting:
            yield waiting.popleft().result()

    return results()


def draw_jobs(draw, jobs, num_workers, desc="stage dancer"):
    """Draw jobs in worker processes; yields each job in order, with the result of draw(job).

    A job has the `points` of its frames. desc: what the progress bar calls it. Raises RunError if a worker is killed.
    """
    total = sum(len(job.points) for job in jobs)
    if not bars_are_seen():
        print(f"drawing the {desc}, {total} frames", file=sys.stderr)
    with ExitStack() as stack:
        run = map
        if num_workers > 1:
            spawn = multiprocessing.get_context("spawn")  # a fork is not safe when torch has threads
            workers = pool_size(num_workers, len(jobs))
            try:
                pool = ProcessPoolExecutor(workers, spawn, end_with_parent)
            except (OSError, ImportError, NotImplementedError) as error:  # a container without a usable /dev/shm
                print(f"note: no processes can be started ({one_line(error)}); drawing in this one")
            else:
                stack.callback(pool.shutdown, cancel_futures=True)
                run = partial(in_order, pool, 2 * workers)
        progress = stack.enter_context(Progress(total=total, desc=desc, unit="frame"))
        try:
            with ctrl_c_held_back():
                results = run(draw, jobs)  # starts the processes
            for job, result in zip(jobs, results):
                yield job, result
                progress.update(len(job.points))
        except BrokenProcessPool:
            raise RunError("a drawing process was killed (is the memory full?); give a lower --num_workers") from None
