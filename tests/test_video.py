"""MP4 files: what was generated, frame by frame, in a form that every player takes; an extra."""

import sys

import numpy as np
import pytest
import torch

from cli.errors import RunError
from conftest import TINY_TRAINING, flags
from dataloader import Dataset_Dance
from media.ffmpeg import write_mp4
from media.video import VideoFormat, write_comparison, write_video
from test_outputs import peak, pixels, plain_frames

SIZES = [(32, 64), (33, 65), (96, 192)]


@pytest.fixture
def ffmpeg():
    return pytest.importorskip("imageio_ffmpeg", reason="MP4 needs imageio-ffmpeg: requirements/video.txt")


@pytest.fixture
def read_mp4(ffmpeg):
    """read_mp4(path) is its frames, uint8 [T, H, W, 3], and what the file says of itself."""
    def read(path):
        frames = ffmpeg.read_frames(path, output_params=["-vf", "scale=flags=accurate_rnd+full_chroma_int+bicubic"])
        about = next(frames)
        width, height = about["size"]
        return np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in frames]), about

    return read


def dance(dancer, size):
    """The validation frames and labels at a size (H, W), uint8 [T, 3, H, W] each."""
    val_set = Dataset_Dance(dancer, None, "val", 20, frame_size=size, num_workers=1)
    return val_set.frames, val_set.labels


def assert_like(shown, frames):
    """Each frame shown has more than 35 dB, and the mean colour; both uint8 [T, H, W, 3]."""
    assert len(shown) == len(frames)
    errors = ((shown.astype(float) - frames) ** 2).mean(axis=(1, 2, 3))
    assert (10 * np.log10(255**2 / errors)).min() > 35
    np.testing.assert_allclose(shown.mean(axis=(0, 1, 2)), frames.mean(axis=(0, 1, 2)), atol=1)


@pytest.mark.parametrize("size", SIZES)
def test_mp4_shows_every_frame_for_20_ms(read_mp4, dancer, tmp_path, size):
    frames, _ = dance(dancer, size)
    write_video(tmp_path / "a", frames, VideoFormat("mp4"))
    shown, about = read_mp4(tmp_path / "a.mp4")
    assert about["fps"] == 50 and about["codec"] == "h264"
    assert about["pix_fmt"].startswith("yuv420p(tv, bt709") and "unknown" not in about["pix_fmt"]
    scale = 1 if size[0] == 96 else 3  # small frames are enlarged
    height, width = scale * size[0], scale * size[1]
    assert shown.shape[1:3] == (height + height % 2, width + width % 2)
    assert_like(shown[:, :height, :width], frames.permute(0, 2, 3, 1).numpy().repeat(scale, 1).repeat(scale, 2))
    assert np.abs(shown[:, -1].astype(int) - shown[:, height - 1]).max() < 64  # the row that makes it even: no border


@pytest.mark.parametrize("size", SIZES)
def test_comparison_is_the_same_picture_as_gif_and_as_mp4(read_mp4, dancer, tmp_path, monkeypatch, size):
    frames, labels = dance(dancer, size)
    composed = []
    monkeypatch.setattr("media.video.write_gif", lambda path, frames, fps: composed.extend(frames))
    write_comparison(tmp_path / "a", {"label": labels, "truth": frames}, VideoFormat("both"))
    height, width = composed[0].shape[:2]
    assert_like(read_mp4(tmp_path / "a.mp4")[0][:, :height, :width], np.stack(composed))


@pytest.mark.parametrize("video_format, names", [
    ("gif", ["a.gif", "b.gif"]), ("mp4", ["a.mp4", "b.mp4"]), ("both", ["a.gif", "a.mp4", "b.gif", "b.mp4"])])
def test_videos_are_written_in_the_formats_asked_for(ffmpeg, tmp_path, video_format, names):
    write_video(tmp_path / "a", plain_frames([0, 100]), VideoFormat(video_format))
    write_comparison(tmp_path / "b", {"label": plain_frames([0, 100])}, VideoFormat(video_format))
    assert sorted(path.name for path in tmp_path.iterdir()) == names


@pytest.mark.parametrize("first, then", [("gif", "mp4"), ("mp4", "gif"), ("both", "gif")])
def test_no_earlier_video_of_another_format_is_left_beside(ffmpeg, tmp_path, first, then):
    for video_format in (first, then):
        write_video(tmp_path / "a", plain_frames([0, 100]), VideoFormat(video_format))
    assert [path.name for path in tmp_path.iterdir()] == [f"a.{then}"]


def test_an_earlier_video_that_cannot_be_removed_is_told(tmp_path, capsys):
    (tmp_path / "a.mp4").mkdir()  # as if another program had it open
    write_video(tmp_path / "a", plain_frames([0, 100]), VideoFormat("gif"))
    assert (tmp_path / "a.gif").is_file() and f"note: {tmp_path / 'a.mp4'}, of an earlier" in capsys.readouterr().out


def test_frames_of_an_mp4_are_composed_one_at_a_time(ffmpeg, tmp_path):
    video = torch.from_numpy(pixels(40, 3, 96, 192))
    videos = {"label": video, "truth": video}
    assert peak(lambda: write_comparison(tmp_path / "a", videos, VideoFormat("mp4"))) < video.numel() / 2


def test_an_mp4_that_cannot_be_written_is_told_in_one_line(ffmpeg, tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_text("old")
    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", lambda: sys.executable)  # which takes none of these words
    with pytest.raises(RunError, match="a.mp4 cannot be written .ffmpeg: ") as error:
        write_mp4(tmp_path / "a.mp4", pixels(40, 96, 192, 3), fps=50)
    assert "\n" not in str(error.value)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_an_mp4_whose_frames_fail_is_not_written(ffmpeg, tmp_path):
    def frames():
        yield from pixels(3, 8, 16, 3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_mp4(tmp_path / "a.mp4", frames(), fps=50)
    assert list(tmp_path.iterdir()) == []


def test_scripts_write_their_videos_in_the_format_asked_for(ffmpeg, dancer, call, tmp_path):
    run = tmp_path / "run"
    call("Trainer", "--DR", dancer, *TINY_TRAINING,
         *flags(num_epoch=1, save_root=run, store_visualization=True, video_format="mp4"))
    assert sorted(path.name for path in run.glob("*.[gm][ip][f4]")) == ["best.mp4", "epoch=0.mp4"]
    call("Tester", *flags(DR=dancer, ckpt_path=run / "best.ckpt", samples=2, video_format="both", device="cpu"))
    names = "pred_seq0", "pred_seq1", "compare_seq0", "compare_seq1", "samples_seq0"
    written = {path.name for path in (run / "test").iterdir()} - {
        "submission.csv", "split.json", "first.npz", "samples.npz", ".lock", ".lock_holder"}
    assert written == {f"{name}.{suffix}" for name in names for suffix in ("gif", "mp4")}
    call("Trainer", "--DR", dancer, *TINY_TRAINING, *flags(num_epoch=1, save_root=run, overwrite=True))
    assert [path.name for path in run.glob("*.mp4")] == []


@pytest.mark.parametrize("script", ["Trainer", "Tester"])
def test_a_missing_package_is_told_before_any_work(dancer, call, capsys, monkeypatch, tmp_path, script):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    monkeypatch.setattr(f"{script}.build_model", None)
    words = {"Trainer": TINY_TRAINING, "Tester": ["--ckpt_path", tmp_path / "best.ckpt"]}[script]
    torch.save({"state_dict": {}}, tmp_path / "best.ckpt")
    monkeypatch.setattr("engine.saving.start.network_dimensions", lambda *_: {})
    for video_format in ("mp4", "both"):
        with pytest.raises(SystemExit) as ended:
            call(script, "--DR", dancer, *words, "--video_format", video_format)
        error = capsys.readouterr().err
        assert ended.value.code == 2 and error.count("\n") == 1
        assert "--video_format mp4" in error and "pip install -r requirements/video.txt" in error
