"""Plotting.py draws what the logs say, of whole and partial runs, and names a mistake in one line."""

import csv
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib import font_manager

import Plotting
from cli.errors import UsageError
from cli.flags import idle_flags, schedule_settings, trainer_parser
from conftest import ROOT
from engine import schedules
from engine.optimization import TOTALS
from engine.saving.logs import METRICS_COLUMNS, SAMPLES_COLUMNS, TIMES_COLUMNS
from engine.training import RunState, metrics_row
from figures import curves, style
from figures.runs import Run, label_by_difference, read_runs

FILES = {"loss.png", "teacher_forcing_ratio.png", "beta.png", "learning_rate.png", "validation_psnr.png",
         "psnr_over_seconds.png", "psnr_per_frame.png", "z.png"}
Z_COLUMNS = {"val_kl": 5, "val_active_units": 3, "val_psnr_posterior": 25, "val_psnr_prior": 22, "val_psnr_zero": 23,
             "val_spread": 2}


def write_run(folder, flags="", epochs=6, sequence_lengths=(20,), val_every=2, **changed):
    """A run folder as Trainer.py leaves it.

    changed: columns of metrics.csv that are constants, or lists with a value for each epoch, "" for none.
    """
    folder.mkdir(parents=True)
    arguments = vars(trainer_parser().parse_args(flags.split())) | {"save_root": str(folder)}
    (folder / "args.json").write_text(json.dumps({"arguments": arguments, "git_commit": None}))
    with open(folder / "metrics.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, METRICS_COLUMNS)
        writer.writeheader()
        for epoch in range(epochs):
            mse, kl, beta = 0.03 / (epoch + 1), 1e4 / (epoch + 1), epoch / 10
            validated = (epoch + 1) % val_every == 0
            writer.writerow({"epoch": epoch, "loss": mse + beta * kl, "mse": mse, "kl": kl, "beta": beta,
                             "tfr": 1 - epoch / 10, "lr": 0.001, "grad_norm": 1.0,
                             "val_psnr": 20 + epoch if validated else "",
                             "val_ssim": 0.5 if validated else "",
                             **(Z_COLUMNS if validated else {})}
                            | {name: value[epoch] if isinstance(value, list) else value
                               for name, value in changed.items()})
    times = [f"{epoch},{10 * (epoch + 1)}," for epoch in range(epochs)]
    (folder / "times.csv").write_text("\n".join([",".join(TIMES_COLUMNS), *times]))
    if sequence_lengths:
        with open(folder / "psnr_per_frame.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["frame", *(f"seq{i}" for i in range(len(sequence_lengths)))])
            for frame in range(1, max(sequence_lengths) + 1):
                writer.writerow([frame, *(20 + i + frame % 2 if frame <= length else ""
                                          for i, length in enumerate(sequence_lengths))])
    return str(folder)


def legend(figure):
    return [text.get_text().replace("\n", " ") for box in figure.legends for text in box.get_texts()]


def assert_curve(line, x, y):
    np.testing.assert_allclose(line.get_xdata(), x)
    np.testing.assert_allclose(line.get_ydata(), y)


def run_plotting(*words, cwd):
    command = [sys.executable, str(ROOT / "Plotting.py"), *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def test_one_run_is_drawn_into_its_own_folder(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    Plotting.main([run])
    assert {path.name for path in Path(run).glob("*.png")} == FILES
    assert sorted(capsys.readouterr().out.split()) == sorted(str(Path(run, name)) for name in FILES)


def test_several_runs_are_drawn_into_a_folder_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Plotting.main([write_run(tmp_path / name, f"--tfr {tfr}") for name, tfr in (("a", 1), ("b", 0))])
    assert {path.name for path in Path("runs/figures").iterdir()} == FILES


def test_a_figure_without_data_says_what_it_needs(tmp_path):
    run = write_run(tmp_path / "run")
    with pytest.raises(UsageError, match="no samples to draw; give .* --samples"):
        Plotting.main([run, "--figures", "samples"])
    run = write_run(tmp_path / "unvalidated", val_every=99)
    for figure in ("val_psnr", "psnr_over_seconds"):
        with pytest.raises(UsageError, match=f"no {figure} to draw; give a run that has validated"):
            Plotting.main([run, "--figures", figure])
    (tmp_path / "unvalidated/args.json").write_text('{"arguments": {"tfr": 1}}')
    with pytest.raises(UsageError, match="no rate_distortion to draw"):
        Plotting.main([run, "--figures", "rate_distortion"])


def test_format_and_out(tmp_path):
    run = write_run(tmp_path / "run")
    Plotting.main([run, "--figures", "beta", "--format", "pdf", "--out", str(tmp_path / "o")])
    assert (tmp_path / "o" / "beta.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("installed, families", [
    ({"DejaVu Sans"}, ["DejaVu Sans"]),
    ({"Noto Sans CJK JP", "Arial", "Microsoft JhengHei"}, ["DejaVu Sans", "Microsoft JhengHei", "Noto Sans CJK JP"])])
def test_chinese_letters_are_looked_for_in_the_fonts_that_are_installed(installed, families):
    assert style.font_families(installed) == families
    assert matplotlib.rcParams["font.family"] == style.font_families(font_manager.get_font_names())


def test_letters_that_no_font_has_are_noted_once(tmp_path, capsys):
    style.note_missing_letters.cache_clear()
    runs = [write_run(tmp_path / name) for name in ("\u821e\u8005", "dance")]
    with warnings.catch_warnings(), matplotlib.rc_context({"font.family": "DejaVu Sans"}):
        warnings.simplefilter("error")
        Plotting.main([*runs, "--out", str(tmp_path), "--figures", "loss", "beta"])
    assert capsys.readouterr().out.count("no font here has every letter") == 1
    with pytest.warns(UserWarning, match="another"), style.missing_letters_noted():
        warnings.warn("another")


def test_curves_equal_the_csv(tmp_path, drawn):
    run = write_run(tmp_path / "run", sequence_lengths=(20, 12))
    Plotting.main([run])
    columns = np.genfromtxt(Path(run, "metrics.csv"), delimiter=",", names=True)
    epochs = np.arange(6)
    units = {"loss": "MSE", "mse": "[0, 1]", "kl": "nats per frame"}
    for ax, (column, unit) in zip(drawn["loss"].axes, units.items(), strict=True):
        assert_curve(ax.lines[0], epochs, columns[column])
        assert ax.get_yscale() == "log" and unit in ax.get_ylabel()
    assert drawn["loss"].axes[-1].get_xlabel() == "epoch"
    for name, column, label in (("teacher_forcing_ratio", "tfr", "probability"),
                                ("beta", "beta", "factor on KL"), ("learning_rate", "lr", "learning rate")):
        assert_curve(drawn[name].axes[0].lines[0], epochs, columns[column])
        assert label in drawn[name].axes[0].get_ylabel() and drawn[name].axes[0].get_xlabel() == "epoch"
    ax = drawn["validation_psnr"].axes[0]
    assert_curve(ax.lines[0], [1, 3, 5], [21, 23, 25])
    assert ax.get_ylabel() == "validation PSNR (dB)" and ax.get_title() == "run: best 25.00 dB at epoch 5"
    ax = drawn["psnr_over_seconds"].axes[0]
    assert_curve(ax.lines[0], [20, 40, 60], [21, 23, 25])
    assert ax.get_xlabel() == "seconds of training and validation" and ax.get_ylabel() == "validation PSNR (dB)"
    ax = drawn["psnr_per_frame"].axes[0]
    assert_curve(ax.lines[0], np.arange(1, 21), [21, 20] * 10)
    assert_curve(ax.lines[2], np.arange(1, 13), [22, 21] * 6)
    assert ax.get_xlabel() == "frame" and ax.get_ylabel() == "PSNR (dB)"
    assert legend(drawn["psnr_per_frame"]) == ["seq0: mean 20.50 dB", "seq1: mean 21.50 dB"]
    assert ax.get_title() == "run: mean 21.00 dB"  # the mean of the means of both sequences


@pytest.mark.parametrize("losses, label", [
    (["mse"], "loss (MSE + \u03b2 KL)"), (["log_mse"] * 2, "loss (0.01 log(MSE + 1e-4) + \u03b2 KL)"),
    (["mse", "log_mse"], "loss (--reconstruction + \u03b2 KL)"), (["older", "mse"], "loss (MSE + \u03b2 KL)"),
    (["log_mse", "unknown"], "loss (--reconstruction + \u03b2 KL)"), (["mae"], "loss (mae + \u03b2 KL)"),
])
def test_axis_of_the_loss_says_what_was_added_up(losses, label):
    """older: before the flag there was the MSE alone. unknown: a folder without args.json."""
    arguments = {"unknown": {}, "older": {"seed": 0}}
    runs = [Run(str(number), arguments.get(loss, {"reconstruction": loss}),
                {"epoch": np.arange(2), **dict.fromkeys(("loss", "mse", "kl"), np.ones(2))})
            for number, loss in enumerate(losses)]
    for run in runs:
        run.label = run.name
    assert " ".join(curves.draw_loss(runs, False).axes[0].get_ylabel().split()) == label


def test_ticks_are_whole_epochs(tmp_path, drawn):
    for epochs in (1, 3, 300):
        Plotting.main([write_run(tmp_path / str(epochs), epochs=epochs)])
        for name, figure in drawn.items():
            figure.draw_without_rendering()
            ticks = figure.axes[-1].get_xticks()
            assert name == "psnr_over_seconds" or all(tick == int(tick) for tick in ticks)
            assert len(ticks) > 1


def test_running_mean():
    np.testing.assert_allclose(curves.running_mean(np.arange(5.0), 3), [0.5, 1, 2, 3, 3.5])
    np.testing.assert_allclose(curves.running_mean(np.arange(3.0), 15), [1, 1, 1])


def test_runs_are_named_by_the_flags_that_differ(tmp_path, drawn):
    folders = [write_run(tmp_path / "a", "--tfr 1 --per_save 1 --gpu 0 --num_workers 1"),
               write_run(tmp_path / "b", "--tfr 0 --per_save 2 --gpu 1 --kl_anneal_type None")]
    Plotting.main(folders)
    names = ["tfr=1, kl_anneal_type=Cyclical", "tfr=0, kl_anneal_type=None"]
    assert legend(drawn["loss"]) == legend(drawn["beta"]) == names
    assert legend(drawn["psnr_per_frame"]) == [f"{name}: mean 20.50 dB" for name in names]
    assert [len(ax.lines) for ax in drawn["loss"].axes] == [2, 2, 2]


def test_the_seed_names_a_run_and_equal_ones_go_by_their_folders(tmp_path, drawn):
    seeds = {"a": 0, "b": 0, "c": 1}
    Plotting.main([write_run(tmp_path / name, f"--seed {seed}") for name, seed in seeds.items()])
    assert legend(drawn["beta"]) == ["seed=0 (a)", "seed=0 (b)", "seed=1"]


def test_without_a_difference_or_args_the_folder_names_a_run(tmp_path, drawn):
    folders = [write_run(tmp_path / name) for name in "abc"]
    Plotting.main(folders[:2])
    assert legend(drawn["loss"]) == ["a", "b"]
    Path(folders[2], "args.json").unlink()
    Plotting.main(folders)
    assert legend(drawn["loss"]) == ["a", "b", "c"]


def test_folders_of_one_name_go_by_their_paths(tmp_path, drawn):
    folders = [write_run(tmp_path / parent / "run") for parent in "ab"]
    Plotting.main(folders)
    assert legend(drawn["beta"]) == folders


@pytest.mark.parametrize("count", [2, 4, 6])
def test_side_by_side_shares_scales(tmp_path, drawn, count):
    folders = [write_run(tmp_path / str(i), f"--tfr 0.{i}", mse=10.0 ** -i, epochs=3) for i in range(count)]
    Plotting.main([*folders, "--layout", "side_by_side", "--figures", "loss", "tfr"])
    axes = drawn["teacher_forcing_ratio"].axes
    assert [ax.get_title() for ax in axes] == [f"tfr={i / 10:g}" for i in range(count)]
    assert len({ax.get_ylim() for ax in axes}) == len({ax.get_xlim() for ax in axes}) == 1
    axes = drawn["loss"].axes
    mse_axes = [ax for ax in axes for i in range(count) if ax.lines[0].get_ydata()[0] == 10.0 ** -i]
    assert len(axes) == 3 * count and len(mse_axes) == count
    assert len({ax.get_ylim() for ax in mse_axes}) == 1
    assert not legend(drawn["loss"])


def test_more_runs_than_colours_and_dashes(tmp_path, drawn):
    Plotting.main([write_run(tmp_path / str(i), f"--tfr 0.{i:02d}") for i in range(25)])
    for figure in drawn.values():
        assert len(legend(figure)) == 25


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kl", [0, 1e-300, "nan", "inf"])
def test_odd_losses_do_not_break_log_axes(tmp_path, kl):
    run = write_run(tmp_path / "run", kl=kl, loss=kl, beta=0, tfr=0)
    Plotting.main([run, "--figures", "loss", "beta", "tfr"])
    drawn = {path.stem for path in Path(run).glob("*.png")}
    assert drawn == {"beta", "teacher_forcing_ratio"} | ({"loss"} if np.isfinite(float(kl)) else set())


def test_a_loss_that_falls_below_zero_is_drawn_whole(tmp_path, drawn):
    """The log MSE falls below zero, where a logarithmic axis would not show it."""
    losses = [0.1, 0.05, 0.01, -0.01, -0.03, -0.04]
    Plotting.main([write_run(tmp_path / "run", loss=losses), "--figures", "loss"])
    loss, *others = drawn["loss"].axes
    assert loss.get_yscale() == "linear" and {ax.get_yscale() for ax in others} == {"log"}
    low, high = loss.get_ylim()
    assert low < min(losses) and max(losses) < high


def test_no_validation_yet(tmp_path, drawn, capsys):
    Plotting.main([write_run(tmp_path / "run", val_every=99, sequence_lengths=())])
    assert "validation_psnr" not in drawn and "loss" in drawn
    notice = "left out, no data: val_psnr, psnr_over_seconds, psnr_per_frame, z of run"
    assert capsys.readouterr().out.splitlines() == [*drawn, notice]


def test_seconds_belong_to_their_epochs(tmp_path, drawn, capsys):
    """A run that was begun before there was a times.csv has the later epochs only, or none."""
    run = Path(write_run(tmp_path / "run"))
    (run / "times.csv").write_text("epoch,seconds\n4,10\n5,20\n")
    Plotting.main([str(run), "--figures", "psnr_over_seconds"])
    assert_curve(drawn["psnr_over_seconds"].axes[0].lines[0], [20], [25])
    (run / "times.csv").unlink()
    with pytest.raises(UsageError, match="no psnr_over_seconds to draw"):
        Plotting.main([str(run), "--figures", "psnr_over_seconds"])


SEEDS = {0: 0.0, 1: 1.0, 2: 5.0}  # seed: what is added to its columns


def write_seeds(folder, flags="", plus=0):
    return [write_run(folder / f"{seed}", f"--seed {seed} {flags}", val_psnr=20 + more + plus, mse=0.1 * (1 + more),
                      kl=1 + more, epochs=3, val_every=1, sequence_lengths=(20, 20)) for seed, more in SEEDS.items()]


def test_runs_that_differ_in_the_seed_alone_are_one_curve_in_a_band(tmp_path, drawn):
    Plotting.main([*write_seeds(tmp_path / "a"), *write_seeds(tmp_path / "b", "--tfr 0", plus=10)])
    names = ["tfr=1 (3 seeds)", "tfr=0 (3 seeds)"]
    assert legend(drawn["loss"]) == legend(drawn["beta"]) == legend(drawn["psnr_over_seconds"]) == names
    assert legend(drawn["validation_psnr"]) == ["tfr=1 (3 seeds): best 22.00 (20.00..25.00) dB",
                                                "tfr=0 (3 seeds): best 32.00 (30.00..35.00) dB"]
    assert legend(drawn["psnr_per_frame"]) == [f"{name}: mean 21.00 (21.00..21.00) dB" for name in names]
    of_both_sequences = curves.running_mean(np.array([21.5, 20.5] * 10))
    assert_curve(drawn["psnr_per_frame"].axes[0].lines[0], np.arange(1, 21), of_both_sequences)
    for name, ax, mean, least, greatest in (("loss", 1, 0.3, 0.1, 0.6), ("validation_psnr", 0, 22, 20, 25),
                                            ("psnr_over_seconds", 0, 22, 20, 25)):
        axes = drawn[name].axes[ax]
        np.testing.assert_allclose(axes.lines[0].get_ydata(), mean)
        heights = axes.collections[0].get_paths()[0].vertices[:, 1]
        assert (heights.min(), heights.max()) == pytest.approx((least, greatest))
        assert len(axes.collections) == 2


def test_mean_and_band_end_where_a_seed_ends_and_the_others_go_on_as_thin_lines(tmp_path, drawn):
    folders = [write_run(tmp_path / str(seed), f"--seed {seed}", epochs=epochs, val_every=1, val_psnr=20.0 + seed)
               for seed, epochs in ((0, 2), (1, 4), (2, 5))]
    Plotting.main(folders)
    mean, *alone = drawn["validation_psnr"].axes[0].lines
    assert_curve(mean, [0, 1], [21, 21])
    band = drawn["validation_psnr"].axes[0].collections[0].get_paths()[0].vertices
    assert (band.min(axis=0).tolist(), band.max(axis=0).tolist()) == ([0, 20], [1, 22])
    shown = [line.get_xydata()[np.isfinite(line.get_ydata())].tolist() for line in alone]
    assert shown == [[[1, 21], [2, 21], [3, 21]], [[1, 22], [2, 22], [3, 22], [4, 22]]]
    assert all(line.get_linewidth() < mean.get_linewidth() for line in alone)


def test_star_is_at_the_best_epoch_of_a_single_run(tmp_path, drawn):
    """The best of a mean over seeds would be no best of any of them."""
    alone = write_run(tmp_path / "alone", "--seed 0", val_psnr=["", 21, 25, "", 23, 22])
    Plotting.main([alone, "--figures", "val_psnr"])
    [star] = [line for line in drawn["validation_psnr"].axes[0].lines if line.get_marker() == "*"]
    assert_curve(star, [2], [25])
    assert drawn["validation_psnr"].axes[0].get_title() == "alone: best 25.00 dB at epoch 2"
    Plotting.main([*write_seeds(tmp_path / "a"), "--figures", "val_psnr"])
    assert [line.get_marker() for line in drawn["validation_psnr"].axes[0].lines].count("*") == 0


def test_flags_that_do_nothing_in_a_run_are_not_in_its_label(tmp_path):
    words = ["--kl_anneal_type None --kl_anneal_cycle 5", "--kl_anneal_type Cyclical", "--kl_anneal_cycle 5 --tfr 0",
             "--kl_anneal_type Monotonic --kl_anneal_ratio 0.2"]
    labels = [run.label for run in read_runs([write_run(tmp_path / str(n), more) for n, more in enumerate(words)])]
    assert labels == ["tfr=1, kl_anneal_type=None",
                      "tfr=1, kl_anneal_type=Cyclical, kl_anneal_cycle=10, kl_anneal_ratio=1",
                      "tfr=0, kl_anneal_type=Cyclical, kl_anneal_cycle=5, kl_anneal_ratio=1",
                      "tfr=1, kl_anneal_type=Monotonic, kl_anneal_ratio=0.2"]
    labels = [run.label for run in read_runs([write_run(tmp_path / name, f"--kl_anneal_type None {more} --seed {name}")
                                              for name, more in (("8", ""), ("9", "--kl_anneal_cycle 5"))])]
    assert labels == ["2 seeds"] * 2


def test_the_label_norm_tells_no_pyramids_apart(tmp_path):
    """They have none; older runs hold `batch`, the default then."""
    words = "--network pyramid --label_norm"
    labels = [run.label for run in read_runs([write_run(tmp_path / norm, f"{words} {norm} --seed {seed}")
                                              for seed, norm in enumerate(("batch", "fixed"))])]
    assert labels == ["2 seeds"] * 2


@pytest.mark.parametrize("words, idle", [
    ("--kl_anneal_type None", "--kl_anneal_cycle 3 --kl_anneal_ratio 0.2"),
    ("--kl_anneal_type Monotonic --kl_anneal_ratio 0.2", "--kl_anneal_cycle 3"),
    ("--tfr 0", "--tfr_sde 2 --tfr_d_step 0.5"),
    ("--lr_schedule Constant --warmup_epochs 2", "--milestones 1 3 --gamma 0.5"),
    ("--lr_schedule Cosine", "--milestones 1 3 --gamma 0.5"),
])
def test_flags_that_are_said_to_do_nothing_change_no_schedule(words, idle):
    parse = trainer_parser().parse_args
    plain, changed = (parse(f"--num_epoch 8 {flags}".split()) for flags in (words, f"{words} {idle}"))
    named = {word[2:] for word in idle.split() if word.startswith("--")}
    assert named <= idle_flags(vars(plain)).keys()
    assert not named & idle_flags(vars(parse(["--lr_schedule", "MultiStep"]))).keys()
    plain, changed = (curves.scheduled("", args).metrics for args in (plain, changed))
    assert all(np.array_equal(plain[column], changed[column]) for column in ("beta", "tfr", "lr"))


def test_what_a_full_memory_asks_for_tells_no_seeds_apart(tmp_path):
    runs = read_runs([write_run(tmp_path / str(seed), f"--seed {seed} {words}")
                      for seed, words in enumerate(("", "--checkpoint_frames"))])
    assert [run.label for run in runs] == ["2 seeds"] * 2


def test_a_second_look_at_the_labels_changes_none():
    """Plotting.py labels runs when it reads them, and again those that a figure has data of."""
    runs = [Run("a"), Run("a")]
    assert [run.label for run in label_by_difference(runs)] == [run.label for run in label_by_difference(runs)]


def test_a_run_given_twice_is_drawn_once(tmp_path, drawn, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [write_run(tmp_path / name, f"--seed {name}", sequence_lengths=(3,)) for name in "12"]
    Plotting.main([runs[0], "1", "./1/", runs[1], "--figures", "loss"])
    assert drawn["loss"].axes[0].get_title() == "2 seeds"


@pytest.mark.parametrize("units", [(0, 0), (0, 20), (5, 3)])
def test_active_units_are_drawn_also_where_there_are_none(tmp_path, drawn, units):
    for name, number in zip("ab", units):
        write_run(tmp_path / name, f"--kl_weight {1 + number}", **Z_COLUMNS | {"val_active_units": number})
    Plotting.main([str(tmp_path / "a"), str(tmp_path / "b"), "--figures", "z"])
    ax = drawn["z"].axes[1]
    low, high = ax.get_ylim()
    assert ax.get_yscale() == ("symlog" if 0 in units else "log") and all(low < number < high for number in units)


@pytest.mark.filterwarnings("ignore:Attempting to set identical")
@pytest.mark.parametrize("rates", [(7.0, 7.0), (0.1, 0.3), (0.0, 40.0), (3e-6, 900.0)])
def test_rates_have_a_number_on_either_side(tmp_path, drawn, rates):
    for name, rate in zip("ab", rates):
        write_run(tmp_path / name, f"--kl_weight {1 + rate}", **Z_COLUMNS | {"val_kl": rate})
    Plotting.main([str(tmp_path / "a"), str(tmp_path / "b"), "--figures", "rate_distortion"])
    ax = drawn["rate_distortion"].axes[0]
    ax.figure.draw_without_rendering()
    low, high = ax.get_xlim()
    ticks = [place for place in ax.get_xticks() if low <= place <= high]
    assert low < min(rates) and max(rates) < high
    assert any(place <= min(rates) for place in ticks) and any(place >= max(rates) for place in ticks)


def test_rate_and_distortion_are_those_of_the_last_validation_each_with_a_bar_over_the_seeds(tmp_path, drawn):
    last = {(2, 0): (10, 20), (2, 1): (14, 20), (5, 0): (3, 10), (5, 1): (4, 10)}  # weight, seed: KL, PSNR
    Plotting.main([write_run(tmp_path / f"{weight}{seed}", f"--kl_weight {weight} --seed {seed}",
                             val_kl=["", 99, "", 50, kl, ""], val_psnr_posterior=["", 12, "", 15, psnr, ""])
                   for (weight, seed), (kl, psnr) in last.items()] + ["--figures", "rate_distortion"])
    ax = drawn["rate_distortion"].axes[0]
    assert_curve(ax.lines[0], [12, 3.5], [0.01, 0.1])
    bars = np.array([bar.get_segments() for bar in ax.collections])[:, 0]  # [bars, 2, 2]
    expected = [[[10, 0.01], [14, 0.01]], [[12, 0.01]] * 2, [[3, 0.1], [4, 0.1]], [[3.5, 0.1]] * 2]
    np.testing.assert_allclose(bars, expected)


def test_samples_are_a_mean_in_the_band_of_a_sequence_and_a_thin_line_of_the_best(tmp_path, drawn):
    run = write_run(tmp_path / "run")
    Path(run, "samples_per_frame.csv").write_text(f"{','.join(SAMPLES_COLUMNS)}\n1,20,19,21,22\n2,21,18,22,24\n")
    Plotting.main([run, "--figures", "samples"])
    ax = drawn["samples"].axes[0]
    mean, best = ax.lines  # each value the mean of the two frames
    assert_curve(mean, [1, 2], [20.5, 20.5])
    assert_curve(best, [1, 2], [23, 23])
    assert best.get_linewidth() < mean.get_linewidth()
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert {*band} == {18.5, 21.5}


def test_runs_of_one_label_are_one_curve_over_seconds(tmp_path):
    runs = read_runs([write_run(tmp_path / name, f"--seed {name}") for name in "012"])
    for run, label in zip(runs, ("a", "a", "b")):
        run.label = label
    figure = curves.draw_psnr_over_seconds(runs, False)
    assert len(figure.axes[0].lines) == 2 and len(figure.axes[0].collections) == 1 and legend(figure) == ["a", "b"]
    assert len(curves.draw_psnr_over_seconds(runs, True).axes) == 2


def test_a_seed_that_goes_on_after_another_has_ended_is_drawn_over_its_own_seconds(tmp_path):
    folders = [write_run(tmp_path / "slow", "--seed 0", epochs=2, val_psnr=20),
               write_run(tmp_path / "fast", "--seed 1", epochs=5, val_psnr=22)]
    (tmp_path / "slow/times.csv").write_text(f"{','.join(TIMES_COLUMNS)}\n0,100,\n1,200,\n")
    slow, fast = read_runs(folders)
    slow.label = fast.label = "a"
    mean, alone = curves.draw_psnr_over_seconds([slow, fast], False).axes[0].lines
    assert_curve(mean, [55, 110], [21, 21])
    there = np.isfinite(alone.get_ydata())
    np.testing.assert_allclose(alone.get_xdata()[there], [20, 30, 40, 50])


def test_a_run_that_may_not_be_written_asks_for_another_folder(tmp_path, drawn, monkeypatch):
    run = write_run(tmp_path / "run")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the tests may be run by root, who may everything
    with pytest.raises(UsageError, match="run cannot be written .* --out"):
        Plotting.main([run])
    Plotting.main([run, "--out", str(tmp_path / "figures")])
    assert drawn


def test_partial_folders(tmp_path, drawn, capsys):
    tester = tmp_path / "tester"
    write_run(tester)
    (tester / "metrics.csv").unlink()
    (tester / "args.json").unlink()
    started = write_run(tmp_path / "started", epochs=0, sequence_lengths=())
    Plotting.main([str(tester), started])
    assert list(drawn) == ["psnr_per_frame"]
    run = write_run(tmp_path / "study/recipe/seed=0")
    for folder in ("study", "study/recipe"):
        with pytest.raises(UsageError, match=f"give the runs in it, as {re.escape(run)}$"):
            Plotting.main([str(tmp_path / folder)])
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "psnr_per_frame" and out.count("\n") == 2
    assert "val_psnr, psnr_over_seconds, z of tester" in out and "psnr_per_frame, z of started" in out
    with pytest.raises(UsageError, match="started: .*give a run"):
        Plotting.main([started])


@pytest.mark.parametrize("schedule", ["tfr", "beta", "lr"])
def test_schedule_curves_equal_the_schedules(drawn, schedule):
    Plotting.main(["--schedule", schedule, "--num_epoch", "20", "--tfr_sde", "3", "--kl_anneal_cycle", "4",
                   "--kl_weight", "0.5",
                   "--versus", "--tfr 0.5 --kl_anneal_type Monotonic --lr_schedule MultiStep"])
    epochs, name = range(20), curves.FIGURES[schedule].file
    expected = {
        "tfr": [[schedules.teacher_forcing_ratio(epoch, start, 3, 0.1) for epoch in epochs]
                for start in (1, 0.5)],
        "beta": [[0.5 * schedules.kl_beta(epoch, kind, 20, 4, 1) for epoch in epochs]
                 for kind in ("Cyclical", "Monotonic")],
        "lr": [[schedules.learning_rate(epoch + 1 - 1e-9, 0.001, kind, 20, [2, 5], 0.1, 0) for epoch in epochs]
               for kind in ("Cosine", "MultiStep")],
    }[schedule]
    for line, values in zip(drawn[name].axes[0].lines, expected, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), epochs)
        np.testing.assert_allclose(line.get_ydata(), values, atol=1e-9)
    assert legend(drawn[name]) == ["lr_schedule=Cosine, tfr=1, kl_anneal_type=Cyclical",
                                   "lr_schedule=MultiStep, tfr=0.5, kl_anneal_type=Monotonic"]


@pytest.mark.parametrize("words", ["", "--warmup_epochs 3", "--warmup_epochs 0.5 --lr_schedule Constant",
                                   "--lr_schedule MultiStep --milestones 2 4 --gamma 0.5 --warmup_epochs 1"])
def test_schedule_curves_are_what_a_run_logs(words):
    args = trainer_parser().parse_args(["--num_epoch", "6", *words.split()])
    batches, curve = 10**6, curves.scheduled("", args).metrics
    after_all = RunState(batches_done=batches, totals=dict.fromkeys(TOTALS, 1.0))
    for epoch in range(6):
        row = metrics_row(epoch, schedules.Schedules(**schedule_settings(args)), after_all, batches, 1)
        for column in ("beta", "tfr", "lr"):
            assert curve[column][epoch] == pytest.approx(row[column], rel=1e-5, abs=1e-9)


def test_versus_may_change_the_number_of_epochs(drawn):
    Plotting.main(["--schedule", "tfr", "--versus", "--num_epoch 5", "--versus", "--tfr 0"])
    assert [len(line.get_xdata()) for line in drawn["teacher_forcing_ratio"].axes[0].lines] == [70, 5, 70]


@pytest.mark.parametrize("words, named", [
    ([], "give the folder of a run"),
    (["nowhere"], "nowhere is not a folder"),
    (["RUN", "--tfr", "0"], "--tfr is for --schedule"),
    (["RUN", "--versus", "--tfr 0"], "--versus is for --schedule"),
    (["RUN", "--schedule", "tfr"], "--schedule draws one figure, without a run"),
    (["--schedule", "tfr", "--figures", "loss"], "--figures"),
    (["--schedule", "tfr", "--versus", "--tfr '0"], "--versus"),
    (["RUN", "--out", "FILE"], "--out"),
])
def test_mistakes_are_named(tmp_path, words, named):
    (tmp_path / "file").write_text("")
    places = {"RUN": write_run(tmp_path / "run"), "FILE": str(tmp_path / "file")}
    with pytest.raises(UsageError, match=named) as error:
        Plotting.main([places.get(word, word) for word in words])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("file, old, new, named", [
    ("metrics.csv", "grad_norm", "gradient", "metrics.csv has no column 'grad_norm'"),
    ("metrics.csv", "\n1,", "\none,", "metrics.csv, line 3, column 'epoch': 'one'"),
    ("metrics.csv", "\n1,", "\n", "metrics.csv, line 3: 16 cells"),
    ("metrics.csv", "\n1,", "\n1,1,", "metrics.csv, line 3: 18 cells"),
    ("metrics.csv", "0.001", "", "metrics.csv, line 2, column 'lr': ''"),
    ("psnr_per_frame.csv", "frame", "index", "psnr_per_frame.csv has no column 'frame'"),
    ("psnr_per_frame.csv", "2,20", "2,high", "psnr_per_frame.csv, line 3, column 'seq0': 'high'"),
    ("samples_per_frame.csv", "psnr_best", "best", "samples_per_frame.csv has no column 'psnr_best'"),
    ("psnr_per_frame.csv", "2,20", f'2,"{"9" * 2**18}', "psnr_per_frame.csv cannot be read (field larger than"),
    ("args.json", "arguments", "options", "args.json holds no \"arguments\""),
    ("args.json", "{", "", "args.json"),
])
def test_damaged_files_are_named(tmp_path, file, old, new, named):
    path = Path(write_run(tmp_path / "run"), file)
    path.with_name("samples_per_frame.csv").write_text(f"{','.join(SAMPLES_COLUMNS)}\n1,20,19,21,22\n")
    with open(path, newline="") as stream:
        text = stream.read().replace("\r\n", "\n")
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UsageError) as error:
        Plotting.main([str(path.parent)])
    assert named in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("words, named", [
    (["nowhere"], "nowhere"),
    (["--schedule", "tfr", "--versus", "--tfr 2"], '--versus "--tfr 2": error: argument --tfr'),
    (["--schedule", "tfr", "--tfr", "x"], "argument --tfr"),
])
def test_a_mistake_ends_with_2_and_one_line(tmp_path, words, named):
    result = run_plotting(*words, cwd=tmp_path)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.count("\n") == 1 and named in result.stderr
