"""One time step of a model as ONNX, for programs without torch. An extra."""

import io
import warnings

import torch
from torch import nn

from cli.errors import RunError, needs_package
from cli.files import check_output, write_bytes

MAX_DIFFERENCE = 1e-4  # between a frame of onnxruntime and one of torch, in [0, 1]


class NextFrame(nn.Module):
    """Predict frame t from frame t-1, label t and z: as a rollout does, with frames in [0, 1] if `clamp`."""

    def __init__(self, model, clamp):
        super().__init__()
        self.model, self.clamp = model, clamp

    def forward(self, frame, label, z):
        """frame, label: [B, 3, H, W] in [0, 1]; z: [B, N, h', w'] -> [B, 3, H, W]."""
        predicted = self.model.step(frame, self.model.encode_labels(label), epsilon=z, temperature=1).frame
        return predicted.clamp(0, 1) if self.clamp else predicted


def write_onnx(path, model, frame_size, clamp):
    """Write NextFrame of a model on the CPU as ONNX, with any B, for frames of frame_size (H, W).

    onnxruntime, where it is installed, must compute the same frames; else RunError, and no file. UsageError if the
    package onnx is missing.
    """
    check_output("--onnx", path, ".onnx")
    next_frame = NextFrame(model, clamp).eval()
    content = onnx_bytes(next_frame, example_inputs(model, frame_size, batch_size=2))
    checked = check_onnx(content, next_frame, [example_inputs(model, frame_size, batch_size) for batch_size in (1, 3)])
    write_bytes(path, content)
    print(f"written to {path}, {checked}")


def example_inputs(model, frame_size, batch_size):
    """Random frame, label and z, by name."""
    frame, label = torch.rand(2, batch_size, 3, *frame_size)
    return {"frame": frame, "label": label, "z": torch.randn(batch_size, *model.z_shape(*frame_size))}


def onnx_bytes(next_frame, inputs):
    """Export a NextFrame; the content of its file.

    The exporter is torch's older one, which needs onnx alone; the newer needs onnxscript too, in twenty times the time.
    """
    with needs_package("--onnx", "onnx", "onnx"):
        import onnx  # only to see whether it is there
    buffer, names = io.BytesIO(), [*inputs, "next_frame"]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # about the newer exporter, and about what is not folded
        torch.onnx.export(next_frame, tuple(inputs.values()), buffer, input_names=names[:-1], output_names=names[-1:],
                          dynamic_axes={name: {0: "B"} for name in names}, dynamo=False)
    return buffer.getvalue()


def check_onnx(content, next_frame, batches):
    """Raise RunError unless onnxruntime computes what torch does for each of some inputs; returns what was checked."""
    try:
        from onnxruntime import InferenceSession
    except ImportError:
        return "not checked: onnxruntime is not installed"
    session = InferenceSession(content, providers=["CPUExecutionProvider"])
    difference = 0.0
    for inputs in batches:
        [computed] = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        with torch.inference_mode():
            difference = max(difference, (torch.from_numpy(computed) - next_frame(**inputs)).abs().max().item())
    if not difference < MAX_DIFFERENCE:
        raise RunError(f"--onnx: onnxruntime computes other frames than torch, by up to {difference:.2g} of 1; nothing "
                       "was written; try other versions of onnx and onnxruntime")
    return f"checked with onnxruntime: its frames differ from torch's by {difference:.0e} at most"
