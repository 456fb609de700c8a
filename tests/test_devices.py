"""Whole scripts on a pretended CUDA or MPS device (pretend_device.py), and devices of no use."""

import ast
import math
import os
import shutil
import warnings
from unittest import mock

import pytest
import torch

import Trainer
from cli.cores import usable_cores
from cli.errors import RunError
from conftest import ROOT, TINY_NETWORK, call_script, flags, read_csv
from engine import devices, processes
from engine.devices import choose_device, choose_precision, memory_format
from engine.optimization import ClipTrainer
from engine.saving.checkpoint import load_checkpoint, save_checkpoint
from engine.training import READ_EVERY
from media.pixel_csv import read_pixels_csv
from pretend_device import GIB, pretend

CLIPS = flags(frame_H=8, frame_W=16, batch_size=2, train_vi_len=4, val_vi_len=4, num_workers=1, seed=3)
TRAINING = [*flags(**TINY_NETWORK, num_epoch=1, save_root="run", lr=1e-3, kl_weight=1e-3, partial=0.29, bptt=0), *CLIPS]
WAYS = {
    "template": [],
    "pyramid": [*flags(network="pyramid", reconstruction="log_mse", input_noise=0.05, optim="AMSGrad"),
                "--random_shift"],
    "frame": flags(tfr=0.5, tfr_per="frame", posterior="current", optim="AdamW"),
    "bptt": flags(bptt=2, clamp_feedback=True, tfr=0),
    "accumulate": flags(accumulate=2, bptt=1),  # the last batch, of one clip, has one part
    "checkpoint_frames": flags(checkpoint_frames=True),
    "data_device": flags(data_device="cpu"),
}


def metrics_of(run):
    return [{name: float(value) for name, value in row.items() if value} for row in read_csv(run / "metrics.csv")]


def pixels_of(folder):
    return torch.from_numpy(read_pixels_csv(folder / "submission.csv", "")[0]).int()


@pytest.mark.parametrize("kind", ["cuda", "mps"])
@pytest.mark.parametrize("way", WAYS)
def test_scripts_run_on_a_device(kind, way, dancer, tmp_path, monkeypatch, capsys):
    """Train, validate, save and resume; on CUDA steps are recorded, unless parts add up or are computed again."""
    monkeypatch.setattr("engine.cuda_graphs.PLAIN_CALLS", 1)
    with pretend(kind, free=1 if way == "data_device" else 8 * GIB) as accelerator:
        call_script(tmp_path, "Trainer", "--DR", dancer, *TRAINING, *WAYS[way], *flags(device=kind, amp="off"))
        call_script(tmp_path, "Trainer", "--resume", *flags(save_root="run", num_epoch=2))
        assert accelerator.operations > 1000
        assert bool(accelerator.replays) == (kind == "cuda" and way not in ("accumulate", "checkpoint_frames"))
    assert "more than a quarter" not in capsys.readouterr().out  # --data_device cpu asks for none of it
    rows = metrics_of(tmp_path / "run")
    assert len(rows) == 2 and all(math.isfinite(row["loss"]) and math.isfinite(row["val_psnr"]) for row in rows)
    call_script(tmp_path, "Trainer", "--DR", dancer, *TRAINING, *WAYS[way],
                *flags(device="cpu", amp="off", save_root="plain"))
    assert rows[0] == pytest.approx(metrics_of(tmp_path / "plain")[0], rel=1e-2)


@pytest.mark.parametrize("kind", ["cuda", "mps"])
@pytest.mark.parametrize("network", ["template", "pyramid"])
def test_a_model_is_tested_on_a_device(kind, network, dancer, tmp_path, capsys):
    words = flags(ckpt_path="run/best.ckpt", DR=dancer, amp="off")
    call_script(tmp_path, "Trainer", "--DR", dancer, *TRAINING, *flags(device="cpu", network=network, amp="off"))
    submissions = []
    for device in ("cpu", kind):
        capsys.readouterr()
        with pretend(kind) as accelerator:
            call_script(tmp_path, "Trainer", "--test", *words, *flags(device=device))
            call_script(tmp_path, "Tester", *words, *flags(samples=2, device=device, save_root=device))
            assert (accelerator.operations > 1000) == (device != "cpu")
        submissions.append(pixels_of(tmp_path / device))
    assert (submissions[0] - submissions[1]).abs().max() <= 1  # the noise of a test is that of the CPU


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_a_study_runs_on_a_device(kind, dancer, tmp_path, monkeypatch):
    """With its scripts in this process, where the device is."""
    def call(scripts, script, words, log):
        call_script(tmp_path, script, *words)
        return 0

    monkeypatch.setattr("engine.study.Scripts.call", call)
    (tmp_path / "tiny.txt").write_text(" ".join(map(str, [*TRAINING, "--device", kind])))
    with pretend(kind) as accelerator:
        call_script(tmp_path, "Study", "tiny.txt", *flags(epochs=1, DR=dancer, out="study"))
        assert accelerator.operations > 1000
    assert float(read_csv(tmp_path / "study/study.csv")[0]["val_psnr"]) > 0


@pytest.mark.parametrize("script", ["Trainer", "Tester"])
def test_a_macs_cpu_may_help_out_before_torch_is_loaded(script):
    """PyTorch reads PYTORCH_ENABLE_MPS_FALLBACK when it is loaded; importing cli sets it."""
    assert os.environ["PYTORCH_ENABLE_MPS_FALLBACK"] == "1"
    imports = [node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
               for node in ast.parse((ROOT / f"{script}.py").read_text()).body
               if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert imports.index("cli.errors") < imports.index("torch")


@pytest.mark.parametrize("capability, dtype", [((6, 0), "float32"), ((7, 5), "float16"), ((8, 0), "bfloat16")])
def test_each_gpu_computes_in_what_it_is_fast_at(capability, dtype, dancer, tmp_path, capsys):
    with pretend("cuda", capability=capability):
        call_script(tmp_path, "Trainer", "--DR", dancer, *TRAINING)
        device = choose_device("auto")
        assert str(choose_precision("auto", device)) == f"torch.{dtype}"
        assert not torch.backends.cudnn.allow_tf32  # labels are encoded in real float32
        fast = memory_format(device, choose_precision("auto", device))
        assert (fast == torch.channels_last) == (dtype != "float32")
    assert f"on cuda:0, computing in {dtype}" in capsys.readouterr().out
    assert bool(load_checkpoint(tmp_path / "run/last.ckpt")["scaler"]) == (dtype == "float16")
    assert all(math.isfinite(row["loss"]) for row in metrics_of(tmp_path / "run"))


def test_resumed_run_in_half_precision_goes_on_with_its_scale(dancer, tmp_path):
    """Here one that a new run does not come to: 65536 divided by powers of two."""
    with pretend("cuda", capability=(7, 5)):
        call_script(tmp_path, "Trainer", "--DR", dancer, *TRAINING)
        checkpoint = load_checkpoint(tmp_path / "run/last.ckpt")
        checkpoint["scaler"]["scale"] = 1000.0
        save_checkpoint([tmp_path / "run/last.ckpt"], checkpoint)
        call_script(tmp_path, "Trainer", "--resume", *flags(save_root="run", num_epoch=2))
    after = load_checkpoint(tmp_path / "run/last.ckpt")
    assert after["last_epoch"] == 1 and after["scaler"]["scale"] == 1000


@pytest.mark.parametrize("fault, more", [(lambda terms: terms, 0), (lambda terms: terms + terms[0].item() * 0, 12)])
def test_an_epoch_reads_the_losses_seldom_and_nothing_else(fault, more, dancer, tmp_path, monkeypatch):
    """And a read in every step is seen."""
    reads, train, steps_on = [], Trainer.train_one_epoch, ClipTrainer.steps_on

    def watched(*arguments):
        before = accelerator.reads
        row = train(*arguments)
        reads.append(accelerator.reads - before)
        return row

    monkeypatch.setattr(Trainer, "train_one_epoch", watched)
    monkeypatch.setattr(ClipTrainer, "steps_on", lambda *arguments: map(fault, steps_on(*arguments)))
    with pretend("cuda") as accelerator:
        call_script(tmp_path, "Trainer", "--DR", dancer, *TRAINING, *flags(batch_size=1, device="cuda", partial=0.7))
    assert reads == [math.ceil(12 / READ_EVERY) + more]


@pytest.mark.parametrize("kind, fault, said", [
    ("cuda", lambda terms: terms + torch.zeros(len(terms)), "same device"),
    ("mps", lambda terms: terms.double(), "float64"),
    ("mps", lambda terms: terms + torch.zeros(len(terms), dtype=torch.float64, device="mps"), "float64"),
    ("cuda", lambda terms: terms.detach().numpy(), "numpy"),
    ("cuda", lambda terms: torch.randn(len(terms), generator=torch.Generator(), device="cuda"), "generator"),
    ("mps", lambda terms: terms + torch.zeros(4).to("mps", non_blocking=True), "garbage")])
def test_a_fault_on_a_device_is_found(kind, fault, said, dancer, tmp_path, monkeypatch):
    steps_on = ClipTrainer.steps_on
    monkeypatch.setattr(ClipTrainer, "steps_on", lambda *arguments: map(fault, steps_on(*arguments)))
    with pretend(kind), pytest.raises((RuntimeError, TypeError), match=said):
        call_script(tmp_path, "Trainer", "--DR", dancer, *TRAINING, "--device", kind)


def test_a_host_read_in_a_step_is_counted():
    with pretend("cuda") as accelerator:
        x = torch.ones(3, device="cuda")
        for read in (lambda: x.sum().item(), lambda: x.tolist(), lambda: bool(x.all()), lambda: x.cpu(),
                     lambda: x.to("cpu"), lambda: torch.zeros(3).copy_(x), lambda: x[x > 0],
                     lambda: torch.zeros(3).to("cuda")):
            before = accelerator.reads
            read()
            assert accelerator.reads > before
        before = accelerator.reads
        (x * 2).mean().to("cuda")
        assert accelerator.reads == before


def test_a_sequence_batch_that_does_not_fit_is_generated_in_parts(dancer, tmp_path, monkeypatch, capsys):
    """The submission is the same, whatever fits."""
    from engine import evaluation

    generate, sizes = evaluation.generate, []

    def small(model, first_frames, *more):
        sizes.append(len(first_frames))
        if len(first_frames) > largest:
            raise FULL["cuda"]()
        return generate(model, first_frames, *more)

    call_script(tmp_path, "Trainer", "--DR", dancer, *TRAINING, *flags(device="cpu", amp="off", num_epoch=1))
    monkeypatch.setattr(evaluation, "generate", small)
    said = []
    for largest in (2, 1):
        call_script(tmp_path, "Tester", *flags(ckpt_path="run/best.ckpt", save_root=str(largest), samples=3, DR=dancer,
                                               device="cpu", amp="off"))
        said.append(capsys.readouterr().out)
    assert sizes == [2, 3, 1, 2, 3, 1, 2] + [2, 1, 1] + 2 * [3, 1, 2, 1, 1]
    assert "2 sequences at once do not fit" in said[1]
    assert (pixels_of(tmp_path / "1") - pixels_of(tmp_path / "2")).abs().max() <= 1


FULL = {"cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
        "cpu": lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        "mps": lambda: RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        "metal": lambda: RuntimeError("Invalid buffer size: 24.00 GiB"),
        "engine": lambda: RuntimeError("GET was unable to find an engine to execute this computation"),
        "cudnn": lambda: RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        "python": MemoryError}


@pytest.fixture(scope="module")
def trained(dancer, tmp_path_factory):
    """The folder of a run that has been trained for an epoch."""
    folder = tmp_path_factory.mktemp("trained")
    call_script(folder, "Trainer", "--DR", dancer, *TRAINING, *flags(device="cpu", amp="off", num_epoch=1))
    return folder / "run"


REDUCING = ("--batch_size", "--train_vi_len", "--checkpoint_frames", "--accumulate", "--interleave")
TRAIN, TEST = ["Trainer", *TRAINING], ["Tester", "--ckpt_path", "run/best.ckpt"]
FULL_AT = [  # the words, what does not fit, and the remedies
    (TRAIN, "engine.optimization.ClipTrainer.steps_on", REDUCING),
    *[(words, "engine.evaluation.generate", ["close other programs"])
      for words in (TRAIN, ["Trainer", "--test", *TEST[1:]], TEST)]]
FULL_ELSEWHERE = [
    ([*TEST, *flags(split="val", samples=2, lpips=True)], target, ["fewer --samples"])
    for target in ("dataloader.decode_cached", "Tester.build_model", "Tester.load_lpips", "Tester.draw_samples")]


@pytest.mark.parametrize("kind, words, target, remedies", [
    *[(kind, *case) for kind in FULL for case in FULL_AT], *[("cuda", *case) for case in FULL_ELSEWHERE]])
def test_full_memory_is_told_with_a_remedy(
        kind, words, target, remedies, trained, dancer, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise FULL[kind]()

    if words != TRAIN:
        shutil.copytree(trained, tmp_path / "run")
    monkeypatch.setattr("engine.saving.start.LPIPS_MIN_SIDE", 1)
    monkeypatch.setattr("Tester.load_lpips", lambda device: None)
    monkeypatch.setattr(target, full)
    with pytest.raises(SystemExit) as ended:
        call_script(tmp_path, *words, *flags(DR=dancer, device="cpu", amp="off"))
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert "memory" in error and all(remedy in error for remedy in remedies)


def no_kernel(*_, **__):
    raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nCompile with ...")


def no_engine(*_, **__):
    raise RuntimeError("GET was unable to find an engine to execute this computation")


@pytest.mark.parametrize("amp, capability, dtype", [("bf16", (7, 5), "bfloat16"), ("fp16", (7, 5), "float16"),
                                                    ("auto", (7, 5), "float16"), ("auto", (8, 0), "bfloat16")])
def test_a_precision_that_a_gpu_has_no_depthwise_kernels_for_is_told(amp, capability, dtype, monkeypatch, capsys):
    """As bfloat16 on a T4: the template network's depthwise convolutions, channels-last, are cuDNN's alone."""
    conv2d = torch.nn.functional.conv2d

    def depthwise_missing(images, weight, *more, groups=1, **others):
        if groups > 1 and weight.dtype != torch.float32:
            assert images.is_contiguous(memory_format=torch.channels_last)
            no_engine()
        return conv2d(images, weight, *more, groups=groups, **others)

    with pretend("cuda", capability=capability):
        monkeypatch.setattr("torch.nn.functional.conv2d", depthwise_missing)
        device = choose_device("cuda")
        if amp == "auto":
            assert choose_precision(amp, device) == torch.float32
            assert f"cannot compute the networks in {dtype} (GET was unable to" in capsys.readouterr().out
        else:
            with pytest.raises(devices.UsageError, match=f"--amp {amp}: .* in {dtype} .* give --amp auto"):
                choose_precision(amp, device)
        assert choose_precision("off", device) == torch.float32


@pytest.mark.parametrize("failing, said", [(no_kernel, "no kernel image is available for execution on the device"),
                                           (no_engine, "unable to find an engine")])
def test_a_gpu_without_kernels_is_named_and_auto_does_without_it(failing, said, monkeypatch, capsys):
    with pretend("cuda", capability=(6, 0)):
        monkeypatch.setattr("torch.nn.functional.conv2d", failing)
        assert choose_device("auto").type == "cpu"
        assert "Pretended GPU cannot be used" in capsys.readouterr().out
        with pytest.raises(devices.UsageError, match=said):
            choose_device("cuda")


@pytest.mark.parametrize("device", ["auto", "cuda"])
@pytest.mark.parametrize("message", ["CUDA out of memory. Tried to allocate 2.00 MiB",
                                     "CUDA error: CUDA-capable device(s) is/are busy or unavailable"])
def test_a_gpu_that_others_have_taken_is_not_replaced_by_the_cpu(message, device, monkeypatch):
    def taken(*_, **__):
        raise RuntimeError(message)

    with pretend("cuda"):
        monkeypatch.setattr("engine.devices.try_kernels", taken)
        with pytest.raises(RunError, match="is taken by other programs .* --gpu or --device cpu"):
            choose_device(device)


@pytest.mark.parametrize("name, dtype", [
    ("Tesla T4", "float16"), ("Tesla V100-SXM2-16GB", "float16"), ("NVIDIA GeForce RTX 2080 Ti", "float16"),
    ("NVIDIA GeForce GTX 1650", "float32"), ("NVIDIA T1000 8GB", "float32"), ("NVIDIA T600 Laptop GPU", "float32"),
    ("Quadro T2000", "float32"), ("NVIDIA GeForce MX450", "float32"), ("NVIDIA CMP 30HX", "float32")])
def test_a_gpu_without_tensor_cores_computes_in_float32(name, dtype):
    with pretend("cuda", capability=(7, 5)), mock.patch("torch.cuda.get_device_name", lambda *_: name):
        assert str(choose_precision("auto", torch.device("cuda", 0))) == f"torch.{dtype}"


def test_a_driver_that_is_too_old_is_named(monkeypatch, capsys):
    def not_available():
        warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old (found version 11040). "
                      "Please update your GPU driver")
        return False

    monkeypatch.setattr(torch.cuda, "is_available", not_available)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto").type == "cpu"
    out = capsys.readouterr().out
    assert "driver on your system is too old (found version 11040)" in out and "a torch for an older CUDA" in out
    with pytest.raises(devices.UsageError, match="too old"):
        choose_device("cuda")


QUOTAS = [({"cpu.max": "max 100000\n"}, 64), ({"cpu.max": "400000 100000\n"}, 4), ({"cpu.max": "150000 100000\n"}, 2),
          ({"cpu.max": "5000 100000\n"}, 1), ({"cpu.max": "9900000 100000\n"}, 64), ({"cpu.max": "damaged"}, 64),
          ({}, 64),
          ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
          ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4)]


@pytest.mark.parametrize("files, cores", QUOTAS)
def test_a_container_s_share_of_the_cores_is_all_that_is_used(files, cores, tmp_path, monkeypatch):
    """torch would start a thread for each core of the machine."""
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr("cli.cores.CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    assert usable_cores() == cores
    threads = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 48)
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    devices.tune_cpu()
    monkeypatch.delenv("OMP_NUM_THREADS")
    devices.tune_cpu()
    assert threads == [min(cores, 48)]  # the user's own number stays


def test_no_gpu_at_all_is_nothing_to_say_of_auto(capsys, monkeypatch):
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("there is one")
    monkeypatch.setattr(devices.shutil, "which", lambda name: None)
    assert choose_device("auto").type == "cpu" and not capsys.readouterr().out


def test_a_torch_for_the_cpu_alone_beside_a_gpu_is_named(capsys, monkeypatch):
    """As pip installs it on Windows."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(devices.shutil, "which", lambda name: f"C:\\Windows\\System32\\{name}.exe")
    assert choose_device("auto").type == "cpu"
    assert "is built for the CPU alone, and here is an NVIDIA GPU; install" in capsys.readouterr().out
    with pytest.raises(devices.UsageError, match="--device cuda: torch .* is built for the CPU alone"):
        choose_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    assert choose_device("auto").type == "cpu" and not capsys.readouterr().out


def test_several_processes_on_a_mac_compute_on_its_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto").type == "mps"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert choose_device("auto").type == choose_device("cpu").type == "cpu"
    assert choose_device("mps").type == "mps"  # refused in joined_processes


def test_a_gpu_that_is_not_there_is_named():
    with pretend("cuda"), pytest.raises(devices.UsageError, match="--gpu 1"):
        choose_device("cuda", gpu=1)


def test_each_process_of_torchrun_computes_on_the_gpu_of_its_local_rank(monkeypatch):
    chosen = []
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setattr("engine.devices.try_kernels", lambda device, dtype: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for name in ("auto", "cuda"):
        monkeypatch.setenv("LOCAL_RANK", "1")
        assert choose_device(name) == choose_device(name, gpu=0) == torch.device("cuda", 1)
        monkeypatch.setenv("LOCAL_RANK", "2")
        with pytest.raises(devices.UsageError, match="--nproc_per_node: process 2: this machine has 2 CUDA"):
            choose_device(name)
    assert chosen == [1] * 4


def test_the_variables_of_another_launcher_choose_no_gpu_and_silence_nobody(monkeypatch, capsys):
    """As of mpirun or a job scheduler that sets RANK and LOCAL_RANK for programs of its own."""
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pretend("cuda"):
        assert choose_device("cuda") == torch.device("cuda", 0)
    processes.silence_other_processes()
    print("heard")
    assert "heard" in capsys.readouterr().out
