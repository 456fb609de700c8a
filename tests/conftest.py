"""What all tests share: a tiny stage dancer, a tiny network, and a way to call a script as a user does."""

import csv
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module, util
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # also in the processes that tests start, so that sums round alike
for name in [name for name in os.environ if name.startswith("GIT_")]:
    del os.environ[name]  # of a hook that runs the tests: git would work on this repository, not on a test's
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import pytest
import torch
from PIL import Image, ImageChops, ImageOps

from cli.script import run_script
from figures import curves
from modules import VAE_Model
from stage_dancer.dataset import make_dancer

torch.set_num_threads(1)

NEEDED_ON_WINDOWS = {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ}  # by any process
posix_only = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals or devices")
PATIENCE = 300  # seconds that a test waits for a process; only one that hangs takes so long
TINY_NETWORK = {"F_dim": 16, "L_dim": 8, "N_dim": 4, "D_out_dim": 16}


@pytest.fixture(scope="session")
def dancer(tmp_path_factory):
    """A stage dancer of 70 training, 20 validation and 2 x 12 test frames. Copy it before changing it."""
    root = tmp_path_factory.mktemp("data") / "dancer"
    make_dancer(root, frames=70, val_frames=20, test_sequences=2, test_frames=12, num_workers=1)
    return root


def load_script(path):
    """A script that lies in no package, as a module."""
    spec = util.spec_from_file_location(path.stem, path)
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def statements():
    """The script that prints the tables of docs/report.md."""
    return load_script(ROOT / "docs" / "report" / "statements.py")


def tiny_model(posterior="previous"):
    torch.manual_seed(0)
    return VAE_Model(**TINY_NETWORK, posterior=posterior)


@pytest.fixture
def model():
    return tiny_model()


def plain_loop(model, frames, labels, noise, mask):
    """The protocol of a training clip, spelt out: predictions, mu and logvar, [B, T - 1, ...] each.

    frames, labels: [B, T, 3, H, W]. noise: [B, T - 1, N_dim, H, W]. mask: bool [B, T], where the true frame is given.
    """
    label_features = model.label_transformation(labels[:, 1:].flatten(0, 1)).unflatten(0, labels[:, 1:].shape[:2])
    given, steps = frames[:, 0], []
    for t in range(1, frames.shape[1]):
        pose = label_features[:, t - 1]
        seen = frames[:, t] if model.posterior == "current" else given
        _, mu, logvar = model.Gaussian_Predictor(model.frame_transformation(seen), pose)
        z = mu + torch.exp(0.5 * logvar) * noise[:, t - 1]
        predicted = model.Generator(model.Decoder_Fusion(model.frame_transformation(given), pose, z))
        given = torch.stack([frames[b, t] if mask[b, t] else predicted[b] for b in range(len(frames))])
        steps.append((predicted, mu, logvar))
    return [torch.stack(part, dim=1) for part in zip(*steps)]


@contextmanager
def signals_restored():
    """Let the block change what the signals that stop a run do, until its end."""
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
    handlers = {name: signal.getsignal(getattr(signal, name)) for name in names}
    try:
        yield
    finally:
        for name, handler in handlers.items():
            signal.signal(getattr(signal, name), handler)


def call_script(folder, script, *words, draw=False):
    """Do what the command line would, in this process; raises SystemExit unless all goes well.

    A run draws its figures only if `draw`: it takes two seconds.
    """
    with pytest.MonkeyPatch.context() as patch, signals_restored():
        patch.chdir(folder)
        if script == "Trainer" and not draw:
            patch.setattr("Trainer.draw_runs", lambda folders: None)
        patch.setattr(sys, "argv", [f"{script}.py", *map(str, words)])
        run_script(import_module(script).main)


@contextmanager
def started(command, **settings):
    """Start a process, a subprocess.Popen with these settings, that has ended when the block has, and its group too.

    One that still runs is asked to end first: torchrun and Study.py end what they started in groups of its own.
    """
    with subprocess.Popen([*map(str, command)], start_new_session=True, **settings) as process:
        try:
            yield process
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=40)  # torchrun gives its processes 30 seconds
            with suppress(ProcessLookupError, AttributeError):  # Windows has no groups
                os.killpg(process.pid, signal.SIGKILL)


def wait_until(condition, process=None, seconds=PATIENCE):
    """Wait until condition() holds; fail if the process ends before, or after these seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, f"ended with status {process.returncode}"
        assert time.monotonic() < deadline, f"not within {seconds} seconds"
        time.sleep(0.02)


def link(path, target):
    """Make a link; skips the test where that is not allowed, as on Windows by default."""
    try:
        path.symlink_to(target)
    except OSError as error:
        pytest.skip(f"no links here ({error})")


@pytest.fixture
def call(monkeypatch, tmp_path):
    """call("Trainer", "--DR", folder, ...) runs a script in the test's own folder, empty at first."""
    monkeypatch.chdir(tmp_path)
    return partial(call_script, tmp_path)


def flags(**values):
    """flags(num_epoch=2, test=True) -> ["--num_epoch", "2", "--test"]"""
    return [word for name, value in values.items()
            for word in ([f"--{name}"] if value is True else [f"--{name}", str(value)])]


# In float32, also on a GPU with bfloat16: many tests compare to rounding.
TINY_CLIPS = flags(frame_H=8, frame_W=16, batch_size=4, train_vi_len=6, val_vi_len=10, num_workers=1,
                   device="cpu", amp="off")
# A step for each batch, and a learning rate that does not depend on the last epoch, which tests move.
TINY_TRAINING = flags(**TINY_NETWORK, bptt=0, lr_schedule="MultiStep") + TINY_CLIPS


@pytest.fixture
def drawn(monkeypatch):
    """{name of the figure: Figure} of all that a test has Plotting save, which then costs no rendering."""
    figures = {}
    monkeypatch.setattr(curves, "save", lambda figure, folder, name, _: figures.update({name: figure}) or name)
    return figures


def copy_dataset(root, folder):
    """Copy a dataset, without its cache of decoded images; returns the folder."""
    return shutil.copytree(root, folder, ignore=shutil.ignore_patterns(".decoded"))


CHANGES = {"darker": lambda image: image.point(lambda value: max(value - 9, 0)), "mirrored": ImageOps.mirror,
           "shifted": lambda image: ImageChops.offset(image, 3, 0)}


def change_images(folder, change):
    """Apply one of CHANGES to each image in a folder."""
    for path in folder.iterdir():
        with Image.open(path) as image:
            CHANGES[change](image).save(path)


def git(folder, *words):
    """Call git in a folder, as somebody who signs nothing."""
    someone = ["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *someone, *words], cwd=folder, check=True)


def commit_all(folder):
    """Make a folder a git repository that holds all its files."""
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "all")


def read_csv(path):
    """Rows of a CSV file as dicts of text."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def join_png(chunks):
    """The bytes of a PNG of these chunks, pairs of kind and content, with right lengths and checksums."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks)


class Malicious:
    """Makes the file `mark` when it is unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return (open, (self.mark, "w"))
