"""docs/quickstart.ipynb runs in a kernel, from a clone to the last figure; a script runs in a kernel's environment."""

import os
import shutil
import subprocess
import sys

import nbclient
import nbformat
import pytest
from test_plotting import write_run

from conftest import NEEDED_ON_WINDOWS, PATIENCE, ROOT, commit_all, read_csv

NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"
EPOCHS = 3
FLAGS = (f"--num_epoch {EPOCHS} --F_dim 16 --L_dim 8 --N_dim 4 --D_out_dim 16 --train_vi_len 4 --val_vi_len 8 "
         "--batch_size 4 --num_workers 1 --device cpu")
PARAMETERS = {"runs": "drive/runs", "dataset": "data/dancer", "flags": FLAGS,
              "dancer_flags": "--frames 40 --val_frames 8 --test_sequences 2 --test_frames 5 --num_workers 1"}


def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def cell_of(book, name):
    [cell] = [cell for cell in book.cells if cell["id"] == name]
    return cell


def set_parameters(book, **values):
    """Assign other values to the variables of the parameters cell."""
    cell = cell_of(book, "parameters")
    names = [line.split(" = ")[0] for line in cell.source.splitlines() if not line.startswith("#")]
    assert cell.metadata.tags == ["parameters"] and values.keys() <= set(names)
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in values.items())


def execute(book, folder):
    """Run all cells in a kernel that starts in `folder`, without a network; raises CellExecutionError."""
    nbclient.NotebookClient(book, timeout=PATIENCE, kernel_name="python3",
                            resources={"metadata": {"path": str(folder)}}).execute()


def text_of(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def images_of(cell):
    return [kind for output in cell.outputs for kind in output.get("data", {}) if kind.startswith("image/")]


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory):
    """An empty home, and pip without an index: what a kernel and its commands inherit."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HOME", "IPYTHONDIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
            patch.setenv(name, str(home))
        patch.setenv("PIP_NO_INDEX", "1")
        yield


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A git repository with the files as they are here, committed or not."""
    folder = tmp_path_factory.mktemp("origin") / "project"
    left_out = shutil.ignore_patterns(".git", ".venv", "data", "runs", "__pycache__", "*.gif")
    shutil.copytree(ROOT, folder, ignore=left_out)
    (folder / "recipes" / "report.txt").write_text(FLAGS.replace(f"--num_epoch {EPOCHS}", ""))
    commit_all(folder)
    return folder


@pytest.fixture(scope="module")
def executed(surroundings, repository, tmp_path_factory):
    """The notebook, executed, and the folder that it started in."""
    folder = tmp_path_factory.mktemp("reader")
    book = notebook()
    set_parameters(book, repository=str(repository), **PARAMETERS)
    report = cell_of(book, "report")
    asked = 'report_epochs = 0\nkinds = ["Monotonic", "Cyclical", "None"]'  # nobody trains for hours unasked
    assert report.source.startswith(asked)
    report.source = report.source.replace(asked, 'report_epochs = 1\nkinds = ["Cyclical"]')
    execute(book, folder)
    return book, folder


def test_the_file_holds_no_results():
    book = notebook()
    nbformat.validate(book)
    for cell in book.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None, cell.id


def test_runs_are_in_the_given_folder_of_a_clone(executed):
    _, folder = executed
    runs = folder / "dance-video" / PARAMETERS["runs"]
    for run in ("demo", "mse", "best"):
        assert [row["epoch"] for row in read_csv(runs / run / "metrics.csv")] == list(map(str, range(EPOCHS)))
        assert {"loss.png", "validation_psnr.png", "psnr_per_frame.png", "best.gif"} <= set(os.listdir(runs / run))
    for run in ("demo", "best"):
        assert len(read_csv(runs / run / "test" / "submission.csv")) == 2 * 5
        assert (runs / run / "test" / "compare_seq0.gif").is_file()
    assert (runs / "figures" / "psnr_per_frame.png").is_file()


def test_the_killed_run_is_resumed(executed):
    book, _ = executed
    *_, complete = text_of(cell_of(book, "kill")).split()
    assert 1 <= int(complete) < EPOCHS
    resumed = text_of(cell_of(book, "resume"))
    assert f"epoch {int(complete) - 1:3d}/" not in resumed and f"epoch {EPOCHS - 1:3d}/" in resumed


def test_figures_are_shown(executed):
    book, _ = executed
    assert "drawing the stage dancer" in text_of(cell_of(book, "draw"))
    assert images_of(cell_of(book, "figures")) == ["image/png"] * 3 + ["image/gif"]
    assert images_of(cell_of(book, "plot")) == ["image/png"] * 2
    assert images_of(cell_of(book, "best")) == ["image/png", "image/gif"]
    assert images_of(cell_of(book, "report")) == ["image/png"] * 6


def test_sections_1_and_5_go_on_in_a_later_session_where_the_dataset_lies_elsewhere(executed, tmp_path):
    shutil.copytree(executed[1], tmp_path / "later")
    project = tmp_path / "later" / "dance-video"
    (project / "data").rename(project / "mounted")
    before = (project / PARAMETERS["runs"] / "best/test/submission.csv").read_bytes()
    book = notebook()
    names = [cell["id"] for cell in book.cells]
    book.cells = book.cells[:names.index("demo")] + [cell_of(book, "best")]
    set_parameters(book, **PARAMETERS | {"dataset": str(project / "mounted/dancer")})
    execute(book, project)
    assert images_of(cell_of(book, "best")) == ["image/png", "image/gif"]
    assert (project / PARAMETERS["runs"] / "best/test/submission.csv").read_bytes() == before


def test_on_kaggle_the_runs_lie_in_the_output_and_the_project_does_not(surroundings, repository, tmp_path):
    working, book = tmp_path / "working", notebook()
    working.mkdir()
    book.cells = book.cells[:[cell["id"] for cell in book.cells].index("demo")]
    cell = cell_of(book, "clone")
    for name, place in (("/kaggle/working", working), ("/tmp/dance-video", tmp_path / "project")):
        assert name in cell.source
        cell.source = cell.source.replace(name, place.as_posix())
    cell.source += "\nprint(runs)"
    set_parameters(book, repository=str(repository), **PARAMETERS)
    execute(book, working)
    assert os.listdir(working) == [] and (tmp_path / "project/Trainer.py").is_file()
    assert os.path.normpath(text_of(cell).splitlines()[-1]) == str(working / PARAMETERS["runs"])


def test_an_address_that_was_not_set_is_told(surroundings, tmp_path):
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="set `repository`, in the first code cell"):
        execute(notebook(), tmp_path)
    assert os.listdir(tmp_path) == []


def test_inside_a_clone_nothing_is_cloned_and_a_failing_script_stops_the_notebook(surroundings, repository):
    book = notebook()
    set_parameters(book, repository="nowhere", **PARAMETERS | {"dancer_flags": "--frames none"})
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="exit status 2"):
        execute(book, repository / "docs")
    assert "argument --frames" in text_of(cell_of(book, "draw"))
    assert cell_of(book, "train").execution_count is None
    assert not (repository / "docs" / "dance-video").exists()


KERNEL = {**NEEDED_ON_WINDOWS, "PATH": os.environ["PATH"], "MPLBACKEND": "module://matplotlib_inline.backend_inline"}


# A kernel names its own backend, which the environment of the script may lack, as this one lacks ipympl.
@pytest.mark.parametrize("backend", [KERNEL["MPLBACKEND"], "module://ipympl.backend_nbagg"])
def test_figures_are_drawn_in_the_environment_of_a_kernel(backend, tmp_path):
    write_run(tmp_path / "run", epochs=2)
    done = subprocess.run([sys.executable, ROOT / "Plotting.py", "run", "--figures", "loss"], cwd=tmp_path,
                          env=KERNEL | {"MPLBACKEND": backend}, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True)
    assert done.returncode == 0 and (tmp_path / "run" / "loss.png").is_file(), done.stderr


@pytest.mark.parametrize("script", ["Trainer", "Tester", "Study", "Plotting", "Preparer"])
def test_a_script_starts_in_the_environment_of_a_kernel(script, tmp_path):
    done = subprocess.run([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {script}"],
                          cwd=tmp_path, env=KERNEL | {"MPLBACKEND": "module://ipympl.backend_nbagg"},
                          stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
