"""CUDA graphs: the kernels of a forward and backward pass are recorded once, and started together from then on.

A step of a small network is many hundred kernels of a few microseconds each, less than Python needs to start one.
See https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
"""

from collections import Counter
from contextlib import contextmanager

import torch

from cli.errors import RunError, is_full_memory, one_line

PLAIN_CALLS = 3  # calls of each kind before one is recorded: libraries choose their kernels in the first ones
FULL_AT_MOST = 4  # times that memory may be too small for the recordings; after that nothing is recorded any more


class GraphedGradient:
    """Does what `add_gradient` does: in the first calls by calling it, then by replaying the kernels of one call.

    add_gradient(*tensors, noise, **constants) sets the gradients of the weights, which have none yet, and returns
    tensors. It reads nothing back from the GPU. Calls are of one kind if the shapes and types of their tensors and the
    constants are equal; each kind has a recording of its own. A call that memory was too small for is made again
    without recordings, and draws other noise.
    """

    def __init__(self, add_gradient, weights):
        self.add_gradient, self.weights = add_gradient, list(weights)
        self.plain_calls, self.noise, self.recordings = Counter(), {}, {}  # of each kind
        self.full = 0  # times that memory was too small for the recordings
        self.stream = torch.cuda.Stream()  # of the plain calls: not the default one, as CUDA asks before a recording
        self.memory = torch.cuda.graph_pool_handle()  # of all recordings: only one of them runs at a time

    def __call__(self, *tensors, noise, **constants):
        kind = (*((tensor.shape, tensor.dtype) for tensor in tensors), *sorted(constants.items()))
        records = self.plain_calls[kind] >= PLAIN_CALLS and self.full < FULL_AT_MOST
        try:
            if not records:
                return self._call_plainly(kind, tensors, noise, constants)
            if kind not in self.recordings:
                self.recordings[kind] = Recording(self, tensors, self.noise[kind], constants)
            return self.recordings[kind].replay(tensors, noise)
        except RuntimeError as error:
            if not (records or self.recordings) or not is_full_memory(error):
                raise
        self._forget_recordings()  # their memory is reserved for them; without them this call may fit
        return self._call_plainly(kind, tensors, noise, constants)

    def _forget_recordings(self):
        self.full += 1
        if self.full == FULL_AT_MOST:
            print("note: the GPU's memory is too small for CUDA graphs of all steps; training without them")
        for weight in self.weights:
            weight.grad = None
        self.recordings.clear()
        self.memory = torch.cuda.graph_pool_handle()
        torch.cuda.empty_cache()

    def _call_plainly(self, kind, tensors, noise, constants):
        watched = WatchedNoise(noise)
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            outputs = self.add_gradient(*tensors, noise=watched, **constants)
        torch.cuda.current_stream().wait_stream(self.stream)
        self.plain_calls[kind] += 1  # only now: a call that the memory was too small for is made again
        self.noise[kind] = watched.drawn
        return outputs


class Recording:
    """The kernels of one call, and the places in memory that they read from and write to.

    All that a replay reads lies in memory that was taken before the recording: what is taken within it is used again by
    its later kernels, so that each replay overwrites it.
    """

    def __init__(self, graphed, tensors, noise, constants):
        """noise: what the call draws, see WatchedNoise."""
        self.weights = graphed.weights
        self.inputs = [torch.empty_like(tensor) for tensor in tensors]
        self.noise = [(distribution, torch.empty(shape, device=tensors[0].device)) for distribution, shape in noise]
        self.graph = torch.cuda.CUDAGraph()
        with recording(self.graph, graphed.memory):
            self.outputs = graphed.add_gradient(*self.inputs, noise=PlacedNoise(self.noise), **constants)
        self.gradients = [weight.grad for weight in self.weights]

    def replay(self, tensors, noise):
        for place, tensor in zip(self.inputs, tensors):
            place.copy_(tensor)
        for distribution, place in self.noise:
            place.copy_(getattr(noise, distribution)(*place.shape[1:]))
        self.graph.replay()
        for weight, gradient in zip(self.weights, self.gradients):
            weight.grad = gradient
        return [output.clone() for output in self.outputs]


@contextmanager
def recording(graph, memory):
    """Record what is started within, and compute none of it.

    Raises the error of a full memory, for the call to be made again. Raises RunError for any other error, and where the
    recording cannot be ended either.
    """
    failed = None
    # If its end fails, torch.cuda.graph stays on its own stream; torch.cuda.stream goes back to the one before
    try:
        with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph, pool=memory):
            try:
                yield
            except RuntimeError as error:
                failed = error
                raise
    except RuntimeError as error:
        end_failed_too = failed is not None and error is not failed  # then torch keeps the memory of the recording
        if is_full_memory(error) and not end_failed_too:
            raise
        raise RunError(f"an optimizer step cannot be recorded ({one_line(failed or error)}); what was saved is intact: "
                       "continue with --resume and --no-cuda_graphs, or train anew with it") from error


class WatchedNoise:
    """Hands on what a Noise draws. drawn: pairs of the distribution, `normal` or `uniform`, and the shape [B, ...]."""

    def __init__(self, noise):
        self.source, self.drawn = noise, []

    def normal(self, *shape):
        return self._draw("normal", shape)

    def uniform(self, *shape):
        return self._draw("uniform", shape)

    def _draw(self, distribution, shape):
        numbers = getattr(self.source, distribution)(*shape)
        self.drawn.append((distribution, numbers.shape))
        return numbers


class PlacedNoise:
    """Hands out numbers that lie in given places, in the order in which they are asked for."""

    def __init__(self, pairs):
        self.places = iter([place for _, place in pairs])

    def normal(self, *shape):
        return next(self.places)

    uniform = normal
