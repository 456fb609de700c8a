"""The examples of CONTRIBUTING.md do what it says."""

import re
from collections import Counter

import pytest
import torch

import cli.flags
from conftest import ROOT, TINY_NETWORK, TINY_TRAINING, flags
from engine.saving.checkpoint import load_checkpoint
from engine.schedules import ANNEALINGS, kl_beta
from modules import VAE_Model
from modules.losses import RECONSTRUCTIONS
from modules.model import NETWORKS
from modules.noise import Noise
from test_layout import product

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)


@pytest.fixture(autouse=True)
def examples():
    """Execute all examples, and forget afterwards what they have added."""
    registries = RECONSTRUCTIONS, ANNEALINGS, NETWORKS
    before = [dict(registry) for registry in registries]
    for text in EXAMPLES:
        exec(text, {})
    yield
    for registry, entries in zip(registries, before):
        registry.clear()
        registry.update(entries)


def loss(model, **settings):
    frames, labels = torch.rand(2, 2, 4, 3, 8, 16, generator=torch.Generator().manual_seed(0))
    terms, _ = model(frames, labels, Noise.seeded(0, 2, "cpu"), 0.1, **settings)
    return terms["loss"]


def test_every_file_of_the_program_is_in_the_map():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = [*product(), *(ROOT / "benchmarks").glob("*.py")]
    files = Counter(path.name for path in paths if path.name != "__init__.py")
    assert {name: number for name, number in files.items()
            if len(re.findall(rf"(?<![\w/]){re.escape(name)}", text)) < number} == {}


def test_there_is_an_example_of_each():
    assert len(EXAMPLES) == 3


def test_loss():
    torch.manual_seed(0)
    model = VAE_Model(**TINY_NETWORK)
    assert loss(model, reconstruction="mae").isfinite() and loss(model, reconstruction="mae") != loss(model)


def test_schedule():
    assert [kl_beta(epoch, "Late", 4, 10, 1.0) for epoch in range(4)] == [0, 0, 1, 1]


def test_network():
    model = VAE_Model(**TINY_NETWORK, network="group_norm")
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in model.modules())
    loss(model).backward()
    assert all(weights.grad is not None for weights in model.parameters())
    assert NETWORKS["group_norm"].dimensions_of(model.state_dict()) == model.dimensions


@pytest.mark.parametrize("parts", ["template", "group_norm", "pyramid"])
def test_a_checkpoint_is_read_as_the_network_that_it_names(parts, dancer, call, monkeypatch):
    """Also if the names and shapes of its tensors are those of another one."""
    def add_network_flags(parser, add=cli.flags.add_network_flags):
        add(parser)
        next(action for action in parser._actions if action.dest == "network").choices.append("other")

    monkeypatch.setattr(cli.flags, "add_network_flags", add_network_flags)
    monkeypatch.setitem(NETWORKS, "other", NETWORKS[parts])
    run = ["--DR", dancer, *TINY_TRAINING]
    call("Trainer", *run, *flags(num_epoch=1, network="other", save_root="run"))
    call("Trainer", *flags(resume=True, num_epoch=2, save_root="run"))
    call("Trainer", *run, *flags(num_epoch=1, ckpt_path="run/last.ckpt", save_root="next"))
    for words in (["Trainer", *run, "--test"], ["Tester", "--no-make_gif", "--save_root", "test"]):
        call(*words, "--ckpt_path", "next/best.ckpt")
    arguments = load_checkpoint("next/last.ckpt")["arguments"]
    assert [arguments[name] for name in ("network", *TINY_NETWORK)] == ["other", *TINY_NETWORK.values()]
