"""The tables of docs/report.md: what docs/report/statements.py computes."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "docs" / "report" / "statements.py"


@pytest.fixture(scope="module")
def statements():
    spec = importlib.util.spec_from_file_location("statements", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_p_value_is_the_part_of_all_ways_to_share_out_the_runs(statements):
    apart = statements.p_value([1, 2, 3], [11, 12, 13])
    assert apart == pytest.approx(2 / 20)  # of 20 ways the observed one and its mirror image differ by as much
    assert statements.p_value([1, 2, 3], [2, 1, 3]) == 1
    numbers = np.random.default_rng(0).normal(size=8)
    assert statements.p_value(numbers[:4], numbers[4:]) == statements.p_value(numbers[4:], numbers[:4])
    assert statements.p_value(numbers[:4], numbers[4:]) == statements.p_value(5 * numbers[:4], 5 * numbers[4:])


def test_p_value_of_many_runs_is_estimated(statements, monkeypatch):
    numbers = np.random.default_rng(1).normal(size=12)
    exact = statements.p_value(numbers[:6], numbers[6:])
    monkeypatch.setattr(statements, "MOST_WAYS", 900)  # of 924
    assert 0.05 < exact < 0.95 and statements.p_value(numbers[:6], numbers[6:]) == pytest.approx(exact, abs=0.06)


@pytest.mark.parametrize("factor", [1.0, 0.9, 1.3])
def test_restlessness_is_the_factor_from_epoch_to_epoch(statements, factor, monkeypatch):
    loss = np.concatenate([np.random.default_rng(0).uniform(size=statements.CALM_EPOCH), factor ** np.arange(20)])
    monkeypatch.setattr(statements, "read_metrics", lambda run: {"loss": loss, "mse": 7 * loss})
    assert statements.restlessness("run") == pytest.approx(max(factor, 1 / factor))
    assert statements.restlessness("run", "mse") == pytest.approx(max(factor, 1 / factor))


def test_drift_is_counted_over_that_of_the_nearest_label(statements, monkeypatch):
    scores = {"this model": {"psnr_first_100": 30.0, "psnr_last_100": 29.0},
              "nearest label": {"psnr_first_100": 20.0, "psnr_last_100": 22.0}}
    monkeypatch.setattr(statements, "read_json", lambda path: {"scores": {"test": scores}})
    assert statements.drift(Path("run")) == pytest.approx(-3.0)
