"""The loss of a clip, its statistics and its modes."""

import pytest
import torch
from torch.distributions import Normal
from torch.distributions import kl_divergence as kl_of_distributions

from conftest import plain_loop, tiny_model
from modules.losses import RECONSTRUCTIONS, kl_divergence
from modules.noise import GivenNoise
from modules.rollout import rollout

CLIPS, LENGTH, SIZE = 3, 5, (8, 16)


def clips():
    return torch.rand(2, CLIPS, LENGTH, 3, *SIZE, generator=draws(1), dtype=torch.float64)


def noiseless(posterior="previous"):
    """A network whose z is all but its mean: the noise is scaled by exp(-30)."""
    model = tiny_model(posterior).double()
    with torch.no_grad():
        model.Gaussian_Predictor[-1].bias[4:] -= 60
    return model


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(seed=0):
    """Noise for the steps, handed in."""
    return GivenNoise(torch.randn(CLIPS, LENGTH - 1, 4, *SIZE, generator=draws(seed), dtype=torch.float64))


def plain_loss(model, frames, labels, forced, beta):
    """The loss as the protocol has it, prediction by prediction and clip by clip."""
    no_noise = torch.zeros(CLIPS, LENGTH - 1, 4, *SIZE)
    predicted, mus, logvars = plain_loop(model, frames, labels, no_noise, forced)
    mse = kl = 0
    for b in range(CLIPS):
        for t in range(1, LENGTH):
            mu, logvar = mus[b, t - 1], logvars[b, t - 1]
            mse += (predicted[b, t - 1] - frames[b, t]).square().mean() / CLIPS
            kl += -0.5 * (1 + logvar - mu ** 2 - logvar.exp()).sum() / CLIPS
    return {"loss": mse + beta * kl, "mse": mse, "kl": kl}


@pytest.mark.parametrize("posterior", ["previous", "current"])
@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_loss_is_that_of_the_protocol(posterior, probability, beta):
    model = noiseless(posterior)
    frames, labels = clips()
    forced = torch.rand(CLIPS, LENGTH, generator=draws(4)) < probability
    terms, _ = model(frames, labels, noise(), beta, forced)
    for name, value in plain_loss(model, frames, labels, forced, beta).items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-9), name


def test_teacher_forced_loss_is_of_the_predictions(model):
    """Not of the true frames that took their place as inputs, which have no error."""
    frames, labels = clips()
    forced = torch.ones(CLIPS, LENGTH, dtype=torch.bool)
    terms, _ = model.double()(frames, labels, noise(), 0.0, forced)
    assert terms["mse"].item() > 0.01
    terms["loss"].backward()
    for name, network in model.named_children():
        assert any(weights.grad.abs().max() > 0 for weights in network.parameters()), name


def test_loss_with_the_logarithm_of_each_frames_mse():
    model = noiseless()
    frames, labels = clips()
    steps = list(rollout(model, frames, labels, noise()))
    errors = torch.stack([(step.frame - frames[:, t]).square().mean(dim=(1, 2, 3))
                          for t, step in enumerate(steps, start=1)])
    plain, _ = noiseless()(frames, labels, noise(), 0.3)
    terms, _ = noiseless()(frames, labels, noise(), 0.3, reconstruction="log_mse")
    assert terms["mse"] == plain["mse"] and terms["kl"] == plain["kl"]
    expected = 0.01 * torch.log(errors + 1e-4).mean(dim=1).sum() + 0.3 * terms["kl"]
    assert terms["loss"].item() == pytest.approx(expected.item(), rel=1e-9)


def test_logarithm_has_the_slope_of_the_mse_at_20_db_and_ten_times_that_at_30():
    for error, slope in ((0.0099, 1.0), (0.0009, 10.0)):
        target = torch.rand(1, 3, *SIZE, dtype=torch.float64, generator=draws())
        prediction = (target + error**0.5).requires_grad_()
        plain, logarithmic = (
            torch.autograd.grad(RECONSTRUCTIONS[name](prediction[None], target[None]), prediction)[0]
            for name in ("mse", "log_mse"))
        torch.testing.assert_close(logarithmic, slope * plain)


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("segment", [1, 2, 3, LENGTH - 1])
def test_clip_cut_into_segments_costs_what_the_whole_costs(probability, segment):
    """Each segment goes on from the input that the one before hands over, which has no gradient."""
    model = noiseless().eval()
    frames, labels = clips()
    forced = torch.rand(CLIPS, LENGTH, generator=draws(4)) < probability
    whole, whole_end = model(frames, labels, noise(), 0.5, forced)
    parts, given = [], frames[:, 0]
    for start in range(0, LENGTH - 1, segment):
        part = slice(start, start + segment + 1)
        seen = torch.cat([given[:, None], frames[:, part][:, 1:]], dim=1)
        terms, given = model(seen, labels[:, part], noise(), 0.5, forced[:, part])
        assert not given.requires_grad
        parts.append(terms)
    torch.testing.assert_close(given, whole_end)
    for name, value in whole.items():
        assert value.item() == pytest.approx(sum(terms[name] for terms in parts).item(), rel=1e-9), name


def test_loss_is_decided_by_the_noise_handed_in(model):
    frames, labels = clips()
    model.double().eval()
    first, again, other = (model(frames, labels, noise(seed), 1.0)[0]["loss"] for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0, 2.0])
def test_z_from_the_prior_is_the_noise_times_the_temperature(model, temperature):
    (frames, labels), given, seen = clips(), noise(), []
    model.double().eval().Decoder_Fusion.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2]))
    list(rollout(model, frames, labels, given, temperature=temperature))
    torch.testing.assert_close(torch.stack(seen, dim=1), temperature * given.epsilon)


@pytest.mark.parametrize("seed", range(3))
def test_kl_is_that_of_the_distributions_summed_over_the_latent_and_averaged_over_the_batch(seed):
    mu, logvar = torch.randn(2, CLIPS, 4, *SIZE, generator=draws(seed), dtype=torch.float64)
    expected = kl_of_distributions(Normal(mu, torch.exp(logvar / 2)), Normal(0, 1)).sum() / CLIPS
    assert kl_divergence(mu, logvar).item() == pytest.approx(expected.item(), rel=1e-9)
    twice = kl_divergence(torch.cat([mu, mu]), torch.cat([logvar, logvar]))
    assert twice.item() == pytest.approx(expected.item())
    assert kl_divergence(torch.zeros_like(mu), torch.zeros_like(mu)) == 0


def test_batchnorm_is_trained_on_all_labels_but_the_first_of_all_clips_together(model):
    frames, labels = clips()
    model.double().train()
    pad, convolution, norm = list(model.label_transformation)[:3]
    before = convolution(pad(labels[:, 1:].flatten(0, 1)))  # what BatchNorm sees
    model(frames, labels, noise(), 1.0)
    assert norm.num_batches_tracked == 1
    mean, variance = before.mean(dim=(0, 2, 3)), before.var(dim=(0, 2, 3))
    torch.testing.assert_close(norm.running_mean, norm.momentum * mean)
    torch.testing.assert_close(norm.running_var, 1 - norm.momentum + norm.momentum * variance)
