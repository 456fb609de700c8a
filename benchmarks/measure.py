"""One turn of a benchmark, in a process of its own: bench.py starts `python -m benchmarks.measure JSON`.

The JSON names the measurement and its arguments; the last line printed is what it found, as JSON.
"""

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from benchmarks import plain
from cli.flags import network_settings, schedule_settings, trainer_parser, trainer_settings
from dataloader import Dataset_Dance
from engine import devices, optimization
from engine.batches import Batch, Clips, EpochBatches, epoch_starts, place_on, random_stream
from engine.evaluation import generate_sequences, validate
from engine.saving.recorder import RunRecorder
from engine.saving.resume import identity_of
from engine.schedules import Schedules
from engine.training import RunState, train_one_epoch
from modules import VAE_Model
from modules.metrics import summarise
from modules.noise import Noise
from modules.pixels import to_uint8, to_unit

COURSE = Path(__file__).resolve().parent.parent / "recipes" / "course.txt"
BETA = 1e-4  # at which both terms of an untrained network's loss count
MAX_MATRIX = 8192
LONG_ENOUGH = 0.2  # seconds, for a matrix product


def flags(**values):
    """Trainer.py's flags as recipes/course.txt has them, which is what the plain side does, but for `values`."""
    args = trainer_parser().parse_args([f"@{COURSE}", "--no-cuda_graphs"])  # gpu.py measures these
    vars(args).update(values)
    return args


def make_model(args):
    torch.manual_seed(args.seed)
    return VAE_Model(**network_settings(args))


def noise_streams(seed, clips, device):
    return [random_stream(seed, row, device=device) for row in range(clips)]


class Plain:
    """What is measured, done by plain.py."""

    def __init__(self, args):
        self.args, self.device = args, torch.device(args.device)
        devices.choose_precision("off", self.device)  # float32, and not TensorFloat-32
        self.model = make_model(args).to(self.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), args.lr)

    def prepare(self, frames, labels):
        """A batch of clips as the loader hands it on, of uint8 [B, T, 3, H, W] each."""
        return to_unit(frames).to(self.device), to_unit(labels).to(self.device)

    def train_on(self, batch, teacher_forced, noise_seed=None):
        """One optimizer step; returns the loss. noise_seed: take the noise that ours draws from it."""
        noise = None
        if noise_seed is not None:
            shape = (self.args.train_vi_len - 1, *self.model.z_shape(self.args.frame_H, self.args.frame_W))
            streams = noise_streams(noise_seed, len(batch[0]), self.device)
            steps = [Noise(streams, self.device).normal(*shape[1:]) for _ in range(shape[0])]
            noise = torch.stack(steps)
        return plain.train_on(self.model, self.optimizer, *batch, BETA, teacher_forced, noise)

    def roll_out(self, first_frames, labels):
        """Generate sequences from uint8 [B, 3, H, W] and [B, T, 3, H, W]: uint8 [B, T, 3, H, W]."""
        first_frames, labels = self.prepare(first_frames, labels)
        return torch.stack([to_uint8(plain.generate(self.model, first_frame, label, self.args.seed + number))
                            for number, (first_frame, label) in enumerate(zip(first_frames, labels))])

    def open_data(self, root):
        self.loader = plain.open_data(root, self.args, "train")

    def pass_over_data(self):
        """Bring each clip to the device once, in [0, 1]."""
        for frames, labels in self.loader:
            frames.to(self.device), labels.to(self.device)

    def prepare_epoch(self, root, run):
        """What trains one epoch on the dataset `root`, validates, and saves into the folder `run`."""
        self.open_data(root)
        val = plain.open_data(root, self.args, "val")

        def epoch():
            plain.train_one_epoch(self.model, self.optimizer, self.loader, BETA, True, self.device)
            plain.validate(self.model, val, self.args.seed, self.device)
            torch.save({"state_dict": self.model.state_dict(), "optimizer": self.optimizer.state_dict()},
                       run / "last.ckpt")

        return epoch


class Ours:
    """The same, done by the functions that Trainer.py and Tester.py call. without: one of our choices to leave out."""

    def __init__(self, args, without=""):
        self.args = args
        if without in ("bfloat16", "float32"):
            args.amp = {"bfloat16": "off", "float32": "bf16"}[without]
        if without == "forced_frames_as_one_batch":
            optimization.IMAGES_AT_ONCE = {"cpu": 1, "cuda": 1, "mps": 1}
        if without != "tuned_cpu":
            devices.tune_cpu()
        self.device = devices.choose_device(args.device, args.gpu)
        self.dtype = devices.choose_precision(args.amp, self.device)
        layout = devices.memory_format(self.device, self.dtype)
        if without == "channels_last":
            layout = torch.contiguous_format
        self.model = make_model(args).to(self.device, memory_format=layout)
        self.trainer = optimization.ClipTrainer(self.model, self.device, self.dtype, **trainer_settings(args))
        if without == "fused_Adam":
            self.trainer.optimizer = torch.optim.Adam(self.model.parameters(), args.lr)

    def prepare(self, frames, labels):
        return to_unit(frames.to(self.device)), to_unit(labels.to(self.device))

    def train_on(self, batch, teacher_forced, noise_seed=0):
        forced = torch.tensor(teacher_forced).expand(batch[0].shape[:2])
        noise = Noise(noise_streams(noise_seed, len(forced), self.device), self.device)
        clips = Clips(*batch, forced, noise, len(forced))
        return sum(self.trainer.steps_on([Batch([clips], len(forced))], BETA))[0] / len(forced)

    def roll_out(self, first_frames, labels):
        return generate_sequences(self.model, first_frames, labels, device=self.device, dtype=self.dtype,
                                  seed=self.args.seed, temperature=self.args.temperature,
                                  clamp=self.args.clamp_feedback)

    def open_data(self, root):
        self.train_set = self._dataset(root, "train", self.args.train_vi_len)
        self.placed = place_on(self.train_set, self.device, self.args.data_device)

    def pass_over_data(self):
        starts = epoch_starts(self.placed, torch.Generator().manual_seed(self.args.seed))
        for part in starts.to(self.placed.frames.device).split(self.args.batch_size):
            for images in self.placed.clips(part):
                to_unit(images.to(self.device, non_blocking=True))

    def prepare_epoch(self, root, run):
        self.open_data(root)
        val_set, args, state = self._dataset(root, "val", self.args.val_vi_len), self.args, RunState()
        schedules = Schedules(**schedule_settings(args))
        recorder = RunRecorder(run, self.trainer, state, arguments=vars(args), num_epoch=1, per_save=args.per_save,
                               dataset=identity_of(self.train_set, val_set), save_minutes=args.save_minutes)

        def epoch():
            batches = EpochBatches(self.placed, 0, self.device, tfr=1.0, tfr_per="epoch", partial=1.0, accumulate=1,
                                   interleave=1, batch_size=args.batch_size, shuffle=True, random_start=True,
                                   seed=args.seed)
            row = train_one_epoch(self.trainer, batches, schedules, state, recorder)
            with recorder.validation(row):
                videos = validate(val_set, self.roll_out)
                row |= {"val_psnr": summarise(videos["prediction"], videos["truth"])["psnr"]}
                recorder.keep_rollout(row, videos)
            recorder.after_epoch(row)

        return epoch

    def _dataset(self, root, mode, video_len):
        return Dataset_Dance(root, None, mode, video_len, frame_size=(self.args.frame_H, self.args.frame_W),
                             num_workers=self.args.num_workers)


def make_side(name, args):
    """The side of that name: "plain", "ours" or "ours without ..."."""
    kind, _, without = name.partition(" without ")
    return Plain(args) if kind == "plain" else Ours(args, without)


def random_images(args, *shape):
    return torch.randint(256, (*shape, 3, args.frame_H, args.frame_W), dtype=torch.uint8,
                         generator=torch.Generator().manual_seed(args.seed))


def random_batch(side, args):
    shape = (args.batch_size, args.train_vi_len)
    return side.prepare(random_images(args, *shape), random_images(args, *shape).flip(1))


def seconds_of(work, device):
    """Seconds that work() takes, to the end of what it started on the device."""
    synchronise(device)
    started = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - started


def synchronise(device):
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def peak_memory(device):
    """MiB: of the device's memory on CUDA, else of this process; None if it is not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ImportError:  # Windows has none
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def machine(args):
    """Where this runs, the rates of its matrix products, and the work of the network (floating-point operations)."""
    device = devices.choose_device(args.device, args.gpu)
    dtype = devices.choose_precision(args.amp, device)
    rates = {devices.dtype_name(dtype): matrix_rate(device, dtype)
             for dtype in (torch.float32, torch.bfloat16)}
    choices = ["channels_last", "fused_Adam", "forced_frames_as_one_batch"]
    choices += ["tuned_cpu", "float32"] if device.type == "cpu" else []
    choices += ["bfloat16"] if dtype == torch.bfloat16 else []
    return {"device": device.type, "name": devices.machine_name(device, dtype), "torch": torch.__version__,
            "computing_in": devices.dtype_name(dtype), "matrix_rate": rates, "choices": choices,
            "operations": {"teacher-forced": training_operations(args, True),
                           "free-running": training_operations(args, False),
                           "rollout": rollout_operations(args)}}


def matrix_rate(device, dtype):
    """Floating-point operations a second in products of large square matrices: the best of all sizes tried."""
    best, side, seconds = 0, 512, 0
    while side <= MAX_MATRIX and seconds < LONG_ENOUGH:
        one, other = torch.rand(2, side, side, device=device).to(dtype)
        one @ other
        seconds = min(seconds_of(lambda: one @ other, device) for _ in range(3))
        best, side = max(best, 2 * side**3 / seconds), 2 * side
    return best


class Counted:
    """Counts the operations of a model without data; all its products are in convolutions.

    Not torch's FlopCounterMode: that counts the gradient of a depthwise convolution's weights C times over.
    """

    def __init__(self, args):
        self.operations = 0
        self.model = make_model(args).to("meta")
        for layer in self.model.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_hook(self._count)

    def _count(self, layer, inputs, output):
        gradients = 1 + inputs[0].requires_grad if torch.is_grad_enabled() else 0
        self.operations += 2 * output.numel() * layer.weight[0].numel() * (1 + gradients)


def training_operations(args, teacher_forced):
    """Of a training step on one clip, forward and backward."""
    counted = Counted(args)
    clip = torch.empty(1, args.train_vi_len, 3, args.frame_H, args.frame_W, device="meta")
    plain.clip_loss(counted.model, clip, clip, BETA, teacher_forced)
    return counted.operations


@torch.no_grad()
def rollout_operations(args):
    """Of one generated frame."""
    counted = Counted(args)
    model, size = counted.model.eval(), (args.frame_H, args.frame_W)
    image = torch.empty(1, 3, *size, device="meta")
    model.step(image, model.label_transformation(image), torch.empty(1, *model.z_shape(*size), device="meta"),
               temperature=1.0)
    return counted.operations


def losses(side, args, teacher_forced, steps):
    """The losses of the first optimizer steps, in float32, of the same weights and noise on both sides."""
    args.amp = "off"
    side = make_side(side, args)
    devices.choose_precision("off", side.device)
    side.model.train()
    batch = random_batch(side, args)
    return [float(side.train_on(batch, teacher_forced, noise_seed=step)) for step in range(steps)]


def training(side, args, teacher_forced, steps):
    """Seconds of one training step."""
    side = make_side(side, args)
    side.model.train()
    batch = random_batch(side, args)
    side.train_on(batch, teacher_forced)  # warm-up
    seconds = seconds_of(lambda: [side.train_on(batch, teacher_forced) for _ in range(steps)], side.device)
    return {"seconds": {"a step": seconds / steps}, "peak_mib": peak_memory(side.device)}


def rollout(side, args, sequences, frames):
    """Seconds of one time step of a rollout of all sequences."""
    side = make_side(side, args)
    first_frames, labels = random_images(args, sequences), random_images(args, sequences, frames)
    side.roll_out(first_frames, labels[:, :3])  # warm-up
    seconds = seconds_of(lambda: side.roll_out(first_frames, labels), side.device)
    return {"seconds": {"a time step": seconds / (frames - 1)}, "peak_mib": peak_memory(side.device)}


def data(side, args, root, fresh):
    """Seconds of passes over a dataset: before anything is decoded (`fresh`) and after it, or in a new process."""
    root = Path(root)
    if fresh:
        shutil.rmtree(root / ".decoded", ignore_errors=True)
    side = make_side(side, args)

    def open_and_pass():
        side.open_data(root)
        side.pass_over_data()

    first = seconds_of(open_and_pass, side.device)
    seconds = {"first pass": first, "later pass": seconds_of(side.pass_over_data, side.device)} if fresh else {
        "later pass, new process": first}
    return {"seconds": seconds, "peak_mib": None}  # plain's loader decodes in processes of its own


def epoch(side, args, root):
    """Seconds of an epoch after the first: training, validation, checkpoint."""
    side = make_side(side, args)
    with tempfile.TemporaryDirectory() as run:
        work = side.prepare_epoch(Path(root), Path(run))
        side.model.train()
        side.train_on(random_batch(side, args), True)  # warm-up
        return {"seconds": {"an epoch": seconds_of(work, side.device)}, "peak_mib": None}  # as for data


MEASUREMENTS = {function.__name__: function for function in (machine, losses, training, rollout, data, epoch)}


if __name__ == "__main__":
    turn = json.loads(sys.argv[1])
    found = MEASUREMENTS[turn.pop("measurement")](args=flags(**turn.pop("flags")), **turn)
    print(json.dumps(found))
