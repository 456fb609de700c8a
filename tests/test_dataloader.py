"""The dataset: items are what lies in the files, paired and in order, and clips stay in their sequences."""

import errno
import os
import re
import shutil
import struct
import zlib
from collections import Counter
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from PIL import Image

from cli.errors import UsageError
from conftest import copy_dataset, join_png, link
from dataloader import Dataset_Dance
from dataset_folder.check import describe_dataset
from engine.batches import epoch_starts
from engine.testing.perceptual import import_transforms
from media import decoded
from media.images import read_image, resize_image
from modules.pixels import to_unit
from Tester import open_sequences

SIZE = (8, 16)
transforms = import_transforms()


def images(number, seed=0, size=SIZE):
    return np.random.default_rng(seed).integers(256, size=(number, *size, 3), dtype=np.uint8)


def write_folder(folder, pixels, name="{}.png"):
    folder.mkdir(parents=True)
    for number, image in enumerate(pixels):
        iio.imwrite(folder / name.format(number), image)


def write_split(root, mode, number, lengths=None, seed=0, name="{}.png"):
    """A split of random images that need no resizing; returns its frames and labels."""
    frames, labels = images(number, seed), images(number, seed + 100)
    write_folder(root / mode / f"{mode}_img", frames, name)
    write_folder(root / mode / f"{mode}_label", labels, name)
    if lengths:
        (root / mode / "sequences.txt").write_text("\n".join(map(str, lengths)))
    return frames, labels


def open_set(root, mode="train", video_len=4, **options):
    return Dataset_Dance(root, None, mode, video_len, frame_size=SIZE, num_workers=1, **options)


def channels_first(pixels):
    """[..., H, W, 3] as a file has it -> [..., 3, H, W], value by value."""
    out = np.empty((*pixels.shape[:-3], 3, *pixels.shape[-3:-1]), pixels.dtype)
    for channel in range(3):
        out[..., channel, :, :] = pixels[..., channel]
    return out


def assert_clip(item, frames, labels):
    for ours, theirs in zip(item, (frames, labels)):
        assert ours.dtype == torch.float32
        np.testing.assert_array_equal(ours.numpy(), channels_first(theirs).astype(np.float32) / 255)


@pytest.mark.parametrize("mode", ["train", "val"])
@pytest.mark.parametrize("name", ["{}.png", "frame{}.png", "{:05}.png"])
def test_items_hold_the_pixels_of_the_files_in_the_order_of_their_numbers(tmp_path, mode, name):
    frames, labels = write_split(tmp_path, mode, 12, name=name)
    dataset = open_set(tmp_path, mode)
    assert len(dataset) == 3
    for number in range(3):
        part = slice(4 * number, 4 * number + 4)
        assert_clip(dataset[number], frames[part], labels[part])


def test_numbers_need_not_begin_at_0_nor_be_without_gaps_and_other_files_do_not_matter(tmp_path):
    numbers = [2, 9, 10, 11, 100, 1000]
    frames, labels = images(6), images(6, seed=1)
    for kind, pixels in (("img", frames), ("label", labels)):
        folder = tmp_path / "train" / f"train_{kind}"
        folder.mkdir(parents=True)
        for number, image in zip(numbers, pixels):
            iio.imwrite(folder / f"frame{number}.png", image)
        (folder / "notes.txt").write_text("not an image")
    assert_clip(open_set(tmp_path, video_len=6)[0], frames, labels)


def test_test_sequences_are_in_order_each_with_its_first_frame_and_all_its_labels(tmp_path):
    lengths = {0: 3, 2: 12, 10: 5}
    for number, length in lengths.items():
        write_folder(tmp_path / "test/test_img" / str(number), images(1, seed=number))
        write_folder(tmp_path / "test/test_label" / str(number), images(length, seed=50 + number))
    dataset = open_set(tmp_path, "test")
    assert dataset.names == ["0", "2", "10"] and len(dataset) == 3
    for item, (number, length) in zip([dataset[index] for index in range(3)], lengths.items()):
        assert_clip(item, images(1, seed=number), images(length, seed=50 + number))


@pytest.mark.parametrize("first", [0, 1, 7])
def test_first_frame_of_a_test_sequence_is_the_one_of_its_first_label(tmp_path, first):
    frames, labels = images(9), images(5, seed=1)
    for kind, pixels, numbers in (("img", frames, range(9)), ("label", labels, range(first, first + 5))):
        folder = tmp_path / f"test/test_{kind}/0"
        folder.mkdir(parents=True)
        for number, image in zip(numbers, pixels):
            iio.imwrite(folder / f"{number}.png", image)
    assert_clip(open_set(tmp_path, "test")[0], frames[first:first + 1], labels)
    (tmp_path / f"test/test_img/0/{first}.png").unlink()
    named = f"test_img/0 has no frame {first}, .*; name the first frame {first}.png"
    with pytest.raises(UsageError, match=named + ("; or, if label 0 is what is missing, add that$" if first else "$")):
        open_set(tmp_path, "test")
    assert any(f"test_img/0 has no frame {first}," in problem for problem in describe_dataset(tmp_path)[0])


def test_hidden_files_and_sidecars_are_no_images(tmp_path):
    frames, labels = write_split(tmp_path, "train", 4)
    for name in ("._0.png", ".0.png", "._x.png", ".DS_Store", "0.txt", "3.json", "frame1.xmp", "Thumbs.db", "0.png~"):
        (tmp_path / "train/train_img" / name).write_bytes(b"of another program")
    (tmp_path / "train/train_label/9").mkdir()
    assert_clip(open_set(tmp_path)[0], frames, labels)


@pytest.mark.parametrize("name, words", [
    ("4.heic", "4.heic has the suffix .heic, .*convert it to .png"), ("frame0004.TXT", "suffix .TXT"),
    ("4", "no suffix"), ("4.he\nic", "suffix .he.nic")])
def test_a_numbered_file_that_is_no_image_and_has_none_beside_it_is_named(tmp_path, name, words):
    write_split(tmp_path, "train", 4)
    (tmp_path / "train/train_img" / name).write_bytes(b"what may be frame 4")
    with pytest.raises(UsageError, match=words) as error:
        open_set(tmp_path)
    assert "\n" not in str(error.value) and "more like it" not in str(error.value)
    (tmp_path / "train/train_img/5.raw").write_bytes(b"what may be frame 5")
    with pytest.raises(UsageError, match="and 1 more like it"):
        open_set(tmp_path)


def test_images_and_folders_may_be_links_to_anywhere(tmp_path):
    frames, labels = write_split(tmp_path / "elsewhere", "train", 4)
    folder, root = tmp_path / "elsewhere/train", tmp_path / "data"
    (root / "train/train_img").mkdir(parents=True)
    for path in (folder / "train_img").iterdir():
        link(root / "train/train_img" / path.name, path)
    link(root / "train/train_label", folder / "train_label")
    assert_clip(open_set(root)[0], frames, labels)
    link(tmp_path / "whole", root)
    assert_clip(open_set(tmp_path / "whole")[0], frames, labels)


def test_a_test_sequence_of_one_frame_is_named(tmp_path):
    write_folder(tmp_path / "data/test/test_img/7", images(1))
    write_folder(tmp_path / "data/test/test_label/7", images(1))
    with pytest.raises(UsageError, match="test_label/7 has one label"):
        open_set(tmp_path / "data", "test")


def test_a_gap_in_the_labels_of_a_test_sequence_is_refused(tmp_path):
    """As after a download that broke off: the frames after it would be written a row too early."""
    for number in (0, 1):
        write_folder(tmp_path / f"test/test_img/{number}", images(1))
        write_folder(tmp_path / f"test/test_label/{number}", images(9))
    for missing in (7, 6):
        (tmp_path / f"test/test_label/1/{missing}.png").unlink()
        with pytest.raises(UsageError, match=f"test_label/1 skips .*, the first of them {missing};"):
            open_set(tmp_path, "test")
        [problem] = [problem for problem in describe_dataset(tmp_path)[0] if "test_label" in problem]
        assert f"the first of them {missing};" in problem and "\n" not in problem


@pytest.mark.parametrize("kind", ["img", "label"])
@pytest.mark.parametrize("name", ["seq1", "1_", "one"])
def test_a_sequence_not_named_by_a_number_is_refused_and_not_left_out(tmp_path, kind, name):
    for number in (0, 1):
        write_folder(tmp_path / f"test/test_img/{number}", images(1))
        write_folder(tmp_path / f"test/test_label/{number}", images(5))
    for other in (".hidden", ".ipynb_checkpoints", "@eaDir", "__MACOSX", "$RECYCLE.BIN", "lost+found"):
        (tmp_path / "test/test_img" / other).mkdir()
    (tmp_path / "test/test_label/notes.txt").write_text("no sequence")
    assert open_set(tmp_path, "test").names == ["0", "1"]
    write_folder(tmp_path / f"test/test_{kind}" / name, images(5))
    with pytest.raises(UsageError, match=f"test_{kind}/{name} is not named by a number"):
        open_set(tmp_path, "test")
    assert any(f"test_{kind}/{name} is not" in problem for problem in describe_dataset(tmp_path)[0])


def test_a_dataset_without_test_sequences_is_said_to_do_for_a_training(tmp_path):
    write_split(tmp_path, "train", 4)
    write_split(tmp_path, "val", 4)
    problems, facts = describe_dataset(tmp_path)
    assert problems == []
    assert any("test/test_label is missing" in fact and "training does not" in fact for fact in facts)
    assert any("--val_vi_len 4 or less" in fact for fact in facts)


@pytest.mark.parametrize("given", ["train", "train/train_img", "train/train_img/0", "..", "../..", "../../../../.."])
def test_the_folder_that_is_meant_is_found_above_and_below_the_one_given(tmp_path, given):
    root = tmp_path / "a/b/c/course/LAB4"
    write_split(root, "train", 4)
    (root / "train/train_img/0").mkdir()
    (tmp_path / "a/b/c/course/__MACOSX/train/train_img").mkdir(parents=True)  # as a .zip from a Mac brings along
    meant = root.resolve() if ".." not in given else root / given / root.relative_to((root / given).resolve())
    for open_dataset, flag in ((open_set, "--DR"), (describe_dataset, "--check")):
        with pytest.raises(UsageError) as error:
            open_dataset(root / given)
        assert str(error.value) == f"{flag} {root / given} holds neither train nor val nor test; give {flag} {meant}"


def test_of_several_datasets_below_a_folder_each_is_named_and_of_a_misnamed_folder_the_right_name(tmp_path):
    for name in ("dancer", "LAB4"):
        write_split(tmp_path / "data" / name, "train", 4)
    with pytest.raises(UsageError, match="give --DR .*data/LAB4 or .*data/dancer$"):
        open_set(tmp_path / "data")
    (tmp_path / "data/LAB4/train/train_img").rename(tmp_path / "data/LAB4/train/img")
    with pytest.raises(UsageError, match="LAB4/train/train_img is missing; lay the dataset out"):
        open_set(tmp_path / "data/LAB4")


@pytest.mark.parametrize("label_size, said", [(SIZE, False), ((2 * SIZE[0], 2 * SIZE[1]), False),
                                              ((SIZE[0], SIZE[0]), True)])
def test_images_of_different_shapes_are_told(tmp_path, label_size, said):
    write_folder(tmp_path / "train/train_img", images(4))
    write_folder(tmp_path / "train/train_label", images(4, size=label_size))
    assert any("same shape" in fact for fact in describe_dataset(tmp_path)[1]) == said


def test_shorter_test_sequences_are_named(tmp_path, capsys):
    for number, length in ((0, 8), (1, 9), (12, 7)):
        write_folder(tmp_path / f"test/test_img/{number}", images(1))
        write_folder(tmp_path / f"test/test_label/{number}", images(length))
    [fact] = describe_dataset(tmp_path)[1]
    assert "3 sequences of 7 or 8 or 9 labels (sequence 0 has 8; sequence 12 has 7)" in fact
    open_sequences(tmp_path, "test", 4, 1.0, {"frame_size": SIZE, "num_workers": 1})
    assert "note: the longest test sequence has 9 labels, but sequence 0 has 8; sequence 12" in capsys.readouterr().out


@pytest.mark.parametrize("target, kind", [("nowhere", "a broken"), ("itself", "an endless")])
@pytest.mark.parametrize("place", ["train/train_img/2.png", "train/train_label", "train", "train/sequences.txt", "",
                                   "test/test_img/0", "test/test_img/0/0.png", "test/test_label", "test/test_label/0"])
def test_a_link_that_leads_nowhere_is_named(tmp_path, place, target, kind):
    root = tmp_path / "data"
    write_split(root, "train", 4, [4])
    write_folder(root / "test/test_img/0", images(1))
    write_folder(root / "test/test_label/0", images(4))
    path = root / place
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    link(path, path if target == "itself" else tmp_path / target)
    with pytest.raises(UsageError) as error:
        open_set(root, place.split("/")[0] or "train")
    assert str(error.value).startswith(f"{path} is {kind} link;")


def test_clips_lie_within_their_sequences_and_in_the_end_cover_them(tmp_path):
    lengths, video_len = [7, 3, 4, 12, 5], 4
    write_split(tmp_path, "train", sum(lengths), lengths)
    dataset = open_set(tmp_path, video_len=video_len)
    valid = {start for end, length in zip(np.cumsum(lengths), lengths)
             for start in range(end - length, end - video_len + 1)}
    drawn = set()
    for seed in range(200):
        starts = dataset.clip_starts(generator=torch.Generator().manual_seed(seed)).tolist()
        assert len(starts) == len(dataset) == 1 + 0 + 1 + 3 + 1
        drawn |= set(starts)
    assert drawn == valid
    assert set(dataset.clip_starts().tolist()) <= valid


def test_clips_are_the_frames_and_labels_from_their_start_on(tmp_path):
    frames, labels = write_split(tmp_path, "train", 20)
    starts = [13, 0, 5]
    clips = open_set(tmp_path).clips(torch.tensor(starts))
    for ours, theirs in zip(clips, (frames, labels)):
        expected = np.stack([theirs[start:start + 4] for start in starts])
        np.testing.assert_array_equal(ours.numpy(), channels_first(expected))


def test_every_frame_is_as_likely_to_be_in_the_training_clips_of_long_sequences(tmp_path):
    write_split(tmp_path, "train", 40)
    dataset = open_set(tmp_path)
    starts = torch.cat([dataset.clip_starts(generator=torch.Generator().manual_seed(seed)) for seed in range(300)])
    counts = torch.bincount(starts, minlength=37).float()
    assert len(counts) == 37 and counts.min() > 0.5 * counts.mean() and counts.max() < 1.6 * counts.mean()


def test_epochs_differ_in_their_order_and_hold_the_same_clips(tmp_path):
    write_split(tmp_path, "train", 80, [50, 30])
    dataset = open_set(tmp_path)

    def order(seed, **options):
        return epoch_starts(dataset, torch.Generator().manual_seed(seed), **options).tolist()

    orders = [order(seed, random_start=False) for seed in range(5)]
    assert len(set(map(tuple, orders))) == 5
    for starts in orders:
        assert starts != sorted(starts) and sorted(starts) == dataset.clip_starts().tolist()
    assert order(3) == order(3) != order(4)
    assert order(0, shuffle=False, random_start=False) == dataset.clip_starts().tolist()
    assert order(0, shuffle=False) == sorted(order(0, shuffle=False)) != order(1, shuffle=False)


@pytest.mark.parametrize("partial", [0.1, 0.25, 0.5, 0.99, 1.0])
def test_partial_is_the_set_of_the_first_frames_alone(tmp_path, partial):
    lengths = [16, 4, 20]
    frames, labels = write_split(tmp_path, "train", 40, lengths)
    dataset, used = open_set(tmp_path, partial=partial), round(40 * partial)
    assert len(dataset.frames) == len(dataset.labels) == sum(dataset.sequence_lengths) == used
    for index in range(len(dataset)):
        start = dataset.clip_starts()[index]
        assert start + 4 <= used
        assert_clip(dataset[index], frames[start:start + 4], labels[start:start + 4])
    whole = open_set(tmp_path)
    assert whole.clip_starts(partial).tolist() == dataset.clip_starts().tolist()
    assert epoch_starts(whole, torch.Generator(), partial=partial).max() + 4 <= used


def test_video_length_may_be_all_frames_and_no_more(tmp_path):
    write_split(tmp_path, "val", 9)
    assert len(open_set(tmp_path, "val", 9)) == 1
    assert len(open_set(tmp_path, "val", 1)) == 9
    with pytest.raises(UsageError, match="9.*--val_vi_len"):
        open_set(tmp_path, "val", 10)
    write_split(tmp_path, "train", 9, [4, 5])
    with pytest.raises(UsageError, match="5.*--train_vi_len"):
        open_set(tmp_path, "train", 6)


@pytest.mark.parametrize("text", ["3\n5\n", "4 x 5", "12", "-1 10", "9.0"])
def test_sequence_lengths_that_do_not_sum_up_are_refused(tmp_path, text):
    write_split(tmp_path, "train", 9)
    (tmp_path / "train/sequences.txt").write_text(text)
    with pytest.raises(UsageError, match="sequences.txt"):
        open_set(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
def test_sequence_lengths_may_come_from_any_text_editor(encoding, tmp_path):
    write_split(tmp_path, "train", 9)
    (tmp_path / "train/sequences.txt").write_bytes("\ufeff4\r\n5 \r\n\r\n".encode(encoding))
    assert open_set(tmp_path).sequence_lengths == [4, 5]


def refuse_to_decode(path):
    raise AssertionError(f"{path} is decoded")


def test_second_opening_decodes_nothing_and_another_size_or_reader_does(tmp_path, monkeypatch):
    write_split(tmp_path, "train", 9)
    first = open_set(tmp_path)
    monkeypatch.setattr(decoded, "read_image", refuse_to_decode)
    again = open_set(tmp_path)
    assert torch.equal(first.frames, again.frames) and torch.equal(first.labels, again.labels)
    with pytest.raises(AssertionError):
        Dataset_Dance(tmp_path, None, "train", 4, frame_size=(4, 8), num_workers=1)
    monkeypatch.setattr(decoded, "READER_VERSION", decoded.READER_VERSION + 1)
    with pytest.raises(AssertionError):
        open_set(tmp_path)


def test_a_drive_is_asked_about_each_image_once(tmp_path, monkeypatch):
    """A mounted one takes milliseconds for each answer."""
    write_split(tmp_path, "train", 9)
    open_set(tmp_path)
    asked, stat = Counter(), os.stat
    monkeypatch.setattr(os, "stat", lambda path, *more, **others: (
        asked.update([str(path)]) or stat(path, *more, **others)))
    open_set(tmp_path)
    assert {asked[str(path)] for path in tmp_path.rglob("*.png")} == {1}


def test_an_outdated_cache_that_cannot_be_removed_is_not_in_the_way_of_the_others(tmp_path, monkeypatch):
    write_split(tmp_path, "train", 9)
    (tmp_path / ".decoded").mkdir()
    outdated = {f"train-train_img-8x16-9-{number}.npy" for number in range(3)} | {".train-train_img-8x16-9-3.npy.5.tmp"}
    for name in outdated:  # the last one of a process that was killed
        (tmp_path / ".decoded" / name).write_bytes(b"")
        os.utime(tmp_path / ".decoded" / name, (0, 0))
    tried = []

    def refuse(path, missing_ok=False):
        tried.append(path.name)
        raise PermissionError(13, "in use")

    monkeypatch.setattr(Path, "unlink", refuse)
    open_set(tmp_path)
    assert outdated <= {*tried}


def test_a_dataset_that_was_moved_is_not_decoded_again(tmp_path, monkeypatch):
    """Or that another machine knows by another path."""
    frames, labels = write_split(tmp_path / "data", "train", 9)
    open_set(tmp_path / "data")
    (tmp_path / "data").rename(tmp_path / "moved")
    monkeypatch.setattr(decoded, "read_image", refuse_to_decode)
    assert_clip(open_set(tmp_path / "moved", video_len=9)[0], frames, labels)


@pytest.mark.parametrize("mapped_from, is_mapped", [(1, True), (decoded.MAPPED, False)])
def test_only_a_large_cache_is_mapped(mapped_from, is_mapped, tmp_path, monkeypatch):
    """A page that a drive cannot deliver ends the process: nothing tells a mapped tensor but where its memory lies."""
    frames, labels = write_split(tmp_path, "train", 9)
    monkeypatch.setattr(decoded, "MAPPED", mapped_from)
    loaded = []
    monkeypatch.setattr(decoded.np, "load", lambda *a, load=np.load, **b: loaded.append(load(*a, **b)) or loaded[-1])
    for _ in range(2):
        assert_clip(open_set(tmp_path, video_len=9)[0], frames, labels)
    assert {isinstance(pixels, np.memmap) for pixels in loaded} == {is_mapped}


def test_a_changed_added_or_removed_file_is_seen(tmp_path):
    frames, labels = write_split(tmp_path, "train", 9)
    open_set(tmp_path)
    frames[5] = 255 - frames[5]
    iio.imwrite(tmp_path / "train/train_img/5.png", frames[5])
    assert_clip(open_set(tmp_path, video_len=9)[0], frames, labels)
    for kind, pixels in (("img", frames), ("label", labels)):
        iio.imwrite(tmp_path / f"train/train_{kind}/9.png", pixels[0])
        (tmp_path / f"train/train_{kind}/0.png").unlink()
    order = [1, 2, 3, 4, 5, 6, 7, 8, 0]
    assert_clip(open_set(tmp_path, video_len=9)[0], frames[order], labels[order])


def test_another_set_of_the_same_names_and_sizes_is_not_taken_for_this_one(tmp_path, monkeypatch):
    """Which a cache that both share, the user's, might do; files from an archive may be equally old and large."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, seed in (("one", 0), ("two", 1)):
        frames, labels = write_split(tmp_path / name, "train", 4, seed=seed, name="{}.bmp")
        for path in (tmp_path / name).rglob("*.bmp"):
            os.utime(path, ns=(0, 0))
        (tmp_path / name / ".decoded").write_text("in the way of the folder")
        assert_clip(open_set(tmp_path / name)[0], frames, labels)
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 4


def test_a_root_that_cannot_be_written_is_cached_for_the_user(tmp_path, monkeypatch):
    frames, labels = write_split(tmp_path / "data", "train", 4)
    (tmp_path / "data/.decoded").write_text("in the way of the folder")  # as root may write anywhere
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    open_set(tmp_path / "data")
    monkeypatch.setattr(decoded, "read_image", refuse_to_decode)
    assert_clip(open_set(tmp_path / "data")[0], frames, labels)


@pytest.mark.parametrize("of_user", [False, True])
def test_a_cache_does_not_grow_with_every_change(of_user, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    frames, _ = write_split(tmp_path / "data", "train", 9)
    write_split(tmp_path / "other", "train", 9)
    for name in ("data", "other") if of_user else ():
        (tmp_path / name / ".decoded").write_text("in the way of the folder")
    for number in range(3):  # frames change, the labels do not
        iio.imwrite(tmp_path / "data/train/train_img/5.png", frames[number])
        for name in ("data", "other"):
            open_set(tmp_path / name)
    assert len(list(tmp_path.rglob("*.npy"))) == 4
    (tmp_path / "data/train/train_img/8.png").unlink()
    (tmp_path / "data/train/train_label/8.png").unlink()
    open_set(tmp_path / "data")
    of_nine = [path for path in tmp_path.rglob("*.npy") if "-9-" in path.name]
    assert len(of_nine) == 4 and len(list(tmp_path.rglob("*-8-*.npy"))) == 2  # another --partial may use them
    for path in of_nine:
        os.utime(path, (0, 0))
    iio.imwrite(tmp_path / "data/train/train_img/5.png", frames[3])
    open_set(tmp_path / "data")
    assert len([path for path in of_nine if path.exists()]) == 3  # those of the labels were read, not written


def test_without_any_place_for_a_cache_the_set_is_read_all_the_same(tmp_path, monkeypatch, capsys):
    frames, labels = write_split(tmp_path / "data", "train", 4)
    (tmp_path / "data/.decoded").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "data/.decoded"))
    assert_clip(open_set(tmp_path / "data")[0], frames, labels)
    assert "can be written nowhere" in capsys.readouterr().out


def failing_at_first(function, error, times=1):
    """The function, which fails with an error in its first calls."""
    calls = []

    def call(*words, **more):
        calls.append(words)
        if len(calls) <= times:
            raise error
        return function(*words, **more)

    return call


@pytest.mark.parametrize("number, mapped_from", [(errno.EIO, decoded.MAPPED), (errno.ENODEV, 1)])
def test_a_cache_whose_drive_is_away_for_a_moment_or_cannot_map_it_is_read(number, mapped_from, tmp_path, monkeypatch):
    frames, labels = write_split(tmp_path, "train", 9)
    open_set(tmp_path)
    monkeypatch.setattr(decoded, "read_image", refuse_to_decode)
    monkeypatch.setattr(decoded, "MAPPED", mapped_from)
    monkeypatch.setattr("cli.files.WAITS", [0])
    monkeypatch.setattr(decoded.np, "load", failing_at_first(np.load, OSError(number, "cannot")))
    assert_clip(open_set(tmp_path, video_len=9)[0], frames, labels)


def test_a_cache_that_another_process_has_written_meanwhile_is_not_replaced(tmp_path, monkeypatch):
    """It may have it mapped, and on a network drive the old file would be gone under it."""
    write_split(tmp_path, "train", 9)
    decode, written = decoded.decode_images, {}

    def decode_slowly(paths, *words):
        if not written:
            written["first"] = None
            open_set(tmp_path)  # as another process would
            written.update((path, path.stat().st_ino) for path in (tmp_path / ".decoded").glob("*.npy"))
        return decode(paths, *words)

    monkeypatch.setattr(decoded, "decode_images", decode_slowly)
    open_set(tmp_path)
    del written["first"]
    assert len(written) == 2 and all(path.stat().st_ino == inode for path, inode in written.items())


def test_a_transform_must_give_images_of_one_shape(tmp_path):
    write_split(tmp_path, "train", 4)
    widths = iter(range(4, 100))

    def narrower(image):
        return torch.zeros(3, 8, next(widths), dtype=torch.uint8)

    with pytest.raises(ValueError, match="of one shape"):
        Dataset_Dance(str(tmp_path), narrower, "train", 4, num_workers=1)


@pytest.mark.parametrize("part", [0, 0.1, 0.9])
def test_a_cache_cut_short_is_decoded_anew(tmp_path, part):
    frames, labels = write_split(tmp_path, "train", 4)
    open_set(tmp_path)
    for path in (tmp_path / ".decoded").iterdir():
        path.write_bytes(path.read_bytes()[:int(part * path.stat().st_size)])
    assert_clip(open_set(tmp_path)[0], frames, labels)


def test_writing_into_an_item_changes_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(decoded, "MAPPED", 1)  # or the items would be copies anyhow
    frames, labels = write_split(tmp_path, "train", 4)
    dataset = open_set(tmp_path)
    dataset.frames[:] = 0
    assert_clip(open_set(tmp_path)[0], frames, labels)


@pytest.mark.parametrize("size", [(4, 4), (32, 64), (31, 17), (100, 200)])
def test_resize_is_torchvision_s(size):
    random = torch.Generator().manual_seed(0)
    for height, width in ((32, 64), (5, 300), (128, 256), (101, 67)):
        image = torch.randint(0, 256, (3, height, width), generator=random, dtype=torch.uint8)
        expected = transforms.functional.resize(image, list(size), antialias=True)
        assert torch.equal(resize_image(image, size), expected)


def test_images_are_resized_as_by_antialiased_bilinear(dancer):
    default = Dataset_Dance(dancer, None, "val", 20, frame_size=(32, 64), num_workers=1)[0]
    transform = transforms.Compose([transforms.Resize((32, 64)), transforms.ToTensor()])
    custom = Dataset_Dance(dancer, transform, "val", 20, num_workers=1)[0]
    for ours, theirs in zip(default, custom):
        assert ours.shape == theirs.shape == (20, 3, 32, 64)
        assert (ours - theirs).abs().max() < 2.5 / 255  # Pillow and torch round differently
    source = to_unit(read_image(dancer / "val/val_img/7.png"))
    coarse = source.unflatten(1, (32, -1)).unflatten(3, (64, -1)).mean(dim=(2, 4))
    assert (default[0][7] - coarse).abs().mean() < 0.02


def test_a_transform_that_normalises_is_refused(tmp_path):
    write_split(tmp_path, "train", 4)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)])
    with pytest.raises(ValueError, match=r"must give a tensor in \[0, 1\]"):
        Dataset_Dance(tmp_path, transform, "train", 4)


@pytest.mark.parametrize("convert", [lambda image: (255 * image).byte(), lambda image: image])
def test_a_transform_may_give_float_or_uint8(tmp_path, convert):
    frames, labels = write_split(tmp_path, "train", 4)

    def transform(image):
        assert isinstance(image, Image.Image)
        return convert(torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255)

    for ours, theirs in zip(Dataset_Dance(tmp_path, transform, "train", 4)[0], (frames, labels)):
        assert (ours - torch.from_numpy(channels_first(theirs)) / 255).abs().max() < 1.01 / 255


def write_png_16(path, pixels):
    """A PNG with 16 bits a channel, grey [H, W] or RGB [H, W, 3]."""
    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, 0 if pixels.ndim == 2 else 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    path.write_bytes(join_png([(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]))


def over_white(colour, alpha):
    alpha = alpha[..., None] / 255
    return colour * alpha + 255 * (1 - alpha)


RGB, GREY, ALPHA = images(1)[0], images(1, seed=1)[0][..., 0], images(1, seed=2)[0][..., 0]
DEEP = np.random.default_rng(3).integers(65536, size=(*SIZE, 3))
PALETTED = Image.fromarray(RGB).quantize(8)
KINDS = {  # what Pillow writes, and what a viewer shows of it
    "RGB": (Image.fromarray(RGB), RGB),
    "grey": (Image.fromarray(GREY), GREY[..., None]),
    "palette": (PALETTED, np.asarray(PALETTED.convert("RGB"))),
    "black and white": (Image.fromarray(GREY > 99), 255 * (GREY[..., None] > 99)),
    "RGBA": (Image.fromarray(np.dstack([RGB, ALPHA])), over_white(RGB, ALPHA)),
    "grey and alpha": (Image.fromarray(np.dstack([GREY, ALPHA])), over_white(GREY[..., None], ALPHA)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_every_kind_are_read_as_a_viewer_shows_them(tmp_path, kind):
    image, expected = KINDS[kind]
    image.save(tmp_path / "0.png")
    read = read_image(tmp_path / "0.png")
    assert read.shape == (3, *SIZE) and read.dtype == torch.uint8
    expected = channels_first(np.broadcast_to(expected, (*SIZE, 3)))
    assert np.abs(read.numpy() - expected).max() <= 0.5


@pytest.mark.parametrize("pixels", [DEEP, DEEP[..., 0], DEEP // 256, np.full(SIZE, 65535)],
                         ids=["RGB", "grey", "dark RGB", "white"])
def test_16_bits_become_8(tmp_path, pixels):
    write_png_16(tmp_path / "0.png", pixels)
    read = read_image(tmp_path / "0.png")
    expected = np.broadcast_to(pixels.reshape(*SIZE, -1) / 257, (*SIZE, 3))
    assert read.dtype == torch.uint8
    assert np.abs(read.numpy() - channels_first(expected)).max() <= 1


@pytest.mark.parametrize("mode, ground, see_through", [
    ("P", 1, 0), ("RGB", (7, 8, 9), (1, 2, 3)), ("L", 70, 30)])
def test_a_colour_that_is_see_through_is_white(tmp_path, mode, ground, see_through):
    image = Image.new(mode, (SIZE[1], SIZE[0]), ground)
    if mode == "P":
        image.putpalette([0, 0, 0, 200, 100, 50])
    expected = np.array(image.convert("RGB"))
    expected[2, 3] = 255
    image.putpixel((3, 2), see_through)
    image.save(tmp_path / "0.png", transparency=see_through)
    np.testing.assert_array_equal(read_image(tmp_path / "0.png").numpy(), channels_first(expected))


def test_jpeg_is_read_too(tmp_path):
    smooth = np.linspace(0, 255, 8 * 16 * 3).reshape(*SIZE, 3).astype(np.uint8)
    for number, suffix in enumerate(("jpg", "jpeg", "JPG")):
        root = tmp_path / str(number)  # jpg and JPG may be the same folder
        for kind in ("img", "label"):
            folder = root / "train" / f"train_{kind}"
            folder.mkdir(parents=True)
            Image.fromarray(smooth).save(folder / f"0.{suffix}", format="JPEG", quality=95)
        frame = open_set(root, video_len=1)[0][0][0]
        assert (frame - torch.from_numpy(channels_first(smooth)) / 255).abs().mean() < 0.03


def test_a_whole_dataset_is_described_without_complaint(dancer):
    problems, facts = describe_dataset(dancer)
    assert problems == []
    train, val, test = facts
    assert "70 frames" in train and "20 frames" in val and "2 sequences of 12 labels, " in test
    assert all("256 x 128" in fact for fact in facts)


def test_labels_on_black_are_named(dancer, tmp_path):
    root = tmp_path / "inverted"
    copy_dataset(dancer, root)
    for path in (root / "train/train_label").iterdir():
        iio.imwrite(path, 255 - iio.imread(path))
    [problem] = describe_dataset(root)[0]
    assert str(root / "train/train_label") in problem and "white" in problem


def test_everything_wrong_with_a_dataset_is_described_at_once(dancer, tmp_path):
    root = tmp_path / "broken"
    copy_dataset(dancer, root)
    (root / "train/train_label/17.png").unlink()
    (root / "val/val_img/3.png").write_bytes(b"no image")
    iio.imwrite(root / "val/val_label/4.png", images(1)[0])
    shutil.rmtree(root / "test/test_img/1")
    problems, _ = describe_dataset(root)
    for words in (("17", "train_label"), (str(root / "val/val_img/3.png"),), ("different sizes", "16 x 8"),
                  (str(root / "test/test_img/1"),)):
        assert any(all(word in problem for word in words) for problem in problems), words
    assert len(problems) == 4 and not any("\n" in problem for problem in problems)


def test_of_many_faults_of_a_kind_the_first_are_named_in_their_order(dancer, tmp_path):
    root = tmp_path / "broken"
    copy_dataset(dancer, root)
    numbers = range(2, 20)
    for number in numbers:
        (root / f"train/train_label/{number}.png").unlink()
        size = 8 + number
        iio.imwrite(root / f"val/val_img/{number}.png", np.zeros((size, size, 3), np.uint8))
    lone, sizes = describe_dataset(root)[0]
    assert [int(number) for number in re.findall(r"frame (\d+) in", lone)] == [*numbers][:10]
    assert sizes.count(" x ") == 10 and "and 9 more" in sizes and len(sizes) < 1000


@pytest.mark.parametrize("mode", ["train", "val"])
@pytest.mark.parametrize("lengths, said", [
    ("9 3 1", "2 of the 3 sequences in {}, 4 frames in all, give no clip of 4"), ("9 4", ""), ("13", "")])
def test_sequences_too_short_for_a_clip_are_told(mode, lengths, said, tmp_path, capsys):
    write_split(tmp_path, mode, sum(map(int, lengths.split())))
    (tmp_path / mode / "sequences.txt").write_text("\n".join(lengths.split()))
    Dataset_Dance(tmp_path, None, mode, 4, frame_size=(8, 16), num_workers=1)
    out = capsys.readouterr().out
    assert said.format(tmp_path / mode / f"{mode}_img") in out and ("note" in out) == bool(said)
    fact, *_ = describe_dataset(tmp_path)[1]
    assert {"9 3 1": "3 sequences of 1 to 9", "9 4": "2 sequences of 4 to 9", "13": "1 sequence"}[lengths] in fact
    longest = max(map(int, lengths.split()))
    assert (f" (give --val_vi_len {longest} or less), " in fact) == (mode == "val")


def test_a_sequence_that_partial_has_cut_is_not_called_too_short(tmp_path, capsys):
    write_split(tmp_path, "train", 18)
    (tmp_path / "train/sequences.txt").write_text("9\n9\n")
    assert len(Dataset_Dance(tmp_path, None, "train", 4, 0.6, frame_size=(8, 16), num_workers=1)) == 2
    assert "note" not in capsys.readouterr().out
    assert "in 2 sequences of 9," in describe_dataset(tmp_path)[1][0]
