"""The page of runs: one file that holds what the runs have, exactly, and nothing that a name could break."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import Plotting
from cli.errors import UsageError
from conftest import call_script, flags
from engine.saving.logs import OLDEST_COLUMNS, read_videos, save_videos, write_epoch_logs, write_test_note
from figures.page import page_title, write_page
from figures.page_videos import picked_frames
from figures.sprites import Sheets, sheet
from test_plotting import write_run

SIZE = "--frame_H 8 --frame_W 16"
SCORES = {"this model": {"psnr": 30.5, "ssim": 0.9, "private": None},  # None: there are three sequences or fewer
          "nearest label": {"psnr": 22.25, "ssim": 0.8}}


def note(folder, **changed):
    """Note a test in a folder, as Tester.py does."""
    write_test_note(folder, {"split": "test", "checkpoints": ["runs/a/best.ckpt"], "epoch": None, "views": 1,
                             "precision": "float32", "temperature": 1.0, "seed": 0, "frames_per_second": 50} | changed)


class Elements(HTMLParser):
    """The elements of a page, and its text outside script and style."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.text, self.inside = [], "", None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, text):
        if self.inside not in ("script", "style"):
            self.text += f"{text} "


def data_of(page):
    """What the page's script reads."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def videos(frames=21, seed=0):
    generator = np.random.default_rng(seed)
    return {name: torch.from_numpy(generator.integers(256, size=(frames, 3, 8, 16), dtype=np.uint8))
            for name in ("label", "prediction", "truth")}


def frames_of(entry):
    """The frames of a sheet: uint8 [T, 3, H, W]."""
    image = Image.open(io.BytesIO(base64.b64decode(entry["source"].partition(",")[2])))
    pixels, height, width = np.asarray(image.convert("RGB")), entry["height"], entry["width"]
    corners = [divmod(number, entry["columns"]) for number in range(entry["frames"])]
    return np.stack([pixels[row * height:(row + 1) * height, column * width:(column + 1) * width]
                     for row, column in corners]).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("frames", [2, 21, 630])
def test_a_sheet_holds_every_pixel(frames):
    video = videos(frames)["truth"].numpy()
    np.testing.assert_array_equal(frames_of(sheet(video, exact=True)), video)


def test_a_sheet_that_would_be_too_large_is_made_smaller():
    ramp = np.linspace(0, 255, 512).astype(np.uint8)
    video = np.broadcast_to(ramp, (260, 3, 256, 512))  # twice as many pixels as a phone can show
    entry = sheet(video, exact=True)
    assert (entry["frames"], entry["height"], entry["width"]) == (260, 128, 256)
    assert np.abs(frames_of(entry)[0].astype(int) - video[0, :, ::2, ::2]).mean() < 3
    assert len(entry["source"]) < 2e6


def test_equal_videos_share_a_sheet():
    sheets = Sheets()
    first, second, again = videos(seed=0), videos(seed=1), videos(seed=0)
    shown = [*first.values(), *second.values(), again["truth"]]
    assert [sheets.add(video.numpy(), exact=True) for video in shown] == [0, 1, 2, 3, 4, 5, 2]
    assert len(sheets.all) == 6


def test_page_asks_for_nothing_and_holds_the_curves_and_the_videos(tmp_path):
    run = write_run(tmp_path / "run", SIZE)
    shown = videos()
    save_videos(Path(run, "best.npz"), shown)
    page = write_page(tmp_path / "page.html", [run]).read_text(encoding="utf-8")
    for tag, attributes in Elements(page).elements:
        for name in ("src", "href", "action"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
    assert "http" not in re.sub(r'"http://www.w3.org/2000/svg"|http-equiv', "", page)
    data = data_of(page)
    for place, name in enumerate(shown):
        np.testing.assert_array_equal(frames_of(data["sheets"][place]), shown[name])
    columns = np.genfromtxt(Path(run, "metrics.csv"), delimiter=",", names=True)
    for name in ("loss", "mse", "kl", "tfr", "beta"):
        [curve] = data["charts"][name]["curves"]
        assert curve["x"] == list(range(6)) and curve["y"] == pytest.approx(columns[name], rel=1e-4)
    assert data["charts"]["val_psnr"]["curves"] == [{"run": 0, "x": [1, 3, 5], "y": [21, 23, 25]}]
    assert data["charts"]["validation"]["curves"] == [{"run": 0, "x": list(range(1, 21)), "y": [21, 20] * 10}]
    picked = [(word, frame, psnr) for word, psnr, frames in (("worst", "20.00", "246"), ("best", "21.00", "135"))
              for frame in frames]
    assert re.findall(r"(worst|best): frame (\d+)<br>([\d.]+) dB", page) == picked


def test_page_says_what_a_run_was(tmp_path):
    run = write_run(tmp_path / "run", "--tfr 0.25 --seed 7")
    record = json.loads(Path(run, "args.json").read_text())
    record |= {"command": "python Trainer.py --tfr 0.25", "parameters": 463480, "device": "cuda (NVIDIA T4)",
               "versions": {"python": "3.11.7", "torch": "2.6"},
               "resumed": [{"command": "python Trainer.py --resume", "machine": "a GPU"}, {"command": "again"}]}
    Path(run, "args.json").write_text(json.dumps(record))
    text = Elements(write_page(tmp_path / "page.html", [run]).read_text(encoding="utf-8")).text
    for fact in ("python Trainer.py --tfr 0.25", "463,480", "cuda (NVIDIA T4)", "python 3.11.7, torch 2.6",
                 "python Trainer.py --resume; again",
                 "the stage dancer", "--kl_anneal_type", "25.00", "60", "not known"):  # the git commit
        assert fact in text, fact


def test_table_of_the_runs_has_the_epoch_with_the_best_validation(tmp_path):
    run = write_run(tmp_path / "run", epochs=4, val_psnr=[21, 25, "", 23], val_ssim=[0.5, 0.7, "", 0.6])
    page = write_page(tmp_path / "page.html", [run]).read_text(encoding="utf-8")
    [table] = re.findall(r"<caption>Runs</caption>(.*?)</table>", page)
    headings = re.findall(r"<button [^>]*>(.*?)</button>", table)[1:]  # but for that of the runs' names
    cells = dict(zip(headings, re.findall(r"<td[^>]*>(.*?)</td>", table), strict=True))
    assert [cells[name] for name in ("val PSNR", "val SSIM", "at epoch")] == ["25.00", "0.700", "1"]


def test_scores_stand_beside_baselines_each_of_them_once(tmp_path):
    runs = [write_run(tmp_path / name, f"--tfr {tfr}") for name, tfr in (("a", 1), ("b", 0))]
    for run, psnr in zip(runs, (30.5, 31.5)):
        Path(run, "test").mkdir()
        scores = SCORES | {"this model": {"psnr": psnr, "ssim": 0.9, "lpips": 0.0123},
                           "mean frame": {"psnr": psnr - 10}}
        Path(run, "test/scores.json").write_text(json.dumps(scores))
    text = Elements(write_page(tmp_path / "page.html", runs).read_text(encoding="utf-8")).text
    for score, times in (("30.50", 2), ("31.50", 2), ("0.012", 2),  # of a model in both tables
                         ("22.25", 1), ("20.50", 1), ("21.50", 1)):
        assert text.count(f" {score} ") == times, score
    page = write_page(tmp_path / "page.html", runs, tests=False).read_text(encoding="utf-8")
    assert "30.50" not in page and "Tester.py --ckpt_path" in page


def test_what_files_say_cannot_break_the_page(tmp_path):
    evil = "<img src=x onerror=alert(1)>'\"&"
    folders = [tmp_path / f"{name}<!--<" / "script>" for name in "ab"]  # of one name: the page shows their paths
    for folder in folders:
        write_run(folder, SIZE)
        save_videos(folder / "best.npz", videos())
        record = json.loads((folder / "args.json").read_text())
        record |= {"command": evil, evil: {evil: evil}}
        record["arguments"] |= {"DR": evil, evil: evil}
        (folder / "args.json").write_text(json.dumps(record))
        (folder / "test").mkdir()
        (folder / "test/scores.json").write_text(json.dumps({"this model": {evil: 1}, evil: {"psnr": 2}}))
    names = list(map(str, folders))
    page = write_page(tmp_path / "page.html", names).read_text(encoding="utf-8")
    parsed = Elements(page)
    tags = [tag for tag, _ in parsed.elements]
    assert tags.count("script") == 2 and "img" not in tags and "<!--" not in page
    assert parsed.text.count(evil) > 10 and data_of(page)["runs"] == names


def test_runs_on_one_dataset_share_label_and_truth(tmp_path):
    runs = [write_run(tmp_path / name, SIZE) for name in "ab"]
    for run in runs:
        save_videos(Path(run, "best.npz"), videos())  # equal predictions are still shown once for each run
    page = write_page(tmp_path / "page.html", runs).read_text(encoding="utf-8")
    captions = re.findall(r'<figure class="video"><canvas [^>]*aria-label="([^"]*)"', page)
    assert captions == ["label", "a", "b", "truth"] and len(data_of(page)["sheets"]) == 3


def test_page_of_a_run_that_has_little(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    tested = tmp_path / "tested"  # a folder of Tester.py
    tested.mkdir()
    (tested / "scores.json").write_text(json.dumps(SCORES))
    unvalidated = write_run(tmp_path / "unvalidated", val_every=99, sequence_lengths=(), loss="nan", kl="inf")
    stopped = write_run(tmp_path / "stopped", epochs=0, sequence_lengths=())  # before the end of an epoch
    unscored = tmp_path / "unscored"  # without a ground truth and without videos
    unscored.mkdir()
    (unscored / "split.json").write_text('{"split": "test"}')
    for folders in ([tested], [unvalidated], [stopped], [unscored], [tested, unvalidated, stopped]):
        page = write_page(tmp_path / "page.html", folders).read_text(encoding="utf-8")
        assert "No videos yet" in page and not data_of(page)["sheets"]
        assert ("22.25" in page) == (tested in folders)
    with pytest.raises(UsageError, match="empty holds no run"):
        write_page(tmp_path / "other.html", [stopped, empty])
    assert not (tmp_path / "other.html").exists()


def test_videos_of_several_datasets_bear_the_names_of_their_runs(tmp_path):
    runs = [write_run(tmp_path / name, SIZE) for name in "abc"]
    for run, scale in zip(runs, (1, 1, 2)):
        save_videos(Path(run, "best.npz"), {name: video // scale for name, video in videos().items()})
    page = write_page(tmp_path / "page.html", runs).read_text(encoding="utf-8")
    captions = re.findall(r'<figure class="video"><canvas [^>]*aria-label="([^"]*)"', page)
    assert captions == ["a, b, label", "c, label", "a", "b", "c", "a, b, truth", "c, truth"]


def test_a_test_is_as_fast_as_its_run_wherever_one_stands(tmp_path, monkeypatch):
    run = Path(write_run(tmp_path / "run", SIZE))
    record = json.loads((run / "args.json").read_text())
    (run / "args.json").write_text(json.dumps(record | {"frames_per_second": 12}))
    (run / "test").mkdir()
    save_videos(run / "test/first.npz", videos())
    for place, folder in ((run / "test", "."), (run, "test"), (tmp_path, "run/test")):
        monkeypatch.chdir(place)
        assert data_of(write_page(tmp_path / "page.html", [folder]).read_text(encoding="utf-8"))["fps"] == 12


def test_a_file_of_another_program_around_a_run_ends_no_page(tmp_path):
    run = write_run(tmp_path / "run", SIZE)
    (tmp_path / "args.json").write_text("[]")
    assert data_of(write_page(tmp_path / "page.html", [run]).read_text(encoding="utf-8"))["fps"] == 50


def test_page_of_a_test_has_no_epochs_and_names_the_checkpoint_of_its_run_while_there_are_no_scores(tmp_path):
    run = Path(write_run(tmp_path / "run", SIZE))
    (run / "best.ckpt").touch()
    (run / "test").mkdir()
    save_videos(run / "test/first.npz", videos())
    page = write_page(tmp_path / "page.html", [run / "test"]).read_text(encoding="utf-8")
    assert f"Tester.py --ckpt_path {run / 'best.ckpt'} --gt FILE" in page
    of_run = write_page(tmp_path / "page.html", [run]).read_text(encoding="utf-8")
    assert f"Tester.py --ckpt_path {run / 'best.ckpt'} --split val</code>" in of_run
    assert ">epochs<" not in page and ">epochs<" in of_run
    (run / "best.ckpt").unlink()  # as in a run of which no epoch was validated
    of_run = write_page(tmp_path / "page.html", [run]).read_text(encoding="utf-8")
    assert f"Tester.py --ckpt_path {run / 'last.ckpt'} --split val</code>" in of_run


def test_page_of_a_test_elsewhere_has_the_rate_and_the_checkpoint_that_it_noted(tmp_path):
    for name, rate in (("both", 12), ("other", 30)):
        (tmp_path / name).mkdir()
        save_videos(tmp_path / name / "first.npz", videos())
        note(tmp_path / name, checkpoints=[f"runs/{name}/best.ckpt", "b.ckpt"], frames_per_second=rate)
    page = write_page(tmp_path / "page.html", [tmp_path / "both", tmp_path / "other"]).read_text(encoding="utf-8")
    assert data_of(page)["fps"] == 12 and (
        f"Tester.py --ckpt_path runs/both/best.ckpt --gt FILE --ensemble b.ckpt --save_root {tmp_path}/both" in page)


@pytest.mark.parametrize("names, title", [(["a"], "Run a"), (["a", "b"], "2 runs: a, b"), (["a" * 50] * 3, "3 runs")])
def test_title_of_a_page_is_short(names, title):
    assert page_title(names) == title


def test_any_damage_to_the_arrays_of_videos_is_told(tmp_path):
    """NumPy and its zip files raise errors of many kinds."""
    path, random = tmp_path / "best.npz", np.random.default_rng(0)
    save_videos(path, {"truth": torch.zeros(2, 3, 4, 8, dtype=torch.uint8)})
    whole, refused = path.read_bytes(), 0
    for place in random.integers(8 * len(whole), size=300):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            assert [video.ndim for video in read_videos(path).values()] == [4]  # a bit may be one of a date or a name
        except UsageError:
            refused += 1
    assert refused > 100


def test_test_sequence_and_samples_are_shown_once_there_are_some(tmp_path):
    run = Path(write_run(tmp_path / "run", SIZE))
    (run / "test").mkdir()
    save_videos(run / "test/first.npz", videos())
    label = videos()["label"]
    save_videos(run / "test/samples.npz", {"label": label, "z 1": label // 2, "z 2": label // 3})
    (run / "test/samples_per_frame.csv").write_text(
        "frame,psnr_mean,psnr_low,psnr_high,psnr_best\n1,20,19,21,22\n2,30,nan,31,32\n3,25,24,26,27\n")
    page = write_page(tmp_path / "page.html", [run]).read_text(encoding="utf-8")
    data = data_of(page)
    assert len(data["sheets"]) == 5  # the label is the same
    assert data["charts"]["samples_of_the_first_test_sequence"]["curves"] == [
        {"run": 0, "x": [1, 3], "y": [20, 25], "low": [19, 24], "high": [21, 26], "best": [22, 27]}]
    assert "No videos yet" in write_page(tmp_path / "page.html", [run], tests=False).read_text(encoding="utf-8")


@pytest.mark.parametrize("noted, folder, shown", [
    ("val", "run", "validation sequence"), ("train", "run", "training sequence"), ("test", "run", "test sequence"),
    (None, "run", "sequence"), (None, "run/test", "test sequence"), ("val", "run/test", "validation sequence")])
def test_sequence_of_a_test_is_called_what_it_is(noted, folder, shown, tmp_path):
    folder = tmp_path / folder
    folder.mkdir(parents=True)
    for name in ("first", "samples"):
        save_videos(folder / f"{name}.npz", videos())
    if noted:
        note(folder, split=noted)
    page = write_page(tmp_path / "page.html", [tmp_path / "run"]).read_text(encoding="utf-8")
    assert re.findall(r"<h3>(.*?)</h3>", page)[:2] == [f"First {shown}", f"Samples of the first {shown}"]


@pytest.mark.parametrize("epoch, best, told", [(2, 2, False), (1, 2, True), (None, 2, False), (1, None, False)])
def test_a_test_of_another_network_than_the_best_is_told(epoch, best, told, tmp_path):
    """A run that was resumed after its test may have a better one by now."""
    run = Path(write_run(tmp_path / "run", SIZE))
    psnr = {} if best is None else {best: 30.0}
    rows = [{"epoch": number, **dict.fromkeys(OLDEST_COLUMNS[1:-2], 0.5), "val_psnr": psnr.get(number, "")}
            for number in range(4)]
    write_epoch_logs(run, rows)
    (run / "test").mkdir()
    (run / "test/scores.json").write_text(json.dumps({"this model": {"psnr": 30.0}}))
    save_videos(run / "test/first.npz", videos())
    note(run / "test", epoch=epoch)
    page = write_page(tmp_path / "page.html", [run]).read_text(encoding="utf-8")
    assert ("run, network of epoch 1<" in page) == told
    assert (f"Generated by the network of epoch {epoch}." in page) == (epoch is not None)


def test_tests_of_several_runs_have_each_the_epoch_of_its_network(tmp_path):
    for name, epoch in (("a", 11), ("b", 7), ("c", None)):
        (tmp_path / name / "test").mkdir(parents=True)
        save_videos(tmp_path / name / "test/first.npz", videos())
        note(tmp_path / name / "test", epoch=epoch)
    page = write_page(tmp_path / "page.html", [tmp_path / name for name in "abc"]).read_text(encoding="utf-8")
    [told] = re.findall(r'<p class="note">(.*?)</p>', page)
    assert "a: generated by the network of epoch 11." in told and "b: generated by the network of epoch 7." in told
    assert "c:" not in told


def test_a_truth_that_equals_the_label_is_shown_beside_it(tmp_path):
    """Its pixels are in the page once."""
    same = videos()
    same["truth"] = same["label"]
    (tmp_path / "run").mkdir()
    save_videos(tmp_path / "run/best.npz", same)
    page = write_page(tmp_path / "page.html", [tmp_path / "run"]).read_text(encoding="utf-8")
    assert re.findall(r"<figcaption><span>(\w+)</span>", page) == ["label", "prediction", "truth"]


def test_a_test_in_the_current_folder_is_told_how_to_be_scored(tmp_path, monkeypatch):
    (tmp_path / "run/test").mkdir(parents=True)
    (tmp_path / "run/best.ckpt").touch()
    save_videos(tmp_path / "run/test/first.npz", videos())
    monkeypatch.chdir(tmp_path / "run/test")
    page = write_page(tmp_path / "page.html", ["."]).read_text(encoding="utf-8")
    assert f"Tester.py --ckpt_path {tmp_path}/run/best.ckpt --gt FILE</code>" in page


def test_scores_of_a_test_are_those_of_its_split(tmp_path):
    run = write_run(tmp_path / "run", SIZE)
    Path(run, "test").mkdir()
    Path(run, "test/scores.json").write_text('{"this model": {"psnr": 30.0}}')
    assert "Test sequences" in write_page(tmp_path / "page.html", [run]).read_text(encoding="utf-8")
    note(Path(run, "test"), split="val")
    page = write_page(tmp_path / "page.html", [run]).read_text(encoding="utf-8")
    assert "Test sequences" not in page and "<caption>Validation" in page


def test_worst_and_best_frames_are_no_neighbours():
    psnr = np.full(90, 30.0)
    psnr[[10, 11, 50, 70]] = 20, 19, 21, 22
    psnr[[30, 31, 32, 33, 60]] = 40, 41, 42, 41.5, 39
    worst, best = picked_frames(psnr)
    assert worst == [12, 51, 71] and best[0] == 33 and 61 in best and len(best) == 3
    assert picked_frames(np.array([25.0])) == [[1], [1]]


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize("file, content", [
    ("best.npz", b"no archive"), ("best.npz", b""), ("test/first.npz", npz(label=np.zeros((2, 8, 16), np.uint8))),
    ("test/samples.npz", npz()), ("test/split.json", b'{"split": "vall"}'), ("test/split.json", b"[]"),
    ("test/scores.json", b'{"this model": 1}'), ("args.json", b"[]")])
def test_a_broken_file_is_named(tmp_path, file, content):
    run = write_run(tmp_path / "run", SIZE)
    Path(run, "test").mkdir()
    Path(run, file).write_bytes(content)
    with pytest.raises(UsageError, match=f"{file}.*remove it"):
        write_page(tmp_path / "page.html", [run])
    assert not (tmp_path / "page.html").exists()


def test_plotting_writes_the_page_and_says_its_size(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    Plotting.main([run, "--page", str(tmp_path / "page.html")])
    assert capsys.readouterr().out == f"{tmp_path / 'page.html'} (0.0 MB)\n"
    assert not list(Path(run).glob("*.png"))
    for words in (["--figures", "loss"], ["--out", "x"]):
        with pytest.raises(UsageError, match=f"leave out {words[0]}"):
            Plotting.main([run, "--page", "page.html", *words])
    for path in ("run/test/scores.json", "run", "a.png"):
        with pytest.raises(UsageError, match=f"--page {path} .* .html"):
            Plotting.main([run, "--page", path])
    with pytest.raises(UsageError, match="--page"):
        Plotting.main(["--schedule", "lr", "--page", "page.html"])


def test_a_training_leaves_its_page_with_the_frames_of_its_best_rollout(dancer, tmp_path):
    network = "--network pyramid --F_dim 13 --L_dim 2 --N_dim 4 --D_out_dim 8".split()
    words = flags(num_epoch=1, train_vi_len=6, val_vi_len=10, kl_weight=0, kl_anneal_type="None", num_workers=1,
                  device="cpu")
    call_script(tmp_path, "Trainer", "--DR", dancer, *network, *words, "--save_root", "run")
    rollout = np.load(tmp_path / "run/.best_rollout.npy")[0]
    np.testing.assert_array_equal(read_videos(tmp_path / "run/best.npz")["prediction"], rollout)
    data = data_of((tmp_path / "run/page.html").read_text(encoding="utf-8"))
    np.testing.assert_array_equal(frames_of(data["sheets"][1]), rollout)
    assert len(data["charts"]["validation"]["curves"][0]["x"]) == 9
