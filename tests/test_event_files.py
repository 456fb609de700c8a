"""TensorBoard shows what metrics.csv says, also of a resumed run; an extra."""

import builtins
import errno
import sys

import pytest

from conftest import TINY_TRAINING, flags, read_csv
from engine.saving.event_files import EVENT_FILES, EventFiles


@pytest.fixture
def accumulator():
    """accumulator(folder) reads the event files of a folder, as TensorBoard does; again at Reload()."""
    pytest.importorskip("tensorboard", reason="--tensorboard needs tensorboard: requirements/tensorboard.txt")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return lambda folder: EventAccumulator(str(folder)).Reload()


def shown(events):
    """What TensorBoard shows: {name: {epoch: value}}; no epoch is there twice."""
    scalars = {name: [(event.step, event.value) for event in events.Scalars(name)]
               for name in events.Tags()["scalars"]}
    for points in scalars.values():
        epochs = [epoch for epoch, _ in points]
        assert epochs == sorted(set(epochs))
    return {name: dict(points) for name, points in scalars.items()}


def logged(folder):
    """The same of metrics.csv, in float32 as in TensorBoard."""
    rows = read_csv(folder / "metrics.csv")
    return {name: {int(row["epoch"]): pytest.approx(float(row[name]), rel=1e-6) for row in rows if row[name]}
            for name in rows[0] if name != "epoch"}


@pytest.fixture
def train(dancer, call, tmp_path):
    """train(...) trains in the folder `run`, with TensorBoard unless told otherwise."""
    return lambda *words, **more: call("Trainer", "--DR", dancer, *TINY_TRAINING, "--save_root", tmp_path / "run",
                                       *words, *flags(**more))


def test_tensorboard_shows_the_numbers_of_metrics_csv(accumulator, train, tmp_path):
    train("--tensorboard", num_epoch=3, val_every=2)
    run = tmp_path / "run"
    assert shown(accumulator(run)) == logged(run)
    assert set(shown(accumulator(run))["val_psnr"]) == {1, 2}
    train(num_epoch=1, overwrite=True)
    assert list(run.glob(EVENT_FILES)) == []


@pytest.mark.parametrize("flag", ["--tensorboard", "--no-tensorboard"])
def test_resumed_run_shows_every_epoch_once(accumulator, train, call, tmp_path, flag):
    """Also one that goes on from an older checkpoint, and one that had no event file before."""
    run = tmp_path / "run"
    train(flag, num_epoch=3, per_save=1)
    before = accumulator(run) if flag == "--tensorboard" else None  # of a TensorBoard that stays open
    (run / "last.ckpt").write_bytes((run / "epoch=1.ckpt").read_bytes())
    call("Trainer", "--resume", "--save_root", run, "--num_epoch", 4, "--tensorboard")
    assert len(logged(run)["loss"]) == 4 and shown(accumulator(run)) == logged(run)
    if before:
        assert shown(before.Reload()) == logged(run)


def row(epoch):
    return {"epoch": epoch, "loss": 1 / (1 + epoch), "seconds": 1.0}


@pytest.mark.parametrize("failing", ["open", "write"])
def test_a_disk_that_fails_for_a_moment_costs_a_note_and_no_epoch(accumulator, tmp_path, monkeypatch, capsys, failing):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def write_half(self, data):
        self._writer.write(data[:9])
        fail()

    rows = [row(0), row(1)]
    event_files = EventFiles(tmp_path)
    event_files.write(rows[:1])
    stays_open = accumulator(tmp_path)
    with monkeypatch.context() as patch:
        if failing == "open":
            patch.setattr(builtins, "open", fail)
        else:
            patch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", write_half)
        event_files.write(rows)
    note = capsys.readouterr().out
    assert note.startswith("note: ") and note.count("\n") == 1 and "No space left" in note and str(tmp_path) in note
    rows.append(row(2))
    event_files.write(rows)
    for events in (accumulator(tmp_path), stays_open.Reload()):
        assert shown(events) == {"loss": {row["epoch"]: pytest.approx(row["loss"], rel=1e-6) for row in rows}}


def test_a_missing_package_is_told_before_any_work(dancer, train, capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(SystemExit) as ended:
        train("--tensorboard")
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1 and not (tmp_path / "run").exists()
    assert "--tensorboard" in error and "pip install -r requirements/tensorboard.txt" in error
