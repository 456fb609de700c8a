"""Video files, read as a player shows them and written for any player; the film of the stage dancer."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("imageio_ffmpeg", reason="the extra of requirements/video.txt is not installed")

from imageio_ffmpeg import get_ffmpeg_exe

from cli.errors import RunError, UsageError
from conftest import ROOT, call_script
from media.ffmpeg import check_mp4, exact_rate, length_and_rate, read_video, write_mp4
from poses.keypoints import INDEX, nobody, read_poses, seen
from poses.labels import draw_label as draw_pose_label
from stage_dancer import film
from stage_dancer.dataset import compose
from stage_dancer.stage import HEIGHT, WIDTH, Stage, draw_frame, draw_label


def ffmpeg(*words):
    subprocess.run([get_ffmpeg_exe(), "-v", "error", "-y", *map(str, words)], check=True)


def corner_video(path, frames=6, fps=30, height=48, width=80):
    """Write a black video whose upper left corner is white."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[:height // 2, :width // 2] = 255
    write_mp4(path, [picture] * frames, fps)
    return path


def bright_corners(frame):
    """Which quarters of a frame are bright: [upper left, upper right], [lower left, lower right]."""
    height, width = frame.shape[0] // 2, frame.shape[1] // 2
    return [[bool(part.mean() > 128) for part in (rows[:, :width], rows[:, width:])]
            for rows in (frame[:height], frame[height:])]


@pytest.mark.parametrize("height, width", [(48, 80), (33, 65)])
def test_what_is_written_is_read_back(height, width, tmp_path):
    rows, columns = np.mgrid[0:height, 0:width]
    frames = [np.stack([rows * 4, columns * 3, np.full_like(rows, 20 * t)], axis=2).astype(np.uint8) for t in range(8)]
    write_mp4(tmp_path / "a.mp4", frames, 30)
    back = list(read_video(tmp_path / "a.mp4", 30, "--x"))
    assert len(back) == 8 and back[0].shape == (height + height % 2, width + width % 2, 3)
    assert all(np.abs(there[:height, :width].astype(int) - here).mean() < 6 for here, there in zip(frames, back))
    assert len(list(read_video(tmp_path / "a.mp4", 30, "--x", count=5))) == 5
    with pytest.raises(RunError, match="a.mp4 had 9 frames and now has 8"):  # as where a drive drops out
        list(read_video(tmp_path / "a.mp4", 30, "--x", count=9))
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_every_player_shows_it(tmp_path):
    corner_video(tmp_path / "a.mp4")
    told = subprocess.run([get_ffmpeg_exe(), "-i", tmp_path / "a.mp4"], capture_output=True, text=True).stderr
    assert "h264" in told and "yuv420p" in told


@pytest.mark.parametrize("angle, corner", [(90, (1, 0)), (180, (1, 1)), (270, (0, 1))])
def test_a_phone_video_is_turned_as_its_flag_says(angle, corner, tmp_path):
    ffmpeg("-display_rotation", angle, "-i", corner_video(tmp_path / "a.mp4"), "-c", "copy", tmp_path / "turned.mp4")
    frame = next(read_video(tmp_path / "turned.mp4", 30, "--x"))
    assert frame.shape[:2] == ((80, 48) if angle % 180 else (48, 80))
    assert [(row, column) for row in (0, 1) for column in (0, 1) if bright_corners(frame)[row][column]] == [corner]


def test_pixels_are_made_square(tmp_path):
    ffmpeg("-i", corner_video(tmp_path / "a.mp4"), "-vf", "setsar=2", tmp_path / "wide.mp4")
    assert next(read_video(tmp_path / "wide.mp4", 30, "--x")).shape[:2] == (48, 160)


def test_a_video_of_variable_rate_keeps_its_time(tmp_path):
    """30 frames in the first second and 6 in the next; the brightness is the time."""
    times = [*np.arange(30) / 30, *(1 + np.arange(6) / 6)]
    write_mp4(tmp_path / "even.mp4", [np.full((32, 32, 3), 100 * time, np.uint8) for time in times], 30)
    ffmpeg("-i", tmp_path / "even.mp4", "-vf", "settb=1/600,setpts='if(lt(N,30),N/30,1+(N-30)/6)/TB'",
           "-fps_mode", "vfr", "-enc_time_base", "1/600", tmp_path / "variable.mp4")
    seen_brightness = np.array([frame.mean() for frame in read_video(tmp_path / "variable.mp4", 15, "--x")])
    assert 27 <= len(seen_brightness) <= 30  # the file does not say how long its last frame lasts
    expected = 100 * np.arange(len(seen_brightness)) / 15
    assert np.abs(seen_brightness - expected).max() < 20  # the slow part stands still for a sixth of a second


def test_a_video_whose_sound_begins_before_it_starts_with_its_first_frame(tmp_path):
    write_mp4(tmp_path / "a.mp4", [np.full((32, 32, 3), 8 * t, np.uint8) for t in range(30)], 30)
    ffmpeg("-f", "lavfi", "-i", "sine=duration=3", "-itsoffset", 1, "-i", tmp_path / "a.mp4", "-map", "0:a", "-map",
           "1:v", "-c:v", "copy", tmp_path / "late.mp4")
    brightness = [frame.mean() for frame in read_video(tmp_path / "late.mp4", 30, "--x")]
    assert np.abs(np.array(brightness) - 8 * np.arange(30)).max() < 3


@pytest.mark.parametrize("fps", [25, 29.97, 60])
def test_length_and_rate_are_known_before_reading(fps, tmp_path):
    seconds, rate = length_and_rate(corner_video(tmp_path / "a.mp4", frames=45, fps=fps), "--x")
    assert (seconds, rate) == (pytest.approx(45 / fps, abs=0.1), pytest.approx(fps, abs=0.01))


@pytest.mark.parametrize("rounded, rate", [(23.98, 23.976), (29.97, 29.97), (59.94, 59.94), (25, 25), (5, 5), (0, 0),
                                           (24.5, 24.5)])
def test_rates_of_television_are_known_to_three_decimals(rounded, rate):
    assert exact_rate(rounded) == rate


def test_file_of_any_name_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("-a.mp4", "a:b.mp4", "a b'c.mp4"):
        corner_video(tmp_path / name)
        assert len(list(read_video(name, 30, "--x"))) == 6


def test_what_is_no_video_is_refused_in_one_line(tmp_path):
    (tmp_path / "text.mp4").write_text("no video\n" * 100)
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "folder.mp4").mkdir()
    whole = corner_video(tmp_path / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[:len(whole) // 2])
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", tmp_path / "sound.m4a")
    for name in ("text.mp4", "empty.mp4", "folder.mp4", "cut.mp4", "sound.m4a", "nowhere.mp4"):
        for read in (lambda path: list(read_video(path, 30, "--x")), lambda path: length_and_rate(path, "--x")):
            with pytest.raises(UsageError) as refused:
                read(tmp_path / name)
            assert "--x" in str(refused.value) and name in str(refused.value) and "\n" not in str(refused.value)


def test_a_video_with_damage_inside_is_read_as_far_as_it_goes(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 80, 3), dtype=np.uint8)
    write_mp4(tmp_path / "a.mkv", list(noise), 30)
    content = bytearray((tmp_path / "a.mkv").read_bytes())
    content[len(content) // 2:len(content) // 2 + 3000] = bytes(3000)
    (tmp_path / "a.mkv").write_bytes(content)
    assert len(list(read_video(tmp_path / "a.mkv", 30, "--x"))) >= 20


def test_a_name_that_cannot_be_an_mp4_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.mp4").mkdir()
    for path in (tmp_path / "file/a.mp4", tmp_path / "a.gif", tmp_path / "folder.mp4"):
        with pytest.raises(UsageError, match="--x"):
            check_mp4(path, "--x")
    check_mp4(tmp_path / "new/a.mp4", "--x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.mp4", "new"]


def test_no_more_frames_are_drawn_once_ffmpeg_has_ended(tmp_path, monkeypatch):
    ending = [sys.executable, "-c", "raise SystemExit('the disk is full')"]
    monkeypatch.setattr("media.ffmpeg._encoder", lambda *_: subprocess.Popen(
        ending, stdin=subprocess.PIPE, stderr=subprocess.PIPE))
    left = iter(range(100))
    frames = (np.full((256, 256, 3), t, np.uint8) for t in left)  # each fills a pipe
    with pytest.raises(RunError, match="a.mp4 .*the disk is full"):
        write_mp4(tmp_path / "a.mp4", frames, 30)
    assert len(list(left)) > 90 and list(tmp_path.iterdir()) == []


def test_dancer_drawn_large_is_the_same_picture():
    points, exposure = compose(0, 0, 0, 3)
    small = draw_frame(points[0], exposure[0], Stage())
    large = draw_frame(points[0], exposure[0], Stage(zoom=2))
    assert large.shape == (2 * HEIGHT, 2 * WIDTH, 3)
    shrunk = large.reshape(HEIGHT, 2, WIDTH, 2, 3).mean(axis=(1, 3))
    assert np.abs(shrunk - small).mean() < 2


def test_true_poses_draw_the_label_of_the_dancer():
    points, _ = compose(3, 0, 0, 630)
    poses = film.true_poses(points, zoom=1)
    for pose, frame in zip(poses[::30], points[::30]):
        if seen(pose).all():
            ours, true = ((label < 250).any(axis=2)
                          for label in (draw_pose_label(pose, (HEIGHT, WIDTH)), draw_label(frame)))
            assert (ours & true).sum() > 0.8 * max(ours.sum(), true.sum())
    eyes, ears = (poses[:, INDEX[f"left_{name}"], :2] - poses[:, INDEX[f"right_{name}"], :2] for name in ("eye", "ear"))
    along = (eyes * ears).sum(axis=1)
    assert (along[np.isfinite(along)] >= 0).all()
    absent = [frame for frame, pose in zip(points, poses) if not seen(pose).any()]
    assert absent and not any((draw_label(frame) < 250).sum() > 300 for frame in absent)


def test_film_shows_the_training_frames_with_their_poses(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(film, "ZOOM", 1)
    sizes = {"frames": 5, "val_frames": 2, "test_sequences": 1, "test_frames": 2}
    words = [word for name, value in sizes.items() for word in (f"--{name}", value)]
    for again in (False, True):  # a film of a dancer that is there already
        call_script(tmp_path, "Preparer", "--dancer", "dancer", "--film", "films/a.mp4", "--num_workers", 1, *words)
        frames = list(read_video(tmp_path / "films/a.mp4", 30, "--x"))
        assert len(frames) == 5 and frames[0].shape == (HEIGHT, WIDTH, 3)
        for path in ("films/a.mp4", "films/a.csv"):
            (tmp_path / path).rename(tmp_path / Path(path).name)
            with pytest.raises(SystemExit):  # nothing is overwritten unasked
                call_script(tmp_path, "Preparer", "--dancer", "dancer", "--film", "a.mp4", *words)
        with pytest.raises(SystemExit):  # her folder holds nothing else
            call_script(tmp_path, "Preparer", "--dancer", "dancer", "--film", "dancer/films/b.mp4", *words)
        assert not (tmp_path / "dancer/films").exists()
    (tmp_path / "dancer/val/val_img/0.png").write_bytes(b"")
    words += ["--num_workers", 1, "--overwrite"]  # replaces the dancer as well
    call_script(tmp_path, "Preparer", "--dancer", "dancer", "--film", "b.mp4", *words)
    assert (tmp_path / "dancer/val/val_img/0.png").stat().st_size
    (tmp_path / "c.csv").mkdir()
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        call_script(tmp_path, "Preparer", "--dancer", "dancer", "--film", "c.mp4", *words)
    assert ended.value.code == 2 and "--film c.mp4: c.csv" in capsys.readouterr().err
    points, exposure = compose(0, 0, 0, 5)
    true = np.array([draw_frame(point, level, Stage()) for point, level in zip(points, exposure)], float)
    for number, frame in enumerate(frames):
        assert ((frame - true) ** 2).mean(axis=(1, 2, 3)).argmin() == number
        assert np.abs(frame - true[number]).mean() < 4
    poses = read_poses(tmp_path / "a.csv", "--x", 5)
    assert np.allclose(poses, film.true_poses(points, zoom=1), atol=0.01, equal_nan=True)
    assert poses.shape == nobody(5).shape


def test_film_needs_its_package(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    with pytest.raises(SystemExit) as ended:
        call_script(tmp_path, "Preparer", "--dancer", "dancer", "--film", "a.mp4")
    error = capsys.readouterr().err
    assert ended.value.code == 2 and "requirements/video.txt" in error and error.count("\n") == 1
    assert (ROOT / "requirements/video.txt").is_file() and list(tmp_path.iterdir()) == []
