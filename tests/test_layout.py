"""A folder is a subject: who may import whom, and who loads no torch; what --help lists."""

import argparse
import ast
import subprocess
import sys

import pytest

from cli import flags
from conftest import NEEDED_ON_WINDOWS, ROOT

SCRIPTS = ["Trainer", "Tester", "Plotting", "Preparer", "Study"]
LAYERS = [["cli", "modules"], ["media"], ["poses"], ["stage_dancer"], ["dataset_folder"], ["dataloader"], ["engine"],
          ["figures"], SCRIPTS]  # upward
LAYER = {name: height for height, names in enumerate(LAYERS) for name in names}


def product():
    """The files of the product: the scripts, dataloader.py and the packages."""
    return [*[ROOT / f"{name}.py" for name in [*SCRIPTS, "dataloader"]],
            *[path for name in LAYER for path in sorted((ROOT / name).rglob("*.py"))]]


def sources():
    """{dotted name: parsed file} of the product."""
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): ast.parse(path.read_text(encoding="utf-8"))
            for path in product()}


def imports(name, tree):
    """The project's modules that a file imports, as dotted names."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            package = name.split(".")[:-1][:len(name.split(".")) - node.level] if node.level else []
            source = ".".join([*package, *filter(None, [node.module])])
            found |= {f"{source}.{alias.name}" for alias in node.names} | {source}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {target for target in found if target.split(".")[0] in LAYER}


def wrong_imports(files):
    """Imports that run upward, or from one script or sibling folder to another."""
    wrong = []
    for name, tree in files.items():
        for target in imports(name, tree):
            here, there = name.split(".")[0], target.split(".")[0]
            if here != there and LAYER[there] >= LAYER[here]:
                wrong.append(f"{name} imports {target}")
    return wrong


def test_no_import_runs_upward():
    assert wrong_imports(sources()) == []


@pytest.mark.parametrize("file, line", [
    ("modules.rollout", "from cli.files import atomic_write"), ("engine.saving.logs", "from figures import curves"),
    ("media.gif", "import dataloader"), ("Study", "import Plotting"),
    ("stage_dancer.stage", "from engine.saving import logs")])
def test_an_import_upward_is_found(file, line):
    assert wrong_imports({file: ast.parse(line)}) != []


def test_no_import_runs_in_a_circle():
    files = sources()
    left = {name: {target for target in imports(name, tree) if target in files and target != name}
            for name, tree in files.items()}
    left = {name: targets - {f"{name.split('.')[0]}.__init__"} for name, targets in left.items()}
    while free := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in free:
            del left[name]
    assert left == {}


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_loads_no_torch(script, tmp_path):
    code = ("import runpy, sys\nsys.argv = [sys.argv[1], '--help']\n"
            "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
            "except SystemExit as ended:\n"
            "    sys.exit(ended.code or str({'torch', 'mediapipe'} & {*sys.modules} or '') or 0)")
    environment = {"PYTHONPATH": str(ROOT), **NEEDED_ON_WINDOWS}
    done = subprocess.run([sys.executable, "-c", code, str(ROOT / f"{script}.py")], cwd=tmp_path, env=environment,
                          capture_output=True, text=True)
    assert done.returncode == 0 and "--help" in done.stdout, done.stderr


def test_help_of_the_tester_lists_each_flag_that_it_uses_and_no_other():
    """Of the flags that it shares with the trainer; the network's come from the checkpoint."""
    used = {node.attr for node in ast.walk(sources()["Tester"]) if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name) and node.value.id == "args"}
    listed = {action.dest for action in flags.tester_parser()._actions if action.help != argparse.SUPPRESS}
    assert listed == used | {"help"}


@pytest.mark.parametrize("module", ["Plotting", "Preparer", "Study", "figures.study", "stage_dancer.film",
                                    "poses.dataset", "poses.retarget"])
def test_drawing_loads_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
