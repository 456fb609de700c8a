"""Another person's poses, moved to the trained person's place and size, drive a model (Tester.py --drive)."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import call_script, copy_dataset, tiny_model
from dataloader import Dataset_Dance
from engine.saving.checkpoint import save_checkpoint
from engine.testing.driving import nearest_start, open_drive
from media.images import resize_picture
from poses.keypoints import INDEX, nobody, present, write_poses
from poses.labels import draw_label
from poses.retarget import floor_line, measure_stance, retarget
from test_poses import picture, standing

ANKLE = INDEX["left_ankle"]


def dance(frames, places):
    """Poses of a person who is at (column, floor, height) = places(part), part from 0 to 1."""
    return np.stack([standing(*places(part)) for part in np.linspace(0, 1, frames)])


def to_and_fro(frames=240, far=(60, 40), near=(110, 80), column=100):
    """Come near and go far again; far and near: row of the floor, and height."""
    def places(part):
        nearness = 0.5 - 0.5 * np.cos(2 * np.pi * part)
        return column, far[0] + nearness * (near[0] - far[0]), far[1] + nearness * (near[1] - far[1])
    return dance(frames, places)


def heights(poses):
    return poses[:, ANKLE, 1] - poses[:, INDEX["nose"], 1]


def test_poses_of_the_trained_person_stay_where_they_are():
    poses = to_and_fro()
    assert np.abs(retarget(poses, poses, 30) - poses).max() < 0.01


def test_another_person_takes_place_and_size_of_the_trained_one_far_and_near():
    source, trained = to_and_fro(far=(500, 300), near=(600, 420), column=700), to_and_fro()
    moved = retarget(source, trained, 30)
    assert np.abs(moved[..., :2] - trained[..., :2]).max() < 4  # of 40 to 80
    assert heights(moved).max() / heights(moved).min() == pytest.approx(2, rel=0.1)


def test_a_person_at_one_depth_is_put_where_the_trained_one_usually_is():
    trained = to_and_fro()
    moved = retarget(dance(60, lambda part: (300 + 50 * part, 700, 500)), trained, 30)
    usual = measure_stance(trained, 30).usual
    assert np.abs(moved[:, ANKLE, 1] - usual).max() < 1
    at_usual = np.abs(trained[:, ANKLE, 1] - usual).argmin()
    assert heights(moved) == pytest.approx(heights(trained)[at_usual], rel=0.15)


def test_limbs_keep_their_proportions():
    source = dance(60, lambda part: (300, 700, 500))
    source[:, [INDEX["left_wrist"], INDEX["right_wrist"]], 1] -= 300  # arms up
    moved = retarget(source, to_and_fro(), 30)
    for t in (0, 30, 59):
        lengths, before = (np.linalg.norm(np.diff(poses[t, :, :2], axis=0), axis=1) for poses in (moved, source))
        assert np.allclose(lengths / before, lengths[0] / before[0])


def test_a_jump_stays_a_jump():
    source = dance(60, lambda part: (300, 700, 500))
    source[28:33, :, 1] -= 100
    moved = retarget(source, to_and_fro(), 30)
    scale = heights(moved)[0] / heights(source)[0]
    assert moved[0, ANKLE, 1] - moved[30, ANKLE, 1] == pytest.approx(100 * scale, rel=0.02)


def test_absence_stays_absence_and_hidden_feet_need_no_floor():
    source = to_and_fro(far=(500, 300), near=(600, 420))
    source[20:40] = nobody(20)
    source[100:120, [ANKLE, INDEX["right_ankle"]]] = nobody(1)[0, 0]
    moved = retarget(source, to_and_fro(), 30)
    assert np.array_equal(present(moved), present(source)) and np.isfinite(moved[100:120, 0]).all()
    assert np.isnan(floor_line(source, 30)[110])


def test_without_feet_there_is_nothing_to_go_by():
    source = to_and_fro()
    source[:, [ANKLE, INDEX["right_ankle"]]] = nobody(1)[0, 0]
    assert retarget(source, to_and_fro(), 30) is None and retarget(to_and_fro(), nobody(9), 30) is None


# Tester.py

@pytest.fixture
def prepared(tmp_path, dancer):
    """Flags of Tester.py for a checkpoint of the tiny network, beside a dataset that has poses, and a video."""
    pytest.importorskip("imageio_ffmpeg", reason="the extra of requirements/video.txt is not installed")
    from media.ffmpeg import write_mp4

    copy_dataset(dancer, tmp_path / "data")
    write_poses(tmp_path / "data/train/poses.csv", to_and_fro(70))
    save_checkpoint([tmp_path / "tiny.ckpt"], {"state_dict": tiny_model().state_dict(), "last_epoch": 0})
    poses = dance(12, lambda part: (60 + 80 * part, 90, 70))
    poses[:2] = nobody(2)
    write_mp4(tmp_path / "other.mp4", [picture(pose) for pose in poses], 30)
    write_poses(tmp_path / "other.csv", poses)
    return ["--DR", "data", "--ckpt_path", "tiny.ckpt", "--device", "cpu", "--amp", "off"]


@pytest.fixture
def refused(tmp_path, capsys):
    def refuse(*words):
        with pytest.raises(SystemExit) as ended:
            call_script(tmp_path, "Tester", *words)
        error = capsys.readouterr().err
        assert ended.value.code == 2 and error.count("\n") == 1 and "Traceback" not in error
        return error
    return refuse


def test_a_video_drives_the_model(prepared, tmp_path):
    from media.ffmpeg import read_video

    call_script(tmp_path, "Tester", *prepared, "--drive", "other.mp4", "--poses", "other.csv", "--save_root", "out")
    frames = list(read_video(tmp_path / "out/driven.mp4", 30, "--x"))
    assert len(frames) == 10  # from the first frame that shows somebody
    assert frames[0].shape == (3 * 32 + 24, 3 * 3 * 64 + 2 * 4, 3)
    with Image.open(tmp_path / "out/driven.gif") as gif:
        assert gif.n_frames == 10 and gif.info["duration"] == 30  # GIFs count hundredths of a second


def test_a_long_dance_is_an_mp4_alone(prepared, tmp_path, monkeypatch, capsys):
    import Tester

    monkeypatch.setattr(Tester, "MOST_GIF_FRAMES", 9)
    call_script(tmp_path, "Tester", *prepared, "--drive", "other.mp4", "--poses", "other.csv", "--save_root", "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} - {".lock", ".lock_holder"} == {"driven.mp4"}
    assert "10 frames are too many for a GIF" in capsys.readouterr().out


def test_a_video_of_almost_the_rate_drives_at_its_own_from_the_first_frame_with_somebody(prepared, tmp_path):
    from media.ffmpeg import write_mp4

    greys = range(20, 240, 20)
    write_mp4(tmp_path / "film.mp4", [np.full((100, 200, 3), grey, np.uint8) for grey in (0, *greys)], 30 / 1.001)
    drive = open_drive(tmp_path / "film.mp4", tmp_path / "other.csv", tmp_path / "data", (32, 64), 1)
    assert drive.fps == 29.97 and len(drive.labels) == len(drive.video) == 10
    shown = drive.video.float().mean(dim=(1, 2, 3)).tolist()
    assert shown == pytest.approx(greys[1:], abs=5)


def test_a_folder_of_labels_drives_the_model(prepared, tmp_path):
    (tmp_path / "data/train/poses.csv").unlink()
    call_script(tmp_path, "Tester", *prepared, "--drive", "data/test/test_label/1")
    with Image.open(tmp_path / "drive/driven.gif") as gif:
        assert gif.n_frames == 12 and gif.size == (2 * 3 * 64 + 4, 3 * 32 + 24)


def test_the_first_frame_is_the_training_frame_of_the_nearest_label(dancer):
    train = Dataset_Dance(dancer, None, "train", 1)
    assert torch.equal(nearest_start(train, train.labels[17]), train.frames[17])


def test_a_pose_beside_a_label_and_a_faint_one_are_nearer_to_it_than_an_empty_one():
    aside, elsewhere, wanted = (resize_picture(draw_label(standing(column, 110, 80), (128, 256)), (32, 64))
                                for column in (110, 200, 102))
    labels = torch.stack([torch.full_like(aside, 255), elsewhere, aside])
    faint = 255 - (255 - aside) // 3
    train = SimpleNamespace(labels=labels, frames=torch.arange(3))
    assert [int(nearest_start(train, label)) for label in (wanted, faint, *labels)] == [2, 2, 0, 1, 2]


def test_what_cannot_drive_is_refused_in_one_line(prepared, refused, tmp_path):
    from media.ffmpeg import write_mp4

    assert "--drive nowhere: there is no such" in refused(*prepared, "--drive", "nowhere")
    assert "--gt" in refused(*prepared, "--drive", "other.mp4", "--gt", "data/test/gt.csv")
    assert "--samples" in refused(*prepared, "--drive", "other.mp4", "--samples", 2)
    assert "--poses" in refused(*prepared, "--poses", "other.csv")
    assert "--poses" in refused(*prepared, "--drive", "data/test/test_label/1", "--poses", "other.csv")
    (tmp_path / "empty").mkdir()
    for name in ("nowhere.mp4", "other.csv", "empty"):
        assert name in refused(*prepared, "--drive", name, "--poses", "other.csv")
    poses = dance(12, lambda part: (60, 90, 70))
    write_mp4(tmp_path / "slow.mp4", [picture(pose) for pose in poses[:10]], 25)
    for name, numbers in (("slow.mp4", 10), ("other.mp4", 13)):  # at its own rate; more than there are
        write_poses(tmp_path / "numbers.csv", np.resize(poses, (numbers, *poses.shape[1:])))
        error = refused(*prepared, "--drive", name, "--poses", "numbers.csv")
        assert "numbers.csv" in error and "at 30 a second" in error and "--fps" not in error
    write_poses(tmp_path / "none.csv", nobody(12))
    assert "--poses none.csv: no joint" in refused(*prepared, "--drive", "other.mp4", "--poses", "none.csv")
    poses = dance(12, lambda part: (60, 90, 70))
    poses[:, [ANKLE, INDEX["right_ankle"]]] = nobody(1)[0, 0]
    write_poses(tmp_path / "feetless.csv", poses)
    assert "feet" in refused(*prepared, "--drive", "other.mp4", "--poses", "feetless.csv")
    (tmp_path / "data/train/poses.csv").unlink()
    error = refused(*prepared, "--drive", "other.mp4", "--poses", "other.csv")
    assert "poses.csv" in error and "--DR" in error


@pytest.mark.parametrize("height, width", [(4, 4), (8, 16), (128, 8), (32, 64), (64, 3)])
def test_the_start_is_found_among_frames_of_any_size(height, width):
    labels = torch.randint(256, (3, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    train = SimpleNamespace(labels=labels, frames=torch.arange(3))
    assert [int(nearest_start(train, label)) for label in labels] == [0, 1, 2]
