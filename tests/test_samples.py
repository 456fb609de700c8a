"""Several futures of a sequence: their scores, the file and the figure of them, and LPIPS."""

import json
import shutil
import sys
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

import Plotting
import Tester
from cli.errors import UsageError
from cli.folders import locked
from conftest import call_script, flags, read_csv
from engine.saving import start
from engine.saving.logs import read_videos
from engine.testing.samples import METRICS, samples_over_frames, score_samples, spread, summarise_samples
from media.video import write_comparison
from modules.metrics import channel_psnr, psnr

NETWORK = "--network pyramid --F_dim 13 --L_dim 2 --N_dim 4 --D_out_dim 8".split()
IN_FLOAT32 = {"device": "cpu", "amp": "off"}


@pytest.fixture(scope="module")
def trained(dancer, tmp_path_factory):
    """A run of an epoch on frames of the size of the dancer's ground truth."""
    folder = tmp_path_factory.mktemp("samples")
    call_script(folder, "Trainer", "--DR", dancer, *NETWORK, *flags(save_root="run", num_epoch=1, train_vi_len=6,
                                                                    val_vi_len=20, kl_weight=0, kl_anneal_type="None",
                                                                    **IN_FLOAT32))
    return folder / "run"


def test_psnr_of_the_channels_is_the_mean_of_three_psnrs():
    prediction, target = torch.rand(2, 5, 3, 8, 16)
    alone = [psnr(prediction[:, [channel]], target[:, [channel]]) for channel in range(3)]
    torch.testing.assert_close(channel_psnr(prediction, target), torch.stack(alone).mean(dim=0))
    assert (channel_psnr(prediction, target) >= psnr(prediction, target)).all()  # by Jensen's inequality


def scores_of(seed, samples=4, frames=7):
    random = np.random.default_rng(seed)
    return {name: random.random((samples, frames)) for name in ("psnr", "lpips")}


def test_best_is_chosen_for_each_sequence_and_metric():
    scored = [scores_of(0), scores_of(1, frames=5)]
    rows = summarise_samples(scored)
    means = {name: [scores[name].mean(axis=1) for scores in scored] for name in ("psnr", "lpips")}
    assert list(rows) == ["mean of 4 samples", "best of 4 samples"]
    assert rows["best of 4 samples"]["psnr"] == pytest.approx(np.mean([values.max() for values in means["psnr"]]))
    assert rows["best of 4 samples"]["lpips"] == pytest.approx(np.mean([values.min() for values in means["lpips"]]))
    for name in means:
        assert rows["mean of 4 samples"][name] == pytest.approx(np.mean([values.mean() for values in means[name]]))


@pytest.mark.parametrize("count, part", [(200, 0.95), (39, 0.95), (20, 19 / 21), (2, 1 / 3)])
def test_band_over_the_frames_would_hold_95_percent_of_all_samples(count, part):
    """Few have a narrower one, from the least to the greatest. Scores are uniform in [0, 1], so a width is a part."""
    columns = samples_over_frames([scores_of(0, samples=count, frames=3000)])
    assert np.mean(columns["psnr_high"] - columns["psnr_low"]) == pytest.approx(part, abs=0.015)


def test_band_of_several_sequences_is_that_of_a_sequence():
    """A mean over them would differ less from sample to sample."""
    columns = samples_over_frames([scores_of(seed, samples=200, frames=3000) for seed in range(4)])
    assert np.mean(columns["psnr_high"] - columns["psnr_low"]) == pytest.approx(0.95, abs=0.015)


def test_samples_of_all_sequences_draw_different_z():
    seeds = []

    def generate_videos(first_frames, labels, seed):
        seeds.extend(range(seed, seed + len(labels)))  # as generate_sequences: one for each video
        return [label.clone() for label in labels]

    videos = torch.zeros(3, 2, 3, 8, 16, dtype=torch.uint8)
    drawn = dict(Tester.draw_samples(4, ["0", "1", "2"], videos, videos, generate_videos, seed=7))
    assert [len(samples) for samples in drawn.values()] == [4, 4, 4]
    assert sorted(seeds) == list(range(7, 19))


def test_mean_and_best_over_the_frames_are_those_of_the_table():
    scored = [scores_of(seed, samples=40) for seed in (0, 1)]
    columns = samples_over_frames(scored)
    samples = np.mean([scores["psnr"] for scores in scored], axis=0)  # [K, T-1]
    assert columns["psnr_mean"] == pytest.approx(samples.mean(axis=0))
    assert columns["lpips_best"].mean() == pytest.approx(summarise_samples(scored)["best of 40 samples"]["lpips"])


def test_a_shorter_sequence_counts_as_long_as_it_lasts():
    longer, shorter = scores_of(0), scores_of(1, frames=3)
    columns = samples_over_frames([longer, shorter])
    assert len(columns["frame"]) == 7
    assert columns["psnr_mean"][3:] == pytest.approx(longer["psnr"].mean(axis=0)[3:])
    assert columns["psnr_mean"][:3] == pytest.approx((longer["psnr"][:, :3] + shorter["psnr"]).mean(axis=0) / 2)


@pytest.mark.parametrize("count", [2, 4, 20])
def test_spread_is_a_standard_deviation_of_pixels_however_many_samples(count):
    pixels = 128 + 20 * torch.randn(count, 50, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    samples = pixels.round().clamp(0, 255).to(torch.uint8)
    samples[0, 0], samples[1, 0] = 0, 200  # the given frame does not count
    assert spread(samples) == pytest.approx(20, rel=0.02)
    assert spread(samples[:1]) == 0


def test_tester_scores_samples_of_every_sequence(trained, dancer, call, capsys, tmp_path):
    words = ["--no-make_gif", *flags(ckpt_path=trained / "best.ckpt", gt=dancer / "test/gt.csv", **IN_FLOAT32)]
    call("Tester", *words, "--samples", 3, "--save_root", "drawn")
    scores = json.loads((tmp_path / "drawn/scores.json").read_text())
    assert list(scores)[:3] == ["this model", "mean of 3 samples", "best of 3 samples"]
    for name in METRICS:
        assert scores["best of 3 samples"][name] > scores["mean of 3 samples"][name]
    assert "best of 3 samples" in capsys.readouterr().out
    assert not list((tmp_path / "drawn").glob("*.npz"))  # as there is no GIF
    rows = read_csv(tmp_path / "drawn/samples_per_frame.csv")
    assert [row["frame"] for row in rows] == [str(frame) for frame in range(1, 12)]
    mean = np.mean([float(row["psnr_mean"]) for row in rows])
    assert mean == pytest.approx(scores["mean of 3 samples"]["psnr"], rel=1e-4)

    call("Tester", *words, "--samples", 2, "--save_root", "zero", "--temperature", 0)
    scores = json.loads((tmp_path / "zero/scores.json").read_text())
    for name in METRICS:  # all samples are alike
        for row in ("mean of 2 samples", "best of 2 samples"):
            assert scores[row][name] == pytest.approx(scores["this model"][name], rel=1e-4)

    Plotting.main(["drawn", "zero", "--figures", "samples", "--out", "figures"])
    assert (tmp_path / "figures/samples.png").is_file()


def test_a_test_in_a_folder_that_another_one_writes_is_refused(trained, call, capsys, tmp_path):
    with locked("--save_root", tmp_path / "out"), pytest.raises(SystemExit) as ended:
        call("Tester", "--ckpt_path", trained / "best.ckpt", "--save_root", "out")
    assert ended.value.code == 2 and "--save_root out is in use by process" in capsys.readouterr().err


def test_samples_without_a_truth_are_shown_alone_and_only_the_first(trained, call, capsys, tmp_path, monkeypatch):
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown/scores.json").write_text("of another model")
    compared = {}
    monkeypatch.setattr(Tester, "SAMPLES_SHOWN", 2)
    monkeypatch.setattr(Tester, "write_comparison",
                        lambda path, videos, *more: compared.update({path.name: [*videos]})
                        or write_comparison(path, videos, *more))
    call("Tester", "--ckpt_path", trained / "best.ckpt", "--samples", 3, "--save_root", "shown")
    assert compared["samples_seq0"] == ["label", "z 1", "z 2"]
    assert not (tmp_path / "shown/scores.json").exists()
    assert "3 samples of each sequence: a pixel has a standard deviation" in capsys.readouterr().out
    assert (tmp_path / "shown/samples_seq0.gif").is_file()
    first, samples = (read_videos(tmp_path / f"shown/{name}.npz") for name in ("first", "samples"))
    assert list(first) == ["label", "prediction"] and list(samples) == ["label", "z 1", "z 2"]
    assert all(video.shape == (12, 3, 32, 64) for video in (first | samples).values())
    assert not (tmp_path / "shown/samples_seq1.gif").exists() and not (tmp_path / "shown/scores.json").exists()


def test_sequences_are_public_by_their_numbers(monkeypatch):
    monkeypatch.setattr(Tester, "note_other_first_frames", lambda *_: None)
    for of_file, public in ((None, [True, False, False]), ([False, True, False], [False, True, False])):
        monkeypatch.setattr(Tester, "read_truth", lambda *_: (["truth"], of_file))
        assert Tester.open_truth("test", "gt.csv", [], [], ["2", "3", "10"]) == (["truth"], public)


def test_scores_without_the_predictors_that_learn_nothing_are_noted(trained, dancer, call, capsys, tmp_path):
    shutil.copytree(dancer, tmp_path / "data", ignore=shutil.ignore_patterns("train"))
    call("Tester", "--ckpt_path", trained / "best.ckpt", "--DR", "data", "--split", "val", "--no-make_gif",
         "--save_root", "out")
    assert [*json.loads((tmp_path / "out/scores.json").read_text())] == ["this model"]
    assert "note: there is no data/train; the scores are without" in capsys.readouterr().out


@pytest.mark.parametrize("words, checked", [([], True), (["--no_sanity"], False)])
def test_a_submission_is_read_back_unless_told_otherwise(words, checked, trained, call, monkeypatch, capsys):
    monkeypatch.setattr("engine.testing.course._holds", lambda *_: False)
    with pytest.raises(SystemExit) if checked else nullcontext():
        call("Tester", "--ckpt_path", trained / "best.ckpt", "--save_root", "out", "--no-make_gif", *words)
    assert ("does not hold what was written" in capsys.readouterr().err) == checked


def test_a_sample_is_scored_as_the_video_that_it_is():
    samples, truth = torch.randint(0, 256, (4, 6, 3, 8, 16), dtype=torch.uint8).split([3, 1])
    truth = truth[0]
    scores = score_samples(samples, truth, METRICS)
    assert scores["psnr"].shape == (3, 5)
    assert scores["psnr"][2] == pytest.approx(psnr(samples[2, 1:], truth[1:]).numpy())


@pytest.fixture
def lpips(monkeypatch):
    """A package `lpips` whose distance is the mean absolute difference, of images that must be in [0, 1]."""
    def distance(prediction, target, normalize):
        assert normalize and 0 <= prediction.min() and prediction.max() <= 1
        return (prediction - target).abs().mean(dim=(1, 2, 3), keepdim=True)

    network = SimpleNamespace(eval=lambda: SimpleNamespace(to=lambda device: distance))
    package = ModuleType("lpips")
    package.LPIPS = lambda net, verbose: network
    monkeypatch.setitem(sys.modules, "lpips", package)
    return package


def test_lpips_is_scored_where_its_package_is(trained, dancer, call, lpips, tmp_path):
    call("Tester", "--ckpt_path", trained / "best.ckpt", "--gt", dancer / "test/gt.csv", "--no-make_gif",
         "--samples", 2, "--lpips", "--save_root", "out")
    scores = json.loads((tmp_path / "out/scores.json").read_text())
    assert all("lpips" in row for row in scores.values())
    assert scores["best of 2 samples"]["lpips"] <= scores["mean of 2 samples"]["lpips"]


def test_what_lpips_lacks_is_said_in_one_line(trained, call, lpips, monkeypatch, capsys):
    def without_weights(net, verbose):
        raise OSError("no network")

    for package, wanted in ((lpips, "alexnet-owt-7be5be79.pth"), (None, "pip install -r requirements/lpips.txt")):
        lpips.LPIPS = without_weights
        monkeypatch.setitem(sys.modules, "lpips", package)
        with pytest.raises(SystemExit) as ended:
            call("Tester", "--ckpt_path", trained / "best.ckpt", "--split", "val", "--lpips")
        error = capsys.readouterr().err
        assert ended.value.code == 2 and wanted in error and "--lpips" in error and error.count("\n") == 1


def test_lpips_without_true_frames_is_refused(trained, call, capsys):
    with pytest.raises(SystemExit) as ended:
        call("Tester", "--ckpt_path", trained / "best.ckpt", "--lpips")
    error = capsys.readouterr().err
    assert ended.value.code == 2 and "--lpips" in error and "--gt" in error and error.count("\n") == 1


@pytest.mark.parametrize("size, refused", [((30, 64), True), ((64, 30), True), ((32, 32), False)])
def test_lpips_of_frames_too_small_for_its_network_is_refused_at_once(size, refused, trained, tmp_path, monkeypatch):
    checkpoint = torch.load(trained / "best.ckpt", weights_only=True)
    checkpoint["arguments"] |= dict(zip(("frame_H", "frame_W"), size))
    torch.save(checkpoint, tmp_path / "small.ckpt")
    words = ["--ckpt_path", str(tmp_path / "small.ckpt"), "--split", "val", "--lpips"]
    monkeypatch.setattr(sys, "argv", ["Tester.py", *words])
    said = "--lpips needs frames of at least 31 x 31 pixels, .*small.ckpt are "
    with pytest.raises(UsageError, match=said + "{} x {}; leave".format(*size)) if refused else nullcontext():
        start.tester_flags()
