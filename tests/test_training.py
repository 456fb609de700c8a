"""Every fast or frugal path gives what the plain one gives: forced frames as one batch, recomputation, recordings."""

import copy
import gc
import math
import weakref
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from unittest.mock import Mock

import faults
import pytest
import torch

from cli.errors import RunError, UsageError
from cli.flags import schedule_settings, trainer_parser
from conftest import TINY_CLIPS, TINY_NETWORK, flags, read_csv, tiny_model
from dataloader import Dataset_Dance
from engine import clipping, cuda_graphs, optimization
from engine.batches import Batch, Clips, EpochBatches, place_on, random_stream
from engine.cuda_graphs import PLAIN_CALLS, PlacedNoise
from engine.devices import autocast, choose_precision
from engine.evaluation import generate_sequences
from engine.optimization import TERMS, TOTALS, ClipTrainer
from engine.saving.checkpoint import load_checkpoint
from engine.schedules import Schedules
from engine.training import RunState, check_steps_taken, metrics_row, skipped_in_a_row, train_one_epoch
from modules import VAE_Model
from modules.metrics import psnr
from modules.noise import Noise
from modules.pixels import to_unit
from pretend_device import pretend

CLIPS, LENGTH, SIZE = 3, 6, (8, 16)
CPU = torch.device("cpu")
MASKS = {
    "free": torch.zeros(CLIPS, LENGTH, dtype=torch.bool),
    "forced": torch.ones(CLIPS, LENGTH, dtype=torch.bool),
    "mixed": torch.tensor([[1, 1, 1, 0, 1, 1], [1, 1, 0, 0, 1, 1], [1, 1, 1, 1, 1, 0]]).bool(),
}
WAYS_TO_RECORD = [{}, {"bptt": 2}, {"bptt": 1, "label_norm": "fixed"}]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def settings(**changed):
    """Parameters of ClipTrainer; SGD, because Adam enlarges the rounding of a gradient near 0."""
    return {"optim": "SGD", "lr": 0.1, "reconstruction": "mse", "bptt": 0, "clamp_feedback": True, "input_noise": 0.1,
            "label_norm": "batch", "checkpoint_frames": False, "random_shift": False, **changed}


@pytest.fixture
def frame_by_frame(monkeypatch):
    """Compute forced frames one a step, as free ones."""
    monkeypatch.setitem(optimization.IMAGES_AT_ONCE, "cpu", 1)


def pixels(seed=1):
    """Frames and labels, uint8 [CLIPS, LENGTH, 3, H, W] each."""
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (2, CLIPS, LENGTH, 3, *SIZE), generator=random, dtype=torch.uint8)


def batch(mask, device=CPU, noise_device=CPU):
    frames, labels = pixels()
    streams = [torch.Generator(noise_device).manual_seed(row) for row in range(CLIPS)]
    return Clips(to_unit(frames).to(device), to_unit(labels).to(device), MASKS[mask], Noise(streams, device), CLIPS)


def trained(mask, posterior="previous", device=CPU, dtype=torch.float32, steps=2, recorded=True, **changed):
    """Sums of the metrics and the weights after steps on one batch; recorded: whether CUDA records them at last."""
    model = tiny_model(posterior).to(device).train()
    trainer = ClipTrainer(model, device, dtype, **settings(**changed))
    sums = [sum(trainer.steps_on([Batch([batch(mask, device)], CLIPS)], 0.01)).cpu() for _ in range(steps)]
    assert bool(trainer.graphed_gradient and trainer.graphed_gradient.recordings) == (
        recorded and device.type == "cuda" and steps > PLAIN_CALLS and changed.get("cuda_graphs", True))
    return torch.stack(sums), {name: value.cpu() for name, value in model.state_dict().items()}


def assert_same_training(ours, theirs, tolerance=1e-5):
    torch.testing.assert_close(ours[0], theirs[0], rtol=tolerance, atol=0)
    for name, weights in theirs[1].items():
        torch.testing.assert_close(ours[1][name], weights, rtol=1e-3, atol=10 * tolerance)


@pytest.mark.parametrize("posterior", ["previous", "current"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("images", [1, 2 * CLIPS, 1000])
@pytest.mark.parametrize("changed", [{}, {"checkpoint_frames": True}], ids=str)
def test_fast_and_frugal_steps_equal_the_plain_one(changed, images, mask, posterior, monkeypatch):
    monkeypatch.setitem(optimization.IMAGES_AT_ONCE, "cpu", images)
    fast = trained(mask, posterior, **changed)
    monkeypatch.setitem(optimization.IMAGES_AT_ONCE, "cpu", 1)
    assert_same_training(fast, trained(mask, posterior))


@pytest.mark.parametrize("kind, dtype, graphs", [
    ("cpu", torch.float32, False), ("mps", torch.float32, False), ("cuda", torch.float32, False),
    ("cuda", torch.bfloat16, True), ("cuda", torch.float16, True)])
@pytest.mark.parametrize("fault", [math.nan, math.inf, 1e22])
@pytest.mark.parametrize("parts", [1, 2])
def test_step_whose_gradient_is_not_finite_is_skipped(kind, dtype, graphs, fault, parts):
    """Weights and optimizer stay as they are, and the step after it starts from the true frame.

    With a fault of 1e22 all gradients are finite, but their norm is not.
    """
    def state():
        return copy.deepcopy({"model": model.state_dict(), "optimizer": trainer.optimizer.state_dict()["state"],
                              "clipper": trainer.clipper.state_dict()})

    with pretend(kind) if kind != "cpu" else nullcontext():
        device = torch.device(kind)
        model = tiny_model().to(device)
        trainer = ClipTrainer(model, device, dtype, **settings(optim="Adam", lr=1e-3, bptt=1, label_norm="fixed",
                                                               clamp_feedback=False, cuda_graphs=graphs))
        trainer.training_mode()
        for _ in range(2 if graphs else 1):
            list(trainer.steps_on([Batch([batch("free", device)], CLIPS)], 0.01))
        broken = [batch("free", device) for _ in range(parts)]
        broken[-1].frames[:, int(math.isfinite(fault))] = fault  # the input, or what is to be predicted
        before, totals, following = state(), [], []
        for sums in trainer.steps_on([Batch(broken, parts * CLIPS)], 0.01):
            totals.append(dict(zip(TOTALS, sums.cpu().tolist())))
            following.append(state())
    assert totals[0] == dict.fromkeys(TOTALS, 0.0) | {"skipped_steps": 1}
    assert faults.differences(following[0], before) == [] != faults.differences(following[1], before)
    for taken in totals[1:]:
        assert all(map(math.isfinite, taken.values())) and taken["skipped_steps"] == 0
        assert taken["clips"] == pytest.approx(parts * CLIPS / (LENGTH - 1))


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_a_step_that_all_processes_skip_is_one_skipped_step(processes, monkeypatch):
    monkeypatch.setattr(optimization, "world_size", lambda: processes)
    trainer, broken = ClipTrainer(tiny_model(), CPU, torch.float32, **settings()), batch("free")
    broken.frames[:] = math.nan
    [sums] = trainer.steps_on([Batch([broken], processes * CLIPS)], 0.01)
    assert processes * sums[TOTALS.index("skipped_steps")].item() == pytest.approx(1)


@pytest.mark.parametrize("skipped, epoch_is_over, dtype, in_a_row, ends", [
    (30, False, "float32", 49, ""), (50, False, "float32", 50, "50 steps in a row"),
    (50, False, "float16", 50, "50 steps in a row"), (29, False, "float32", 29, ""), (30, True, "float32", 0, ""),
    (31, True, "float32", 0, "31 of 60 steps"), (40, True, "float16", 0, ""),
    (41, True, "float16", 0, "41 of 60 steps")])
def test_run_ends_when_most_steps_are_skipped(skipped, epoch_is_over, dtype, in_a_row, ends):
    trainer = SimpleNamespace(dtype=getattr(torch, dtype), loss_settings={"clamp": True})
    row = {"epoch": 0, "skipped_steps": skipped}
    with pytest.raises(RunError, match=f"gradient of {ends} was not finite") if ends else nullcontext():
        check_steps_taken(row, 60, in_a_row, epoch_is_over, trainer)


@pytest.mark.parametrize("dtype, clamp, tried", [
    ("float32", True, "a lower --lr"), ("float32", False, "--clamp_feedback, a lower --lr"),
    ("float16", True, "--amp off, a lower --lr")])
def test_what_is_on_already_is_no_remedy(dtype, clamp, tried):
    trainer = SimpleNamespace(dtype=getattr(torch, dtype), loss_settings={"clamp": clamp})
    with pytest.raises(RunError, match=f"; try {tried} or a lower --kl_weight$"):
        check_steps_taken({"epoch": 0, "skipped_steps": 50}, 60, 50, False, trainer)


@pytest.mark.parametrize("skipped, before, expected", [
    ([0, 1, 1], 7, (7, 2)), ([1, 1, 1], 7, (10, 10)), ([1, 1, 0], 7, (9, 0)), ([0], 7, (7, 0)), ([1], 0, (1, 1)),
    ([0, *[1] * 60, 0, 1], 0, (60, 1))])  # between two looks at a GPU's losses lie many steps
def test_skipped_steps_in_a_row_are_counted_from_look_to_look(skipped, before, expected):
    """The most of them, and those at the end."""
    assert skipped_in_a_row(torch.tensor(skipped).bool(), before) == expected


def test_means_of_an_epoch_are_over_the_steps_that_were_taken():
    totals = dict(zip(TOTALS, (6.0, 4.0, 2.0, 8.0, 2.0, 3.0)))
    schedules = Schedules(**schedule_settings(trainer_parser().parse_args([])))
    row = metrics_row(0, schedules, RunState(batches_done=1, totals=totals), 1, 1)
    assert [row[name] for name in (*TERMS, "skipped_steps")] == [3, 2, 1, 4, 3]
    none_taken = metrics_row(0, schedules, RunState(batches_done=1, totals=dict.fromkeys(TOTALS, 0.0)), 1, 1)
    assert all(math.isnan(none_taken[name]) for name in TERMS)


def test_forced_clips_are_computed_as_one_batch_and_no_others(monkeypatch):
    monkeypatch.setitem(optimization.IMAGES_AT_ONCE, "cpu", 3 * CLIPS)
    seen = []
    model = tiny_model().train()
    encode = model.frame_transformation.forward
    monkeypatch.setattr(model.frame_transformation, "forward", lambda x: seen.append(len(x)) or encode(x))
    trainer = ClipTrainer(model, CPU, torch.float32, **settings())
    for mask, expected in (("free", [1, 1, 1, 1, 1]), ("forced", [3, 2]), ("mixed", [1, 1, 1, 1, 1])):
        seen.clear()
        list(trainer.steps_on([Batch([batch(mask)], CLIPS)], 0.01))
        assert seen == [CLIPS * frames for frames in expected]


def test_recomputed_frames_hold_less_memory():
    """Counted in what the graph keeps: all tensors saved for the backward pass."""
    kept = {}
    for recompute in (False, True):
        total = 0

        def count(tensor):
            nonlocal total
            total += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            frames, labels = map(to_unit, pixels())
            tiny_model()(frames, labels, Noise.seeded(0, CLIPS, CPU), 1.0, recompute=recompute)
        kept[recompute] = total
    assert kept[True] < kept[False] / 4


def test_recomputed_forced_frames_are_few_at_a_time_on_a_gpu(monkeypatch):
    """Else the recomputation of a clip would hold all of its frames."""
    seen = []
    monkeypatch.setitem(optimization.IMAGES_AT_ONCE, "cpu", 2 * CLIPS)
    with pretend("cuda"):
        trainer = ClipTrainer(tiny_model().to("cuda"), torch.device("cuda"), torch.float32,
                              **settings(checkpoint_frames=True))
        trainer.model.Generator.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
        list(trainer.steps_on([Batch([batch("forced", torch.device("cuda"))], CLIPS)], 0.01))
    assert max(seen) == 2 * CLIPS


def test_a_clip_has_the_same_noise_in_any_part_of_a_batch():
    """The gradient of a batch is that of its parts, with BatchNorm in eval mode, where a label counts for itself."""
    gradients = []
    for parts in ([slice(0, 3)], [slice(0, 1), slice(1, 3)]):
        model = tiny_model()
        model.label_transformation[2].train(False)
        trainer = ClipTrainer(model, CPU, torch.float32, **settings())
        whole = batch("mixed")
        chosen = [Clips(*(value[part] for value in whole[:3]), Noise(whole.noise.generators[part], CPU),
                        part.stop - part.start) for part in parts]
        sums = sum(trainer.steps_on([Batch(chosen, CLIPS)], 0.01))
        gradients.append([sums, *(weights.grad for weights in model.parameters())])
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_each_networks_gradient_is_clipped_to_twice_its_usual_norm(monkeypatch):
    """And that of the whole to 1; it is not clipped at all where it is usual, however small."""
    monkeypatch.setattr(clipping, "NORMS_IN_MEAN", 5)
    model = torch.nn.ModuleDict({"label_transformation": torch.nn.Linear(3, 4), "Generator": torch.nn.Linear(4, 3)})
    trainer = ClipTrainer(model, CPU, torch.float32, **settings())
    networks, taken = [[*network.parameters()] for network in model.children()], []
    monkeypatch.setattr(trainer.optimizer, "step", lambda: taken.append(
        [torch.nn.utils.get_total_norm([weight.grad for weight in weights]).item() for weights in networks]))

    def step(*norms):
        for weights, norm in zip(networks, norms):
            for weight in weights:
                weight.grad = torch.full_like(weight, norm / sum(map(torch.numel, weights)) ** 0.5)
        whole = trainer._clip_and_step()[0].item()
        assert whole == pytest.approx(math.hypot(*norms), rel=1e-3)  # as it was before
        return pytest.approx(taken[-1], rel=1e-3)

    assert [0.03, 0.04] == step(0.03, 0.04)
    assert [0.06, 0.08] == step(0.3, 0.4)  # one norm is enough to tell
    trainer.clipper.load_state_dict({})
    assert [0.6, 0.8] == step(30.0, 40.0)  # nothing is usual yet
    for large, small in [(0.2, 0.002), (0.02, 0.00002)]:
        for _ in range(100):
            step(large, small)
        assert [large, small] == step(large, small)
        assert [1.9 * large, 1.9 * small] == step(1.9 * large, 1.9 * small)
        for _ in range(40):
            step(large, small)
        assert [large, 2 * small] == step(large, 100 * small)  # which is usual as a whole
        for _ in range(40):
            step(large, small)
        assert [2 * large, 2 * small] == step(100 * large, 100 * small)
    for _ in range(200):
        step(0.0, 0.0)
    for _ in range(100):
        found_back = step(0.5, 0.5)
    assert [0.5, 0.5] == found_back


def followed(monkeypatch, batches, bptt):
    """Train on batches of clips whose label t shows the number t: (batch, true start or not, labels) of each step."""
    seen = []
    model = tiny_model().train()
    trainer = ClipTrainer(model, CPU, torch.float32, **settings(bptt=bptt))
    forward = trainer.parallel_model.forward

    def watched(frames, labels, *arguments, **more):
        number = round(labels[0, 0, 1, 0, 0].item() * 255)
        times = [round(value * 255) for value in labels[0, :, 0, 0, 0].tolist()]
        seen.append((number, bool((frames[:, 0] == frames_of[number][:, times[0]]).all()), times))
        return forward(frames, labels, *arguments, **more)

    monkeypatch.setattr(trainer.parallel_model, "forward", watched)
    frames_of, given = [], []
    for number in range(batches):
        whole = batch("free")
        labels = torch.zeros_like(whole.labels)
        labels[:, :, 0] = torch.arange(LENGTH)[:, None, None] / 255
        labels[:, :, 1] = number / 255
        frames_of.append(whole.frames)
        given.append(Batch([whole._replace(labels=labels)], CLIPS))
    for done, _ in enumerate(trainer.steps_on(given, 0.01), start=1):
        assert len(seen) == done  # it is at the next step only when it is asked for it
    return seen


@pytest.mark.parametrize("batches", [1, 2, 3, 7])
@pytest.mark.parametrize("bptt", [0, 1, 2, 3, 5])
def test_batches_in_turn_train_every_frame_once_and_continue_from_predictions(batches, bptt, monkeypatch):
    seen = followed(monkeypatch, batches, bptt)
    assert [number for number, *_ in seen] == [*range(batches)] * (len(seen) // batches)
    begins = set()
    for batch_number in range(batches):
        mine = [(true, times) for number, true, times in seen if number == batch_number]
        assert sorted(time for _, times in mine for time in times[1:]) == [*range(1, LENGTH)]
        begins.add(mine[0][1][0])
        for place, (true, times) in enumerate(mine):
            assert true == (place == 0 or times[0] == 0)
    assert len(begins) == min(batches, len(seen) // batches)  # they are at different frames


def batches_of(dancer, epoch, **changed):
    dataset = Dataset_Dance(dancer, None, "train", LENGTH, frame_size=SIZE)
    return EpochBatches(dataset, epoch, CPU, **{
        "tfr": 1.0, "tfr_per": "epoch", "partial": 1.0, "batch_size": 3, "accumulate": 1, "interleave": 1,
        "shuffle": True, "random_start": False, "seed": 0, **changed})


@pytest.mark.parametrize("random_start", [True, False])
def test_clips_of_an_epoch_are_of_the_part_of_the_frames_that_is_used(dancer, random_start):
    """A half of 70 frames."""
    starts = torch.cat(batches_of(dancer, epoch=0, partial=0.5, random_start=random_start).starts)
    assert len(starts) == 35 // LENGTH and starts.max() + LENGTH <= 35


def test_every_step_has_the_learning_rate_of_its_middle(dancer, monkeypatch):
    """4 batches of 3 steps: a round of 3 batches in turn, and one of the last batch."""
    trainer = ClipTrainer(tiny_model(), CPU, torch.float32, **settings(bptt=2))
    batches = batches_of(dancer, epoch=1, interleave=3)
    args = trainer_parser().parse_args(flags(num_epoch=3, lr=0.004, lr_schedule="Cosine"))
    rates, [group] = [], trainer.optimizer.param_groups
    monkeypatch.setattr(trainer.optimizer, "step", lambda: rates.append(group["lr"]))
    row = train_one_epoch(trainer, batches, Schedules(**schedule_settings(args)), RunState(), Mock())
    assert row["lr"] == pytest.approx(rates[-1])
    assert rates == pytest.approx([0.002 * (1 + math.cos(math.pi * (12 + step + 0.5) / 36)) for step in range(12)])


def test_long_clip_trains_in_segments_with_recomputation(dancer, call):
    words = ["--DR", dancer, *flags(**TINY_NETWORK), *TINY_CLIPS, *flags(
        train_vi_len=30, batch_size=1, num_epoch=1, bptt=8, kl_anneal_type="None", kl_weight=1e-4)]
    for name, more in (("plain", []), ("frugal", ["--checkpoint_frames"])):
        call("Trainer", *words, "--save_root", name, *more)
    plain, frugal = (read_csv(f"{name}/metrics.csv")[0] for name in ("plain", "frugal"))
    assert float(plain["loss"]) == pytest.approx(float(frugal["loss"]), rel=1e-4)


def test_bfloat16_generates_and_trains_as_float32_does_within_its_precision():
    model, (frames, labels) = tiny_model(), pixels()
    exact, rounded = (
        torch.stack(generate_sequences(model, frames[:, 0], labels, device=CPU, dtype=dtype, seed=0, temperature=1.0,
                                       clamp=True)) for dtype in (torch.float32, torch.bfloat16))
    assert not torch.equal(exact, rounded)
    assert psnr(to_unit(rounded), to_unit(exact)).min() > 35
    (exact, _), (rounded, _) = (trained("free", dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact[:, :3], rounded[:, :3], rtol=0.03, atol=0)


@pytest.mark.parametrize("capabilities", [{}, {"avx512_bf16": True, "amx_bf16": False}, {"amx_bf16": True}], ids=str)
def test_a_cpu_computes_in_bfloat16_by_itself_only_if_it_has_amx(capabilities, monkeypatch, capsys):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    fast = torch.bfloat16 if capabilities.get("amx_bf16") else torch.float32
    assert choose_precision("auto", CPU) == fast
    assert choose_precision("off", CPU) == torch.float32
    assert not capsys.readouterr().out
    assert choose_precision("bf16", CPU) == torch.bfloat16
    assert ("--amp bf16 saves memory" in capsys.readouterr().out) == (fast == torch.float32)
    with pytest.raises(UsageError, match="--amp fp16"):
        choose_precision("fp16", CPU)


def test_a_torch_that_cannot_tell_of_amx_computes_in_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert choose_precision("auto", CPU) == torch.float32


def test_weights_and_checkpoints_stay_float32_under_bfloat16(dancer, call):
    call("Trainer", "--DR", dancer, *flags(**TINY_NETWORK), *TINY_CLIPS,
         *flags(num_epoch=1, save_root="run", amp="bf16"))
    checkpoint = load_checkpoint("run/last.ckpt")
    assert {tensor.dtype for tensor in checkpoint["state_dict"].values()} == {torch.float32, torch.int64}


@needs_cuda
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("changed", [{}, {"bptt": 2}], ids=str)
def test_step_on_cuda_equals_the_plain_one_on_the_cpu(changed, mask, frame_by_frame):
    choose_precision("off", torch.device("cuda"))
    ours = trained(mask, device=torch.device("cuda"), steps=6, **changed)
    assert_same_training(ours, trained(mask, steps=6, **changed), tolerance=1e-3)


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("changed", WAYS_TO_RECORD, ids=str)
def test_recorded_steps_on_cuda_equal_plain_ones(changed, mask, dtype):
    cuda = torch.device("cuda")
    ours, plain = (trained(mask, device=cuda, dtype=dtype, steps=8, cuda_graphs=graphs, **changed)
                   for graphs in (True, False))
    if dtype == torch.float32:
        assert_same_training(ours, plain)
    else:  # after a step or two sums in another order have become other weights
        torch.testing.assert_close(ours[0], plain[0], rtol=0.02, atol=0)


@pytest.mark.parametrize("mask", ["forced", "mixed"])  # free ones are recorded as mixed ones are
@pytest.mark.parametrize("changed", WAYS_TO_RECORD, ids=str)
def test_recorded_steps_equal_plain_ones(changed, mask):
    """Bit for bit, on a pretended GPU, whose recordings are garbage until they are replayed."""
    with pretend("cuda"):
        ours, plain = (trained(mask, device=torch.device("cuda"), steps=5, cuda_graphs=graphs, **changed)
                       for graphs in (True, False))
    assert torch.equal(ours[0], plain[0])
    assert all(torch.equal(ours[1][name], weights) for name, weights in plain[1].items())


def test_batches_of_several_parts_or_shapes_are_trained_on_as_without_recordings():
    """Parts add their gradients up and are not recorded; each shape has a recording of its own."""
    def losses(graphs):
        cuda = torch.device("cuda")
        trainer = ClipTrainer(tiny_model().to(cuda).train(), cuda, torch.float32,
                              **settings(bptt=2, cuda_graphs=graphs))
        for step in range(5):
            clips = batch("mixed", cuda)
            one = Clips(*(value[:1] for value in clips[:3]), Noise(clips.noise.generators[:1], cuda), 1)
            batches = [Batch([clips], CLIPS), Batch([clips, one], CLIPS + 1), Batch([one], 1)]
            yield sum(trainer.steps_on(batches, 0.01 * step)).tolist()
        kinds = trainer.graphed_gradient.recordings if graphs else {}
        assert len(kinds) == 5 * graphs  # two lengths of 3 clips; two of 1, and one where not all frames are forced

    with pretend("cuda"):
        assert list(losses(True)) == list(losses(False))


@pytest.mark.parametrize("kind, changed, processes", [
    ("mps", {}, 1), ("cuda", {"cuda_graphs": False}, 1), ("cuda", {"checkpoint_frames": True}, 1), ("cuda", {}, 2)])
def test_nothing_is_recorded(kind, changed, processes, monkeypatch):
    monkeypatch.setattr(optimization, "world_size", lambda: processes)
    with pretend(kind):
        device = torch.device(kind)
        trainer = ClipTrainer(tiny_model().to(device), device, torch.float32, **settings(**changed))
        assert trainer.graphed_gradient is None


def test_memory_that_recordings_hold_is_given_up_where_another_kind_needs_it():
    """As in the epoch in which teacher forcing ends for the first time."""
    def add_gradient(tensor, *, noise, forced):
        if len(graphed.recordings) > (0 if forced == "not" else 9) or forced == "never fits":
            raise torch.OutOfMemoryError("CUDA out of memory")
        assert weight.grad is None
        weight.grad = torch.ones(1, device="cuda")
        return [tensor * 2]

    def call(forced):
        weight.grad = None
        return graphed(torch.ones(1, device="cuda"), noise=None, forced=forced)[0].item()

    with pretend("cuda"):
        weight = torch.nn.Parameter(torch.ones(1, device="cuda"))
        graphed = cuda_graphs.GraphedGradient(add_gradient, [weight])
        for forced, kept in (("all", 1), ("not", 1), ("all", 2)):
            assert [call(forced) for _ in range(PLAIN_CALLS + 2)] == [2] * (PLAIN_CALLS + 2)
            assert len(graphed.recordings) == kept
        with pytest.raises(torch.OutOfMemoryError):
            call("never fits")


def test_memory_that_is_too_small_for_any_recording_ends_no_training(capsys):
    def add_gradient(tensor, *, noise):
        if isinstance(noise, PlacedNoise):  # a recording, which takes memory of its own
            raise torch.OutOfMemoryError("CUDA out of memory")
        assert weight.grad is None
        weight.grad = torch.ones(1, device="cuda")
        return [tensor * 2]

    with pretend("cuda"):
        weight = torch.nn.Parameter(torch.ones(1, device="cuda"))
        graphed = cuda_graphs.GraphedGradient(add_gradient, [weight])
        for _ in range(PLAIN_CALLS + 9):
            weight.grad = None
            assert graphed(torch.ones(1, device="cuda"), noise=None)[0].item() == 2
    assert not graphed.recordings and capsys.readouterr().out.count("without them") == 1


def test_kinds_whose_recordings_do_not_fit_together_are_not_recorded_for_ever(capsys):
    recorded = []

    def add_gradient(tensor, *, noise, kind):
        if graphed.recordings and kind not in recorded[-1:]:  # the memory holds one recording
            raise torch.OutOfMemoryError("CUDA out of memory")
        weight.grad = torch.ones(1, device="cuda")
        return [tensor * 2]

    def record(*arguments):
        recording = Recording(*arguments)
        recorded.append(arguments[-1]["kind"])
        return recording

    with pretend("cuda"), pytest.MonkeyPatch.context() as patch:
        Recording = cuda_graphs.Recording
        patch.setattr(cuda_graphs, "Recording", record)
        weight = torch.nn.Parameter(torch.ones(1, device="cuda"))
        graphed = cuda_graphs.GraphedGradient(add_gradient, [weight])
        for _ in range(30):
            for kind in ("first", "second"):
                weight.grad = None
                assert graphed(torch.ones(1, device="cuda"), noise=None, kind=kind)[0].item() == 2
    assert len(recorded) < 10 and not graphed.recordings
    assert capsys.readouterr().out.count("without them") == 1


@pytest.mark.parametrize("number", range(1, PLAIN_CALLS + 1))
def test_plain_call_that_finds_the_memory_full_of_recordings_is_made_again(number):
    """A call of the second kind fails after the first of its two draws, while a recording of the other is kept."""
    def add_gradient(tensor, *, noise, kind):
        first = noise.normal(1)
        calls.append(kind)
        if graphed.recordings and calls.count("second") == number:
            raise torch.OutOfMemoryError("CUDA out of memory")
        weight.grad = torch.ones(1, device="cuda")
        return [tensor + 0 * (first + noise.normal(1)).sum()]

    with pretend("cuda"):
        weight, calls = torch.nn.Parameter(torch.ones(1, device="cuda")), []
        graphed = cuda_graphs.GraphedGradient(add_gradient, [weight])
        for kind in ("first", "second"):
            for _ in range(PLAIN_CALLS + 2):
                weight.grad = None
                noise = Noise.seeded(0, 1, torch.device("cuda"))
                assert graphed(torch.ones(1, device="cuda"), noise=noise, kind=kind)[0].item() == 1


@contextmanager
def recordings_that_fail(error, closing_fails):
    @contextmanager
    def graph(graph, pool):
        try:
            with graph.recording():
                yield
        finally:
            if closing_fails:
                raise RuntimeError("operation failed due to a previous error during capture")

    class FailingNoise(PlacedNoise):
        def normal(self, *shape):
            raise type(error)(*error.args)  # a new one, for its traceback

    with pretend("cuda"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "graph", graph)
        patch.setattr(cuda_graphs, "PlacedNoise", FailingNoise)
        yield torch.device("cuda")


@pytest.mark.parametrize("error, closing_fails", [
    (RuntimeError("CUDA out of order"), False), (RuntimeError("CUDA out of order"), True),
    (torch.OutOfMemoryError("CUDA out of memory"), True)])
def test_a_recording_that_fails_is_told(error, closing_fails):
    """Also one of a full memory that cannot be ended: torch keeps its memory, and an assertion of its own fails."""
    with recordings_that_fail(error, closing_fails) as device:
        with pytest.raises(RunError, match=f"{error}.*--no-cuda_graphs"):
            trained("free", device=device, steps=PLAIN_CALLS + 1)


def test_the_stream_is_the_same_after_a_recording_whose_end_fails():
    """Unlike torch.cuda.graph itself, which is not left in order then."""
    streams = ["the default one"]

    @contextmanager
    def stream(chosen):
        before = streams[-1]
        streams.append(chosen)
        try:
            yield
        finally:
            streams.append(before)

    @contextmanager
    def graph(graph, pool):
        streams.append("that of the recording")
        yield
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pretend("cuda"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "graph", graph)
        patch.setattr(torch.cuda, "stream", stream)
        patch.setattr(torch.cuda, "current_stream", lambda: streams[-1])
        with pytest.raises(torch.OutOfMemoryError), cuda_graphs.recording(None, None):
            assert streams[-1] == "that of the recording"
    assert streams[-1] == "the default one"


def test_a_recording_that_the_memory_is_too_small_for_changes_no_step():
    with recordings_that_fail(torch.OutOfMemoryError("CUDA out of memory"), closing_fails=False) as device:
        ours = trained("free", device=device, steps=PLAIN_CALLS + 6, recorded=False)
        plain = trained("free", device=device, steps=PLAIN_CALLS + 6, recorded=False, cuda_graphs=False)
    assert_same_training(ours, plain)


def test_memory_of_a_recording_that_failed_is_given_back_before_the_call_is_made_again(monkeypatch):
    """An error that is kept would hold it, and the activations, until Python looks for circles."""
    begun, alive = [], []

    class Recording(cuda_graphs.Recording):
        def __init__(self, *arguments):
            begun.append(weakref.ref(self))
            super().__init__(*arguments)

    monkeypatch.setattr(cuda_graphs, "Recording", Recording)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(sum(it() is not None for it in begun)))
    with recordings_that_fail(torch.OutOfMemoryError("CUDA out of memory"), closing_fails=False) as device:
        gc.disable()
        try:
            trained("free", device=device, steps=PLAIN_CALLS + 6, recorded=False)
        finally:
            gc.enable()
    assert begun and alive == [0] * len(begun)


@pytest.mark.parametrize("fault", [
    lambda x: x + torch.rand(3, device="cuda"), lambda x, host=torch.ones(3): x + host.to("cuda"),
    lambda x: x * x.sum().item(), lambda x: x.cpu()], ids=["random", "from the host", "read", "to the host"])
def test_a_pretended_recording_refuses_what_cuda_refuses(fault):
    with pretend("cuda"):
        x, graph = torch.ones(3, device="cuda"), torch.cuda.CUDAGraph()
        with pytest.raises(RuntimeError, match="not permitted"), torch.cuda.graph(graph, pool=None):
            fault(x)


@pytest.mark.parametrize("pretended", [True, pytest.param(False, marks=needs_cuda)])
def test_half_precision_steps_are_close_to_exact_ones(pretended, monkeypatch):
    """From a scale on at which no gradient overflows."""
    monkeypatch.setattr(optimization, "FP16_SCALE", 2.0**8)
    with pretend("cuda") if pretended else nullcontext():
        sums, _ = trained("free", device=torch.device("cuda"), dtype=torch.float16, steps=6)
    exact, _ = trained("free", steps=6)
    torch.testing.assert_close(sums[:, 1], exact[:, 1], rtol=0.05, atol=0)


def test_half_precision_steps_find_a_scale():
    """The first ones overflow and are skipped."""
    with pretend("cuda"):
        sums, _ = trained("free", device=torch.device("cuda"), dtype=torch.float16, steps=20)
    assert 0 < sums[:, TOTALS.index("skipped_steps")].sum() < 16
    assert sums[-1].isfinite().all() and sums[-1, TOTALS.index("clips")] == CLIPS


@pytest.mark.parametrize("graphs", [False, True])
def test_scale_of_half_precision_ends_above_0(graphs, monkeypatch):
    """However many steps are not finite: the steps after them still train each network."""
    monkeypatch.setattr(optimization, "FP16_SCALE", 2 * optimization.LEAST_FP16_SCALE)
    with pretend("cuda"):
        device = torch.device("cuda")
        model = tiny_model().to(device).train()
        trainer = ClipTrainer(model, device, torch.float16, **settings(cuda_graphs=graphs))
        good, bad = batch("free", device), batch("free", device)
        bad.frames[:, 1:] = math.nan
        for _ in range(PLAIN_CALLS + 1):
            list(trainer.steps_on([Batch([bad], CLIPS)], 0.01))
        assert trainer.scaler.get_scale() == optimization.LEAST_FP16_SCALE
        before = copy.deepcopy(model.state_dict())
        sums = sum(trainer.steps_on([Batch([good], CLIPS)], 0.01)).cpu()
        assert sums[TOTALS.index("skipped_steps")] == 0
        for name, network in model.named_children():
            assert any(not torch.equal(weights, before[f"{name}.{of}"]) for of, weights in network.named_parameters())


@needs_cuda
def test_clips_cut_on_the_gpu_are_those_cut_on_the_host(dancer):
    dataset = Dataset_Dance(dancer, None, "train", LENGTH, frame_size=SIZE)
    placed = place_on(dataset, torch.device("cuda"), "gpu")
    starts = dataset.clip_starts()
    for ours, theirs in zip(placed.clips(starts.cuda()), dataset.clips(starts)):
        assert torch.equal(ours.cpu(), theirs)
    assert place_on(dataset, torch.device("cuda"), "cpu") is dataset


def test_dataset_stays_where_it_is_without_cuda(dancer):
    dataset = Dataset_Dance(dancer, None, "train", LENGTH, frame_size=SIZE)
    assert place_on(dataset, CPU) is dataset


@pytest.mark.parametrize("where, more, on_gpu", [
    ("auto", 0, True), ("auto", -4, False), ("gpu", -4, True), ("cpu", 0, False)])
def test_dataset_is_on_the_gpu_where_it_fills_at_most_a_quarter_of_it_or_as_asked(where, more, on_gpu, dancer, capsys):
    dataset = Dataset_Dance(dancer, None, "train", LENGTH, frame_size=SIZE)
    with pretend("cuda", free=4 * (dataset.frames.nbytes + dataset.labels.nbytes) + more):
        placed = place_on(dataset, torch.device("cuda", 0), where)
        assert placed.frames.is_cuda == placed.labels.is_cuda == on_gpu
        assert not dataset.frames.is_cuda and not dataset.labels.is_cuda
    assert ("more than a quarter" in capsys.readouterr().out) == (where == "auto" and not on_gpu)


def test_autocast_is_off_for_float32():
    with autocast(CPU, torch.float32):
        assert not torch.is_autocast_enabled("cpu")
    with autocast(CPU, torch.bfloat16):
        assert torch.is_autocast_enabled("cpu")


def test_every_place_in_training_has_a_random_stream_of_its_own():
    places = [(1,), (1, 0), (1, 0, 0), (0,), (0, 1), (0, 0, 1), (2, 0)]
    drawn = [torch.rand(4, generator=random_stream(seed, *place)).tolist() for seed in (0, 1) for place in places]
    assert len({tuple(values) for values in drawn}) == len(drawn)
    again = torch.rand(4, generator=random_stream(1, *places[-1])).tolist()
    assert again == drawn[-1]


def test_every_clip_of_every_batch_and_epoch_has_noise_and_teacher_forcing_of_its_own(dancer):
    drawn, masks = [], []
    for epoch in (0, 1):
        batches = batches_of(dancer, epoch, tfr=0.5, tfr_per="frame", batch_size=2, accumulate=2)
        for number in (0, 1):
            parts = batches.batch(number).parts
            drawn += [tuple(row) for part in parts for row in part.noise.normal(4).tolist()]
            masks.append(tuple(torch.cat([part.teacher_forced for part in parts]).flatten().tolist()))
    assert len(drawn) == len(set(drawn)) == 2 * 2 * 4
    assert len(masks) == len(set(masks)) == 2 * 2


def test_fixed_label_norm_is_the_same_map_in_training_and_generation(dancer, call, tmp_path):
    """It has the mean and variance of the training labels; no step of the optimizer moves them, but for white."""
    call("Trainer", "--DR", dancer, *flags(**TINY_NETWORK), *TINY_CLIPS, *flags(num_epoch=1, save_root="run"))
    train_set = Dataset_Dance(dancer, None, "train", 6, frame_size=(8, 16))
    torch.manual_seed(0)
    fresh = VAE_Model(**TINY_NETWORK)
    pad, conv, *_ = fresh.label_transformation
    with torch.no_grad():
        features = conv(pad(to_unit(train_set.labels)))
    weights = load_checkpoint(tmp_path / "run/last.ckpt")["state_dict"]
    norm = {name: weights[f"label_transformation.2.running_{name}"] for name in ("mean", "var")}
    trained = weights["label_transformation.1.weight"]
    moved = (trained - conv.weight.detach()).sum(dim=(1, 2, 3))
    torch.testing.assert_close(norm["mean"] - moved, features.mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-6)
    assert moved.abs().max() > 1e-3
    torch.testing.assert_close(norm["var"], features.var(dim=(0, 2, 3)), rtol=1e-4, atol=1e-8)
    assert not torch.equal(weights["label_transformation.2.weight"], fresh.label_transformation[2].weight)


@pytest.mark.parametrize("label_norm, same", [("fixed", True), ("batch", False)])
def test_a_label_counts_for_itself_only_with_the_fixed_norm(label_norm, same):
    model = tiny_model()
    trainer = ClipTrainer(model, CPU, torch.float32, **settings(label_norm=label_norm))
    frames, labels = map(to_unit, pixels())
    model.fix_label_norm(labels.flatten(0, 1))
    trainer.training_mode()
    assert model.training
    together, alone = model.encode_labels(labels)[:1], model.encode_labels(labels[:1])
    assert torch.allclose(together, alone, atol=1e-5) == same


def test_fixing_the_label_norm_leaves_no_other_trace():
    model = tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.fix_label_norm(pixels()[1].flatten(0, 1))
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"label_transformation.2.{name}" for name in ("running_mean", "running_var",
                                                                     "num_batches_tracked")}
    assert model.label_transformation[2].momentum == 0.1 and model.label_transformation.training
