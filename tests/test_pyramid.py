"""The second network: the interfaces of the first, a fraction of its work, and frames that stay frames."""

import imageio.v3 as iio
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from conftest import TINY_CLIPS, TINY_NETWORK, TINY_TRAINING, flags, read_csv
from modules import VAE_Model
from modules.ensemble import MeanOfModels
from modules.losses import kl_divergence
from modules.noise import GivenNoise, Noise
from modules.pixels import shifted, to_unit
from modules.pyramid import Gaussian_Predictor, LeakySigmoid
from modules.rollout import generate, rollout
from modules.views import MeanOfViews

CLIPS, LENGTH = 3, 6


def pyramid(**dimensions):
    """A pyramid with a random canvas: one of zeros would look the same however it is shifted."""
    torch.manual_seed(0)
    model = VAE_Model(**(dimensions or TINY_NETWORK), network="pyramid")
    torch.nn.init.normal_(model.Generator.canvas)
    return model


def pixels(size=(8, 16), length=LENGTH):
    random = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, CLIPS, length, 3, *size), generator=random, dtype=torch.uint8)


def generated(model, frames, labels, seed=0):
    """The frames that `generate` makes, before they are rounded to pixels: [CLIPS, T, 3, H, W]."""
    frame = to_unit(frames[:, 0])
    with torch.no_grad():
        steps = rollout(model.eval(), frame[:, None], labels, Noise.seeded(seed, CLIPS, "cpu"), temperature=1.0)
        return torch.stack([frame, *(step.frame for step in steps)], dim=1)


def random_noise(model, size=(8, 16)):
    return GivenNoise(torch.randn(CLIPS, LENGTH - 1, *model.z_shape(*size)))


@pytest.mark.parametrize("size", [(8, 16), (32, 64), (10, 18), (4, 4), (30, 62)])
def test_any_even_size_gives_frames_of_that_size_and_a_gradient_everywhere(size):
    model, (frames, labels) = pyramid().train(), pixels(size)
    terms, following = model(to_unit(frames), to_unit(labels), random_noise(model, size), 1.0)
    assert following.shape == (CLIPS, 3, *size)
    terms["loss"].backward()
    for name, weights in model.named_parameters():
        assert weights.grad is not None and weights.grad.isfinite().all(), name
        assert weights.grad.abs().max() > 0, name


@pytest.mark.parametrize("scale", [1, 10, 1000])
def test_frames_stay_frames_whatever_the_weights(scale):
    model, (frames, labels) = pyramid().eval(), pixels(length=30)
    with torch.no_grad():
        for weights in model.parameters():
            weights *= scale
    video = generated(model, frames, labels)
    assert video.isfinite().all() and video.min() >= 0 and video.max() <= 1


def test_black_frames_have_a_way_back():
    """Where the sigmoid itself is flat."""
    model, (frames, labels) = pyramid(), map(to_unit, pixels())
    with torch.no_grad():
        model.Generator.canvas -= 40
    terms, following = model(frames, labels, random_noise(model), 0.0)
    assert following.max() < 1e-12
    terms["loss"].backward()
    assert all(weights.grad.abs().max() > 1e-6 for weights in model.Decoder_Fusion.parameters())


def test_slope_of_the_output_is_that_of_the_sigmoid_and_a_little_more():
    x = torch.linspace(-30, 30, 61, dtype=torch.float64, requires_grad=True)
    frame = LeakySigmoid()(x)
    torch.testing.assert_close(frame, torch.sigmoid(x), rtol=0, atol=0)
    [slope] = torch.autograd.grad(frame.sum(), x)
    torch.testing.assert_close(slope, torch.sigmoid(x) * torch.sigmoid(-x) + LeakySigmoid.LEAK)
    assert torch.equal(LeakySigmoid()(torch.tensor([-torch.inf, torch.inf])), torch.tensor([0.0, 1.0]))


@pytest.fixture
def bare():
    """A pyramid that draws nothing but its canvas; and that as a frame, [3, 32, 64]."""
    model = pyramid()
    with torch.no_grad():
        for weights in model.Generator.draw.parameters():
            weights.zero_()
    return model, model.Generator.canvas[0].sigmoid().detach()


@pytest.mark.parametrize("shape", [(CLIPS, 3, 8, 16), (CLIPS, LENGTH, 3, 8, 16)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_shifted_images_go_around_the_edge_and_come_back(shape, dtype):
    images, shift = torch.arange(torch.Size(shape).numel()).view(shape).to(dtype), torch.tensor([0, 3, -21])
    moved = shifted(images, shift)
    for image, pixels_right, result in zip(images, shift.tolist(), moved):
        assert torch.equal(result, image.roll(pixels_right, dims=-1))
    assert torch.equal(shifted(moved, -shift), images)


def test_canvas_moves_with_the_clip(bare):
    model, canvas = bare
    frames, labels = map(to_unit, pixels((32, 64)))
    shift = torch.tensor([0, 5, 63])
    step = model.step(frames[:, 0], model.encode_labels(labels[:, 1]), random_noise(model, (32, 64)).normal(4, 4, 8),
                      shift=shift)
    torch.testing.assert_close(step.frame, shifted(canvas.expand(CLIPS, -1, -1, -1), shift))


@pytest.mark.parametrize("forced", [True, False])
def test_a_random_shift_changes_neither_a_fitting_loss_nor_where_the_next_input_is(forced, bare):
    model, canvas = bare
    frames = canvas.expand(CLIPS, LENGTH, -1, -1, -1)
    _, labels = map(to_unit, pixels((32, 64)))
    teacher_forced = torch.full((CLIPS, LENGTH), forced)
    terms, following = model(frames, labels, Noise.seeded(0, CLIPS, "cpu"), 0.0, teacher_forced, random_shift=True)
    assert terms["mse"] < 1e-12
    torch.testing.assert_close(following, frames[:, 0])


def test_a_random_shift_moves_frames_labels_and_canvas_alike_by_up_to_the_width():
    model, (frames, labels) = pyramid(), map(to_unit, pixels((32, 64)))
    terms, following = model(frames, labels, Noise.seeded(0, CLIPS, "cpu"), 0.1, random_shift=True)
    canvas, losses, shifts = model.Generator.canvas, [], []
    for row in range(CLIPS):
        noise = Noise.seeded(row, 1, "cpu")
        shifts.append(int(64 * noise.uniform()))
        model.Generator.canvas = torch.nn.Parameter(canvas.roll(shifts[-1], dims=-1))
        moved = [part[row:row + 1].roll(shifts[-1], dims=-1) for part in (frames, labels)]
        alone, after = model(*moved, noise, 0.1)
        losses.append(alone["loss"].item())
        torch.testing.assert_close(following[row], after[0].roll(-shifts[-1], dims=-1))
    assert terms["loss"].item() == pytest.approx(sum(losses) / CLIPS, rel=1e-5)
    assert max(shifts) > 32  # the height


def test_shifted_clips_are_a_batch_like_any_other():
    """All forced frames at once equal one after the other, and a clip's shift does not depend on its batch."""
    model, (frames, labels) = pyramid(), map(to_unit, pixels())
    forced = torch.ones(CLIPS, LENGTH, dtype=torch.bool)
    losses = []
    for images_at_once in (1, 1000):
        terms, _ = model(frames, labels, Noise.seeded(0, CLIPS, "cpu"), 0.1, forced, images_at_once=images_at_once,
                         random_shift=True)
        losses.append(terms["loss"].item())
    alone = [model(frames[row:row + 1], labels[row:row + 1], Noise.seeded(row, 1, "cpu"), 0.1, forced[row:row + 1],
                   random_shift=True)[0]["loss"].item() for row in range(CLIPS)]
    unmoved = model(frames, labels, Noise.seeded(0, CLIPS, "cpu"), 0.1, forced)[0]["loss"].item()
    assert losses == pytest.approx([sum(alone) / CLIPS] * 2, rel=1e-5) and losses[0] != pytest.approx(unmoved, rel=1e-5)


def test_the_mean_of_views_is_that_of_shifted_rollouts_of_one_step():
    model, (frames, labels) = pyramid().eval(), pixels(length=2)
    frame, epsilon = to_unit(frames[:, 0]), torch.randn(CLIPS, *model.z_shape(8, 16))
    views = []
    for pixels_right in (0, 3, 6):
        shift = torch.full((CLIPS,), pixels_right)
        poses = model.encode_labels(labels[:, 1].roll(pixels_right, dims=-1))
        moved = model.step(frame.roll(pixels_right, dims=-1), poses, epsilon, temperature=1.0, shift=shift).frame
        views.append(moved.roll(-pixels_right, dims=-1))
    steps = rollout(MeanOfViews(model, 3), frame[:, None], labels, GivenNoise(epsilon[:, None]), temperature=1.0)
    torch.testing.assert_close([step.frame for step in steps], [torch.stack(views).mean(dim=0)])


@pytest.mark.parametrize("views", [1, 2])
def test_an_ensemble_predicts_the_mean_of_its_networks_each_with_a_z_of_its_own(views):
    """Of any dimensions, and of both kinds."""
    torch.manual_seed(0)
    models = [pyramid(), pyramid(F_dim=14, L_dim=4, N_dim=2, D_out_dim=8), VAE_Model(**TINY_NETWORK)]
    (frames, labels), ensemble = pixels(length=2), MeanOfModels(models)
    frame, epsilon = to_unit(frames[:, 0]), [torch.randn(CLIPS, *model.z_shape(8, 16)) for model in models]
    joined = torch.cat([z.flatten(1) for z in epsilon], dim=1)
    assert ensemble.z_shape(8, 16) == joined.shape[1:]

    def predicted(model, z):
        model = MeanOfViews(model, views) if views > 1 else model
        [step] = rollout(model.eval(), frame[:, None], labels, GivenNoise(z[:, None]), temperature=1.0)
        return step.frame

    mean = torch.stack([predicted(*pair) for pair in zip(models, epsilon)]).mean(dim=0)
    torch.testing.assert_close(predicted(ensemble, joined), mean)


def test_one_view_is_the_model_itself():
    model, (frames, labels) = pyramid(), pixels()
    videos = [generate(net, frames[:, 0], labels, seed=0) for net in (model, MeanOfViews(model, 1))]
    assert torch.equal(*videos)


def test_batch_equals_its_sequences_in_training_mode_too():
    """Nothing is normalised over a batch."""
    frames, labels = map(to_unit, pixels())
    epsilon = random_noise(pyramid()).epsilon
    for training in (True, False):
        model = pyramid().train(training)
        whole = model(frames, labels, GivenNoise(epsilon), 0.1)[0]
        alone = [model(frames[row:row + 1], labels[row:row + 1], GivenNoise(epsilon[row:row + 1]), 0.1)[0]
                 for row in range(CLIPS)]
        for name, value in whole.items():
            assert value.item() == pytest.approx(sum(terms[name].item() for terms in alone) / CLIPS, rel=1e-4)


@pytest.mark.parametrize("t", range(1, LENGTH))
def test_frame_t_is_generated_from_label_t(t):
    model, (frames, labels) = pyramid(), pixels()
    changed = labels.clone()
    changed[:, t] = 255 - changed[:, t]
    before, after = generated(model, frames, labels), generated(model, frames, changed)
    assert torch.equal(before[:, :t], after[:, :t]) and not torch.equal(before[:, t], after[:, t])


def test_the_kl_grows_slowly_with_a_stray_variance_and_leads_back():
    predictor = Gaussian_Predictor(24, 4)
    outputs = torch.zeros(1, 8, 1, 5)
    outputs[:, 4:] = torch.tensor([-30.0, -1, 0, 1e-4, 1000])
    outputs.requires_grad_()
    mu, logvar = predictor.moments(outputs)
    assert torch.equal(mu, outputs[:, :4]) and torch.equal(logvar[..., :3], outputs[:, 4:, :, :3])
    assert logvar[..., 3:].exp().flatten()[:2].tolist() == pytest.approx([1.0001, 1001])
    kl_divergence(mu, logvar).backward()
    slope = outputs.grad[0, 4:]
    assert slope[..., 1:2].max() < 0 and slope[..., 2].abs().max() == 0
    assert slope[..., 4].flatten().tolist() == pytest.approx([0.4995] * 4, abs=1e-4)  # where exp(1000) overflows


def test_z_is_drawn_and_matters():
    model, (frames, labels) = pyramid(), pixels()
    videos = [generated(model, frames, labels, seed) for seed in (0, 0, 100)]
    assert torch.equal(videos[0], videos[1]) and not torch.equal(videos[0], videos[2])


@pytest.mark.parametrize("dimensions", [{}, dict(F_dim=32, L_dim=16, N_dim=4, D_out_dim=32)])
def test_its_work_is_at_most_a_quarter_of_the_template_s(dimensions):
    work = {}
    for network in ("template", "pyramid"):
        model = VAE_Model(**dimensions, network=network)
        image = torch.rand(1, 3, 32, 64)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            features = model.frame_transformation(image), model.label_transformation(image)
            z, _, _ = model.Gaussian_Predictor(*features)
            model.Generator(model.Decoder_Fusion(*features, z))
        work[network] = counter.get_total_flops()
    assert work["pyramid"] <= work["template"] / 4


def test_it_is_trained_resumed_and_tested_like_the_template(dancer, call, capsys, tmp_path):
    words = ["--DR", dancer, "--network", "pyramid", "--random_shift", *TINY_TRAINING]
    for name, epochs in (("whole", 2), ("parts", 1)):
        call("Trainer", *words, *flags(num_epoch=epochs, save_root=name, kl_anneal_type="None"))
    call("Trainer", "--resume", "--save_root", "parts", *flags(num_epoch=2))
    assert read_csv("whole/metrics.csv") == read_csv("parts/metrics.csv")
    capsys.readouterr()
    call("Tester", "--ckpt_path", "whole/best.ckpt", "--samples", 2, "--views", 2)
    assert "2 samples of each sequence: a pixel has a standard deviation" in capsys.readouterr().out
    alike = [iio.imread(tmp_path / f"whole/test/{name}_seq0.gif") for name in ("samples", "compare")]
    assert alike[0].shape[0] == alike[1].shape[0] and alike[0].shape[2] > alike[1].shape[2]  # a column more


@pytest.mark.parametrize("wrong, named", [({"F_dim": 12}, "--F_dim"), ({"frame_H": 7}, "--frame_H"),
                                          ({"frame_W": 15}, "--frame_W")])
def test_sizes_that_do_not_fit_are_named(wrong, named, dancer, call, capsys):
    with pytest.raises(SystemExit) as ended:
        call("Trainer", "--DR", dancer, "--network", "pyramid", *flags(**TINY_NETWORK), *TINY_CLIPS, *flags(**wrong))
    assert ended.value.code == 2 and named in capsys.readouterr().err
