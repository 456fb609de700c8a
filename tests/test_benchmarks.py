"""The plain implementation that the benchmark measures against computes the same; no test here looks at a time."""

import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import bench, measure, plain
from cli.flags import trainer_parser
from conftest import PATIENCE, ROOT, TINY_NETWORK, flags
from dataloader import Dataset_Dance
from engine import optimization
from modules.noise import Noise
from modules.pixels import to_unit
from modules.rollout import rollout

TINY = {**TINY_NETWORK, "frame_H": 8, "frame_W": 16, "train_vi_len": 5, "val_vi_len": 10, "num_epoch": 1,
        "num_workers": 0, "device": "cpu", "amp": "off"}


@pytest.fixture(autouse=True)
def choices_kept(monkeypatch):
    """A side without a choice changes it in its own process; here it would stay for the tests to come."""
    monkeypatch.setattr(optimization, "IMAGES_AT_ONCE", optimization.IMAGES_AT_ONCE)


@pytest.mark.parametrize("posterior", ["previous", "current"])
@pytest.mark.parametrize("teacher_forced", [True, False])
def test_both_sides_give_the_same_losses(posterior, teacher_forced):
    plain_losses, our_losses = (
        measure.losses(side, measure.flags(**TINY, posterior=posterior), teacher_forced, steps=5)
        for side in ("plain", "ours"))
    assert our_losses == pytest.approx(plain_losses, rel=1e-4)
    assert len(set(plain_losses)) == 5


def test_both_sides_generate_the_same_frames(model):
    args = measure.flags(**TINY)
    first_frames, labels = measure.random_images(args, 3), measure.random_images(args, 3, 12)
    with torch.no_grad():
        steps = list(rollout(model.eval(), to_unit(first_frames)[:, None], labels, Noise.seeded(4, 3, "cpu"),
                             temperature=1.0))
    for number in range(3):
        video = plain.generate(model, to_unit(first_frames[number]), to_unit(labels[number]), seed=4 + number)
        ours = torch.stack([step.frame[number].clamp(0, 1) for step in steps])
        torch.testing.assert_close(video[1:], ours, rtol=1e-4, atol=1e-5)

    shown = [measure.make_side(name, args).roll_out(first_frames, labels) for name in ("plain", "ours")]
    for one, other in zip(*shown):
        assert (one.int() - other.int()).abs().max() <= 1  # a value between two may be rounded to either


def test_both_sides_read_the_same_clips(dancer):
    ours = Dataset_Dance(dancer, None, "train", 5, frame_size=(8, 16), num_workers=1)
    theirs = plain.Clips(dancer, "train", 5, (8, 16))
    assert len(ours) == len(theirs)
    for one, other in zip(ours[3], theirs[3]):
        torch.testing.assert_close(one, other, rtol=0, atol=1.5 / 255)


@pytest.mark.parametrize("choice", ["channels_last", "fused_Adam", "forced_frames_as_one_batch"])
def test_a_choice_left_out_changes_no_loss(choice):
    whole, without = (measure.losses(side, measure.flags(**TINY), True, steps=3)
                      for side in ("ours", f"ours without {choice}"))
    assert without == pytest.approx(whole, rel=1e-4)


def test_counted_operations(model):
    args = measure.flags(**TINY)
    image = torch.rand(1, 3, 8, 16)
    with FlopCounterMode(display=False) as counter:
        plain.generate(model, image[0], torch.cat([image, image]), seed=0)
    assert measure.rollout_operations(args) == counter.get_total_flops()

    with FlopCounterMode(display=False) as counter:
        plain.clip_loss(model, torch.rand(1, 5, 3, 8, 16), torch.rand(1, 5, 3, 8, 16), 1.0, True)
    forced, free = (measure.training_operations(args, teacher_forced) for teacher_forced in (True, False))
    assert 2 * counter.get_total_flops() < forced < free < 3 * counter.get_total_flops()


@pytest.mark.parametrize("side", ["plain", "ours"])
def test_an_epoch_and_passes_over_data(dancer, side):
    found = bench.take_turn("epoch", side=side, flags=TINY, root=str(dancer))
    assert found["seconds"].keys() == {"an epoch"} and found["peak_mib"] is None
    found = measure.data(side, measure.flags(**TINY), dancer, fresh=False)
    assert found["seconds"].keys() == {"later pass, new process"}


def test_sides_take_turns(monkeypatch):
    turns = []

    def take_turn(measurement, side, **turn):
        turns.append(side)
        seconds = {"plain": [8.0, 9.0, 10.0], "ours": [2.0, 3.0, 1.0]}[side][(len(turns) - 1) // 2]
        return {"seconds": {"a step": seconds}, "peak_mib": len(turns)}

    monkeypatch.setattr(bench, "take_turn", take_turn)
    [row] = bench.compare("training", "training", {"repeats": 3, "flags": {}})
    assert turns == ["plain", "ours"] * 3
    assert row["ratios"] == [4, 3, 10] and row["peak_mib"] == {"plain": 5, "ours": 6}
    machine = {"operations": {"rollout": 6}, "matrix_rate": {"float32": 4.0, "bfloat16": 8.0},
               "computing_in": "float32"}
    row = bench.add_shares(row | {"work": "rollout", "units": 3}, machine)
    assert row["shares"] == {"float32": {"plain": 0.5, "ours": 2.25}}
    assert list(bench.shown(row).values()) == [
        "training, a step", "9.00 s", "2.00 s", "4.00", "3.00..10.00", "5 / 6", "50% / 225%"]


def test_windows_has_a_row_without_the_peak_memory(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    peak = measure.peak_memory(torch.device("cpu"))
    monkeypatch.setattr(bench, "take_turn", lambda *_, **more: {"seconds": {"a step": 1.0}, "peak_mib": peak})
    [row] = bench.compare("training", "training", {"repeats": 2, "flags": {}})
    assert row["peak_mib"] == {"plain": None, "ours": None}
    assert bench.shown(row)["peak MiB"] == "not known / not known"


def test_the_machine_is_named_with_what_it_computes_in(monkeypatch):
    monkeypatch.setattr(measure, "matrix_rate", lambda device, dtype: 1.0)
    machine = measure.machine(trainer_parser().parse_args(flags(**TINY_NETWORK, device="cpu", amp="off")))
    assert machine["name"].endswith(", float32") and machine["computing_in"] == "float32"
    bench.print_machine(machine, {"repeats": 2})


def test_usage_errors_are_one_line(tmp_path):
    for words in (["--only", "nothing"], ["--repeats", "0"], ["--out", str(tmp_path)]):
        ended = subprocess.run([sys.executable, ROOT / "benchmarks" / "bench.py", *words], timeout=PATIENCE,
                               capture_output=True, text=True)
        assert ended.returncode == 2 and ended.stderr.count("\n") == 1
