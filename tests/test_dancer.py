"""The stage dancer: what its dataset holds, and that its frames and labels belong together."""

import csv
import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cli.errors import RunError, UsageError
from cli.folders import whole_folder
from conftest import PATIENCE, ROOT, call_script, posix_only, started, wait_until
from media.images import read_image, resize_image
from stage_dancer import choreography, workers
from stage_dancer import dataset as dancer
from stage_dancer.choreography import ANKLE_HEIGHT, INDEX, SHIN, THIGH
from stage_dancer.stage import HEIGHT, WIDTH, Stage, draw_frame, draw_label, draw_person, project

TINY = {"frames": 5, "val_frames": 3, "test_sequences": 4, "test_frames": 3}
WHITE = 255


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "tiny"
    dancer.make_dancer(root, **TINY, num_workers=1)
    return root


@pytest.fixture(scope="module")
def dance():
    return dancer.compose(seed=3, split=0, sequence=0, frames=630)


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def coverage(points):
    return draw_person(np.zeros((3, HEIGHT, WIDTH), np.float32), points)


def prepare(*arguments):
    command = [sys.executable, str(ROOT / "Preparer.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_layout_and_counts(tiny):
    names = set(contents(tiny))
    expected = {"dancer.json", "train/sequences.txt", "test/gt.csv"}
    for split, length in (("train", 5), ("val", 3)):
        for number in range(length):
            expected |= {f"{split}/{split}_{kind}/{number}.png" for kind in ("img", "label")}
    for sequence in range(4):
        expected.add(f"test/test_img/{sequence}/0.png")
        expected |= {f"test/test_label/{sequence}/{number}.png" for number in range(3)}
    assert names == expected
    for name in ("train/train_img/0.png", "test/test_label/3/2.png"):
        assert read_image(tiny / name).shape == (3, 128, 256)


def test_what_is_drawn_is_that_of_the_version():
    """Who changes it raises VERSION, and makes the reference anew: the numbers in docs/ are of one dancer."""
    reference = json.loads((Path(__file__).parent / "reference" / "stage_dancer.json").read_text())
    assert dancer.SEQUENCE_FRAMES == 630 and dancer.dancer_settings() == {
        "version": reference["version"], "frames": 2520, "val_frames": 630, "test_sequences": 5, "test_frames": 630,
        "seed": 0}
    points, exposure = dancer.compose(seed=0, split=1, sequence=0, frames=300)
    for expected in reference["frames"]:
        t = expected["frame"]
        assert exposure[t] == pytest.approx(expected["exposure"], abs=1e-5)
        np.testing.assert_allclose(points[t][[0, len(points[t]) // 2, -1]], expected["points"], atol=1e-5)
        images = {"image": draw_frame(points[t], exposure[t], Stage()), "label": draw_label(points[t])}
        for kind, image in images.items():
            np.testing.assert_allclose(image.mean(axis=(0, 1)), expected[f"{kind}_mean"], atol=0.05)
            for pixel in expected["pixels"]:
                np.testing.assert_allclose(image[tuple(pixel["at"])].astype(int), pixel[kind], atol=1)


def test_nothing_unfinished_is_left_beside(tiny):
    assert [path.name for path in tiny.parent.iterdir()] == ["tiny"]


def test_train_sequences_are_cut_at_630_frames_and_sum_up(tmp_path, monkeypatch):
    monkeypatch.setattr(dancer, "SEQUENCE_FRAMES", 4)
    monkeypatch.setattr(dancer, "CHUNK", 3)
    sizes = {**TINY, "frames": 10}
    dancer.make_dancer(tmp_path / "cut", **sizes, num_workers=1)
    assert (tmp_path / "cut/train/sequences.txt").read_text().split() == ["4", "4", "2"]
    assert len(list((tmp_path / "cut/train/train_img").iterdir())) == 10


@pytest.mark.parametrize("seed", range(8))
def test_rounding_does_not_change_a_dance(seed, monkeypatch):
    """Processors round sines and cosines differently; no decision of a dance may turn on that."""
    keys = [(0, 2, 0, 300), (0, 2, 1, 300)]
    exact = [dancer.compose(*key)[0] for key in keys]
    rng, homes = np.random.default_rng(seed), choreography._homes
    monkeypatch.setattr(choreography, "_homes", lambda place, *arguments: (
        homes(place, *arguments) + rng.uniform(-1e-14, 1e-14, (len(place), 2, 3))))
    np.testing.assert_allclose([dancer.compose(*key)[0] for key in keys], exact, atol=1e-9)


def test_bytes_do_not_depend_on_the_number_of_workers(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(dancer, "CHUNK", 2)
    dancer.make_dancer(tmp_path / "two", **TINY, num_workers=2)
    assert contents(tmp_path / "two") == contents(tiny)


def test_another_seed_split_or_sequence_is_another_dance():
    dances = [dancer.compose(*key, 20)[0] for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))]
    for first in range(4):
        for second in range(first):
            assert np.abs(dances[first] - dances[second]).max() > 0.1
    assert np.array_equal(dances[0], dancer.compose(0, 0, 0, 20)[0])


@pytest.mark.parametrize("folder, key, frames", [
    ("train/train_{}", (0, 0), 5), ("val/val_{}", (1, 0), 3), *[(f"test/test_{{}}/{n}", (2, n), 3) for n in range(4)]])
def test_each_file_shows_the_frame_of_its_number(folder, key, frames, tiny):
    stage = Stage()
    for number, (points, exposure) in enumerate(zip(*dancer.compose(0, *key, frames))):
        expected = {"label": draw_label(points), "img": draw_frame(points, exposure, stage)}
        if folder.startswith("test") and number > 0:  # the others are in gt.csv alone
            del expected["img"]
        for kind, pixels in expected.items():
            shown = read_image(tiny / folder.format(kind) / f"{number}.png").permute(1, 2, 0)
            assert np.array_equal(shown, pixels), (kind, number)


def test_ground_truth_has_the_frames_as_a_reader_sees_them(tiny):
    with open(tiny / "test/gt.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["id", *map(str, range(32 * 64 * 3)), "Usage"]
    assert [row[0] for row in rows] == [str(number) for number in range(4 * 3)]
    assert [row[-1] for row in rows] == ["Public"] * 9 + ["Private"] * 3
    frames = [draw_frame(*frame, Stage()) for n in range(4) for frame in zip(*dancer.compose(0, 2, n, 3))]
    seen = resize_image(torch.from_numpy(np.array(frames)).permute(0, 3, 1, 2), (32, 64))
    assert [[int(value) for value in row[1:-1]] for row in rows] == seen.flatten(1).tolist()


def test_settings_tell_whether_a_folder_is_the_wanted_dancer(tiny, tmp_path):
    assert json.loads((tiny / "dancer.json").read_text()) == {"version": dancer.VERSION, **TINY, "seed": 0}
    assert dancer.is_dancer(tiny, **TINY)
    assert not dancer.is_dancer(tiny, **TINY, seed=1)
    assert not dancer.is_dancer(tiny)
    assert not dancer.is_dancer(tmp_path)


def test_a_long_sequence_shows_absence_and_closeness_and_begins_with_somebody(dance):
    points, _ = dance
    blank = np.array([(draw_label(frame) == WHITE).all() for frame in points[::10]])
    assert not blank[0]
    assert 0.02 < blank.mean() < 0.35
    _, scale = project(points[:, INDEX["pelvis"]])
    assert scale.max() > 1.3 * np.median(scale)


def test_label_is_blank_exactly_when_nobody_is_in_the_frame(dance):
    points, _ = dance
    for frame in points[::7]:
        blank, cover = (draw_label(frame) == WHITE).all(), coverage(frame)
        if blank:  # at the very edge clothes may be in the frame while the bones within them are not
            assert cover[:, 8:-8].sum() == 0 and cover.mean() < 0.02
        else:
            assert cover.sum() > 0


def test_lines_of_the_label_lie_on_the_person(dance):
    points, _ = dance
    for frame in points[::9]:
        on_line = (draw_label(frame) != WHITE).any(axis=2)
        if on_line.any():
            assert (coverage(frame)[on_line] > 0.5).mean() > 0.97


def test_the_dance_is_neither_jittery_nor_frozen_and_stays_above_the_floor(dance):
    points, _ = dance
    speed = np.linalg.norm(np.diff(points, axis=0), axis=2)  # metres a frame
    jerk = np.linalg.norm(np.diff(points, 2, axis=0), axis=2)
    assert speed.max() < 0.35 and jerk.max() < 0.12
    assert np.median(speed[:, INDEX["left_hand"]]) > 0.005
    assert points[..., 1].min() > 0


@pytest.mark.parametrize("side", ["left", "right"])
def test_limbs_keep_their_lengths_and_knees_bend_forward(dance, side):
    points, _ = dance
    hip, knee, ankle = (points[:, INDEX[f"{side}_{name}"]] for name in ("hip", "knee", "ankle"))
    assert np.allclose(np.linalg.norm(knee - hip, axis=1), THIGH)
    assert np.allclose(np.linalg.norm(ankle - knee, axis=1), SHIN)
    across = points[:, INDEX["left_hip"]] - points[:, INDEX["right_hip"]]
    bend = np.cross(knee - hip, ankle - knee)  # about the axis from right to left when it is natural
    unnatural = (bend * across).sum(axis=1) < -0.01
    assert unnatural.mean() < 0.02


def test_a_foot_on_the_floor_stays_where_it_is(dance):
    points, _ = dance
    ankle = points[:, INDEX["left_ankle"]]
    standing = (ankle[1:, 1] < ANKLE_HEIGHT + 0.002) & (ankle[:-1, 1] < ANKLE_HEIGHT + 0.002)
    assert standing.mean() > 0.2
    slide = np.linalg.norm(np.diff(ankle, axis=0)[standing][:, [0, 2]], axis=1)
    assert np.quantile(slide, 0.9) < 0.003


def test_exposure_drifts_slowly_within_its_bounds(dance):
    points, exposure = dance
    assert np.abs(exposure - 1).max() <= dancer.EXPOSURE_RANGE
    assert exposure.std() > 0.01
    assert np.abs(np.diff(exposure)).max() < 0.005
    stage = Stage()
    dark, bright = (draw_frame(points[0], level, stage).mean() for level in (0.95, 1.05))
    assert bright > dark


def test_preparer_makes_a_dancer_once_and_checks_it(tmp_path):
    root = tmp_path / "made"
    sizes = {"frames": 2, "val_frames": 1, "test_sequences": 1, "test_frames": 2, "num_workers": 1}
    flags = [word for name, value in sizes.items() for word in (f"--{name}", value)]
    assert prepare("--dancer", root, *flags).returncode == 0
    before = contents(root)

    again = prepare("--dancer", root, *flags)
    assert again.returncode == 2 and contents(root) == before
    assert again.stderr.count("\n") == 1 and "--overwrite" in again.stderr

    dancer.make_dancer(root, **sizes, seed=1, overwrite=True)
    assert contents(root).keys() == before.keys() and contents(root) != before
    assert [path.name for path in tmp_path.iterdir()] == ["made"]

    (root / "train/train_label/1.png").unlink()
    checked = prepare("--check", root)
    assert checked.returncode == 2 and "train_label" in checked.stderr and "Traceback" not in checked.stderr


@pytest.fixture
def refuse_renaming(monkeypatch):
    """refuse_renaming(end) makes it fail for folders whose names end so, as on Windows while they are in use."""
    def refuse(end):
        def fail(path, target, rename=Path.rename):
            if path.name.endswith(end):
                raise PermissionError(13, "in use")
            return rename(path, target)

        monkeypatch.setattr(Path, "rename", fail)

    return refuse


def test_a_dataset_that_cannot_be_moved_to_its_place_leaves_the_old_one_and_is_kept(tmp_path, refuse_renaming):
    root = tmp_path / "made"
    dancer.make_dancer(root, **TINY, num_workers=1)
    (root / ".DS_Store").write_bytes(b"")  # a file manager's
    before = contents(root)
    refuse_renaming(".tmp")
    with pytest.raises(RunError, match="in use.*complete in") as error:
        dancer.make_dancer(root, **TINY, num_workers=1, overwrite=True)
    assert contents(root) == before
    [kept] = set(tmp_path.iterdir()) - {root}
    assert str(kept) in str(error.value) and contents(kept) | {".DS_Store": b""} == before


@pytest.mark.parametrize("empty", [True, False])
def test_a_folder_that_cannot_be_replaced_is_told_before_the_work(empty, tmp_path, refuse_renaming, monkeypatch):
    root = tmp_path / "made"
    root.mkdir() if empty else dancer.make_dancer(root, **TINY, num_workers=1)
    before = contents(root)
    refuse_renaming("made")
    monkeypatch.setattr(dancer, "_write_dataset", None)
    with pytest.raises(UsageError, match="--dancer .*in use"):
        dancer.make_dancer(root, **TINY, num_workers=1, overwrite=True)
    assert contents(root) == before and [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize("overwrite", [True, False])
def test_what_file_managers_and_cloud_drives_put_into_a_folder_is_not_in_the_way(overwrite, tmp_path):
    root = tmp_path / "made"
    root.mkdir()
    if overwrite:
        dancer.make_dancer(root, **TINY, num_workers=1)
    for name in ("desktop.ini", "Thumbs.db", ".DS_Store", "._made"):
        (root / name).write_bytes(b"")
    dancer.make_dancer(root, **TINY, num_workers=1, overwrite=overwrite)
    assert dancer.is_dancer(root, **TINY) and not (root / "desktop.ini").exists()


def test_a_hidden_folder_of_the_users_is_never_touched(tmp_path):
    for is_a_dancer in (False, True):
        if is_a_dancer:
            dancer.make_dancer(tmp_path / "data", **TINY, num_workers=1)
        (tmp_path / "data/.git").mkdir(parents=True)
        (tmp_path / "data/.git/HEAD").touch()
        with pytest.raises(UsageError, match="--dancer .* name a new folder"):
            dancer.make_dancer(tmp_path / "data", **TINY, num_workers=1, overwrite=True)
        assert (tmp_path / "data/.git/HEAD").is_file()
        shutil.rmtree(tmp_path / "data")


@pytest.mark.parametrize("folder", [".", "/"])
def test_neither_the_folder_that_one_is_in_nor_a_drive_is_replaced(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="--dancer .* give a folder within it"):
        dancer.make_dancer(folder, **TINY, num_workers=1)
    assert tmp_path.is_dir() and not list(tmp_path.iterdir())


def test_a_folder_of_somebody_else_is_never_touched(tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    for extra in ({}, {"dancer.json": json.dumps({"version": 1})}):
        for name, text in extra.items():
            (tmp_path / name).write_text(text)
        with pytest.raises(UsageError, match="--dancer .* name a new folder"):
            dancer.make_dancer(tmp_path, **TINY, num_workers=1, overwrite=True)
        assert (tmp_path / "precious.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_a_usage_error(tmp_path):
    (tmp_path / "file").write_text("")
    result = prepare("--dancer", tmp_path / "file" / "inside", "--frames", 1)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert result.stderr.count("\n") == 1 and "--dancer" in result.stderr


def be_killed(job):
    os.kill(os.getpid(), signal.SIGKILL)


@posix_only
def test_a_killed_drawing_process_ends_the_making_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(dancer, "_draw_job", be_killed)
    with pytest.raises(RunError, match="killed .* lower --num_workers"):
        dancer.make_dancer(tmp_path / "half", **TINY, num_workers=2)
    assert list(tmp_path.iterdir()) == []


def test_no_more_is_drawn_than_a_few_jobs_before_somebody_takes_them():
    """Those of a film that is written more slowly would fill the memory."""
    begun = []
    pool = SimpleNamespace(submit=lambda draw, job: begun.append(job) or SimpleNamespace(result=lambda: draw(job)))
    for jobs in ([*range(20)], [*range(3)], []):
        begun.clear()
        results = workers.in_order(pool, 4, str, jobs)
        assert begun == jobs[:4]
        for number, result in enumerate(results):
            assert result == str(number) and len(begun) <= number + 5
        assert begun == jobs


@pytest.mark.parametrize("platform, most", [("win32", 61), ("linux", 100)])
def test_no_more_drawing_processes_than_the_system_or_the_jobs_allow(platform, most, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    assert workers.pool_size(100, 200) == most and workers.pool_size(3, 200) == 3 and workers.pool_size(100, 5) == 5


def unignore_signals():
    """As in a terminal: a shell's job in the background ignores SIGINT, one under nohup SIGHUP."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def signal_while_drawing(command, folder, send):
    """Start a script in `folder`, call send(its process) once an image is drawn; returns the process and stderr."""
    with started([sys.executable, *command], stderr=subprocess.PIPE, text=True, cwd=folder,
                 preexec_fn=unignore_signals) as process:
        wait_until(lambda: list(folder.rglob("*.png")), process)
        send(process)
        return process, process.communicate(timeout=PATIENCE)[1]  # drawing processes have ended too: they hold stderr


@posix_only
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_leaves_no_process_and_nothing_unfinished(name, tmp_path):
    number = getattr(signal, name)
    process, said = signal_while_drawing([ROOT / "Preparer.py", "--dancer", "made", "--num_workers", 2], tmp_path,
                                         lambda process: process.send_signal(number))
    assert process.returncode == 128 + number and "Traceback" not in said
    assert "Preparer.py: " in said and list(tmp_path.iterdir()) == []


@posix_only
def test_drawing_processes_end_when_the_one_that_started_them_is_killed(tmp_path):
    process, _ = signal_while_drawing([ROOT / "Preparer.py", "--dancer", "made", "--num_workers", 2], tmp_path,
                                      lambda process: process.kill())
    assert process.returncode == -signal.SIGKILL


def test_a_drawing_process_ignores_ctrl_c(monkeypatch):
    """On Windows, whose console sends it to all and where no process is started with it blocked."""
    monkeypatch.setattr(workers, "Thread", lambda **_: SimpleNamespace(start=lambda: None))
    handler = signal.getsignal(signal.SIGINT)
    try:
        workers.end_with_parent()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, handler)


@posix_only
@pytest.mark.parametrize("seconds", [0.3, 1])
def test_ctrl_c_while_the_drawing_processes_start_is_told_once(seconds, tmp_path):
    """A terminal sends it to all of them."""
    command = [sys.executable, str(ROOT / "Preparer.py"), "--dancer", "made", "--num_workers", "2", "--frames", "200"]
    with started(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, preexec_fn=unignore_signals) as process:
        assert "drawing" in process.stderr.readline()
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGINT and said == "Preparer.py: interrupted\n"
    assert list(tmp_path.iterdir()) == []


@posix_only
@pytest.mark.parametrize("name, send", [
    ("SIGINT", lambda process: os.killpg(process.pid, signal.SIGINT)),  # as a terminal does
    ("SIGTERM", lambda process: process.terminate())], ids=["SIGINT", "SIGTERM"])
def test_a_signal_to_a_script_that_lets_the_dancer_be_made_leaves_nothing_unfinished(name, send, tmp_path):
    code = "import cli.script, dataset_folder.choice as it; cli.script.run_script(lambda: it.dataset_or_dancer(None))"
    (tmp_path / "script.py").write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}")
    process, said = signal_while_drawing(["script.py"], tmp_path, send)
    assert process.returncode == 128 + getattr(signal, name) and "script.py: " in said and "Traceback" not in said
    assert list((tmp_path / "data").iterdir()) == []


def test_what_a_killed_process_of_the_same_number_left_is_not_in_the_way(tmp_path):
    def make():
        with whole_folder("--dancer", tmp_path / "made", "dancer", "dancer.json", [], overwrite=True) as unfinished:
            (unfinished / "dancer.json").write_text("{}")
        return unfinished

    unfinished = make()
    for leftover in (unfinished, unfinished.with_suffix(".old")):
        leftover.mkdir()
        (leftover / "half.png").write_bytes(b"")
    assert make() == unfinished
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == [
        "made", "made/dancer.json"]


@pytest.mark.parametrize("has_same_number", [True, False])
@pytest.mark.parametrize("ends", [".old", ".old .tmp"])
def test_a_folder_that_was_being_replaced_when_its_maker_was_killed_comes_back(ends, has_same_number, tmp_path, capsys):
    """Also if what is made next is not completed; the other process may have had any number, or the same one."""
    number = os.getpid() if has_same_number else 4_000_000
    for end in ends.split():
        leftover = tmp_path / f".made.{socket.gethostname()}.{number}{end}"
        leftover.mkdir()
        (leftover / "dancer.json").write_text(f'{{"of": "{end}"}}')
    (tmp_path / ".made.notes.5.old").mkdir()  # a user's
    with pytest.raises(UsageError, match="holds a dancer already"):
        with whole_folder("--dancer", tmp_path / "made", "dancer", "dancer.json", [], overwrite=False):
            pass
    assert (tmp_path / "made/dancer.json").read_text() == '{"of": ".old"}' and "is back" in capsys.readouterr().out
    with pytest.raises(ValueError):
        with whole_folder("--dancer", tmp_path / "made", "dancer", "dancer.json", [], overwrite=True):
            raise ValueError("it cannot be drawn")
    assert (tmp_path / "made/dancer.json").read_text() == '{"of": ".old"}' and (tmp_path / ".made.notes.5.old").exists()


@pytest.mark.parametrize("hours, stays", [(23, True), (25, False)])
def test_what_a_killed_process_has_left_is_removed_once_nobody_can_be_at_it(hours, stays, tmp_path):
    leftover = tmp_path / f".made.{socket.gethostname()}.4000000.tmp"
    (leftover / "train/train_img").mkdir(parents=True)
    (leftover / "train/train_img/0.png").write_bytes(b"half")
    for path in (leftover, *leftover.rglob("*")):
        os.utime(path, (0, 0))
    os.utime(leftover / "train/train_img", (time.time() - 3600 * hours,) * 2)
    with whole_folder("--dancer", tmp_path / "made", "dancer", "dancer.json", [], overwrite=False) as unfinished:
        (unfinished / "dancer.json").write_text("{}")
    assert leftover.exists() == stays and (tmp_path / "made/dancer.json").exists()


@pytest.mark.parametrize("kind", ["dancer.json", "thesis.txt"])
def test_a_folder_that_others_filled_meanwhile_stays(kind, tmp_path):
    with pytest.raises(RunError, match="holds something else by now; the dancer is complete in ") as raised:
        with whole_folder("--dancer", tmp_path / "made", "dancer", "dancer.json", [], overwrite=False) as unfinished:
            (unfinished / "dancer.json").write_text("{}")
            (tmp_path / "made").mkdir()
            (tmp_path / "made" / kind).write_text('{"of": "another process"}')
    assert (tmp_path / "made" / kind).read_text() == '{"of": "another process"}'
    [kept] = (path for path in tmp_path.iterdir() if path.name != "made")
    assert str(kept) in str(raised.value) and (kept / "dancer.json").read_text() == "{}"


def test_the_same_dancer_that_another_process_made_meanwhile_is_the_one(tmp_path):
    """As of two trainings without --DR that start at once."""
    with whole_folder("--dancer", tmp_path / "made", "dancer", "dancer.json", [], overwrite=False) as unfinished:
        (unfinished / "dancer.json").write_text('{"seed": 0}')
        (tmp_path / "made").mkdir()
        for name, text in (("dancer.json", '{"seed": 0}'), ("of", "the other")):
            (tmp_path / "made" / name).write_text(text)
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    assert (tmp_path / "made/of").read_text() == "the other"


def test_the_same_dancer_that_a_network_drive_shows_too_late_is_the_one(tmp_path, monkeypatch):
    """As of two jobs of a cluster: the second sees no folder yet, and its rename finds one."""
    made, exists = tmp_path / "made", Path.exists
    with monkeypatch.context() as patch:
        with whole_folder("--dancer", made, "dancer", "dancer.json", [], overwrite=False) as unfinished:
            (unfinished / "dancer.json").write_text('{"seed": 0}')
            made.mkdir()
            (made / "of").write_text("the other")  # the marker is not seen yet
            patch.setattr(Path, "exists", lambda path, **more: path != made and exists(path, **more))
            patch.setattr("cli.folders.check_replaceable", lambda *_: (made / "dancer.json").write_text('{"seed": 0}'))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made"] and (made / "of").exists()


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOENT, errno.ENOSYS])
def test_where_no_processes_can_be_started_the_dancer_is_drawn_in_this_one(number, tmp_path, monkeypatch, capsys):
    """A container may have no /dev/shm, or none that can be written."""
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("stage_dancer.workers.ProcessPoolExecutor", refuse)
    dancer.make_dancer(tmp_path / "dancer", **TINY, num_workers=2)
    assert "no processes can be started" in capsys.readouterr().out and (tmp_path / "dancer/dancer.json").exists()


@pytest.mark.parametrize("number, remedy", [(errno.ENOSPC, "make room"), (errno.ENOMEM, "free some memory"),
                                            (errno.EACCES, "check its permissions")])
def test_an_error_of_the_making_is_none_of_the_folders_name(number, remedy, tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("imageio.v3.imwrite", fail)
    with pytest.raises(SystemExit) as ended:
        call_script(tmp_path, "Preparer", "--dancer", "half", "--frames", 5, "--num_workers", 1)
    error = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 1 and os.strerror(number) in error and remedy in error and "--dancer" not in error
    assert ".png" in error
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_making_leaves_no_dataset(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(dancer, "draw_label", fail)
    with pytest.raises(KeyboardInterrupt):
        dancer.make_dancer(tmp_path / "half", **TINY, num_workers=1)
    assert list(tmp_path.iterdir()) == []
