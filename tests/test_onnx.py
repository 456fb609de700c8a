"""A time step as ONNX computes the frames of torch, alone and in a rollout; an extra."""

import re
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from cli.errors import RunError
from conftest import ROOT, TINY_NETWORK
from engine.saving.checkpoint import save_checkpoint
from engine.testing.onnx_export import NextFrame, example_inputs, onnx_bytes, write_onnx
from media.images import read_image
from modules import VAE_Model
from modules.noise import GivenNoise
from modules.pixels import to_unit
from modules.rollout import generate, rollout

FRAME_SIZE = 20, 36  # z of the pyramid is 3 x 5
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs/guide.md").read_text(encoding="utf-8"), re.DOTALL)
[EXAMPLE] = [text for text in EXAMPLES if "onnxruntime" in text]


@pytest.fixture
def onnxruntime():
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason=f"--onnx needs {package}: requirements/onnx.txt")
    return sys.modules["onnxruntime"]


@pytest.fixture(params=["template", "pyramid"])
def model(request):
    """A network whose frames lie partly outside of [0, 1], with label statistics of its own, in training mode."""
    torch.manual_seed(0)
    model = VAE_Model(**TINY_NETWORK, network=request.param)
    model.fix_label_norm(torch.randint(256, (8, 3, *FRAME_SIZE), dtype=torch.uint8))
    if request.param == "template":
        model.Generator[-1].weight.data *= 10
    return model


def as_numpy(inputs):
    return {name: value.numpy() for name, value in inputs.items()}


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("clamp", [True, False])
def test_a_step_is_that_of_torch(onnxruntime, model, batch_size, clamp):
    next_frame = NextFrame(model, clamp).eval()
    session = onnxruntime.InferenceSession(onnx_bytes(next_frame, example_inputs(model, FRAME_SIZE, batch_size=2)))
    inputs = example_inputs(model, FRAME_SIZE, batch_size)
    [computed] = session.run(["next_frame"], as_numpy(inputs))
    assert computed.dtype == np.float32 and computed.shape == (batch_size, 3, *FRAME_SIZE)
    with torch.no_grad():
        expected = next_frame(**inputs)
    assert not clamp or 0 <= expected.min() and expected.max() <= 1
    np.testing.assert_allclose(computed, expected, rtol=0, atol=1e-5)


def test_ten_frames_are_those_of_generate(onnxruntime, model, tmp_path):
    write_onnx(tmp_path / "a.onnx", model, FRAME_SIZE, clamp=True)
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    labels = torch.randint(256, (3, 11, 3, *FRAME_SIZE), dtype=torch.uint8)
    frame = first = torch.rand(3, 3, *FRAME_SIZE).numpy()
    video = [first]
    for t in range(1, 11):
        z = np.zeros((3, *model.z_shape(*FRAME_SIZE)), np.float32)
        [frame] = session.run(None, {"frame": frame, "label": to_unit(labels[:, t]).numpy(), "z": z})
        video.append(frame)
    noise = GivenNoise(torch.zeros(3, 10, *model.z_shape(*FRAME_SIZE)))
    with torch.no_grad():
        steps = rollout(model.eval(), torch.from_numpy(first)[:, None], labels, noise, temperature=0, clamp=True)
        expected = [step.frame.clamp(0, 1) for step in steps]
    np.testing.assert_allclose(np.stack(video[1:]), torch.stack(expected), rtol=0, atol=1e-4)
    generated = generate(model, torch.from_numpy(first), labels, seed=0, temperature=0, clamp=True)
    pixels = 255 * torch.from_numpy(np.stack(video, axis=1)).double()
    assert (generated - pixels).abs().max() < 0.5 + 255e-4  # generate rounds


@pytest.mark.parametrize("network", ["template", "pyramid"])
def test_example_of_the_guide_rolls_out(onnxruntime, network, dancer, call, tmp_path, capsys):
    shutil.copytree(dancer / "test", tmp_path / "data/dancer/test")
    torch.manual_seed(0)
    model = VAE_Model(**TINY_NETWORK, network=network)
    save_checkpoint([tmp_path / "best.ckpt"], {"state_dict": model.state_dict(), "arguments": {"clamp_feedback": True}})
    size = read_image(dancer / "test/test_img/0/0.png").shape[-2:]
    call("Tester", "--ckpt_path", "best.ckpt", "--onnx", "dancer.onnx", "--frame_H", size[0], "--frame_W", size[1],
         "--DR", "nowhere")
    assert "written to dancer.onnx, checked with onnxruntime" in capsys.readouterr().out

    names = {}
    exec(EXAMPLE, names)
    sequence = [dancer / "test/test_img/0/0.png", *(dancer / f"test/test_label/0/{t}.png" for t in range(1, 12))]
    frame, *labels = map(read_image, sequence)
    random, z_shape = np.random.default_rng(seed=0), model.z_shape(*size)
    epsilon = torch.from_numpy(random.standard_normal((1, 11, *z_shape), np.float32))
    with torch.no_grad():
        steps = rollout(model.eval(), to_unit(frame)[None, None], torch.stack([labels[0], *labels])[None],
                        GivenNoise(epsilon), temperature=1, clamp=True)
        expected = torch.stack([to_unit(frame)[None], *(step.frame.clamp(0, 1) for step in steps)])
    np.testing.assert_allclose(np.stack(names["video"]), expected, rtol=0, atol=1e-4)
    with Image.open("rollout.gif") as gif:
        assert gif.size == (size[1], size[0]) and gif.n_frames > 1


def test_a_file_that_computes_other_frames_is_not_written(onnxruntime, model, tmp_path, monkeypatch):
    export = onnx_bytes

    def of_another_model(next_frame, inputs):
        other = NextFrame(VAE_Model(**TINY_NETWORK, network="pyramid" if model.z_stride == 8 else "template"), True)
        return export(other.eval(), inputs)

    monkeypatch.setattr("engine.testing.onnx_export.onnx_bytes", of_another_model)
    with pytest.raises(RunError, match="--onnx: .* other frames than torch"):
        write_onnx(tmp_path / "a.onnx", model, FRAME_SIZE, clamp=True)
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_are_told(model, call, capsys, monkeypatch, tmp_path):
    pytest.importorskip("onnx", reason="--onnx needs onnx: requirements/onnx.txt")
    save_checkpoint([tmp_path / "best.ckpt"], {"state_dict": model.state_dict()})
    words = "Tester", "--ckpt_path", "best.ckpt", "--onnx", "folder/dancer.onnx"
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    call(*words)
    assert "not checked: onnxruntime is not installed" in capsys.readouterr().out
    (tmp_path / "folder/dancer.onnx").unlink()
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(SystemExit) as ended:
        call(*words)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1 and list((tmp_path / "folder").iterdir()) == []
    assert "--onnx" in error and "pip install -r requirements/onnx.txt" in error


@pytest.mark.parametrize("words", [["--views", 2], ["--ensemble", "a.ckpt"], ["--samples", 3], ["--gt", "gt.csv"],
                                   ["--split", "val"]])
def test_what_generates_sequences_does_not_go_with_a_single_step(words, call, capsys):
    with pytest.raises(SystemExit) as ended:
        call("Tester", "--ckpt_path", "best.ckpt", "--onnx", "dancer.onnx", *words)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1 and words[0] in error


@pytest.mark.parametrize("clamp", [True, False])
def test_a_step_clamps_as_its_training_did(clamp, call, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr("Tester.write_onnx", lambda path, model, size, clamp: written.append((size, clamp)))
    save_checkpoint([tmp_path / "best.ckpt"], {
        "state_dict": VAE_Model(**TINY_NETWORK).state_dict(),
        "arguments": {"clamp_feedback": clamp, "frame_H": 20, "frame_W": 36}})
    call("Tester", "--ckpt_path", "best.ckpt", "--onnx", "a.onnx")
    assert written == [((20, 36), clamp)]
