"""Checkpoints: what is saved comes back, whole or not at all, and reading one never runs it."""

import copy
import math
import os
from argparse import Namespace
from collections import OrderedDict, defaultdict
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import faults
from cli.errors import RunError, UsageError
from cli.files import write_bytes, write_text
from cli.flags import trainer_parser
from conftest import TINY_CLIPS, TINY_NETWORK, Malicious, flags, tiny_model
from dataloader import Dataset_Dance
from engine.saving import start
from engine.saving.checkpoint import (
    Ignored, load_checkpoint, load_optimizer, load_weights, network_dimensions, save_checkpoint)
from media.pixel_csv import read_pixels_csv
from modules import VAE_Model
from modules.rollout import generate


def template_checkpoint(path, model):
    """A checkpoint as the course's template writes it."""
    torch.save({"state_dict": model.state_dict(), "optimizer": model.state_dict(), "lr": 1e-3 * 0.1**2,
                "tfr": 1 - 3 * 0.1, "last_epoch": 12}, path)
    return path


def same_tensors(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_is_saved_comes_back(model, tmp_path):
    optimizer = torch.optim.Adam(model.parameters())
    sum(weights.sum() for weights in model.parameters()).backward()
    optimizer.step()
    content = {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "last_epoch": 3,
               "best_psnr": -math.inf, "arguments": {"lr": 0.1, "milestones": [2, 5], "DR": None}}
    save_checkpoint([tmp_path / "a.ckpt"], content)
    loaded = load_checkpoint(tmp_path / "a.ckpt")
    assert same_tensors(loaded["state_dict"], content["state_dict"])
    for number, state in content["optimizer"]["state"].items():
        assert same_tensors(loaded["optimizer"]["state"][number], state)
    for name in ("last_epoch", "best_psnr", "arguments"):
        assert loaded[name] == content[name]
    plain = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert same_tensors(plain["state_dict"], content["state_dict"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


def test_a_file_is_complete_before_it_is_forced_to_the_disk(tmp_path, monkeypatch):
    """After a power cut it would else be empty under its new name."""
    sizes, force = [], os.fsync

    def noted(number):
        sizes.append(os.fstat(number).st_size)
        force(number)

    monkeypatch.setattr(os, "fsync", noted)
    write_bytes(tmp_path / "a", b"12345")
    write_text(tmp_path / "b", "123")
    assert sizes == [5, 3]


@pytest.mark.parametrize("saved, resumed", [(torch.contiguous_format, torch.channels_last),
                                            (torch.channels_last, torch.contiguous_format)])
def test_an_optimizer_goes_on_where_weights_lie_otherwise_in_memory(saved, resumed, tmp_path):
    """As on another device or in another precision: a fused optimizer reads its moments in the weights' order."""
    def moved(layout, path=None):
        model = tiny_model().to(memory_format=layout)
        optimizer = torch.optim.Adam(model.parameters(), 0.1, fused=True)
        if path:
            content = load_checkpoint(path)
            load_weights(model, content, "a.ckpt")
            load_optimizer(optimizer, content, "a.ckpt")
        for number, weights in enumerate(model.parameters()):
            random = torch.Generator().manual_seed(number)
            weights.grad = torch.empty_like(weights).copy_(torch.randn(weights.shape, generator=random))
        optimizer.step()
        return {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}

    save_checkpoint([tmp_path / "a.ckpt"], moved(saved))
    ours, theirs = (moved(layout, tmp_path / "a.ckpt")["state_dict"] for layout in (resumed, saved))
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], msg=name)


@pytest.mark.parametrize("network", ["template", "pyramid"])
@pytest.mark.parametrize("dimensions", [{}, TINY_NETWORK, dict(F_dim=24, L_dim=6, N_dim=5, D_out_dim=17)])
def test_weights_tell_the_dimensions_of_their_network(network, dimensions, tmp_path):
    model = VAE_Model(**dimensions, network=network)
    found = network_dimensions(model.state_dict(), "a.ckpt")
    assert found == {"network": network, **model.dimensions}
    rebuilt = VAE_Model(**found)
    load_weights(rebuilt, {"state_dict": model.state_dict()}, "a.ckpt")
    assert same_tensors(rebuilt.state_dict(), model.state_dict())


def test_template_checkpoint_is_tested_as_the_network_that_wrote_it(model, dancer, tmp_path, call, monkeypatch):
    """Its frames are fed back as they are, beyond [0, 1] too, and in float32, wherever --amp auto would be bfloat16."""
    asked = []
    monkeypatch.setattr("Tester.choose_precision", lambda amp, device: asked.append(amp) or torch.float32)
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.Generator[-1].bias += torch.tensor([-20.0, 0.0, 20.0])
    path = template_checkpoint(tmp_path / "template.ckpt", model)
    call("Tester", "--DR", dancer, "--ckpt_path", path, "--save_root", tmp_path / "out", "--no-make_gif",
         "--device", "cpu", "--seed", 3)
    pixels, _ = read_pixels_csv(tmp_path / "out/submission.csv", "--gt")
    frames, labels = zip(*(Dataset_Dance(dancer, None, "test")[index] for index in range(2)))
    video = generate(model, torch.cat(frames), torch.stack(labels), seed=3)
    difference = torch.from_numpy(pixels).int() - video.flatten(0, 1).flatten(1).int()
    assert difference.abs().max() <= 1  # another memory format rounds otherwise
    assert asked == ["off"]


@pytest.mark.parametrize("trained, typed, tested", [("off", [], "off"), ("off", ["--amp", "bf16"], "bf16"),
                                                    ("fp16", [], "auto"), ("auto", [], "auto")])
def test_a_network_trained_in_float32_is_tested_in_it(trained, typed, tested, model, tmp_path, monkeypatch):
    """16 bits may not do for it. Those that another one was trained in, this machine may not have."""
    saved = vars(trainer_parser().parse_args([])) | {"amp": trained}
    save_checkpoint([tmp_path / "a.ckpt"], {"state_dict": model.state_dict(), "arguments": saved})
    monkeypatch.setattr("sys.argv", ["Tester.py", "--ckpt_path", str(tmp_path / "a.ckpt"), *typed])
    assert start.tester_flags()[0].amp == tested


def test_flags_of_another_program_that_no_test_needs_may_be_any(model, tmp_path, monkeypatch):
    path = tmp_path / "a.ckpt"
    monkeypatch.setattr("sys.argv", ["Tester.py", "--ckpt_path", str(path)])
    for flags, refused in (({"device": "cuda:0", "optim": "SGD", "amp": True}, ""),
                           ({"seed": "one"}, "has 'one' for --seed")):
        save_checkpoint([path], {"state_dict": model.state_dict(), "arguments": flags})
        with pytest.raises(UsageError, match=refused) if refused else nullcontext():
            start.tester_flags()


def test_template_checkpoint_is_where_training_starts(model, dancer, tmp_path, call):
    path = template_checkpoint(tmp_path / "template.ckpt", model)
    call("Trainer", "--DR", dancer, "--ckpt_path", path, "--save_root", "run", *TINY_CLIPS,
         *flags(num_epoch=1, lr=1e-12, seed=5))  # the fresh weights of another seed
    trained = load_checkpoint("run/last.ckpt")["state_dict"]
    for name, weights in model.named_parameters():
        torch.testing.assert_close(trained[name], weights.detach(), rtol=0, atol=1e-6)


def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(model, tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    save_checkpoint([path], {"state_dict": model.state_dict()})
    before = path.read_bytes()
    with pytest.raises(Exception, match="(?i)pickle"):
        save_checkpoint([path], {"state_dict": model.state_dict(), "late": lambda: None})

    def disk_full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(RunError, match="last.ckpt"):
        save_checkpoint([path], {"state_dict": {}})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_flipped_byte_is_refused_or_does_no_harm(tmp_path):
    path = tmp_path / "a.ckpt"
    content = {"state_dict": {"a": torch.arange(50.0), "b": torch.tensor([1.5])}, "lr": 0.25, "last_epoch": 7,
               "optimizer": {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(4)}}},
               "arguments": {"milestones": [2, 5], "DR": None}}
    save_checkpoint([path], content)
    whole = path.read_bytes()
    refused = 0
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        path.write_bytes(damaged)
        try:
            loaded = load_checkpoint(path)
        except UsageError as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert faults.differences(loaded, content) == [], place
    assert refused > 200


@pytest.mark.parametrize("part", [0, 0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_short_is_refused(model, tmp_path, part):
    path = tmp_path / "a.ckpt"
    save_checkpoint([path], {"state_dict": model.state_dict()})
    path.write_bytes(path.read_bytes()[:int(part * path.stat().st_size)])
    with pytest.raises(UsageError, match="a.ckpt"):
        load_checkpoint(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_reading_a_checkpoint_runs_nothing(model, tmp_path, zipped):
    mark, path = tmp_path / "mark", tmp_path / "a.ckpt"
    torch.save({"state_dict": model.state_dict(), "lr": Malicious(mark)}, path,
               _use_new_zipfile_serialization=zipped)
    with pytest.raises(UsageError, match="a.ckpt"):
        load_checkpoint(path)
    assert not mark.exists()
    if zipped:
        torch.load(path, weights_only=False)
        assert mark.exists()  # so it was in the file


@pytest.mark.parametrize("content", [{"state_dict": {"a": 1}}, {"weights": {}}, [1, 2], torch.ones(3),
                                     {"state_dict": torch.ones(3)}])
def test_other_content_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(UsageError, match="a.ckpt.*state_dict"):
        load_checkpoint(tmp_path / "a.ckpt")


def test_weights_of_another_network_are_refused_with_the_differences_and_change_nothing(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wider = VAE_Model(**{**TINY_NETWORK, "D_out_dim": 24})
    differences = [f"{name} is {list(weights.shape)}, not {list(before[name].shape)}"
                   for name, weights in wider.state_dict().items() if weights.shape != before[name].shape]
    with pytest.raises(UsageError, match=rf"a\.ckpt.* {len(differences)} ") as error:
        load_weights(model, {"state_dict": wider.state_dict()}, "a.ckpt")
    assert "\n" not in str(error.value) and any(line in str(error.value) for line in differences)

    lacking = dict(tiny_model().state_dict())
    lacking["Generator.9.weight"] = lacking.pop("Generator.7.weight")
    with pytest.raises(UsageError, match=r"Generator\.7\.weight is missing; Generator\.9\.weight is unknown"):
        load_weights(model, {"state_dict": lacking}, "a.ckpt")
    assert same_tensors(model.state_dict(), before)


def test_a_checkpoint_of_something_else_has_no_dimensions():
    with pytest.raises(UsageError, match="a.ckpt"):
        network_dimensions({"a": torch.ones(3)}, "a.ckpt")


FOREIGN = {
    "whole file": lambda weights: weights,
    "model": lambda weights: {"model": weights, "epoch": 3},
    "model_state_dict": lambda weights: {"model_state_dict": weights, "loss": np.float64(0.5)},
    "DataParallel": lambda weights: {"state_dict": {f"module.{name}": value for name, value in weights.items()}},
    "compiled": lambda weights: {"state_dict": {f"_orig_mod.module.{name}": value for name, value in weights.items()}},
    "Namespace": lambda weights: {"state_dict": weights, "args": Namespace(lr=1e-3, DR=Path("x")), "arguments":
                                  Namespace(lr=0.001)},
    "numpy": lambda weights: {"state_dict": weights, "losses": np.arange(3.0), "best": np.float32(1),
                              "step": np.int64(4), "names": np.array(["a"]), "kind": np.dtype("f4")},
    "containers": lambda weights: {"state_dict": OrderedDict(weights), "history": defaultdict(list, a=[1]),
                                   "set": {1}, "more": SimpleNamespace(a=1), "device": torch.device("cuda"),
                                   "size": torch.Size([1]), "dtype": torch.float16},
}


@pytest.mark.parametrize("name", FOREIGN)
def test_weights_that_another_program_saved_are_found(name, model, dancer, tmp_path, call):
    path = tmp_path / "a.ckpt"
    torch.save(FOREIGN[name](model.state_dict()), path)
    loaded = load_checkpoint(path)
    assert same_tensors(loaded["state_dict"], model.state_dict())
    assert network_dimensions(loaded["state_dict"], path) == {"network": "template", **TINY_NETWORK}
    if name == "Namespace":
        call("Tester", "--DR", dancer, "--ckpt_path", path, "--save_root", "out", "--no-make_gif", "--device", "cpu")


def test_numpy_values_of_a_file_are_not_built(tmp_path, model):
    """numpy's __setstate__ trusts a file; see Ignored."""
    torch.save({"state_dict": model.state_dict(), "dtype": np.dtype("f8"), "array": np.ones(3), "x": np.float64(1)},
               tmp_path / "a.ckpt")
    content = load_checkpoint(tmp_path / "a.ckpt")
    assert {type(content[name]) for name in ("dtype", "array", "x")} == {Ignored}


class Student:
    pass


def test_a_class_that_could_execute_something_is_named(model, tmp_path):
    torch.save({"state_dict": model.state_dict(), "opt": Student()}, tmp_path / "a.ckpt")
    with pytest.raises(UsageError, match=r"a\.ckpt.*test_checkpoint\.Student"):
        load_checkpoint(tmp_path / "a.ckpt")


def test_keys_of_a_checkpoint_without_weights_are_named(tmp_path):
    torch.save({"generator": {"a": 1}, "epoch": 3}, tmp_path / "a.ckpt")
    with pytest.raises(UsageError, match=r"a\.ckpt holds 'generator', 'epoch', but no state_dict"):
        load_checkpoint(tmp_path / "a.ckpt")
