"""Files from strangers, changed at random: each is read, or refused with status 2 and one line."""

import csv
import io
import random
import shutil
import struct
import warnings
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cli import flags
from cli.script import run_script
from conftest import ROOT, join_png
from dataloader import Dataset_Dance
from engine.saving.checkpoint import load_checkpoint, load_weights, network_dimensions
from engine.testing.course import read_truth
from media.pixel_csv import write_pixels_csv
from modules import VAE_Model

HIDDEN_WARNINGS = (DeprecationWarning, PendingDeprecationWarning, ResourceWarning)  # as Python does by default


@pytest.fixture
def outcome(capfd, monkeypatch):
    """outcome(number, function) is what the function gives, or None if it is refused as it should be."""
    monkeypatch.setattr("sys.argv", ["Script.py"])

    def judge(number, function):
        results, status = [], 0
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter("always")
            try:
                run_script(lambda: results.append(function()))
            except SystemExit as ended:
                status = ended.code or 0
            except Exception as error:
                raise AssertionError(f"input {number} ends in a traceback: {error!r}") from error
        said = capfd.readouterr().err
        shown = [warning.message for warning in shown if not issubclass(warning.category, HIDDEN_WARNINGS)]
        assert status in (0, 2), f"input {number}: status {status}"
        assert said.count("\n") == bool(status) and not shown, f"input {number}: {said!r} {shown}"
        return results[0] if results else None

    return judge


def assert_some_of_both(results):
    """Of the inputs some must be good and some bad, or they try nothing."""
    good = sum(result is not None for result in results)
    assert len(results) / 50 < good < len(results) * 49 / 50, f"{good} of {len(results)} were read"


def mutate_bytes(data, rng):
    """Flip, cut, repeat, insert, overwrite or exchange some bytes."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        start, stop = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        stop = min(stop, start + rng.choice([1, 4, 40, 10**6]))
        part = data[start:stop]
        data[start:stop] = {
            "flip": bytes(byte ^ (1 << rng.randrange(8)) if rng.random() < 0.3 else byte for byte in part),
            "cut": b"", "repeat": part * 3, "reverse": part[::-1], "zeros": bytes(len(part)),
            "ones": b"\xff" * len(part), "insert": rng.randbytes(rng.randrange(1, 9)) + part,
        }[rng.choice(["flip", "flip", "cut", "repeat", "reverse", "insert", "zeros", "ones"])]
        if rng.random() < 0.1:
            del data[rng.randrange(len(data) + 1):]
    return bytes(data)


SIZE = (8, 16)
PIXELS = np.random.default_rng(0).integers(256, size=(*SIZE, 4), dtype=np.uint8)
GREY = PIXELS[..., 0]
EDGES = [0, 1, 2, 3, 7, 8, 16, 17, 255, 4096, 8192, 9000, 12000, 2**16, 2**31 - 1, 2**31, 2**32 - 1]


def encode(image, **options):
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()


def images_of_all_kinds():
    palette = Image.fromarray(PIXELS[..., :3]).quantize(8)
    pictures = [Image.fromarray(PIXELS[..., :3]), Image.fromarray(PIXELS), Image.fromarray(GREY), palette,
                Image.fromarray(PIXELS[..., :2]), Image.fromarray(GREY > 99),
                Image.fromarray(GREY.astype(np.uint16) * 257)]
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation
    return [("0.png", encode(picture, format="PNG")) for picture in pictures] + [
        ("0.png", encode(palette, format="PNG", transparency=0)),
        ("0.png", encode(pictures[0], format="PNG", save_all=True, append_images=pictures[:1])),
        ("0.jpg", encode(pictures[0], format="JPEG")), ("0.jpeg", encode(pictures[2], format="JPEG")),
        ("0.jpg", encode(pictures[0], format="JPEG", exif=turned)),
        ("0.png", encode(pictures[0], format="PNG", exif=turned)),
        ("0.webp", encode(pictures[1], format="WEBP", lossless=True, exif=turned)),
        ("0.gif", encode(palette, format="GIF", save_all=True, append_images=pictures[:1])),
        ("0.bmp", encode(pictures[0], format="BMP"))]


def split_png(data):
    """The chunks of a PNG, as [kind, content]."""
    chunks, place = [], 8
    while place < len(data):
        [length] = struct.unpack(">I", data[place:place + 4])
        chunks.append([data[place + 4:place + 8], data[place + 8:place + 8 + length]])
        place += length + 12
    return chunks


def mutate_png(data, rng):
    """Change a PNG such that its lengths and checksums are right."""
    chunks = split_png(data)
    place = rng.randrange(len(chunks))
    change = rng.choice(["shuffle", "drop", "repeat", "content", "kind", "header", "header", "header", "add"])
    if change == "shuffle":
        rng.shuffle(chunks)
    elif change == "drop":
        del chunks[place]
    elif change == "repeat":
        chunks.insert(rng.randrange(len(chunks)), list(chunks[place]))
    elif change == "content":
        chunks[place][1] = mutate_bytes(chunks[place][1], rng)
    elif change == "kind":
        chunks[place][0] = rng.choice(b"PLTE tRNS IDAT IEND iCCP gAMA acTL fdAT abcd".split())
    elif change == "header":
        fields = list(struct.unpack(">IIBBBBB", chunks[0][1]))
        for field in rng.sample(range(7), rng.choice([1, 2])):
            fields[field] = rng.choice(EDGES) if field < 2 else rng.choice([0, 1, 2, 3, 4, 6, 8, 16, 255])
        chunks[0][1] = struct.pack(">IIBBBBB", *fields)
    else:
        long = zlib.compress(bytes(rng.choice([10, 10**7])))
        chunks.insert(1, [rng.choice([b"zTXt", b"iCCP", b"iTXt"]),
                          rng.choice([b"name\0\0" + long, b"name\0\1\0\0\0" + long, b"", b"name"])])
    return join_png(chunks)


def test_images(outcome, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "train"))  # which is no place for a cache
    kinds = images_of_all_kinds()
    for kind in ("train_img", "train_label"):
        (tmp_path / "train" / kind).mkdir(parents=True)
    (tmp_path / ".decoded").write_text("so that nothing is cached")
    (tmp_path / "train/dance-cvae").write_text("nor here")
    results = []
    for number in range(900):
        rng = random.Random(number)
        name, data = rng.choice(kinds)
        changed = mutate_png(data, rng) if name == "0.png" and rng.random() < 0.6 else mutate_bytes(data, rng)
        for kind, content in (("train_img", changed), ("train_label", data)):
            folder = tmp_path / "train" / kind
            for old in folder.iterdir():
                old.unlink()
            (folder / name).write_bytes(content)
        dataset = outcome(number, lambda: Dataset_Dance(tmp_path, None, "train", 1, frame_size=SIZE, num_workers=1))
        results.append(dataset)
        if dataset:
            assert dataset.frames.shape == (1, 3, *SIZE) and dataset.frames.dtype == torch.uint8
    assert_some_of_both(results)


def strange_name(rng):
    number = rng.choice(["1", "2", "01", "0002", "7", "99999999999", "9" * 200, "-1", "+1", " 1", "1 ", "1.0",
                         "1e3", "1_0", "\u0661", "\u00b2", "\uff11", "", "\u202e1", "1\n", "1\n2", "\t", "a" * 200,
                         "frame", "\udcff", "%s", "{}", "frame3", "Frame3", "frame03", "frame-3", "frame 3", "0x1",
                         "#1", "@1", "".join(chr(rng.randrange(48, 0x2fff)) for _ in range(rng.randrange(1, 9)))])
    return number + rng.choice([".png", ".png", ".PNG", ".jpg", ".JPEG", ".txt", "-", ".png.png", ".png "])


LAYOUT = [*(f"train/train_{kind}/{number}.png" for kind in ("img", "label") for number in range(4)),
          *(f"test/test_label/{sequence}/{number}.png" for sequence in range(2) for number in range(2)),
          "test/test_img/0/0.png", "test/test_img/1/0.png"]


def spoil_layout(root, rng):
    """Rename, add, remove or replace a file or a folder of a dataset."""
    paths = [path for path in root.rglob("*") if path != root / "train"]
    path = rng.choice([path for path in paths if path.is_file()] if rng.random() < 0.8 else paths)
    other = path.with_name(strange_name(rng))
    change = rng.choice(["rename", "rename", "add", "add", "remove", "folder", "link", "lengths"])
    if change == "rename":
        if not other.exists() or path.is_file() and other.is_file():
            path.rename(other)
    elif change == "add":
        if not other.exists():
            other.write_bytes((root / LAYOUT[0]).read_bytes() if (root / LAYOUT[0]).is_file() else b"")
    elif change == "lengths":
        (root / "train/sequences.txt").write_bytes(mutate_bytes(b"2\n2\n", rng) if rng.random() < 0.7 else rng.choice(
            [b"4", b"1 3", b"0 4", b"-1 5", b"4" * 5000, "\u0664".encode(), b"", b"4.0", b"\xb2 2"]))
    else:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        if change == "folder":
            path.mkdir()
        elif change == "link":
            path.symlink_to(rng.choice(["nowhere", path.name, "0.png", "/dev/null", "/etc/passwd", root / LAYOUT[1],
                                        ".."]))


def test_file_names(outcome, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no_cache"))
    (tmp_path / "no_cache").write_text("nothing is cached")
    image = encode(Image.fromarray(PIXELS[..., :3]), format="PNG")
    results = []
    for number in range(500):
        rng, root = random.Random(number), tmp_path / "data"
        for name in LAYOUT:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(image)
        (root / ".decoded").write_text("nothing is cached")
        for _ in range(rng.choice([1, 1, 2])):
            with suppress(OSError):  # Windows and macOS refuse some names, and Windows links
                spoil_layout(root, rng)
        mode = rng.choice(["train", "train", "test"])
        results.append(outcome(number, lambda: Dataset_Dance(root, None, mode, 1, frame_size=SIZE, num_workers=1)))
        if results[-1]:
            assert len(results[-1].frames) == len(results[-1].labels) > 0
        shutil.rmtree(root)
    assert_some_of_both(results)


SMALL = {"F_dim": 8, "L_dim": 2, "N_dim": 4, "D_out_dim": 8}


def read_model(path):
    """The model of a checkpoint, as Tester makes it."""
    content = load_checkpoint(path)
    model = VAE_Model(**network_dimensions(content["state_dict"], path))
    load_weights(model, content, path)
    return model


def mutate_members(data, rng):
    """Change what is in a checkpoint's archive such that all checksums are right."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice([*members])
    if rng.random() < 0.6:
        name = next(name for name in members if name.endswith("data.pkl"))
    change = rng.choice(["content", "content", "content", "drop", "rename"])
    content = members.pop(name)
    if change == "content":
        members[name] = mutate_bytes(content, rng)
    elif change == "rename":
        members[name + "x"] = content
    changed = io.BytesIO()
    with zipfile.ZipFile(changed, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return changed.getvalue()


def mutate_content(content, rng):
    """Change a weight of a checkpoint, or what stands in the place of its dicts, and save it anew."""
    weights = dict(content["state_dict"])
    name = rng.choice(["frame_transformation.6.weight", "label_transformation.4.conv2.weight",
                       "Gaussian_Predictor.6.weight", "Decoder_Fusion.5.weight", *weights])
    old = weights[name]
    weights[name] = rng.choice([
        lambda: old[:1], lambda: old[:0], lambda: old.flatten(), lambda: old.sum(), lambda: torch.cat([old, old]),
        lambda: old.double(), lambda: old.half(), lambda: old.to(torch.complex64), lambda: old.int(),
        lambda: old > 0, lambda: old.to_sparse(), lambda: old * float("nan"), lambda: old.flip(0),
        lambda: old.new_zeros(1).expand(10**9), lambda: old.new_zeros(1, 1, 1, 1).expand(10**7, 8, 3, 3),
        lambda: torch.empty(old.shape, device="meta"),
        lambda: torch._empty_affine_quantized(old.shape, scale=1, dtype=torch.qint8),
        lambda: None, lambda: 3.5, lambda: [1, 2], lambda: old.tolist()])()
    if rng.random() < 0.2:
        weights[rng.choice([name + ".x", 3, None, ("a", 1), ""])] = weights.pop(name)
    content = rng.choice([{"state_dict": weights}] * 9 + [weights, [weights], None, {"state_dict": [weights]}])
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore:.*quantize")
def test_checkpoints(outcome, tmp_path):
    content = {"state_dict": VAE_Model(**SMALL).state_dict(), "lr": 0.1, "arguments": {"seed": 0}}
    file, path, results = io.BytesIO(), tmp_path / "a.ckpt", []
    torch.save(content, file)
    for number in range(500):
        rng = random.Random(number)
        path.write_bytes([lambda: mutate_bytes(file.getvalue(), rng), lambda: mutate_members(file.getvalue(), rng),
                          lambda: mutate_content(content, rng)][number % 3]())
        results.append(outcome(number, lambda: read_model(path)))
    assert_some_of_both(results)


def mutate_text(text, rng, cells, separators):
    """Exchange, drop, repeat or replace some lines and cells of a text; or change its bytes."""
    if rng.random() < 0.2:
        return mutate_bytes(text.encode(), rng)
    lines = text.split("\n")
    for _ in range(rng.choice([1, 1, 2])):
        place, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        change = rng.choice(["cell", "cell", "cell", "cell", "drop", "repeat", "exchange", "end", "insert"])
        if change == "cell":
            separator = rng.choice(separators)
            words = lines[place].split(separator)
            words[rng.randrange(len(words))] = rng.choice(cells)
            lines[place] = separator.join(words)
        elif change == "drop":
            lines.pop(place) if len(lines) > 1 else None
        elif change == "repeat":
            lines.insert(other, lines[place])
        elif change == "exchange":
            lines[place], lines[other] = lines[other], lines[place]
        elif change == "insert":
            lines.insert(place, rng.choice(cells))
        else:
            lines[place] += rng.choice([",", " ", "\r", "\0", ",1", "#", '"', "x", "\u2028"])
    return "\n".join(lines).encode("utf-8", "surrogatepass")


CELLS = ["", " ", "0", "1", "255", "255.4", "256", "-1", "-0", "1e2", "1e400", "nan", "inf", "x", "3x", "0x1", "1 2",
         '"3"', "'3'", "id", "Usage", "Public", "1" * 5000, "\u0663", "1_0", "\0", "\ufeffid", "\udcff", "2.5.1", "+7",
         "1;2", ".5", "=1+1"]


def test_ground_truth(outcome, tmp_path):
    path, results = tmp_path / "gt.csv", []
    lengths, shape = (3, 2), (3, 2, 3)
    rng = np.random.default_rng(0)
    write_pixels_csv(path, [rng.integers(256, size=(length, *shape), dtype=np.uint8) for length in lengths],
                     ["Public", "Private"])
    text = path.read_text()
    labels, frames = ([torch.zeros(length, *shape) for length in lengths] for _ in range(2))
    for number in range(700):
        rng = random.Random(number)
        path.write_bytes(mutate_text(text, rng, CELLS, [","]))
        read = outcome(number, lambda: read_truth(path, labels, frames))
        results.append(read)
        if read:  # then it is what the table says
            with open(path, encoding="utf-8-sig", newline="") as file:
                rows = [row for row in csv.DictReader(file) if row["id"].strip()]
            rows.sort(key=lambda row: float(row["id"]))
            pixels = [[float(row[str(column)]) for column in range(18)] for row in rows]
            np.testing.assert_array_equal(torch.cat(read[0]).flatten(1), np.round(pixels))
    assert_some_of_both(results)


WORDS = ["", " ", "--", "-", "@", "@recipe.txt", "@nowhere", "'", '"', "\\", "#", "--lr", "--lr=1", "--lr=x", "-1",
         "nan", "inf", "1e999", "--help", "--batch", "--no-shuffle", "--no-lr", "--milestones", "--tfr_per", "frame",
         "9" * 5000, "\u0663",
         "%s", "%(prog)s", "--%d", "{0}", "\0", "\r", "\x1c", "\udcff", "--DR", "--test", "=", "--optim", "\x1b[2J",
         "\ufeff"]


@pytest.mark.parametrize("script", ["trainer", "tester"])
def test_recipes(script, outcome, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipes = [path.read_text() for path in sorted((ROOT / "recipes").glob("*.txt"))]

    def parse():
        parser = getattr(flags, f"{script}_parser")()
        return vars(parser.parse_args(["@recipe.txt"])), parser.typed_flags(["@recipe.txt"])

    results = []
    for number in range(300):
        rng = random.Random(number)
        Path("recipe.txt").write_bytes(mutate_text(rng.choice(recipes), rng, WORDS, [" "]))
        results.append(outcome(number, parse))
    assert_some_of_both(results)
