"""What is measured of z: on models whose z is known, and in the log and the figures of a run."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import Plotting
from conftest import read_csv, tiny_model
from engine import evaluation
from engine.saving.logs import read_metrics
from figures.style import STYLES
from modules.latent import z_usage
from modules.metrics import psnr
from modules.model import Step
from modules.rollout import generate
from test_plotting import Z_COLUMNS, write_run

CLIPS, LENGTH, SIZE, Z = 2, 5, (4, 6), (3, 2, 3)


class KnownModel(torch.nn.Module):
    """Draw z's first number on a grey frame, `gain` times; the posterior is that of `mu` and `logvar`.

    Frame by frame mu is multiplied by `sign`.
    """

    posterior = "previous"

    def __init__(self, gain, mu, logvar, sign=-1):
        super().__init__()
        self.gain, self.posterior_of_step, self.sign, self.calls = gain, (mu, logvar), sign, 0
        self.drawn = []  # the frames with z from the prior

    def z_shape(self, height, width):
        return Z

    def encode_labels(self, labels):
        return labels

    def step(self, frame, pose, epsilon, current=None, temperature=None, shift=None):
        mu, logvar = (value.expand(len(frame), *Z) for value in self.posterior_of_step)
        if temperature is None:
            mu = mu * self.sign ** self.calls
            self.calls += 1
            z = mu + torch.exp(logvar / 2) * epsilon
        else:
            z, mu, logvar = temperature * epsilon, None, None
        drawn = torch.full_like(frame, 0.5) + self.gain * z[:, :1, :1, :1]
        if temperature:
            self.drawn.append(drawn)
        return Step(drawn, mu, logvar)


def clips():
    return torch.full((2, CLIPS, LENGTH, 3, *SIZE), 0.5)


def test_a_dead_z_carries_nothing_and_is_worth_nothing():
    usage = z_usage(KnownModel(0.0, torch.zeros(1), torch.zeros(1)), *clips(), seed=0)
    assert usage["kl"] == usage["active_units"] == usage["spread"] == 0
    assert usage["psnr_posterior"] == usage["psnr_prior"] == usage["psnr_zero"] == 100


def test_nats_active_units_and_what_a_z_that_harms_costs():
    mu, logvar = torch.zeros(Z), torch.full(Z, math.log(0.25))
    mu[0], mu[1] = 2.0, 0.09  # alternating in sign, so their variances over the frames are 4 and 0.0081
    usage = z_usage(KnownModel(0.05, mu, logvar), *clips(), seed=0)
    gaussian = torch.distributions.Normal(mu, torch.exp(logvar / 2))
    nats = torch.distributions.kl_divergence(gaussian, torch.distributions.Normal(0.0, 1.0)).sum().item()
    assert usage["kl"] == pytest.approx(nats, rel=1e-5)
    assert usage["active_units"] == mu[0].numel()
    assert usage["psnr_zero"] == 100 > usage["psnr_prior"] > usage["psnr_posterior"]  # the truth is grey
    assert 0.3 * 0.05 * 255 < usage["spread"] < 2 * 0.05 * 255  # of 2 x 8 draws


def test_a_unit_that_differs_between_clips_alone_is_active():
    mu = torch.zeros(CLIPS, *Z)
    mu[:, 0] = torch.tensor([0.5, -0.5]).view(CLIPS, 1, 1)
    usage = z_usage(KnownModel(0.0, mu, torch.zeros(Z), sign=1), *clips(), seed=0)
    assert usage["active_units"] == mu[0, 0].numel()


@pytest.mark.parametrize("gain", [0.01, 100.0])
def test_what_z_from_the_prior_is_worth_is_of_two_draws_as_they_are_shown(gain):
    """With a gain of 100 nearly every pixel is black or white."""
    model = KnownModel(gain, torch.zeros(Z), torch.zeros(Z))
    frames, labels = clips()
    usage = z_usage(model, frames, labels, seed=0)
    draws = torch.stack(model.drawn).unflatten(0, (2, LENGTH - 1)).transpose(1, 2)  # [2, CLIPS, T-1, 3, H, W]
    assert usage["psnr_prior"] == pytest.approx(psnr(draws, frames[None, :, 1:]).mean().item(), rel=1e-5)
    assert usage["spread"] == pytest.approx(255 * draws.clamp(0, 1).var(dim=0).mean().sqrt().item(), rel=1e-5)


@pytest.mark.parametrize("clamp, dtype", [(False, torch.float32), (True, torch.bfloat16)])
def test_z_is_measured_on_pieces_of_all_validation_clips_from_early_and_late_frames(clamp, dtype, monkeypatch):
    """In the run's precision. A frame shows the number of its clip and its own; its label is the negative of it."""
    clip, time = (values.expand(5, 40) for values in (torch.arange(5)[:, None], torch.arange(40)))
    videos = torch.stack([clip, time, time], dim=2)[..., None, None].expand(-1, -1, -1, *SIZE).byte()
    val_set = SimpleNamespace(video_len=40, clip_starts=lambda: 40 * torch.arange(5),
                              clips=lambda starts: (videos[starts // 40], 255 - videos[starts // 40]))

    def measured(model, frames, labels, *more):
        numbers = (255 * frames[:, :, :2, 0, 0]).round()
        assert numbers[:, 0].tolist() == [[0, 0], [1, 16], [3, 0], [4, 16]]
        assert torch.equal(numbers[:, :, 1], numbers[:, :1, 1] + torch.arange(16))
        torch.testing.assert_close(labels, 1 - frames)
        assert torch.is_autocast_enabled("cpu") == (dtype == torch.bfloat16) and model == "model"
        return {"given": more}

    monkeypatch.setattr(evaluation, "z_usage", measured)
    settings = {"device": torch.device("cpu"), "dtype": dtype, "seed": 3, "clamp": clamp}
    assert evaluation.measure_z("model", val_set, **settings) == {"val_given": (3, clamp)}


@pytest.mark.parametrize("posterior", ["previous", "current"])
def test_a_networks_z_is_measured_without_a_trace(posterior):
    model = tiny_model(posterior).float().train()
    model.label_transformation.eval()
    frames, labels = torch.rand(2, CLIPS, LENGTH, 3, 8, 16)
    before, state = torch.get_rng_state(), {name: value.clone() for name, value in model.state_dict().items()}
    usage = z_usage(model, frames, labels, seed=3)
    assert model.training and not any(part.training for part in model.label_transformation.modules())
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert usage == z_usage(model, frames, labels, seed=3) != z_usage(model, frames, labels, seed=4)


def test_z_follows_the_frame_to_predict_with_the_posterior_current():
    """The truth of frame t, not of another, reaches the posterior of step t."""
    model, (frames, labels) = tiny_model("current").float(), torch.rand(2, CLIPS, LENGTH, 3, 8, 16)
    seen = []
    model.frame_transformation.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    z_usage(model, frames, labels, seed=0)
    for t in range(1, LENGTH):
        assert torch.equal(seen[2 * t - 1], frames[:, t])


def test_a_run_logs_z_and_draws_it(call, dancer, tmp_path):
    call("Trainer", "--DR", dancer, "--save_root", "run", *"--network pyramid --F_dim 13 --L_dim 2 --N_dim 4 "
         "--D_out_dim 8 --train_vi_len 4 --val_vi_len 20 --num_epoch 2 --val_every 2 --device cpu".split(), draw=True)
    first, second = read_csv(tmp_path / "run/metrics.csv")
    columns = [name for name in second if name.startswith("val_")]
    assert {"val_kl", "val_active_units", "val_psnr_posterior", "val_psnr_prior", "val_psnr_zero",
            "val_spread"} < set(columns)
    assert all(first[name] == "" and math.isfinite(float(second[name])) for name in columns)
    assert (tmp_path / "run/z.png").is_file()


def test_the_log_of_an_older_run_is_read(tmp_path):
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "metrics.csv").write_text("epoch,loss,mse,kl,beta,tfr,lr,grad_norm,val_psnr,val_ssim\n"
                                        "0,1,1,1,1,1,1,1,20,0.5\n")
    assert read_metrics(folder)["val_psnr"] == [20]
    assert not any(path.endswith("z.png") for path in draw([folder], tmp_path / "out"))


def draw(runs, out):
    Plotting.main([*map(str, runs), "--out", str(out)])
    return [path.name for path in out.iterdir()]


@pytest.mark.filterwarnings("ignore:Attempting to set identical")  # all MSEs are the same here
def test_rate_and_distortion_of_runs_with_several_weights_and_seeds(drawn, tmp_path):
    runs = [write_run(tmp_path / f"{kind}{weight}{seed}", f"--kl_anneal_type {kind} --kl_weight {weight} --seed {seed}",
                      **Z_COLUMNS | {"val_kl": (seed + 1) / weight, "val_psnr_posterior": 20})
            for kind in ("None", "Monotonic") for weight in (1, 0.1) for seed in (0, 1)]
    Plotting.main(runs)
    lines = [line for line in drawn["rate_distortion"].axes[0].lines if len(line.get_xdata()) == 2]
    assert {line.get_label() for line in lines} == {"kl_anneal_type=None", "kl_anneal_type=Monotonic"}
    for line in lines:
        assert sorted(line.get_xdata()) == pytest.approx([1.5, 15]) and line.get_ydata() == pytest.approx([0.01, 0.01])
    shapes = drawn["rate_distortion"].legends[0]
    of_weight = {text.get_text(): mark.get_marker() for text, mark in zip(shapes.get_texts(), shapes.legend_handles)}
    assert [*of_weight] == ["0.1", "1"] and len({*of_weight.values()}) == 2
    points = [line for line in drawn["rate_distortion"].axes[0].lines if len(line.get_xdata()) == 1]
    for point in points:
        assert point.get_marker() == of_weight["1" if point.get_xdata()[0] == pytest.approx(1.5) else "0.1"]
    assert len(points) == 4
    drawn.clear()
    Plotting.main(runs[:2])  # one weight
    assert "rate_distortion" not in drawn and "z" in drawn


def test_distortion_is_the_geometric_mean_of_the_frames_and_called_so(drawn, tmp_path):
    """It comes from the mean of the frames' PSNRs: of MSEs of 0.1 and 0.001 it is 0.01, not 0.05."""
    errors = torch.tensor([0.1, 0.001])
    decibel = psnr(errors.sqrt()[:, None, None, None].expand(2, 3, *SIZE), torch.zeros(2, 3, *SIZE)).mean().item()
    runs = [write_run(tmp_path / f"{weight}", f"--kl_weight {weight}", **Z_COLUMNS | {"val_psnr_posterior": decibel})
            for weight in (1, 0.1)]
    Plotting.main([*runs, "--figures", "rate_distortion"])
    [ax] = drawn["rate_distortion"].axes
    assert ax.lines[0].get_ydata() == pytest.approx([errors.log().mean().exp().item()] * 2)
    assert "geometric mean" in ax.get_ylabel()


def test_what_z_is_worth_stands_over_z_at_0(drawn, tmp_path):
    run = write_run(tmp_path / "run", **Z_COLUMNS)
    Plotting.main([run, "--figures", "z"])
    for ax, source, worth in zip(drawn["z"].axes[2:4], ("posterior", "prior"), (2, -1), strict=True):
        assert source in ax.get_ylabel() and [list(line.get_ydata()) for line in ax.lines] == [[worth] * 6]


def test_dashes_tell_runs_apart_and_nothing_else(drawn, tmp_path):
    """Past seven runs a run may be dashed itself."""
    runs = [write_run(tmp_path / str(number), f"--kl_weight 0.{number:02d}", **Z_COLUMNS) for number in range(1, 16)]
    samples = "frame,psnr_mean,psnr_low,psnr_high,psnr_best\n1,20,19,21,22\n"
    for run in runs:
        Path(run, "samples_per_frame.csv").write_text(samples)
    Plotting.main([*runs, "--figures", "z", "samples"])
    styles = [(style["color"], style["linestyle"]) for style in STYLES[:15]]
    for ax in drawn["z"].axes:
        assert [(line.get_color(), line.get_linestyle()) for line in ax.lines] == styles
    lines = drawn["samples"].axes[0].lines
    for mean, best, style in zip(lines[::2], lines[1::2], styles, strict=True):
        assert all((line.get_color(), line.get_linestyle()) == style for line in (mean, best))
        assert best.get_linewidth() < mean.get_linewidth() / 2


def test_a_rollout_that_broke_off_leaves_the_others_to_draw(drawn, tmp_path):
    run = write_run(tmp_path / "run", **Z_COLUMNS | {"val_psnr_prior": "nan"})
    Plotting.main([run, "--figures", "z"])
    assert [[len(line.get_ydata()) for line in ax.lines] for ax in drawn["z"].axes[2:4]] == [[6], [0]]


def test_psnr_of_the_rollouts_is_that_of_generation():
    """z at 0 is `generate` with temperature 0."""
    model, (frames, labels) = tiny_model().float(), torch.rand(2, CLIPS, LENGTH, 3, 8, 16)
    video = generate(model, frames[:, 0], labels, seed=0, temperature=0.0)
    usage = z_usage(model, frames, labels, seed=0)
    assert usage["psnr_zero"] == pytest.approx(psnr(video[:, 1:], frames[:, 1:]).mean().item(), abs=0.01)


@pytest.mark.parametrize("clamp", [False, True])
def test_z_is_measured_on_rollouts_with_the_clamp_that_is_asked_for(clamp):
    """Of a network that overshoots: it follows a pixel x with 2 - 1.5 x."""
    model, (frames, labels) = KnownModel(0.0, torch.zeros(1), torch.zeros(1)), 0.8 * clips()
    step = model.step
    model.step = lambda frame, *more: step(frame, *more)._replace(frame=2 - 1.5 * frame)
    given, video = frames[:, 0], []
    for _ in range(1, LENGTH):
        video.append(2 - 1.5 * given)
        given = video[-1].clamp(0, 1) if clamp else video[-1]
    expected = psnr(torch.stack(video, dim=1), frames[:, 1:]).mean().item()
    usage = z_usage(model, frames, labels, seed=0, clamp=clamp)
    assert [usage[f"psnr_{z}"] for z in ("posterior", "prior", "zero")] == pytest.approx([expected] * 3)
