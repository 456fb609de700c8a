"""Images of every format, colour mode and orientation: read as a viewer shows them, or refused by name."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cli.errors import UsageError
from conftest import join_png
from dataloader import Dataset_Dance
from media import images
from media.decoded import read_images
from media.images import FORMATS, IMAGE_SUFFIXES, read_image

SIZE = (6, 4)
RGB = np.random.default_rng(0).integers(256, size=(*SIZE, 3), dtype=np.uint8)
ALPHA = np.random.default_rng(1).integers(256, size=SIZE, dtype=np.uint8)
SHOWN = {  # what a viewer shows, by EXIF orientation
    1: lambda stored: stored, 2: lambda stored: stored[:, ::-1], 3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1], 5: lambda stored: stored.swapaxes(0, 1), 6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1), 8: np.rot90}


def read(path):
    """The image as [H, W, 3], int."""
    return read_image(path).permute(1, 2, 0).numpy().astype(int)


def oriented(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("orientation", SHOWN)
@pytest.mark.parametrize("options", [
    {"format": "PNG"}, {"format": "TIFF"}, {"format": "TIFF", "compression": "tiff_lzw"},
    {"format": "WEBP", "lossless": True}, {"format": "JPEG", "quality": 100, "subsampling": 0}],
    ids=lambda options: "-".join(map(str, options.values())))
def test_orientation_of_exif_is_applied(tmp_path, options, orientation):
    Image.fromarray(RGB).save(tmp_path / "0.png", exif=oriented(orientation), **options)
    expected = SHOWN[orientation](RGB)
    assert read(tmp_path / "0.png").shape == expected.shape
    assert np.abs(read(tmp_path / "0.png") - expected).max() <= (5 if options["format"] == "JPEG" else 0)


@pytest.mark.parametrize("orientation", SHOWN)
@pytest.mark.parametrize("pixels", [ALPHA.astype(np.uint16) * 257, np.dstack([RGB, np.full(SIZE, 255, np.uint8)])],
                         ids=["16 bits", "RGBA"])
def test_orientation_is_applied_in_every_mode(tmp_path, pixels, orientation):
    Image.fromarray(pixels).save(tmp_path / "0.png", exif=oriented(orientation))
    expected = SHOWN[orientation](np.repeat(ALPHA[..., None], 3, axis=2) if pixels.ndim == 2 else RGB)
    np.testing.assert_array_equal(read(tmp_path / "0.png"), expected)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_a_broken_exif_block_is_ignored_without_a_word(tmp_path, kind, recwarn):
    """Cut short at any place, overwritten, or none at all: the image is as it lies, or turned if that can be read."""
    whole = oriented(6).tobytes()
    blocks = [whole[:length] for length in range(6, len(whole))]
    blocks += [whole[:place] + b"\xff" * 4 + whole[place + 4:] for place in range(6, len(whole) - 4)]
    paths = [tmp_path / f"{number}.png" for number in range(len(blocks) + 1)]
    for path, block in zip(paths, [*blocks, b"Exif\0\0no block at all"]):
        Image.fromarray(RGB).save(path, format=kind, exif=block, **({"lossless": True} if kind == "WEBP" else {}))
    read, problems, sizes = read_images(paths, lambda image: image, num_workers=2)
    assert None not in read and not any("read" in problem for problem in problems) and len(recwarn) == 0
    assert SIZE in sizes and len(sizes) <= 2
    if kind != "JPEG":
        np.testing.assert_array_equal(read[-1].permute(1, 2, 0), RGB)


GREYS = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"}


def in_mode(mode):
    """A picture in a mode, and what a viewer shows, [H, W, 3]; RGB and ALPHA as far as the mode can hold them."""
    rgb, alpha = Image.fromarray(RGB), Image.fromarray(ALPHA)
    grey = RGB[..., 0] // 128 * 255 if mode == "1" else RGB[..., 0]
    shown = np.repeat(grey[..., None], 3, axis=2) if mode in GREYS else RGB
    if mode in ("P", "PA"):
        rgb = rgb.quantize(16)
        shown = np.asarray(rgb.convert("RGB"))
    if mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        shown = shown * (ALPHA[..., None] / 255) + 255 - ALPHA[..., None]
    if mode in ("I", "I;16", "I;16L", "I;16N"):
        dtype = np.int32 if mode == "I" else np.uint16
        return Image.fromarray(grey.astype(dtype) * 257), shown
    if mode == "I;16B":
        return Image.frombytes(mode, SIZE[::-1], (grey.astype(">u2") * 257).tobytes()), shown
    if mode in ("LA", "La"):
        return Image.merge("LA", [Image.fromarray(grey), alpha]).convert(mode), shown
    if mode == "PA":
        picture = rgb.convert("PA")
        picture.putalpha(alpha)
        return picture, shown
    if mode in ("RGBA", "RGBa"):
        return Image.fromarray(np.dstack([RGB, ALPHA])).convert(mode), shown
    if mode in ("1", "L", "F"):
        return Image.fromarray(grey).convert(mode), shown
    return (rgb if mode == "P" else rgb.convert(mode)), shown


@pytest.mark.parametrize("place", ["file", "memory"])  # a few modes are in no file
@pytest.mark.parametrize("mode", Image.MODES)
def test_every_colour_mode_is_right_or_refused_by_name(tmp_path, monkeypatch, mode, place):
    picture, shown = in_mode(mode)
    try:
        picture.save(tmp_path / "0.tif")
        Image.open(tmp_path / "0.tif").load()  # Pillow before 13 cannot read its own YCbCr
    except (OSError, ValueError):
        if place == "file":
            pytest.skip("no file has this mode")
    if place == "memory":
        monkeypatch.setattr(images.Image, "open", lambda *_, **__: picture)
    if mode == "F":
        with pytest.raises(UsageError, match="0.tif has pixels of mode F; .*8 bits"):
            read_image(tmp_path / "0.tif")
    else:
        rounding = {"HSV": 6, "LAB": 20, "YCbCr": 3, "La": 2, "RGBa": 2}.get(mode, 1)  # of 8 bits in these colours
        assert np.abs(read(tmp_path / "0.tif") - shown).max() <= rounding


@pytest.mark.parametrize("value", [-1, 65536])
def test_whole_numbers_beyond_16_bits_are_refused(tmp_path, value):
    Image.fromarray(np.full(SIZE, value, np.int32)).save(tmp_path / "0.tif")
    with pytest.raises(UsageError, match="0.tif has pixels of mode I "):
        read_image(tmp_path / "0.tif")


def test_16_bits_in_which_0_is_white(tmp_path):
    Image.fromarray(np.array([[0, 65535]], np.uint16)).save(tmp_path / "0.tif", tiffinfo={262: 0})
    assert read(tmp_path / "0.tif")[0, :, 0].tolist() == [255, 0]


def write_png(path, depth, colour, row, key):
    """A PNG of one row with a transparent colour: its bits a sample, its colour type, its packed samples."""
    width = 8 * len(row) // depth // (3 if colour == 2 else 1)
    path.write_bytes(join_png([
        (b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0)),
        (b"tRNS", struct.pack(f">{len(key)}H", *key)), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]))


@pytest.mark.parametrize("depth, colour, row, key, shown", [
    (1, 0, b"\xa0", [0], [255] * 8), (2, 0, b"\x1b", [1], [0, 255, 170, 255]), (4, 0, b"\x3a", [10], [51, 255]),
    (8, 0, b"\x03\x0a", [3], [255, 10]), (16, 0, struct.pack(">2H", 2570, 40000), [40000], [10, 255]),
    (16, 2, struct.pack(">6H", 2570, 0, 0, 1000, 2000, 3000), [1000, 2000, 3000], [10, 255])])
def test_a_transparent_colour_is_white_whatever_the_bits(tmp_path, depth, colour, row, key, shown):
    write_png(tmp_path / "0.png", depth, colour, row, key)
    assert read(tmp_path / "0.png")[0, :, 0].tolist() == shown


def savable_suffixes():
    extensions = Image.registered_extensions()
    return sorted(suffix for suffix in IMAGE_SUFFIXES if extensions[suffix] in Image.SAVE)


@pytest.mark.parametrize("suffix", savable_suffixes())
def test_every_format_that_pillow_reads_is_taken(tmp_path, suffix):
    halves = np.repeat(np.array([0, 255], np.uint8), 16)[None].repeat(32, axis=0)  # any format can hold these
    for kind in ("img", "label"):
        path = tmp_path / "train" / f"train_{kind}" / f"0{suffix}"
        path.parent.mkdir(parents=True)
        for mode in ("RGB", "P", "1"):
            try:
                Image.fromarray(halves).convert(mode).save(path)
                break
            except (OSError, ValueError):
                continue
    frame, _ = Dataset_Dance(tmp_path, None, "train", 1, frame_size=(32, 32), num_workers=1)[0]
    assert np.abs(255 * frame[0].numpy() - halves).mean() < 8


def test_first_frame_of_an_animation_is_taken_and_the_content_counts_not_the_suffix(tmp_path):
    first, second = Image.fromarray(RGB), Image.fromarray(255 - RGB)
    for options in ({"format": "PNG"}, {"format": "WEBP", "lossless": True}, {"format": "TIFF"}):
        first.save(tmp_path / "0.jpg", save_all=True, append_images=[second], **options)
        np.testing.assert_array_equal(read(tmp_path / "0.jpg"), RGB)


def test_a_vast_image_in_a_small_file_is_refused(tmp_path):
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "PNG")
    png = bytearray(file.getvalue())
    png[16:24] = struct.pack(">II", 60000, 60000)
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    header = struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(png), 22)
    for content in (png, header + png):
        (tmp_path / "0.png").write_bytes(content)
        with pytest.raises(UsageError, match="0.png .* too many") as refused:
            read_image(tmp_path / "0.png")
        assert "\n" not in str(refused.value)


def test_formats_that_pillow_only_knows_by_name_or_that_start_programs_are_none():
    assert {"EPS", "HDF5", "MPEG"} & set(FORMATS) == set()
    assert {".eps", ".h5", ".mpg", ".txt", ".json"} & IMAGE_SUFFIXES == set()
