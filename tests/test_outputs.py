"""The files of a run: what is written can be read back, and means what it says."""

import errno
import json
import os
import shutil
import time
import tracemalloc
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from cli.errors import RunError, UsageError
from cli.files import atomic_write, write_json, write_text
from conftest import TINY_TRAINING, copy_dataset, flags, read_csv
from dataset_folder.choice import noted_fps
from engine.saving.logs import read_psnr_per_frame, write_epoch_logs, write_psnr_per_frame
from engine.testing.course import read_truth, write_submission
from media.gif import write_gif
from media.pixel_csv import iterate_written_csv, pixels_of_a_frame, read_pixels_csv, write_pixels_csv
from media.video import VideoFormat, write_comparison, write_video
from Tester import open_truth

FRAME_MILLISECONDS = 20


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


def peak(function):
    """The most memory that Python and NumPy take while the function runs, in bytes."""
    tracemalloc.start()
    function()
    highest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return highest


def plain_frames(levels, height=8, width=16):
    """One grey frame a level, uint8 tensor [T, 3, H, W]."""
    return torch.tensor(levels, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 3, height, width)


def read_gif(path):
    """The frames of a GIF, uint8 [H, W, 3] each, as often as 20 ms pass while it is shown."""
    frames = []
    with Image.open(path) as gif:
        assert gif.info["loop"] == 0
        for number in range(gif.n_frames):
            gif.seek(number)
            times, rest = divmod(gif.info["duration"], FRAME_MILLISECONDS)
            assert rest == 0
            frames += [np.asarray(gif.convert("RGB"))] * times
    return np.stack(frames)


@pytest.mark.parametrize("usage", [None, ["Public", "Private", "Public"]])
def test_pixels_and_the_usage_of_each_sequence_come_back_from_the_csv(tmp_path, usage):
    sequences = [pixels(length, 3, 4, 5, seed=length) for length in (3, 1, 7)]
    write_pixels_csv(tmp_path / "a.csv", sequences, usage)
    read, words = read_pixels_csv(tmp_path / "a.csv", "--gt")
    np.testing.assert_array_equal(read, np.concatenate(sequences).reshape(11, -1))
    assert words == (usage and [word for word, frames in zip(usage, sequences) for _ in frames])
    truth, public = read_truth(tmp_path / "a.csv", sequences, [torch.from_numpy(video) for video in sequences])
    assert public == (usage and [True, False, True])
    assert all(np.array_equal(ours, video) for ours, video in zip(truth, sequences, strict=True))


def test_submission_has_a_row_a_frame_with_ids_running_on_and_integers_in_the_order_c_h_w(tmp_path):
    sequences = [pixels(4, 3, 2, 5), pixels(3, 3, 2, 5, seed=1)]
    write_pixels_csv(tmp_path / "a.csv", sequences)
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[0].split(",") == ["id", *map(str, range(30))]
    rows = [line.split(",") for line in lines[1:]]
    assert [row[0] for row in rows] == [str(number) for number in range(7)]
    frames = [frame for sequence in sequences for frame in sequence]
    for row, frame in zip(rows, frames, strict=True):
        assert all(cell.isdecimal() and 0 <= int(cell) <= 255 for cell in row[1:])
        for place in np.ndindex(3, 2, 5):
            channel, y, x = place
            assert int(row[1 + channel * 10 + y * 5 + x]) == frame[place]


def test_csv_is_read_by_its_header_and_ids_whatever_their_order(tmp_path):
    (tmp_path / "a.csv").write_text("Usage,id,0,1\nPublic,1,3,4\nPrivate,0,1.0,2.4\n")
    read, usage = read_pixels_csv(tmp_path / "a.csv", "--gt")
    assert read.tolist() == [[1, 2], [3, 4]] and usage == ["Private", "Public"]


PLAIN = "id,0,1,Usage\n0,1,2,Public\n1,3,4,Private\n"


@pytest.mark.parametrize("change", [
    lambda text: text, lambda text: text.replace("\n", "\r\n"), lambda text: text.replace("\n", "\r"),
    lambda text: text.replace("\n0,", "\n0.0,").replace("\n1,", "\n1.0,"),
    lambda text: text + '\n \n\t\r\n,,,\n"",""\n',
    lambda text: '"' + text[:-1].replace(",", '","').replace("\n", '"\n"') + '"\n',
    lambda text: text.replace("\n", " \n"),
    lambda text: text.replace(",", " , "), lambda text: text.replace(",", ';'), lambda text: text.replace(",", "\t"),
    lambda text: text.lower(), lambda text: text.replace("id", "ID"), lambda text: text[:-1],
    lambda text: "," + text.replace("\n0", "\n0,0").replace("\n1", "\n1,1"),
    lambda text: text.replace("1,2", "1.0,2e0"), lambda text: text.replace("\n", ",,\n"),
    lambda text: text.replace('0,1', '"0", "1"')])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_csv_saved_anew_by_another_program_is_the_same(tmp_path, change, encoding):
    """A spreadsheet, a text editor, pandas or PowerShell."""
    (tmp_path / "a.csv").write_bytes(change(PLAIN).encode(encoding))
    read, usage = read_pixels_csv(tmp_path / "a.csv", "--gt")
    assert read.tolist() == [[1, 2], [3, 4]] and [word.lower() for word in usage] == ["public", "private"]
    assert pixels_of_a_frame(tmp_path / "a.csv") == 2
    frames = [torch.zeros(1, 1, 1, 2, dtype=torch.uint8)] * 2
    truth, public = read_truth(tmp_path / "a.csv", frames, frames)
    assert torch.cat(truth).flatten(1).tolist() == [[1, 2], [3, 4]] and public == [True, False]


@pytest.mark.parametrize("change, noted", [
    (lambda videos: videos, ""), (lambda videos: [video ^ 3 for video in videos], ""),
    (lambda videos: [(video > 127).byte() for video in videos], "sequence 4 (by"),
    (lambda videos: [videos[0], videos[1].permute(0, 2, 3, 1).reshape(videos[1].shape)], "sequence 7 (by"),
    (lambda videos: [video.flip(1) for video in videos], "sequence 4 (by 49 of 255), 7 (by 49"),
    (lambda videos: videos[::-1], "sequence 4 (by")],
    ids=["as it is", "resized otherwise", "0 to 1", "H, W, C", "B, G, R", "other order"])
def test_a_ground_truth_that_begins_with_another_frame_than_the_given_one_is_told(change, noted, tmp_path, capsys):
    ramp = torch.linspace(0, 110, 16).expand(8, 16)
    frame = torch.stack([ramp, ramp + 30, ramp + 73]).byte()
    videos = [torch.stack([frame, 255 - frame]), torch.stack([frame.flip(1, 2), frame, frame])]
    write_pixels_csv(tmp_path / "gt.csv", [video.numpy() for video in change(videos)])
    open_truth("test", tmp_path / "gt.csv", videos, [video[:1] for video in videos], ["4", "7"])
    said = capsys.readouterr().out
    assert said.startswith(f"note: --gt {tmp_path / 'gt.csv'} differs") and noted in said if noted else said == ""


def test_a_large_csv_is_read_and_checked_a_line_at_a_time(tmp_path):
    """The text has 1.1 MB, the pixels have 0.3 MB."""
    videos = [torch.from_numpy(pixels(100, 3, 16, 32, seed=seed)) for seed in range(2)]
    write_submission(tmp_path / "a.csv", videos, check=False)
    row = 600_000  # bytes: the header and the cells of a row are Python objects
    assert peak(lambda: read_pixels_csv(tmp_path / "a.csv", "--gt")) < row + sum(video.numel() for video in videos)
    assert peak(lambda: write_submission(tmp_path / "a.csv", videos)) < row


def test_a_submission_whose_drive_is_away_is_read_back_later_or_told(tmp_path, monkeypatch):
    videos, read, away = [torch.zeros(2, 3, 4, 4, dtype=torch.uint8)], iterate_written_csv, []

    def read_or_fail(*words):
        if away:
            raise away.pop()
        return read(*words)

    monkeypatch.setattr("engine.testing.course.iterate_written_csv", read_or_fail)
    monkeypatch.setattr("cli.files.WAITS", [0, 0])
    away += [OSError(errno.EIO, "away")] * 2
    write_submission(tmp_path / "a.csv", videos)
    away += [OSError(errno.EIO, "away")] * 9
    with pytest.raises(RunError, match="a.csv was written, but cannot be read back"):
        write_submission(tmp_path / "a.csv", videos)


@pytest.mark.parametrize("wrong", [
    lambda text: text[:text.rindex("\n", 0, -1) + 1], lambda text: text + "2,0,0\n", lambda text: text[:-2] + "9\n",
    lambda text: text.replace("\n0,", "\n2,").replace("\n1,", "\n0,").replace("\n2,", "\n1,")],
    ids=["a row less", "a row more", "another pixel", "rows exchanged"])
def test_a_submission_that_was_not_written_as_it_is_meant_is_told(tmp_path, monkeypatch, wrong):
    def write(path, *_):
        path.write_text(wrong("id,0,1\n0,1,2\n1,3,4\n"))

    monkeypatch.setattr("engine.testing.course.write_pixels_csv", write)
    with pytest.raises(RunError, match="a.csv does not hold what was written"):
        write_submission(tmp_path / "a.csv", [torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8).reshape(2, 1, 1, 2)])


@pytest.mark.parametrize("text, line", [
    ("", None), ("id\n0\n", None), ("0,1\n1,2\n", None), ("id,0,2\n0,1,2\n", None), ("id,0\n0,256\n", 2),
    ("id,0\n0,-1\n", 2), ("id,0\n0,1\n0,1\n", 3), ("id,0\n0,1\n2,1\n", 3), ("id,0\n0,x\n", 2),
    ("id,0\n0,1\n1,1,1\n", 3), ("id,0\n0,nan\n", 2), ("id,0\n0,\n", 2), ("id,0\n-1,3\n", 2),
    ("id,0\n0.5,3\n", 2), ("id,0\n0,1\n\n1,2\n", 3), ("id,0\n0,1x\n", 2), ("id,0,1\n0,1 2,3\n", 2),
    ("id,0,1\n0,1,x\n", 2), ("id,0,1\n0,,3\n", 2), ("id,0\n", None), ('id,0\n"0,1\n', 2), ('id,0\n0,1"\n', 2),
    ('"id,0\n0,1\n', None), ('id,0,1\n0,"1,2",""\n', 2), ("id,0\n,\n0,1\n", 2), ("id;0;1\n0;1,5;2\n", 2),
    ("id,0\nnan,1\n", 2), ("id,0,Usage,1\n0,1,x,2\n", None), ("id,0,1\n0,1,2\n1,3\n", 3)])
def test_a_csv_that_is_none_is_refused_with_its_line(tmp_path, text, line):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UsageError, match="--gt .*a.csv") as error:
        read_pixels_csv(tmp_path / "a.csv", "--gt")
    assert "\n" not in str(error.value)
    assert line is None or f"line {line}:" in str(error.value)


@pytest.mark.parametrize("levels", [
    [0, 50, 100, 150, 200, 250], [0, 0, 0, 50, 50, 100], [9, 80, 80, 80, 80, 80], [7] * 6,
    [0, 200, 0, 200, 0, 0], [30]])
def test_gif_lasts_20_ms_a_frame_and_shows_the_video(tmp_path, levels):
    """A frame equal to the one before is no new frame in a GIF, but a longer duration."""
    video = plain_frames(levels)
    write_video(tmp_path / "a", video, VideoFormat("gif"))
    shown = read_gif(tmp_path / "a.gif")
    np.testing.assert_allclose(shown, video.permute(0, 2, 3, 1).numpy(), atol=8)


@pytest.mark.parametrize("fps, shown", [(15, 12), (25, 12), (30, 12), (36, 12), (50, 12), (60, 6), (120, 4)])
def test_gif_keeps_its_speed_at_any_rate(tmp_path, fps, shown):
    """Browsers slow a frame of less than 20 ms down to 100 ms."""
    write_gif(tmp_path / "a.gif", pixels(12, 8, 16, 3), fps)
    with Image.open(tmp_path / "a.gif") as gif:
        durations = [gif.seek(number) or gif.info["duration"] for number in range(gif.n_frames)]
    assert len(durations) == shown and min(durations) >= 20
    assert sum(durations) == pytest.approx(1000 * 12 / fps, abs=5)


def test_gif_of_a_moving_picture_shows_it(tmp_path):
    ramp = torch.linspace(0, 255, 64).expand(3, 32, 64)
    video = torch.stack([ramp.roll(2 * step, dims=2) for step in range(40)]).to(torch.uint8)
    write_video(tmp_path / "a", video, VideoFormat("gif"))
    shown = read_gif(tmp_path / "a.gif")
    assert shown.shape == (40, 32, 64, 3)
    assert np.abs(shown.astype(int) - video.permute(0, 2, 3, 1).numpy()).mean() < 4


@pytest.mark.parametrize("names", [["label", "prediction"], ["label", "prediction", "truth"], ["alone"]])
@pytest.mark.parametrize("height, scale", [(8, 3), (32, 3), (95, 3), (96, 1), (128, 1)])
def test_comparison_shows_the_videos_side_by_side_below_their_names_and_enlarges_small_ones(
        tmp_path, names, height, scale):
    width = 3 * height if height < 16 else 2 * height  # enough for a name
    videos = {name: plain_frames([60 * place, 60 * place + 20, 60 * place + 40], height, width)
              for place, name in enumerate(names)}
    write_comparison(tmp_path / "a", videos, VideoFormat("gif"))
    shown = read_gif(tmp_path / "a.gif").astype(int)
    assert len(shown) == 3
    rows, columns = shown.shape[1:3]
    assert scale * height < rows < scale * height + 40 and columns >= len(names) * scale * width
    gap = (columns - len(names) * scale * width) // max(len(names) - 1, 1)
    for place, video in enumerate(videos.values()):
        left = place * (scale * width + gap)
        part = shown[:, -scale * height:, left:left + scale * width]
        assert np.abs(part - video[:, 0, 0, 0].numpy().reshape(3, 1, 1, 1)).max() < 16
        above = shown[:, :-scale * height, left:left + scale * width]
        assert above.min() < 100 and above.max() > 230  # dark letters on a bright ground


def test_frames_of_a_gif_are_composed_one_at_a_time(tmp_path, monkeypatch):
    video, made, counts = plain_frames(range(40), 96, 192).contiguous(), [], []
    make = Image.fromarray

    def make_and_count(frame):
        picture = make(frame)
        made.append(weakref.ref(picture))
        counts.append(sum(reference() is not None for reference in made))
        return picture

    monkeypatch.setattr("media.gif.Image.fromarray", make_and_count)
    for write in (lambda: write_comparison(tmp_path / "a", {"label": video, "prediction": video}, VideoFormat("gif")),
                  lambda: write_video(tmp_path / "a", video, VideoFormat("gif"))):
        assert peak(write) < video.numel() / 2  # the arrays
    assert len(counts) == 80 and max(counts) <= 4  # the pictures


def test_metrics_come_back_and_epochs_without_validation_have_empty_cells(tmp_path):
    rows = [{"epoch": epoch, "loss": epoch / 3, "kl": 1e-20, "seconds": 1.5 * epoch} for epoch in range(3)]
    rows[2]["val_psnr"] = 20.5
    write_epoch_logs(tmp_path, rows)
    metrics = read_csv(tmp_path / "metrics.csv")
    assert [int(row["epoch"]) for row in metrics] == [0, 1, 2]
    assert [float(row["loss"]) for row in metrics] == pytest.approx([0, 1 / 3, 2 / 3], rel=1e-7)
    assert float(metrics[0]["kl"]) == 1e-20 and [row["val_psnr"] for row in metrics] == ["", "", "20.5"]
    assert [float(row["seconds"]) for row in read_csv(tmp_path / "times.csv")] == [0, 1.5, 3]


def test_psnr_per_frame_names_frames_from_1_and_leaves_a_shorter_sequence_empty(tmp_path):
    write_psnr_per_frame(tmp_path, [[20.5, 21, 22], [30.25]])
    assert read_csv(tmp_path / "psnr_per_frame.csv") == [
        {"frame": "1", "seq0": "20.5", "seq1": "30.25"}, {"frame": "2", "seq0": "21", "seq1": ""},
        {"frame": "3", "seq0": "22", "seq1": ""}]


def test_json_comes_back(tmp_path):
    content = {"arguments": {"milestones": [2, 5], "DR": None}, "seed": 0}
    write_json(tmp_path / "a.json", content)
    assert json.loads((tmp_path / "a.json").read_text()) == content


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    for text in ("old", "new"):
        with atomic_write(path, "w") as file:
            file.write(text)
            assert not path.exists() or path.read_text() == "old"
    with pytest.raises(KeyboardInterrupt), atomic_write(path, "w") as file:
        file.write("half")
        raise KeyboardInterrupt
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a.txt", "a[1].txt", "a*.txt"])
def test_what_a_killed_process_has_left_of_a_file_is_removed_when_it_is_written_again(name, tmp_path):
    """But not what another process may be writing, and nothing of another file or another program."""
    old, new = tmp_path / f".{name}.123.tmp", tmp_path / f".{name}.124.tmp"
    others = {tmp_path / other for other in (".a1.txt.123.tmp", f".{name}.png.123.tmp", f".{name}.backup.tmp")}
    for path in (old, new, *others):
        path.write_text("half")
    for path in (old, *others):
        os.utime(path, 2 * (time.time() - 4000,))
    write_text(tmp_path / name, "whole")
    assert {*tmp_path.iterdir()} == {new, *others, tmp_path / name}


def test_videos_have_the_speed_of_the_data(dancer, call, tmp_path):
    copy_dataset(dancer, tmp_path / "data")
    (tmp_path / "data/video.json").write_text('{"fps": 10}')
    call("Trainer", "--DR", "data", *TINY_TRAINING, *flags(num_epoch=1, save_root="run"))
    call("Tester", *flags(ckpt_path="run/best.ckpt", DR="data", device="cpu"))
    for path in ("run/best.gif", "run/test/pred_seq0.gif", "run/test/compare_seq0.gif"):
        with Image.open(tmp_path / path) as gif:
            assert gif.info["duration"] % 100 == 0, path  # a frame like the one before lasts twice as long
    assert json.loads((tmp_path / "run/args.json").read_text())["frames_per_second"] == 10
    assert '"fps": 10' in (tmp_path / "run/page.html").read_text()
    mine = {"holiday_seq0.gif", "pred_seq0_epoch3.gif", "my_psnr_per_frame.png"}
    for name in (*mine, "psnr_per_frame.png", "samples.svg"):  # the last two are drawn by Plotting.py
        (tmp_path / "run/test" / name).write_bytes(b"mine")
    call("Tester", *flags(ckpt_path="run/best.ckpt", DR="data", device="cpu"), "--no-make_gif")
    left = {path.name for path in (tmp_path / "run/test").iterdir() if path.suffix in (".gif", ".png", ".svg")}
    assert left == mine


@pytest.mark.parametrize("fails", ["write_submission", "clear_test"])
def test_a_submission_is_not_lost_before_the_new_one_is_there(fails, dancer, call, tmp_path, monkeypatch):
    """As where the disk is full, or on Windows, where nobody can remove a file that a spreadsheet has open."""
    call("Trainer", "--DR", dancer, *TINY_TRAINING, *flags(num_epoch=1, save_root="run"))
    words = ["Tester", *flags(ckpt_path="run/best.ckpt", DR=dancer, device="cpu"), "--no-make_gif"]
    call(*words)
    submission, note = tmp_path / "run/test/submission.csv", tmp_path / "run/test/split.json"
    written = submission.read_bytes()
    submission.write_bytes(b"the earlier one")

    def fail(*arguments, **more):
        raise OSError("cannot")

    with monkeypatch.context() as patch, pytest.raises((OSError, SystemExit)):
        patch.setattr(f"Tester.{fails}", fail)
        call(*words)
    assert submission.read_bytes() == (b"the earlier one" if fails == "write_submission" else written)
    assert note.is_file()


def test_the_dancer_dances_at_her_own_speed(dancer, tmp_path):
    assert noted_fps(dancer) == 30
    shutil.copytree(dancer, tmp_path / "data", ignore=shutil.ignore_patterns(".decoded", "dancer.json"))
    assert noted_fps(tmp_path / "data") == 50  # nobody knows of whom these frames are
    for content, fps in (('{"fps": 12.5}', 12.5), ('{"fps": 0}', 50), ('{"fps": "fast"}', 50), ("[]", 50), ("{", 50)):
        (tmp_path / "data/video.json").write_text(content)
        assert noted_fps(tmp_path / "data") == fps, content


def test_psnr_per_frame_bears_the_names_of_the_sequences(tmp_path):
    write_psnr_per_frame(tmp_path, [torch.tensor([30.0, 31]), torch.tensor([20.0])], ["3", "7"])
    columns = read_psnr_per_frame(tmp_path)
    assert columns["seq3"].tolist() == [30, 31] and columns["seq7"][0] == 20
