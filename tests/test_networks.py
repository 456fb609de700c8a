"""The networks are those of the references, that of the course template and our pyramid: names, shapes and output."""

import json
from functools import partial
from math import prod
from pathlib import Path

import pytest
import torch
from torch import nn

from modules import Label_Encoder, VAE_Model
from modules.losses import kl_divergence

REFERENCES = {network: json.loads((Path(__file__).parent / "reference" / f"{network}_network.json").read_text())
              for network in ("template", "pyramid")}


def waves(shape, step, phase):
    return torch.sin(step * torch.arange(prod(shape), dtype=torch.float64) + phase).reshape(shape)


def image(number):
    return 0.5 + 0.5 * waves((1, 3, 8, 16), 0.11, number)


def weights(number, name, shape):
    wave = waves(shape, 0.37, number)
    if len(shape) > 1:
        return wave / prod(shape[1:]) ** 0.5
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if name.endswith("running_var"):
        return 1 + 0.1 * wave**2
    return 1 + 0.1 * wave if name == "label_transformation.2.weight" else 0.1 * wave


@pytest.fixture(params=REFERENCES, scope="module")
def reference(request):
    return REFERENCES[request.param]


@pytest.fixture(scope="module")
def output(reference):
    """All that a reference has figures of, computed by our network with the reference's weights."""
    model = VAE_Model(**reference["model"]).double().eval()
    model.load_state_dict({name: weights(number, name, shape)
                           for number, (name, shape) in enumerate(sorted(reference["state_dict"].items()))})

    def step(frame, label, z=None):
        frame_feature, label_feature = model.frame_transformation(frame), model.label_transformation(label)
        _, mu, logvar = model.Gaussian_Predictor(frame_feature, label_feature)
        z = mu if z is None else torch.full_like(mu, z)
        fusion = model.Decoder_Fusion(frame_feature, label_feature, z)
        return {"frame_feature": frame_feature, "label_feature": label_feature, "mu": mu, "logvar": logvar,
                "fusion": fusion, "frame": model.Generator(fusion)}

    with torch.no_grad():
        first = step(image(0), image(1))
        return first | {"frame_2": step(first["frame"], image(2))["frame"],
                        "frame_z_ones": step(image(0), image(1), z=1)["frame"],
                        "kl_sum_over_batch": kl_divergence(first["mu"], first["logvar"])}


def test_names_and_shapes_are_those_of_the_reference(reference):
    """Or older checkpoints could not be read."""
    model = VAE_Model(**reference["model"])
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes == reference["state_dict"]
    assert sum(tensor.numel() for tensor in model.parameters()) == reference["parameters"]


@pytest.mark.parametrize("name", sorted(REFERENCES["template"]["figures"].keys() - {"kl_sum_over_batch"}))
def test_output_is_that_of_the_reference(reference, output, name):
    figures, tensor = reference["figures"][name], output[name]
    assert list(tensor.shape) == figures["shape"]
    assert tensor.mean().item() == pytest.approx(figures["mean"], abs=1e-9)
    assert tensor.std(correction=0).item() == pytest.approx(figures["std"], abs=1e-9)
    for place, value in figures["at"].items():
        assert tensor.flatten()[int(place)].item() == pytest.approx(value, abs=1e-9)


def test_kl_is_that_of_the_reference(reference, output):
    expected = reference["figures"]["kl_sum_over_batch"]
    assert output["kl_sum_over_batch"].item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("dimensions", [(8, 2, 4, 8), (24, 6, 5, 17), (16, 8, 4, 16)])
def test_any_dimensions_give_frames_of_the_size_of_the_input(dimensions):
    F_dim, L_dim, N_dim, _ = dimensions
    model = VAE_Model(*dimensions)
    frame, label = torch.rand(2, 2, 3, 9, 14)
    frame_features, label_features = model.frame_transformation(frame), model.label_transformation(label)
    z, mu, logvar = model.Gaussian_Predictor(frame_features, label_features)
    assert frame_features.shape == (2, F_dim, 9, 14) and label_features.shape == (2, L_dim, 9, 14)
    assert z.shape == mu.shape == logvar.shape == (2, N_dim, 9, 14)
    assert model.Generator(model.Decoder_Fusion(frame_features, label_features, z)).shape == frame.shape


def label_encoder(seed):
    """One in eval mode whose BatchNorm has some running averages."""
    torch.manual_seed(seed)
    encoder = Label_Encoder(3, 8).double().eval()
    encoder[2].running_mean.normal_()
    encoder[2].running_var.uniform_(0.01, 1)
    return encoder


@pytest.mark.parametrize("convert", [lambda encoder: encoder, nn.SyncBatchNorm.convert_sync_batchnorm])
@pytest.mark.parametrize("seed", range(3))
def test_white_is_held_while_lines_are_learned(seed, convert):
    encoder, white = convert(label_encoder(seed)), torch.ones(1, 3, 8, 12, dtype=torch.float64)
    pad, conv, norm, _, block = encoder
    before = encoder(white)
    before.square().sum().backward()
    with torch.no_grad():
        with encoder.learning_lines():
            torch.testing.assert_close(conv.weight.grad, torch.zeros_like(conv.weight))
            conv.weight += torch.randn_like(conv.weight)
        torch.testing.assert_close(encoder(white), before)


@pytest.mark.parametrize("seed", range(3))
def test_lines_are_learned_as_if_white_were_zero(seed):
    encoder, labels = label_encoder(seed), torch.rand(2, 3, 8, 12, dtype=torch.float64)
    pad, conv, norm, _, block = encoder
    white = conv.weight.detach().sum(dim=(1, 2, 3))[:, None, None]
    encoder(labels).square().sum().backward()
    with encoder.learning_lines():
        learned = conv.weight.grad.clone()
    conv.weight.grad = None
    block(norm(conv(pad(labels) - 1) + white)).square().sum().backward()
    torch.testing.assert_close(learned, conv.weight.grad)


@pytest.mark.parametrize("norm_layer", [partial(nn.BatchNorm2d, track_running_stats=False), nn.Identity])
def test_a_norm_without_running_mean_is_left_alone(norm_layer):
    encoder = Label_Encoder(3, 8, norm_layer).eval()
    encoder(torch.rand(2, 3, 8, 12)).sum().backward()
    gradient = encoder[1].weight.grad.clone()
    with encoder.learning_lines():
        assert torch.equal(encoder[1].weight.grad, gradient)
