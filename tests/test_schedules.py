"""The schedules at the epochs where they turn."""

import math

import pytest
import torch

import Trainer
from cli.flags import schedule_settings, trainer_parser
from engine.schedules import Schedules, kl_beta, learning_rate, teacher_forcing_ratio


def betas(kl_anneal_type, num_epoch=70, cycle=10, ratio=1.0):
    return [kl_beta(epoch, kl_anneal_type, num_epoch, cycle, ratio) for epoch in range(num_epoch)]


def periods(num_epoch, cycle):
    """The epochs of each period: those e with floor(e * cycle / num_epoch) alike."""
    parts = {}
    for epoch in range(num_epoch):
        parts.setdefault(epoch * cycle // num_epoch, []).append(epoch)
    return list(parts.values())


@pytest.mark.parametrize("num_epoch", [1, 2, 3, 7, 20, 61, 70, 100])
@pytest.mark.parametrize("cycle", [1, 2, 3, 10, 30])
@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.3, 0.5, 2 / 3, 0.9, 1.0])
def test_cyclical_beta_rises_from_0_to_1_in_every_period(num_epoch, cycle, ratio):
    beta = betas("Cyclical", num_epoch, cycle, ratio)
    assert all(0 <= value <= 1 for value in beta)
    for epochs in periods(num_epoch, cycle):
        course = [beta[epoch] for epoch in epochs]
        assert course == sorted(course) and course[-1] == 1
        if len(epochs) > 1 and ratio > 0:
            assert course[0] == 0


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.8, 1.0])
def test_cyclical_beta_rises_evenly_over_its_part_of_a_period_and_stays_at_1(ratio):
    period = 10
    beta = betas("Cyclical", num_epoch=3 * period, cycle=3, ratio=ratio)
    rising = round(ratio * period)
    for start in range(0, 3 * period, period):
        course = beta[start:start + period]
        assert course[:rising] == pytest.approx([step / (rising - 1) for step in range(rising)])
        assert course[rising:] == [1.0] * (period - rising)


@pytest.mark.parametrize("ratio", [0.0, 0.05, 0.3, 1.0, 3.0])
def test_monotonic_beta_rises_by_the_ratio_an_epoch_up_to_1(ratio):
    beta = betas("Monotonic", ratio=ratio)
    assert beta == pytest.approx([min(epoch * ratio, 1) for epoch in range(70)])
    assert beta[0] == 0 and max(beta) <= 1


@pytest.mark.parametrize("cycle", [1, 2, 5, 10])
def test_periods_in_which_beta_has_no_time_to_rise_are_told(cycle, capsys):
    clips = type("Clips", (list,), {"video_len": 16})()
    for num_epoch in range(1, 25):
        args = trainer_parser().parse_args(["--num_epoch", str(num_epoch), "--kl_anneal_cycle", str(cycle)])
        Trainer.announce(torch.nn.Identity(), clips, "cpu", torch.float32, args)
        told = f"--kl_anneal_cycle {cycle} cuts {num_epoch} epochs" in capsys.readouterr().out
        assert told == (betas("Cyclical", num_epoch, cycle).count(0) < cycle)


def test_no_annealing_is_beta_1():
    assert set(betas("None")) == {1.0}


@pytest.mark.parametrize("tfr, sde, step", [
    (1.0, 10, 0.1), (0.7, 0, 0.3), (0.5, 3, 0.25), (0.0, 5, 0.1), (1.0, 4, 0.0)])
def test_teacher_forcing_falls_from_its_first_epoch_on_down_to_0(tfr, sde, step):
    ratio = [teacher_forcing_ratio(epoch, tfr, sde, step) for epoch in range(70)]
    assert all(value == tfr for value in ratio[:sde])
    assert ratio[sde] == pytest.approx(max(tfr - step, 0))
    for before, after in zip(ratio[sde:], ratio[sde + 1:]):
        assert after == pytest.approx(max(before - step, 0))
    if step:
        end = sde + math.ceil(tfr / step)
        assert set(ratio[end:]) == {0.0}
        assert tfr == 0 or ratio[end - 2] > 0


def test_teacher_forcing_of_the_course():
    ratio = [teacher_forcing_ratio(epoch, 1.0, 10, 0.1) for epoch in range(70)]
    assert (ratio[9], ratio[10], ratio[18], ratio[19]) == (1.0, 0.9, 0.1, 0.0)


def rate(epoch, schedule="MultiStep", num_epoch=20, milestones=(2, 5), gamma=0.1, warmup=0.0):
    return learning_rate(epoch, 0.004, schedule, num_epoch, milestones, gamma, warmup)


def test_multistep_lowers_the_rate_at_each_milestone():
    for epoch, steps in ((0, 0), (1.99, 0), (2, 1), (4.99, 1), (5, 2), (19, 2)):
        assert rate(epoch) == pytest.approx(0.004 * 0.1**steps)
    assert rate(19, milestones=()) == 0.004
    assert rate(3, milestones=(3, 3)) == pytest.approx(0.004 * 0.1**2)


@pytest.mark.parametrize("warmup", [0.0, 0.5, 4.0])
def test_cosine_falls_from_the_rate_to_0_by_half_at_half_time(warmup):
    assert rate(warmup, "Cosine", warmup=warmup) == 0.004
    assert rate((warmup + 20) / 2, "Cosine", warmup=warmup) == pytest.approx(0.002)
    assert rate(20, "Cosine", warmup=warmup) == pytest.approx(0, abs=1e-12)
    course = [rate(warmup + part * (20 - warmup) / 100, "Cosine", warmup=warmup) for part in range(101)]
    assert course == sorted(course, reverse=True)


@pytest.mark.parametrize("schedule", ["MultiStep", "Cosine", "Constant"])
@pytest.mark.parametrize("warmup", [0.5, 1.0, 1.5])
def test_warm_up_rises_evenly_from_0_to_the_rate(schedule, warmup):
    assert rate(0, schedule, warmup=warmup) == 0
    assert rate(warmup / 2, schedule, warmup=warmup) == pytest.approx(0.002)
    assert rate(warmup, schedule, warmup=warmup) == pytest.approx(0.004)


def test_milestones_count_during_warm_up_too():
    assert rate(3, warmup=4.0) == pytest.approx(0.004 * 3 / 4 * 0.1)
    assert rate(4, warmup=4.0) == pytest.approx(0.004 * 0.1) and rate(5, warmup=4.0) == pytest.approx(0.004 * 0.01)


def test_constant_stays():
    assert {rate(epoch, "Constant") for epoch in range(20)} == {0.004}


def test_every_rate_of_every_schedule_can_train():
    for schedule in ("MultiStep", "Cosine", "Constant"):
        for warmup in (0.0, 1.0, 25.0):
            assert all(0 <= rate(epoch / 4, schedule, warmup=warmup) <= 0.004 for epoch in range(80))


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="Cyclic"):
        kl_beta(0, "Cyclic", 70, 10, 1.0)
    with pytest.raises(ValueError, match="Step"):
        rate(0, "Step")


# No two values alike, so that one in the place of another shows.
SETTINGS = {"num_epoch": 20, "kl_anneal_type": "Cyclical", "kl_anneal_cycle": 3, "kl_anneal_ratio": 0.6,
            "kl_weight": 0.01, "tfr": 0.9, "tfr_sde": 4, "tfr_d_step": 0.15, "lr": 0.004, "lr_schedule": "MultiStep",
            "milestones": [7, 11], "gamma": 0.3, "warmup_epochs": 1.5}


def test_schedules_of_a_run_equal_the_functions_at_its_epochs():
    run = Schedules(**SETTINGS)
    for epoch in range(20):
        assert run.beta(epoch) == 0.01 * kl_beta(epoch, "Cyclical", 20, 3, 0.6)
        assert run.tfr(epoch) == teacher_forcing_ratio(epoch, 0.9, 4, 0.15)
        for part in (0, 0.25, 0.5):
            assert run.lr(epoch + part) == learning_rate(epoch + part, 0.004, "MultiStep", 20, [7, 11], 0.3, 1.5)


@pytest.mark.parametrize("kl_anneal_type", ["Cyclical", "Monotonic", "None"])
@pytest.mark.parametrize("lr_schedule", ["MultiStep", "Cosine", "Constant"])
def test_schedules_of_a_run_are_of_the_kind_that_it_names(kl_anneal_type, lr_schedule):
    run = Schedules(**SETTINGS | {"kl_anneal_type": kl_anneal_type, "lr_schedule": lr_schedule})
    for epoch in range(20):
        assert run.beta(epoch) == 0.01 * kl_beta(epoch, kl_anneal_type, 20, 3, 0.6)
        assert run.lr(epoch) == learning_rate(epoch, 0.004, lr_schedule, 20, [7, 11], 0.3, 1.5)


def test_schedules_of_a_run_take_its_flags():
    flags = "--kl_weight 0.5 --tfr 0.7 --lr 0.01 --num_epoch 30 --kl_anneal_type Monotonic --kl_anneal_ratio 0.2"
    run = Schedules(**schedule_settings(trainer_parser().parse_args(flags.split())))
    for epoch in range(30):
        assert run.beta(epoch) == pytest.approx(0.5 * min(0.2 * epoch, 1))
        assert run.tfr(epoch) == teacher_forcing_ratio(epoch, 0.7, 10, 0.1)
        assert run.lr(epoch) == learning_rate(epoch, 0.01, "Cosine", 30, [2, 5], 0.1, 0)
