"""Poses: read, followed, bridged, smoothed, drawn, and made into a dataset."""

import json
import subprocess
import sys
from contextlib import contextmanager, nullcontext, suppress
from importlib.metadata import packages_distributions, requires
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image, ImageSequence

from cli.errors import UsageError
from cli.flags import network_settings, trainer_parser
from conftest import ROOT, call_script, flags
from media.images import read_image, resize_image
from media.pixel_csv import read_pixels_csv
from poses import dataset
from poses.keypoints import INDEX, JOINTS, follow, nobody, people_of, present, read_lines, read_poses, seen, write_poses
from poses.labels import LINES, draw_label
from poses.person import check_rate, find_person
from poses.tracks import bridge, smooth, steady
from poses.window import Window, choose_window, cut, move_into

SIZE = (128, 256)
WHITE = 255
# A person of height 1 who faces the camera, feet at row 0 and middle at column 0.
FIGURE = {"nose": (0, -0.92), "left_eye": (0.02, -0.94), "left_ear": (0.04, -0.93), "left_shoulder": (0.11, -0.8),
          "left_elbow": (0.2, -0.65), "left_wrist": (0.25, -0.5), "left_hip": (0.07, -0.5), "left_knee": (0.08, -0.25),
          "left_ankle": (0.09, 0)}
FIGURE |= {name.replace("left", "right"): (-column, row) for name, (column, row) in FIGURE.items()}


def standing(column, floor, height):
    """The pose of a person who stands with the feet at this column and row, [17, 3]."""
    places = np.array([FIGURE[name] for name in JOINTS]) * height + (column, floor)
    return np.concatenate([places, np.ones((len(JOINTS), 1))], axis=1)


def walk(frames=90, width=200, height=100):
    """A person who walks through a picture of 100 x 200 pixels."""
    return np.stack([standing(column, 0.9 * height, 0.7 * height)
                     for column in np.linspace(0.2 * width, 0.8 * width, frames)])


def picture(pose, height=100, width=200):
    """A frame with a bright rectangle where the person is, uint8 [H, W, 3]."""
    frame = np.full((height, width, 3), 40, np.uint8)
    if present(pose):
        left, top = np.nanmin(pose[:, :2], axis=0).round().astype(int).clip(0)
        right, bottom = np.nanmax(pose[:, :2], axis=0).round().astype(int)
        frame[top:bottom, left:right] = (250, 120, 20)
    return frame


# Files

def read_people(path, frames):
    return people_of(read_lines(path, "--x"), frames, f"--x {path}")


def test_poses_are_read_as_they_were_written(tmp_path):
    poses = walk(5)
    poses[2], poses[3, 4] = nobody(1)[0], (np.nan, np.nan, 0)
    write_poses(tmp_path / "a.csv", poses)
    assert np.allclose(read_poses(tmp_path / "a.csv", "--x", 5), poses, atol=0.006, equal_nan=True)


def test_a_file_needs_no_header_and_may_have_several_people_in_any_order(tmp_path):
    lines = [[frame, *pose.flatten()] for frame, pose in ((2, standing(9, 9, 9)), (0, standing(1, 2, 3)),
                                                          (2, standing(5, 6, 7)))]
    (tmp_path / "a.csv").write_text("\n".join(", ".join(map(str, line)) for line in lines) + "\n\n")
    assert [len(people) for people in read_people(tmp_path / "a.csv", 4)] == [1, 0, 2, 0]


@pytest.mark.parametrize("header", [True, False])
def test_decimal_commas_in_every_cell_separate_nothing(header, tmp_path):
    """As pandas writes an array of floats, the numbers of its frames with it."""
    poses = walk(60) + np.array([0.25, 0.25, -0.25])
    rows = [";".join(f"{value:.3f}".replace(".", ",") for value in (frame, *pose.flatten()))
            for frame, pose in enumerate(poses)]
    names = [";".join(f"column {number}" for number in range(52))] if header else []
    (tmp_path / "a.csv").write_text("\n".join(names + rows))
    assert np.allclose(read_poses(tmp_path / "a.csv", "--x", 60), poses, atol=0.006)


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("separator, decimal, encoding", [
    (";", ",", "utf-8-sig"), ("\t", ",", "utf-16"), (",", ".", "utf-16"), (";", ".", "utf-8")])
def test_a_file_is_read_as_a_spreadsheet_or_a_shell_saves_it(separator, decimal, encoding, header, tmp_path):
    poses = walk(5) + np.array([0.25, 0.25, -0.25])
    write_poses(tmp_path / "a.csv", poses)
    text = (tmp_path / "a.csv").read_text().replace(",", separator).replace(".", decimal)
    lines = text.splitlines()[0 if header else 1:]
    (tmp_path / "saved.csv").write_bytes("\r\n".join(lines).encode(encoding))
    assert np.allclose(read_poses(tmp_path / "saved.csv", "--x", 5), poses, atol=0.006)


def test_doubtful_joints_are_not_seen(tmp_path):
    pose = standing(50, 90, 70)
    pose[3, 2], pose[5, 2], pose[7, 0] = 0.01, np.nan, np.nan
    (tmp_path / "a.csv").write_text(",".join(map(str, [0, *pose.flatten()])))
    assert (~seen(read_poses(tmp_path / "a.csv", "--x", 1))[0]).nonzero()[0].tolist() == [3, 5, 7]


@pytest.mark.parametrize("text", ["0,1,2", "frame\n1.5" + ",1" * 51, "0" + ",x" * 51, "frame\n-1" + ",1" * 51,
                                  "9" + ",1" * 51, "frame\n\0", "frame\n0\xff"])
def test_what_is_no_file_of_poses_is_refused(text, tmp_path):
    (tmp_path / "a.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match="--x .*a.csv"):
        read_people(tmp_path / "a.csv", 4)
    with pytest.raises(UsageError, match="--x .*nowhere.csv"):
        read_lines(tmp_path / "nowhere.csv", "--x")


@pytest.mark.parametrize("place", [1e9, -1e20])
def test_a_joint_far_off_is_refused_unless_it_is_doubtful(place, tmp_path):
    """Where the rounding of float32 is larger than a pixel no line can be drawn."""
    pose = standing(50, 90, 70)
    pose[3, 0] = place
    for confidence in (0.01, 1):
        pose[3, 2] = confidence
        (tmp_path / "a.csv").write_text("\n".join(",".join(map(str, [frame, *pose.flatten()])) for frame in (0, 1)))
        if confidence < 1:
            assert not seen(read_poses(tmp_path / "a.csv", "--x", 2))[:, 3].any()
        else:
            with pytest.raises(UsageError, match="--x .*a.csv, line 1: a joint at .* in pixels"):
                read_poses(tmp_path / "a.csv", "--x", 2)


# Tracks

def test_one_person_is_followed_among_several():
    here, there = walk(20), walk(20)[::-1] + np.array([0, 40, 0])  # another one, lower, who walks the other way
    here[:, :, 1] -= 20
    tall = [standing(40, 90, 95)]
    people = [np.stack([*tall, there[0]]), *[np.stack(pair)[::order] for pair, order in zip(
        zip(here[1:], there[1:]), [1, -1] * 10)]]
    followed = follow(people)
    assert np.array_equal(followed[0], tall[0])
    assert np.array_equal(followed[1:], here[1:])
    assert not present(follow([np.empty((0, 17, 3))] * 3)).any()


def test_a_short_loss_is_bridged_and_a_long_one_is_not():
    whole = walk(90)
    lost = whole.copy()
    lost[10:25], lost[40:57], lost[70:75, 3], lost[88:] = nobody(15), nobody(17), nobody(1)[0, 3], nobody(2)
    bridged = bridge(lost, 15)
    assert np.allclose(bridged[:40], whole[:40]) and np.allclose(bridged[57:88], whole[57:88])
    assert not present(bridged[40:57]).any() and not present(bridged[88:]).any()
    assert not present(steady(nobody(30), 30)).any()


def test_jitter_gets_less_and_motion_stays():
    true = walk(90)
    rng = np.random.default_rng(0)
    jittery = true.copy()
    jittery[..., :2] += rng.normal(0, 1, (90, 17, 2))
    smoothed = smooth(jittery, 1.5)
    assert (smoothed - true)[5:-5, :, :2].std() < 0.6
    assert np.allclose(smooth(true, 1.5)[5:-5], true[5:-5])
    true[30:50] = nobody(20)  # what is not seen neither appears nor moves its neighbours
    assert np.array_equal(seen(smooth(true, 1.5)), seen(true))
    assert np.abs(smooth(true, 1.5) - true)[present(true)].max() < 3


# Labels

def test_label_is_blank_exactly_when_nobody_is_seen():
    assert (draw_label(nobody(1)[0], SIZE) == WHITE).all()
    assert (draw_label(standing(128, 120, 100), SIZE) < 200).any()


def test_each_limb_has_a_colour_of_its_own_and_sides_differ():
    assert len({colour for *_, colour in LINES}) == len(LINES)
    pose = standing(128, 120, 100)
    label = draw_label(pose, SIZE)
    for side in ("left", "right"):
        column, row = ((pose[INDEX[f"{side}_knee"], :2] + pose[INDEX[f"{side}_ankle"], :2]) / 2).astype(int)
        colour = next(colour for start, end, colour in LINES if (start, end) == (f"{side}_knee", f"{side}_ankle"))
        assert np.abs(label[row, column].astype(int) - colour).max() < 30


def test_a_joint_that_is_not_seen_takes_its_lines_with_it():
    pose = standing(128, 120, 100)
    pose[INDEX["left_wrist"]] = nobody(1)[0, 0]
    whole, less = draw_label(standing(128, 120, 100), SIZE), draw_label(pose, SIZE)
    differs = (whole != less).any(axis=2)
    assert differs.any() and (less[differs] == WHITE).mean() > 0.5 and differs[:, :128].sum() == 0


def test_lines_are_as_strong_in_portrait_as_in_landscape():
    ink = [(WHITE - draw_label(standing(64, 120, 100), size).astype(int)).sum() for size in (SIZE, SIZE[::-1])]
    assert ink[1] == pytest.approx(ink[0], rel=0.01)


# The window

def area_of(poses):
    return [*np.nanmin(poses[..., :2], axis=(0, 1)), *np.nanmax(poses[..., :2], axis=(0, 1))]


@pytest.mark.parametrize("picture_size", [(1080, 1920), (1920, 1080), (720, 720), (100, 200)])
@pytest.mark.parametrize("height", [0.15, 0.5, 0.9])
def test_the_window_has_the_shape_and_holds_the_person(picture_size, height):
    tall, wide = picture_size
    poses = np.stack([standing(column, 0.95 * tall, height * tall) for column in np.linspace(0.3, 0.6, 9) * wide])
    window = choose_window(poses, picture_size, SIZE)
    assert window.width == pytest.approx(2 * window.height)
    left, top, right, bottom = area_of(poses)
    assert window.left <= max(left, 0) and window.top <= top
    assert window.left + window.width >= min(right, wide) and window.top + window.height >= bottom
    beyond = window.left < 0 or window.top < 0 or window.left + window.width > wide + 1e-6
    assert not beyond or min(wide / 2, tall) < max((right - left) / 2, bottom - top) + 0.25 * height * tall


def test_a_small_person_is_brought_near():
    poses = np.stack([standing(column, 800, 200) for column in (900, 1000)])
    window = choose_window(poses, (1080, 1920), SIZE)
    assert window.height < 350 and window.left + window.width / 2 == pytest.approx(950, abs=5)


def test_what_is_cut_is_not_stretched_and_poses_move_with_it():
    frame = np.full((300, 400, 3), 30, np.uint8)
    frame[100:150, 200:250] = 255  # a square
    window = Window(150.0, 50.0, 200.0, 100.0)
    part = cut(frame, window, (50, 100))
    rows, columns = np.nonzero(part[..., 0] > 128)
    assert (np.ptp(rows), np.ptp(columns)) == (24, 24)
    pose = np.array([[[200.0, 100.0, 1.0]] * 17])
    assert move_into(pose, window, (50, 100))[0, 0].tolist() == [columns.min(), rows.min(), 1]


def test_beyond_the_picture_it_is_black():
    frame = np.full((100, 60, 3), 200, np.uint8)
    part = cut(frame, Window(-70.0, 0.0, 200.0, 100.0), (100, 200))
    assert (part[:, 75:125] == 200).all() and (part[:, :65] == 0).all() and (part[:, 135:] == 0).all()


# The dataset

@pytest.fixture
def video(tmp_path):
    """video("a", poses) writes a video of a person with these poses, and the poses, which it returns the words for."""
    pytest.importorskip("imageio_ffmpeg", reason="the extra of requirements/video.txt is not installed")
    from media.ffmpeg import write_mp4

    def write(name, poses, fps=30, pictures=None):
        write_mp4(tmp_path / f"{name}.mp4", [picture(pose) for pose in poses] if pictures is None else pictures, fps)
        write_poses(tmp_path / f"{name}.csv", poses)
        return ["--video", f"{name}.mp4", "--poses", f"{name}.csv"]

    return write


@pytest.fixture
def refused(tmp_path, capsys):
    """refused(...) is the one line with which Preparer.py refuses these words; it leaves nothing behind."""

    def refuse(*words):
        there = sorted(tmp_path.rglob("*"))
        with pytest.raises(SystemExit) as ended:
            call_script(tmp_path, "Preparer", *words)
        error = capsys.readouterr().err
        assert ended.value.code == 2 and error.count("\n") == 1 and "Traceback" not in error
        assert sorted(tmp_path.rglob("*")) == there
        return error

    return refuse


def test_dataset_of_a_video(video, tmp_path, capsys):
    poses = walk(200)
    poses[50:60], poses[100:130] = nobody(10), nobody(30)
    call_script(tmp_path, "Preparer", *video("a", poses), "--dataset", "me")
    told = capsys.readouterr().out
    assert "nobody in 40 of 200 frames (10 bridged)" in told and "--val_vi_len 20" in told
    call_script(tmp_path, "Preparer", "--check", "me")

    root = tmp_path / "me"
    assert (root / "train/sequences.txt").read_text() == f"{200 - 40 - 20}\n"  # two parts of 20, two gaps of 10
    frames = [read_image(root / f"train/train_img/{number}.png") for number in (0, 139)]
    assert frames[0].shape == (3, *SIZE)
    trained = read_poses(root / "train/poses.csv", "--x", 140)
    assert present(trained)[50:60].all() and not present(trained)[100:130].any()
    for number in (0, 30, 139):  # the frame shows the person where the pose and the label are
        frame, label = (read_image(root / f"train/train_{kind}/{number}.png").numpy() for kind in ("img", "label"))
        column, row = trained[number, [INDEX["left_hip"], INDEX["right_hip"]], :2].mean(axis=0).astype(int)
        assert frame[0, row, column] > 200 and (label[:, row - 2:row + 3, column - 2:column + 3].min() < WHITE)
    assert (read_image(root / "train/train_label/110.png") == WHITE).all()

    pixels, _ = read_pixels_csv(root / "test/gt.csv", "--x")
    seen_first = resize_image(read_image(root / "test/test_img/0/0.png"), (32, 64))
    assert pixels.shape == (20, 3 * 32 * 64) and np.array_equal(pixels[0], seen_first.flatten().numpy())
    assert len(list((root / "test/test_label/0").iterdir())) == 20
    with Image.open(root / "preview.gif") as preview:  # at the video's pace
        assert sum(picture.info["duration"] for picture in ImageSequence.Iterator(preview)) == round(200 / 30, 2) * 1000
    assert json.loads((root / "video.json").read_text())["fps"] == 30


def middle(shown):
    """The column halfway between the first and the last that show anything; shown: bool [H, W]."""
    columns = np.flatnonzero(shown.any(axis=0))
    return (columns[0] + columns[-1]) / 2


def assert_frames_have_their_labels(root):
    """In a dataset of one walk. The first five poses are smoothed towards the others."""
    for name, first in (("train", 5), ("val", 0)):
        numbers = range(first, len(list((root / name / f"{name}_img").iterdir())))
        frames, labels = ([read_image(root / name / f"{name}_{kind}/{number}.png").numpy() for number in numbers]
                          for kind in ("img", "label"))
        shown = np.array([middle(frame[0] > 145) for frame in frames])
        drawn = np.array([middle(label.min(axis=0) < 200) for label in labels])
        step = np.diff(drawn).mean()
        assert step > 2 and np.abs(shown - drawn).max() < step / 2


def test_each_frame_has_its_own_label(video, tmp_path):
    call_script(tmp_path, "Preparer", *video("a", walk(60)), "--dataset", "me")
    assert_frames_have_their_labels(tmp_path / "me")


def test_dataset_of_several_videos(video, tmp_path, dancer):
    first, second = video("a", walk(60)), video("b", walk(100))
    call_script(tmp_path, "Preparer", *first[:2], second[1], *first[2:], second[3], "--dataset", "me")
    assert (tmp_path / "me/train/sequences.txt").read_text().split() == [str(60 - 12 - 6), str(100 - 20 - 10)]
    assert (tmp_path / "me/val/sequences.txt").read_text().split() == ["6", "10"]
    assert [len(list((tmp_path / f"me/test/test_label/{s}").iterdir())) for s in (0, 1)] == [6, 10]
    call_script(tmp_path, "Preparer", "--check", "me")


def test_frames_are_sampled_and_cut_as_asked(video, tmp_path):
    poses = walk(120)[::2]
    words = video("a", walk(120), fps=60)[:2]
    write_poses(tmp_path / "half.csv", poses)
    call_script(tmp_path, "Preparer", *words, "--poses", "half.csv", "--dataset", "me",
                *flags(frame_H=160, frame_W=240))
    assert (tmp_path / "me/train/sequences.txt").read_text() == f"{60 - 12 - 6}\n"
    assert read_image(tmp_path / "me/train/train_img/0.png").shape == (3, 160, 240)
    assert_frames_have_their_labels(tmp_path / "me")


@pytest.mark.parametrize("side, remedy", [(180, "176 or 184"), (17, "16 or 24"), (8, "16 or more"), ("x", "16")])
def test_a_frame_whose_quarter_cannot_be_trained_on_is_refused(side, remedy, refused):
    for flag in ("--frame_H", "--frame_W"):
        error = refused("--video", "nowhere.mp4", "--dataset", "me", flag, side)
        assert flag in error and str(side) in error and remedy in error


def test_every_frame_shape_taken_can_be_trained_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("poses.dataset.make_video_dataset", lambda *_, **__: 20)
    for height, width in ((16, 24), (320, 184), (128, 256)):
        call_script(tmp_path, "Preparer", "--video", "a.mp4", "--dataset", "me", *flags(frame_H=height, frame_W=width))
        advice = capsys.readouterr().out.partition("train on it with ")[2].split()
        for network in ("template", "pyramid"):
            network_settings(trainer_parser().parse_args([*advice, "--network", network]))


@pytest.mark.parametrize("fps, frames", [(25, 100), (60, 240)])
def test_poses_numbered_at_the_videos_own_rate_are_refused(fps, frames, video, refused, tmp_path):
    words = [*video("a", walk(frames), fps=fps), "--dataset", "me"]
    error = refused(*words)
    assert "--poses a.csv" in error and f"--fps {fps}, or number its frames at 30 a second" in error
    call_script(tmp_path, "Preparer", *words, "--fps", fps)
    write_poses(tmp_path / "a.csv", walk(round(30 * frames / fps)))
    call_script(tmp_path, "Preparer", *words, "--overwrite")


@pytest.mark.parametrize("last, native, told", [
    (2499, 25, True), (2498, 25, True), (2500, 25, True), (2999, 30, False), (2999, 25, False), (2400, 25, False),
    (5999, 60, True), (2998, 0, False), (2397, 23.98, True)])
def test_own_rate_is_told_by_the_last_number(last, native, told, tmp_path):
    write_poses(tmp_path / "a.csv", np.concatenate([nobody(last), walk(1)]))
    with pytest.raises(UsageError, match=f"give --fps {native}") if told else nullcontext():
        check_rate(read_lines(tmp_path / "a.csv", "--poses"), "a.csv", "a.mp4", 3000, 30.0, native, "--fps")


def test_a_video_that_breaks_off_is_noted(video, tmp_path, capsys):
    """Such as a copy that is not complete."""
    pictures = np.random.default_rng(0).integers(0, 256, (300, 50, 100, 3), np.uint8)  # no small file
    words = video("a", walk(300), pictures=pictures)
    path = tmp_path / "a.mp4"
    for part, noted in ((1, False), (0.6, True)):
        path.write_bytes(path.read_bytes()[:int(part * path.stat().st_size)])
        with suppress(UsageError):  # of the poses that have no frames
            find_person(path, 30, tmp_path / words[-1], "--video")
        said = capsys.readouterr().out
        assert ("note: --video" in said) == ("10.0 seconds" in said) == noted


@pytest.mark.parametrize("last, noted", [(2999, False), (2984, False), (2983, True)])
def test_poses_that_end_early_are_noted(last, noted, tmp_path, capsys):
    write_poses(tmp_path / "a.csv", np.concatenate([nobody(last), walk(1)]))
    check_rate(read_lines(tmp_path / "a.csv", "--poses"), "a.csv", "a.mp4", 3000, 30.0, 30.0, "--fps")
    assert ("variable" in capsys.readouterr().out) == noted


@pytest.mark.parametrize("rate", [24, 30])
def test_a_video_of_almost_the_rate_asked_for_has_a_frame_for_each_line(rate, tmp_path):
    pytest.importorskip("imageio_ffmpeg", reason="the extra of requirements/video.txt is not installed")
    from media.ffmpeg import write_mp4

    write_mp4(tmp_path / "a.mp4", [np.zeros((50, 100, 3), np.uint8)] * 1200, rate / 1.001)
    write_poses(tmp_path / "a.csv", walk(1200, width=100, height=50))
    person = find_person(tmp_path / "a.mp4", rate, tmp_path / "a.csv", "--x")
    assert len(person.poses) == 1200 and person.fps == round(rate / 1.001, 3)


def test_the_rate_of_the_frames_is_noted(video, tmp_path):
    call_script(tmp_path, "Preparer", *video("a", walk(60), fps=30 / 1.001), "--dataset", "me")
    noted = json.loads((tmp_path / "me/video.json").read_text())
    assert noted["fps"] == noted["videos"][0]["fps"] == 29.97


@pytest.mark.parametrize("frames", [60, 100, 1000])
def test_parts_do_not_touch_and_begin_with_somebody(frames):
    shown = np.ones(frames, bool)
    shown[-frames // 10:-frames // 10 + 3] = False
    parts = dataset.split(shown, 30)
    assert parts["train"].stop < parts["val"].start < parts["val"].stop < parts["test"].start < parts["test"].stop
    assert parts["test"] == slice(frames - frames // 10 + 3, frames) and shown[parts["test"].start]
    assert parts["train"].stop > 0.6 * frames


def test_a_dataset_is_replaced_only_when_asked(video, refused, tmp_path):
    words = [*video("a", walk(60)), "--dataset", "me"]
    call_script(tmp_path, "Preparer", *words)
    assert "--overwrite" in refused(*words)
    call_script(tmp_path, "Preparer", *words, "--overwrite")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/precious.txt").write_text("mine")
    assert "--dataset" in refused(*words[:-1], "mine", "--overwrite")


def test_bad_input_is_refused_in_one_line(video, refused, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    poses = video("a", walk(60))[2:]
    for name in ("nowhere.mp4", "text.mp4"):
        error = refused("--video", name, *poses, "--dataset", "me")
        assert f"--video {name}" in error
    assert "--dataset" in refused("--video", "a.mp4", *poses)
    assert "--film" in refused("--video", "a.mp4", *poses, "--dataset", "me", "--film", "film.mp4")
    assert "--fps" in refused("--check", "me", "--fps", 25)
    assert "--poses" in refused("--video", "a.mp4", "a.mp4", *poses, "--dataset", "me")
    assert "b.mp4 has 3 frames" in refused(*video("b", walk(3)), "--dataset", "me")
    error = refused(*video("empty", nobody(60)), "--dataset", "me")
    assert "--poses empty.csv: no joint in it has a confidence of 0.1" in error and "or --poses" not in error
    write_poses(tmp_path / "longer.csv", walk(61))
    error = refused("--video", "a.mp4", "--poses", "longer.csv", "--dataset", "me")
    assert "frame 60, but there are 60 frames at 30 a second" in error


@pytest.mark.parametrize("second, poses", [("nowhere.mp4", None), ("text.mp4", None), ("short.mp4", None),
                                           ("a.mp4", "nowhere.csv"), ("a.mp4", "text.csv"),
                                           ("a.mp4", "empty.csv")])
def test_a_later_mistake_is_told_before_the_first_estimation(second, poses, video, refused, tmp_path, monkeypatch):
    video("a", walk(60)), video("short", walk(20))
    write_poses(tmp_path / "empty.csv", nobody(60))
    for name in ("text.mp4", "text.csv"):
        (tmp_path / name).write_text("frame\nno numbers")
    monkeypatch.setattr(dataset, "find_take", lambda *_: pytest.fail("estimated already"))
    words = ["--poses", "a.csv", poses] if poses else []
    error = refused("--video", "a.mp4", second, *words, "--dataset", "me")
    assert (f"--poses {poses}" if poses else f"--video {second}") in error


def test_the_estimator_is_asked_for_each_frame_in_its_order(video, tmp_path, monkeypatch, capsys):
    video("a", walk(60))
    columns = []

    @contextmanager
    def pretended():
        def estimate(image):
            bright = np.nonzero(image[..., 0] > 128)[1]
            columns.append(bright.mean())
            return None if len(columns) == 30 else standing(bright.mean(), 90, 70)
        yield estimate

    monkeypatch.setattr("poses.person.pose_estimator", pretended)
    call_script(tmp_path, "Preparer", "--video", "a.mp4", "--dataset", "me")
    assert len(columns) == 60 and (np.diff(columns) > 0).all()
    assert "nobody in 1 of 60 frames (1 bridged); of several people, mediapipe" in capsys.readouterr().out


def test_a_video_in_which_the_estimator_finds_nobody_is_refused(video, refused, monkeypatch):
    video("a", walk(60))
    monkeypatch.setattr("poses.person.pose_estimator", lambda: nullcontext(lambda image: None))
    assert "--video a.mp4: nobody was found in its 60 frames" in refused("--video", "a.mp4", "--dataset", "me")


@pytest.mark.parametrize("factor", [1 / 256, 4])
def test_poses_in_other_units_are_refused(factor, video, refused, tmp_path):
    words = video("a", walk(60))
    poses = walk(60)
    poses[..., :2] *= factor
    write_poses(tmp_path / "a.csv", poses)
    error = refused(*words, "--dataset", "me")
    assert "--poses a.csv" in error and "pixels of the video" in error


@pytest.mark.parametrize("package, words, requirements", [
    ("imageio_ffmpeg", [], "video"), ("mediapipe.python.solutions.pose", [], "poses"),
    ("imageio_ffmpeg", ["--poses", "a.csv"], "video")])
def test_a_missing_package_is_named(package, words, requirements, video, refused, monkeypatch):
    video("a", walk(60))
    monkeypatch.setitem(sys.modules, package, None)
    error = refused("--video", "a.mp4", *words, "--dataset", "me")
    assert package.split(".")[0].replace("_", "-") in error and f"requirements/{requirements}.txt" in error


@pytest.mark.parametrize("error", [FileNotFoundError("the path does not exist"), RuntimeError("cannot open")])
def test_a_mediapipe_that_cannot_read_its_own_files_is_told(error, video, refused, monkeypatch):
    def fail(**_):
        raise error

    video("a", walk(60))
    monkeypatch.setitem(sys.modules, "mediapipe.python.solutions.pose", SimpleNamespace(Pose=fail))
    assert f"mediapipe cannot be started ({error}); give --poses" in refused("--video", "a.mp4", "--dataset", "me")


with_mediapipe = pytest.mark.skipif(find_spec("mediapipe") is None,
                                    reason="mediapipe is not installed (requirements/poses.txt)")


@with_mediapipe
def test_mediapipe_finds_the_dancer_in_her_film():
    """Four frames of the stage dancer, drawn large; the joints of the trunk within a fortieth of the height."""
    from poses.estimator import pose_estimator
    from stage_dancer.dataset import compose
    from stage_dancer.film import true_poses
    from stage_dancer.stage import Stage, draw_frame

    points, exposure = compose(0, 0, 0, 20)
    true, stage = true_poses(points, zoom=4), Stage(zoom=4)
    with pose_estimator() as estimate:
        assert estimate(np.zeros((512, 1024, 3), np.uint8)) is None
        found = [estimate(draw_frame(points[t], exposure[t], stage)) for t in (0, 5, 10, 15)]
    trunk = [INDEX[f"{side}_{name}"] for side in ("left", "right") for name in ("shoulder", "hip")]
    errors = [np.linalg.norm((pose - true[t])[trunk, :2], axis=1).max() for pose, t in zip(found, (0, 5, 10, 15))]
    assert max(errors) < 512 / 40


@with_mediapipe
def test_mediapipe_says_nothing_and_imports_what_is_required_alone():
    """It is installed without what it asks for: what it imports must be in requirements/poses.txt."""
    program = ("import sys\nfrom poses.estimator import pose_estimator\nwith pose_estimator(): pass\n"
               "print(*{name.split('.')[0] for name in sys.modules})")
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert ended.stderr == ""
    distributions = packages_distributions()
    imported = {canonicalize_name(name) for module in ended.stdout.split() for name in distributions.get(module, [])}
    required = with_dependencies(listed("requirements.txt")) | listed("requirements/poses.txt")
    assert "mediapipe" in imported and imported - required - {"setuptools"} == set()


def listed(file):
    """The names of the packages in a requirements file."""
    lines = [line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines()]
    return {canonicalize_name(Requirement(line).name) for line in lines if line}


def with_dependencies(names):
    """The names of installed packages and of all that they need."""
    found, coming = set(), [*names]
    while coming:
        name = coming.pop()
        if name not in found:
            found.add(name)
            needed = [Requirement(text) for text in requires(name) or []]
            coming += [canonicalize_name(one.name) for one in needed
                       if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found
