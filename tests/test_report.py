"""What the scripts in docs/ compute from logs."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import TINY_NETWORK, load_script
from dataloader import Dataset_Dance
from engine.saving.checkpoint import save_checkpoint
from engine.saving.logs import METRICS_COLUMNS, write_epoch_logs
from modules import VAE_Model
from modules.pixels import to_unit

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture(scope="module")
def sign_flip_test():
    return load_script(DOCS / "paired.py").sign_flip_test


def seeds(*numbers):
    return dict(enumerate(numbers))


def test_p_value_is_the_part_of_all_signs_of_the_differences_with_a_mean_as_large(sign_flip_test):
    assert sign_flip_test(seeds(11, 12, 14), seeds(1, 2, 3)) == (pytest.approx(31 / 3), 2 / 8)
    assert sign_flip_test(seeds(1, 2, 3), seeds(2, 1, 3)) == (0, 1)
    numbers = np.random.default_rng(0).normal(size=16)
    ours, theirs = seeds(*numbers[:8]), seeds(*numbers[8:])
    difference, p = sign_flip_test(ours, theirs)
    assert sign_flip_test(theirs, ours) == (-difference, p)
    assert sign_flip_test(seeds(*5 * numbers[:8]), seeds(*5 * numbers[8:])) == (pytest.approx(5 * difference), p)


def test_recipes_are_compared_by_the_seeds_that_both_have(sign_flip_test):
    assert sign_flip_test({3: 1.0, 1: 5.0, 2: 7.0}, {2: 6.0, 9: 100.0, 1: 3.0}) == (1.5, 0.5)


def test_p_value_of_recipes_that_do_not_differ_is_uniform(sign_flip_test):
    random = np.random.default_rng(1)
    values = [sign_flip_test(*(seeds(*random.normal(size=6)) for _ in range(2)))[1] for _ in range(500)]
    for part in (0.125, 0.5):
        assert np.mean(np.array(values) <= part) == pytest.approx(part, abs=0.07)


def test_runs_that_are_not_at_their_end_are_left_out(tmp_path):
    """One that has only begun has neither flags nor epochs."""
    finished_runs = load_script(DOCS / "paired.py").finished_runs
    for seed, epochs in enumerate((2, 1, None)):
        folder = tmp_path / f"recipe/seed={seed}"
        folder.mkdir(parents=True)
        (folder / "log.txt").touch()
        if epochs:
            (folder / "args.json").write_text(json.dumps({"arguments": {"num_epoch": 2}}))
            write_epoch_logs(folder, [{"epoch": epoch} | dict.fromkeys(METRICS_COLUMNS[1:], 1.0)
                                      for epoch in range(epochs)])
    assert [folder.name for folder, _, _ in finished_runs(tmp_path)] == ["seed=0"]


def test_over_all_annealings_a_seed_counts_once(statements):
    by_seed = {("None", "on"): {0: 30.0, 1: 31.0}, ("Monotonic", "on"): {1: 33.0, 0: 30.5}, ("None", "off"): {0: 1.0}}
    assert statements.over_annealings(by_seed, "on") == {0: 30.25, 1: 32.0}
    assert statements.over_annealings(by_seed, "off") == {0: 1.0}
    by_seed["None", "on"][2] = 10.0  # and of Monotonic not yet
    assert statements.over_annealings(by_seed, "on") == {0: 30.25, 1: 32.0}
    assert statements.over_annealings({}, "on") == {}


@pytest.mark.parametrize("factor", [1.0, 0.9, 1.3])
def test_restlessness_is_the_factor_from_epoch_to_epoch(statements, factor, monkeypatch):
    loss = np.concatenate([np.random.default_rng(0).uniform(size=statements.CALM_EPOCH), factor ** np.arange(20)])
    monkeypatch.setattr(statements, "read_metrics", lambda run: {"loss": loss, "mse": 7 * loss})
    assert statements.restlessness("run") == pytest.approx(max(factor, 1 / factor))
    assert statements.restlessness("run", "mse") == pytest.approx(max(factor, 1 / factor))


def test_drift_is_what_a_rollout_gains_by_the_truth(statements, tmp_path):
    def psnr(value):
        return {"this model": {"psnr": value}, "nearest label": {"psnr": 20.0}}

    assert statements.drift(tmp_path) is None
    (tmp_path / "result.json").write_text(json.dumps({"scores": {"val": psnr(30.0), "test": psnr(25.0)}}))
    of_frames = np.where(np.arange(1, 630) % 30, 31.0, 10.0)  # the true frame stands at 30, 60, ...
    (tmp_path / "psnr_per_frame.csv").write_text(
        "frame,0\n" + "".join(f"{frame},{value}\n" for frame, value in enumerate(of_frames, start=1)))
    assert statements.drift(tmp_path) is None
    (tmp_path / "val_30").mkdir()
    (tmp_path / "val_30/scores.json").write_text(json.dumps(psnr(31.5)))
    assert statements.drift(tmp_path) == 0.5 and statements.test_psnr(tmp_path) == 25.0


@pytest.fixture
def printed_rows(monkeypatch, capsys):
    """printed_rows(script, runs): the rows of the tables that a script of docs/ prints, each a list of cells."""
    def rows(script, runs):
        module = load_script(DOCS / script)
        monkeypatch.setattr("sys.argv", [script, str(DOCS / "runs" / runs)])
        monkeypatch.setattr(module, "save", lambda *_: None, raising=False)  # of the figure
        module.main()
        return [cells for cells in map(cells_of, capsys.readouterr().out.splitlines()) if len(cells) > 1]

    return rows


def cells_of(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def page_rows(name):
    return [cells_of(line) for line in (DOCS / name).read_text(encoding="utf-8").splitlines() if line.startswith("|")]


def test_table_of_data_and_time_is_of_the_kept_logs(printed_rows):
    printed, page = printed_rows("study/data_and_time.py", "data_and_time"), page_rows("study.md")
    assert len(printed) == 2 + 16 and all(row in page for row in printed)


def test_table_of_single_flags_is_of_the_kept_logs(printed_rows):
    """Its rows bear other names: `--kl_weight 1e-4` is course_kl_weight_1e-4."""
    numbers = {re.sub(r"\W|_", "", name): cells for name, *cells in page_rows("study.md")}
    rows = {name: cells for name, *cells in printed_rows("study/single_flags.py", "causes")[2:]}
    for name, cells in rows.items():
        shown = {"course": "coursetxt", "defaults": "alloftheseflagsandinterleave8thedefaults"}.get(
            name, re.sub(r"\W|_", "", name.removeprefix("course")))
        assert numbers[shown] == cells
    assert len(rows) == 8


def test_table_of_teacher_forcing_is_of_the_kept_logs(printed_rows):
    """Of the test PSNR report.md has the mean alone."""
    printed, page = printed_rows("report/statements.py", "report"), page_rows("report.md")
    best, test = printed[2:6], printed[8:12]
    for (name, *of_best), (_, *of_test) in zip(best, test, strict=True):
        assert [name, *(f"{one.split(', ')[0]}, {other.split()[0]}" for one, other in zip(of_best, of_test))] in page


def test_table_of_kl_weights_is_of_the_kept_logs(printed_rows):
    printed, page = printed_rows("report/rate_distortion.py", "rate_distortion"), page_rows("report.md")
    assert len(printed) == 2 + 25 and all(row in page for row in printed)


def test_psnr_of_each_split_is_drawn_over_the_minutes_of_each_size(tmp_path):
    script = load_script(DOCS / "study" / "data_and_time.py")
    runs = {("2520", "3"): 31.0, ("630", "3"): 27.5, ("2520", "1"): 29.0}  # their validation PSNR
    for (frames, minutes), psnr in runs.items():
        folder = tmp_path / frames / minutes
        for split, more in (("test", 0.5), ("train", 2)):
            (folder / split).mkdir(parents=True)
            scores = {"this model": {"psnr": psnr + more}}
            (folder / split / "scores.json").write_text(json.dumps(scores))
        (folder / "metrics.csv").write_text("epoch,loss,mse,kl,beta,tfr,lr,grad_norm,val_psnr,val_ssim\n"
                                            f"0,1,1,1,1,0,1,1,{psnr},0.9\n")
        (folder / "times.csv").write_text(f"epoch,seconds\n0,{60 * int(minutes)}\n")
    figure = script.draw([script.read_row(tmp_path / frames / minutes) for frames, minutes in sorted(runs)])
    curves = {(ax.get_title().split()[0], line.get_label()): line.get_xydata().tolist()
              for ax in figure.axes for line in ax.lines}
    assert curves["2,520", "validation"] == [[1, 29], [3, 31]] and curves["630", "validation"] == [[3, 27.5]]
    assert curves["2,520", "training sequences"] == [[1, 31], [3, 33]] and len(curves) == 6


def test_frames_that_a_network_breaks_are_counted(dancer, tmp_path, monkeypatch):
    bursts = load_script(DOCS / "study" / "bursts.py")
    model, data = VAE_Model(**TINY_NETWORK).eval(), Dataset_Dance(dancer, None, "train", 1)
    z = torch.zeros(1, *model.z_shape(32, 64))
    with torch.no_grad():
        alone = model.step(to_unit(data.frames[5:6]), model.encode_labels(data.labels[6:7]), z, temperature=0).frame
    predicted = bursts.predict(model, data, 0, torch.float32)
    assert len(predicted) == len(data) - 1
    torch.testing.assert_close(predicted[5:6], alone.clamp(0, 1))

    def broken_once(model, data, start, dtype):
        frames = to_unit(data.frames[start + 1:start + 1 + bursts.FRAMES_AT_ONCE])
        if start == 0:
            frames[3, :, 8:16, 16:24] = 1 - frames[3, :, 8:16, 16:24].round()
        return frames

    save_checkpoint([tmp_path / "best.ckpt"], {"state_dict": model.state_dict(), "last_epoch": 3,
                                               "arguments": TINY_NETWORK})
    monkeypatch.setattr(bursts, "predict", broken_once)
    monkeypatch.setattr(bursts, "FRAMES_AT_ONCE", 30)
    row = bursts.row(Path(dancer), tmp_path / "best.ckpt")
    assert (row["epochs"], row["frames"], row["broken"]) == ("4", str(len(data) - 1), "1")
