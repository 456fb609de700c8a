"""CUDA graphs: what a function launches on the GPU, captured once and replayed without the launches' cost."""

import torch

from .devices import autocast


class Replayed:
    """A function of CUDA tensors, replayed for inputs of the shapes of its examples.

    What it returns (a tensor, or a tuple of them) is overwritten by the next call. function must read no tensor
    on the host and launch the same work each time; whatever else it reads or writes must stay where it is.
    after_trial() is called between its trial runs, which warm it up, and the capture. Raises RuntimeError if it
    cannot be captured, or if its replay differs from its trial runs.
    """

    def __init__(self, function, *examples, after_trial=lambda: None):
        self.inputs = [example.clone() for example in examples]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                expected = function(*self.inputs)
                expected = [part.detach().clone() for part in _parts(expected)]
                after_trial()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outputs = function(*self.inputs)
        found = _parts(self(*examples))
        if not all(torch.allclose(one, other, rtol=1e-2, atol=1e-3) for one, other in zip(found, expected)):
            raise RuntimeError("the replay differs from what was captured")
        after_trial()

    def __call__(self, *values):
        for place, value in zip(self.inputs, values):
            place.copy_(value, non_blocking=True)
        self.graph.replay()
        return self.outputs


def _parts(outputs):
    return outputs if isinstance(outputs, tuple) else (outputs,)


class ReplayedNetworks:
    """Stands in for a VAE_Model in eval mode where it generates: each of its networks is replayed.

    frame, label, z: examples of what they get, [B, ., H, W] each.
    """

    training = False

    def __init__(self, model, frame, label, z):
        with autocast(label.device, torch.float32):  # as the rollout encodes labels
            self.label_transformation = Replayed(model.label_transformation, label)
        self.frame_transformation = Replayed(model.frame_transformation, frame)
        frame_features = self.frame_transformation(frame)
        label_features = self.label_transformation(label).to(frame_features.dtype)
        self.predict = Replayed(model.predict, frame_features, label_features, z.to(frame_features.dtype))


def graph_notice(error):
    """Say in one line that CUDA graphs are not used, and why."""
    print(f"note: no CUDA graphs ({str(error).splitlines()[0]:.120}); each operation is launched by itself", flush=True)
