"""The time loop: frame t from label t, in training and in generation, alone as in a batch."""

from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional

from conftest import plain_loop, tiny_model
from engine import evaluation
from engine.evaluation import generate_sequences
from modules.noise import GivenNoise, Noise
from modules.rollout import disturb, forced_rollout, generate, rollout
from modules.views import MeanOfViews

CLIPS, LENGTH, SIZE = 3, 6, (8, 16)


def clips(length=LENGTH, seed=1):
    """Frames and labels, [CLIPS, length, 3, H, W] each, in float64."""
    random = torch.Generator().manual_seed(seed)
    return torch.rand(2, CLIPS, length, 3, *SIZE, generator=random, dtype=torch.float64)


NOISE = torch.randn(CLIPS, LENGTH - 1, 4, *SIZE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
MASKS = {
    "free": torch.zeros(CLIPS, LENGTH, dtype=torch.bool),
    "forced": torch.ones(CLIPS, LENGTH, dtype=torch.bool),
    "mixed": torch.rand(CLIPS, LENGTH, generator=torch.Generator().manual_seed(3)) < 0.5,
}


def run(model, frames, labels, mask=None, rows=slice(None)):
    """All that the rollout predicts, and its posteriors: [CLIPS, LENGTH - 1, ...] each."""
    steps = list(rollout(model, frames, labels, GivenNoise(NOISE[rows]), mask))
    return [torch.stack(part, dim=1) for part in zip(*steps)]


def generated(model, first_frames, labels, seed, temperature=1.0, clamp=False):
    """The frames that `generate` makes, before they are rounded to pixels: [CLIPS, T, 3, H, W] in [0, 1]."""
    was_training = model.training
    noise = Noise.seeded(seed, len(labels), "cpu")
    with torch.no_grad():
        steps = rollout(model.eval(), first_frames[:, None], labels, noise, temperature=temperature, clamp=clamp)
        video = torch.stack([first_frames, *(step.frame.clamp(0, 1) for step in steps)], dim=1)
    model.train(was_training)
    return video


def assert_same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def differing(ours, theirs):
    """The places along dimension 1, time, where two results are not the same to rounding."""
    difference = (ours - theirs).abs().transpose(0, 1).flatten(1).max(dim=1).values
    return [place for place, value in enumerate(difference.tolist()) if value > 1e-9]


@pytest.mark.parametrize("posterior", ["previous", "current"])
@pytest.mark.parametrize("mask", MASKS)
def test_training_rollout_equals_the_protocol_spelt_out(posterior, mask):
    model = tiny_model(posterior).double().train()
    frames, labels = clips()
    expected = plain_loop(model, frames, labels, NOISE, MASKS[mask])
    for ours, theirs in zip(run(model, frames, labels, MASKS[mask]), expected):
        assert_same(ours, theirs)


def test_no_mask_is_no_teacher_forcing(model):
    frames, labels = clips()
    assert_same(run(model.double(), frames, labels), run(model, frames, labels, MASKS["free"]))


@pytest.mark.parametrize("t", range(LENGTH))
def test_frame_t_is_generated_from_label_t(model, t):
    (frames, labels), changed = clips(), clips()[1]
    changed[:, t] = 1 - changed[:, t]
    before, after = (generated(model.double(), frames[:, 0], part, seed=0) for part in (labels, changed))
    assert torch.equal(before[:, :t], after[:, :t])
    assert t == 0 and torch.equal(before, after) or not torch.equal(before[:, t], after[:, t])


@pytest.mark.parametrize("t", range(2, LENGTH))
def test_frame_t_is_trained_on_label_t(model, t):
    """BatchNorm joins all labels of a batch in training; its statistics do not change when two of them
    change places, so what changes is what is predicted from the one or the other."""
    (frames, labels), changed = clips(), clips()[1]
    changed[:, [t - 1, t]] = labels[:, [t, t - 1]]
    model.double().train()
    before, after = (run(model, frames, part, MASKS["forced"])[0] for part in (labels, changed))
    assert differing(before, after) == [t - 2, t - 1]


@pytest.mark.parametrize("training", [True, False])
def test_label_0_is_never_used(model, training):
    (frames, labels), changed = clips(), clips()[1]
    changed[:, 0] = 1 - changed[:, 0]
    model.double().train(training)
    for before, after in zip(run(model, frames, labels), run(model, frames, changed)):
        assert torch.equal(before, after)


def test_posterior_previous_sees_no_frame_but_its_input():
    model = tiny_model("previous").double()
    (frames, labels), others = clips(), clips(seed=9)[0]
    others[:, 0] = frames[:, 0]
    for before, after in zip(run(model, frames, labels), run(model, others, labels)):
        assert torch.equal(before, after)


@pytest.mark.parametrize("t", range(1, LENGTH))
def test_posterior_current_sees_the_frame_to_predict(t):
    model = tiny_model("current").double()
    (frames, labels), others = clips(), clips()[0]
    others[:, t] = 1 - others[:, t]
    (_, mu, _), (_, changed_mu, _) = (run(model, part, labels) for part in (frames, others))
    assert differing(mu, changed_mu) == [t - 1]


@pytest.mark.parametrize("posterior", ["previous", "current"])
def test_true_frame_is_fed_back_where_the_mask_says_so(posterior):
    """Forcing at t changes the frames from t + 1 on, so that forcing the last frame changes nothing."""
    model = tiny_model(posterior).double().eval()
    frames, labels = clips()
    free = run(model, frames, labels, MASKS["free"])[0]
    for t in range(1, LENGTH):
        mask = MASKS["free"].clone()
        mask[1, t] = True
        forced = run(model, frames, labels, mask)[0]
        assert torch.equal(free[[0, 2]], forced[[0, 2]])
        assert min(differing(free, forced), default=LENGTH - 1) == t  # the first place is frame 1


def test_batch_equals_its_clips_one_by_one(model):
    model.double().eval()  # in training BatchNorm joins the clips of a batch, as it shall
    frames, labels = clips()
    together = run(model, frames, labels, MASKS["mixed"])
    for row in range(CLIPS):
        part = slice(row, row + 1)
        alone = run(model, frames[part], labels[part], MASKS["mixed"][part], part)
        for ours, theirs in zip(alone, together):
            assert_same(ours, theirs[part])


class Recorded:
    """Noise that keeps what it gave."""

    def __init__(self):
        self.noise, self.given = Noise.seeded(3, CLIPS, "cpu"), {"normal": [], "uniform": []}

    def normal(self, *shape):
        self.given["normal"].append(self.noise.normal(*shape).double())
        return self.given["normal"][-1]

    def uniform(self, *shape):
        self.given["uniform"].append(self.noise.uniform(*shape).double())
        return self.given["uniform"][-1]


@pytest.mark.parametrize("mask", MASKS)
def test_every_input_frame_is_disturbed_and_no_target_or_prediction(model, mask, monkeypatch):
    """Each step draws fine and coarse noise, the strength of each, and the noise of z."""
    model.double().eval()
    frames, labels = clips()
    frames = 2 * frames - 0.5
    inputs, encode = [], model.frame_transformation.forward
    monkeypatch.setattr(model.frame_transformation, "forward", lambda image: inputs.append(image) or encode(image))
    noise = Recorded()
    predicted = [step.frame for step in rollout(model, frames, labels, noise, MASKS[mask], clamp=True, input_noise=0.2)]
    normal, strength = iter(noise.given["normal"]), iter(noise.given["uniform"])
    given = frames[:, 0]
    for t in range(1, LENGTH):
        fine, grid = next(normal), next(normal)
        assert fine.shape == given.shape and grid.shape[:2] == given.shape[:2]  # a number for each channel
        coarse = functional.interpolate(grid, size=SIZE, mode="bilinear", align_corners=True)
        assert_same(coarse[..., ::SIZE[0] - 1, ::SIZE[1] - 1], grid[..., ::grid.shape[-2] - 1, ::grid.shape[-1] - 1])
        expected = given.clamp(0, 1) + 0.2 * next(strength) * fine + 0.2 * next(strength) * coarse
        assert_same(inputs[t - 1], expected)
        features = encode(expected), model.label_transformation(labels[:, t])
        z, _, _ = model.Gaussian_Predictor(*features, next(normal))
        assert_same(predicted[t - 1], model.Generator(model.Decoder_Fusion(*features, z)))
        given = torch.where(MASKS[mask][:, t, None, None, None], frames[:, t], predicted[t - 1])
    assert len(inputs) == len(predicted) == LENGTH - 1


@pytest.mark.parametrize("size", [(32, 64), (64, 128), (4, 6)])
def test_input_noise_is_fine_and_coarse(size):
    """Means over 8 x 8 pixels keep much of it; of fine noise an eighth would be left."""
    noise = Noise.seeded(0, 200, "cpu")
    change = disturb(torch.zeros(200, 3, *size), noise, clamp=True, input_noise=0.3)
    areas = functional.avg_pool2d(change, min(8, *size))
    assert change.mean().abs() < 0.03  # its standard error is 0.007 at the smallest size
    assert 0.18 < change.std() < 0.27  # 0.3 x sqrt(1/3) for the fine noise, and less for the coarse one
    assert 0.07 < areas.std() < 0.25


def test_an_input_frame_is_left_alone_unless_asked_for():
    frame = 2 * clips()[0][:, 0] - 0.5
    assert disturb(frame, None, clamp=False, input_noise=0) is frame
    assert torch.equal(disturb(frame, None, clamp=True, input_noise=0), frame.clamp(0, 1))


@pytest.mark.parametrize("frames_at_once, sizes", [(2, [2] * (CLIPS // 2) + [1] * (CLIPS % 2)), (0.5, [1] * CLIPS)])
def test_sequences_in_small_batches_on_a_cpu_equal_those_in_one(frames_at_once, sizes, monkeypatch):
    """Each draws z from a stream of its own."""
    model, (frames, labels) = tiny_model(), (255 * clips()).byte()
    settings = {"device": torch.device("cpu"), "dtype": torch.float32, "seed": 3, "temperature": 1.0, "clamp": True}
    whole = generate_sequences(model, frames[:, 0], labels, **settings)
    batches, generate = [], evaluation.generate
    monkeypatch.setattr(evaluation, "generate", lambda *words: batches.append(len(words[1])) or generate(*words))
    monkeypatch.setattr(evaluation, "PIXELS_ON_CPU", int(frames_at_once * labels[0][0, 0].numel()))
    for ours, theirs in zip(generate_sequences(model, frames[:, 0], labels, **settings), whole, strict=True):
        assert (ours.short() - theirs.short()).abs().max() <= 1
    assert batches == sizes


def test_the_copies_of_several_views_count_in_a_batch_on_a_cpu(monkeypatch):
    model, (frames, labels) = MeanOfViews(tiny_model(), 2), (255 * clips()).byte()
    batches, generate = [], evaluation.generate
    monkeypatch.setattr(evaluation, "generate", lambda *words: batches.append(len(words[1])) or generate(*words))
    monkeypatch.setattr(evaluation, "PIXELS_ON_CPU", 2 * labels[0][0, 0].numel())
    generate_sequences(model, frames[:, 0], labels, device=torch.device("cpu"), dtype=torch.float32, seed=3,
                       temperature=1.0, clamp=True)
    assert batches == [1] * CLIPS


def test_sequences_of_different_lengths_equal_each_alone():
    """Generated together they are as long as the longest, and cut afterwards."""
    model, (frames, labels) = tiny_model(), (255 * clips()).byte()
    settings = {"device": torch.device("cpu"), "dtype": torch.float32, "temperature": 1.0, "clamp": True}
    labels = [label[:length] for label, length in zip(labels, (6, 3, 5), strict=True)]
    together = generate_sequences(model, frames[:, 0], labels, seed=3, **settings)
    for i in range(CLIPS):
        [alone] = generate_sequences(model, frames[i:i + 1, 0], labels[i:i + 1], seed=3 + i, **settings)
        assert together[i].shape == labels[i].shape
        assert (together[i].short() - alone.short()).abs().max() <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_rollout_that_is_not_finite_is_named(dtype, capsys, monkeypatch):
    """From the first frame on in which one pixel is not; it would be drawn as black without a word."""
    monkeypatch.setattr("engine.evaluation.autocast", lambda *_: nullcontext())  # as to float16, which a CPU may lack
    model, (frames, labels) = tiny_model(), (255 * clips()).byte()
    step = model.step

    def diverge(*arguments):
        diverge.steps += 1
        predicted = step(*arguments)
        predicted.frame[1, 2, 0, 0] *= 1 if diverge.steps < 3 else float("nan")
        return predicted

    settings = {"device": torch.device("cpu"), "dtype": dtype, "seed": 0, "temperature": 1.0, "clamp": False}
    for name, said in (("step", ""), ("diverge", f"1 of {CLIPS} rollouts diverged, the first at frame 3")):
        diverge.steps = 0
        model.step = {"step": step, "diverge": diverge}[name]
        generate_sequences(model, frames[:, 0], labels, **settings)
        out = capsys.readouterr().out
        assert said in out and bool(out) == bool(said)
        assert ("try --amp off" in out) == (bool(said) and dtype == torch.float16)


@pytest.mark.parametrize("posterior", ["previous", "current"])
@pytest.mark.parametrize("images_at_once", [1, 2 * CLIPS, 1000])
def test_forced_frames_as_one_batch_equal_the_loop(posterior, images_at_once):
    model = tiny_model(posterior).double().train()
    frames, labels = clips()
    for settings in ({}, {"clamp": True, "input_noise": 0.2}, {"recompute": True}):
        loop = rollout(model, frames, labels, Noise.seeded(0, CLIPS, "cpu"), MASKS["forced"], **settings)
        batch = forced_rollout(model, frames, labels, Noise.seeded(0, CLIPS, "cpu"), images_at_once, **settings)
        for one, other in zip(loop, batch, strict=True):
            for ours, theirs in zip(one, other):
                assert_same(ours, theirs)


def test_a_clip_draws_the_same_numbers_in_any_batch():
    together = Noise.seeded(4, CLIPS, "cpu")
    first, second = together.normal(2, 3), together.uniform(5)
    for row in range(CLIPS):
        alone = Noise.seeded(4 + row, 1, "cpu")
        assert torch.equal(alone.normal(2, 3)[0], first[row]) and torch.equal(alone.uniform(5)[0], second[row])


def test_generate_gives_the_pixels_of_the_rollout(model):
    frames, labels = clips()
    for temperature, clamp in ((1.0, False), (0.0, True), (0.5, True)):
        expected = (generated(model.double(), frames[:, 0], labels, 7, temperature, clamp) * 255).round()
        assert torch.equal(generate(model, frames[:, 0], labels, 7, temperature, clamp), expected.to(torch.uint8))


def test_a_stray_logvar_does_not_drown_the_frame(model):
    frames, labels = clips()
    with torch.no_grad():
        model.Gaussian_Predictor[-1].bias[4:] += 1000
    predicted, _, logvar = run(model.double(), frames, labels)
    assert logvar.min() > 900  # handed on as it is, for the KL
    assert predicted.isfinite().all() and predicted.abs().max() < 1e3


def test_gradient_reaches_every_network_and_runs_back_through_predicted_frames_only(model):
    model.double().train()
    frames, labels = clips()
    for mask, reaches_back in (("free", True), ("forced", False)):
        frames.requires_grad_()
        predicted, mu, logvar = run(model, frames, labels, MASKS[mask])
        gradient = torch.autograd.grad(predicted[:, -1].sum(), frames, retain_graph=True)[0]
        assert (gradient[:, 0].abs().max() > 0) == reaches_back
        model.zero_grad()
        (predicted.square().sum() + mu.square().sum() + logvar.square().sum()).backward()
        for name, network in model.named_children():
            assert all(weights.grad.isfinite().all() for weights in network.parameters()), name
            assert any(weights.grad.abs().max() > 0 for weights in network.parameters()), name


def test_generated_video_begins_with_the_given_frame_and_is_an_image_throughout(model):
    frames, labels = clips()
    with torch.no_grad():
        model.Generator[-1].bias.add_(torch.tensor([-2.0, 0.0, 2.0]))  # outputs beyond both bounds
    video = generated(model.double(), frames[:, 0], labels, seed=0)
    assert video.shape == labels.shape
    assert torch.equal(video[:, 0], frames[:, 0])
    assert video.min() == 0 and video.max() == 1


@pytest.mark.parametrize("training", [True, False])
def test_generation_leaves_the_model_as_it_was(model, training):
    frames, labels = clips()
    model.double().train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generate(model, frames[:, 0], labels, seed=0)
    assert all(part.training is training for part in model.modules())
    model.label_transformation.train(not training)
    generate(model, frames[:, 0], labels, seed=0)
    assert {part.training for part in model.label_transformation.modules()} == {not training}
    assert model.training is model.Generator.training is training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("training", [True, False])
def test_generation_normalises_by_the_running_statistics(model, training):
    """So other sequences in the batch are without effect, and other statistics have one."""
    frames, labels = clips()
    model.double().train(training)
    together = generated(model, frames[:, 0], labels, seed=5)
    for row in range(CLIPS):
        alone = generated(model, frames[row:row + 1, 0], labels[row:row + 1], seed=5 + row)
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-6)
    model.label_transformation[2].running_mean += 1
    assert differing(generated(model, frames[:, 0], labels, seed=5), together) == list(range(1, LENGTH))


@pytest.mark.parametrize("t", range(LENGTH))
def test_generation_with_clamped_feedback_goes_on_from_any_of_its_frames(model, t):
    frames, labels = clips()
    with torch.no_grad():
        model.Generator[-1].bias.add_(torch.tensor([-2.0, 0.0, 2.0]))  # outputs beyond both bounds
    whole = generated(model.double(), frames[:, 0], labels, seed=0, temperature=0.0, clamp=True).double()
    rest = generated(model, whole[:, t], labels[:, t:], seed=0, temperature=0.0, clamp=True)
    torch.testing.assert_close(rest.double(), whole[:, t:], rtol=0, atol=1e-6)


def test_longer_labels_do_not_change_the_frames_before(model):
    frames, labels = clips()
    whole = generated(model.double(), frames[:, 0], labels, seed=0)
    for length in range(1, LENGTH):
        assert torch.equal(generated(model, frames[:, 0], labels[:, :length], seed=0), whole[:, :length])


def test_the_seed_alone_decides_the_noise(model):
    frames, labels = clips()
    state = torch.get_rng_state()
    videos = [generated(model.double(), frames[:, 0], labels, seed) for seed in (0, 0, 100)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(videos[0], videos[1]) and not torch.equal(videos[0], videos[2])
    alike = generated(model, frames[:1, 0].expand(2, -1, -1, -1), labels[:1].expand(2, -1, -1, -1, -1), seed=0)
    assert not torch.equal(alike[0], alike[1])  # two sequences of a batch draw different noise


def test_temperature_0_is_the_prior_mean_whatever_the_seed(model):
    frames, labels = clips()
    videos = [generated(model.double(), frames[:, 0], labels, seed, temperature=0.0) for seed in (0, 100)]
    assert torch.equal(*videos)
    steps = rollout(model.eval(), frames[:, :1], labels, GivenNoise(torch.zeros_like(NOISE)), temperature=1.0)
    expected = torch.stack([step.frame.clamp(0, 1) for step in steps], dim=1)
    torch.testing.assert_close(videos[0][:, 1:].double(), expected, rtol=0, atol=1e-6)
