"""Checkpoints: plain values and tensors only, written whole or not at all, checked when read.

A checkpoint is a dict. Keys that the course template has too: `state_dict` (weights), `optimizer` (its state; the
template keeps a second copy of the weights there), `lr`, `tfr`, `last_epoch`. Keys of ours: `arguments` (every flag),
`sequence_lengths`, `val_sequence_lengths` and `thumbnails` (of the dataset: see resume.identity_of), `scaler`,
`clipper` (the usual norms of the gradient), `world_size`, and the fields of engine.training.RunState.
"""

import io
import warnings
import zipfile
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import torch

from cli.errors import RunError, UsageError, is_away, is_full_memory, one_line
from cli.files import patiently, write_bytes
from cli.flags import MIN_DIMENSIONS
from modules.model import NETWORKS, VAE_Model

from ..devices import memory_format

WEIGHTS = ("state_dict", "model_state_dict", "model")


class Ignored:
    """Stands for a numpy value or a path in a checkpoint of another program: these are not read."""

    def __init__(self, *_):
        pass

    def __setstate__(self, _):
        pass


# What the checkpoints of other programs may hold beside tensors and plain values. numpy is not let in: its own
# __setstate__ trusts what a file says.
NUMPY_NAMES = ("ndarray", "dtype", "core.multiarray.scalar", "core.multiarray._reconstruct",
               "_core.multiarray.scalar", "_core.multiarray._reconstruct")
PATH_NAMES = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
HARMLESS = [Namespace, SimpleNamespace, list, dict, Ignored, (lambda default: {}, "collections.defaultdict"),
            *[(Ignored, f"numpy.{name}") for name in NUMPY_NAMES],
            *[(Ignored, f"{module}.{name}") for module in ("pathlib", "pathlib._local") for name in PATH_NAMES]]
FOLDER = 0x10  # marks a folder in a ZIP file; torch would take uninitialised memory for its content


def save_checkpoint(paths, content):
    """Write one checkpoint to each path, in this order; a crash at any moment leaves an old one or the new one there.

    Raises RunError, with the old one in place, if it cannot be written (a full disk).
    """
    buffer = io.BytesIO()  # torch's own writer does not report every failed write
    torch.save(content, buffer)
    for path in paths:
        write_bytes(path, buffer.getbuffer())


def load_checkpoint(path, flag="--ckpt_path"):
    """Read a checkpoint onto the CPU.

    Raises UsageError naming `flag` if the file is not a checkpoint, or is damaged, and RunError if it cannot be read.

    One of another program is taken too, if it has the weights of this network: as `state_dict`, `model_state_dict` or
    `model`, or as the whole file; of a DataParallel or compiled model; beside a Namespace, paths or numpy values.
    Nothing in it is executed, and every byte is checked against the file's checksums, which torch does not do.
    """
    path = Path(path)
    try:
        data = patiently(path.read_bytes, is_away)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{flag} {path}: there is no such file") from None
    except (OSError, ValueError) as error:
        if isinstance(error, (IsADirectoryError, PermissionError)) and path.is_dir():  # the latter on Windows
            raise UsageError(f"{flag} {path} is a folder; give a checkpoint, such as {path / 'best.ckpt'}") from None
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"{flag} {path} cannot be read ({reason}); check its permissions, or try again") from None
    _check_archive(io.BytesIO(data), path, flag)
    with torch.serialization.safe_globals(HARMLESS):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about file formats that torch finds old-fashioned
                content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as error:
            if is_full_memory(error):
                raise
            raise UsageError(f"{flag} {path} is not a checkpoint of tensors and plain values "
                             f"({_reason(io.BytesIO(data), error)})") from None
    weights = _weights_in(content)
    if weights is None:
        held = f"{', '.join(map(repr, content))[:200]}, but" if isinstance(content, dict) else "a single value, and"
        raise UsageError(f"{flag} {path} holds {held} no state_dict of tensors; give a checkpoint of this network")
    others = content if weights is not content else {}
    return {**others, "state_dict": _without_prefix(weights)}


def _weights_in(content):
    """The weights in what torch.load has read: tensors by name; None if there are none."""
    if not isinstance(content, dict):
        return None
    weights = next((content[name] for name in WEIGHTS if isinstance(content.get(name), dict)), None)
    if weights is None and not content.keys() & set(WEIGHTS):  # they are the whole file
        weights = content
    return weights if weights is not None and all(map(_is_plain_tensor, weights.values())) else None


def _reason(file, error):
    """Why torch does not load a file, in a few words: the classes in it that could execute something, or the error."""
    try:
        refused = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except Exception:  # the file is not even a pickle
        refused = []
    if refused:
        more = f" and {len(refused) - 3} more" if len(refused) > 3 else ""
        return f"it holds {', '.join(sorted(refused)[:3])}{more}; save the model's state_dict() in its place"
    return one_line(error)


def _without_prefix(state_dict):
    """Remove what DataParallel and torch.compile write before each name."""
    for prefix in ("module.", "_orig_mod.") * 2:
        if state_dict and all(str(name).startswith(prefix) for name in state_dict):
            state_dict = {name.removeprefix(prefix): value for name, value in state_dict.items()}
    return state_dict


def _check_archive(file, path, flag):
    """Check every byte of a checkpoint, which is a ZIP file."""
    try:
        with zipfile.ZipFile(file) as archive:
            folders = [member.filename for member in archive.infolist() if member.external_attr & FOLDER]
            damaged = archive.testzip() or next(iter(folders), None)
    except MemoryError:
        raise
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, ValueError, EOFError):
        raise UsageError(f"{flag} {path} is not a checkpoint, or is cut short; give another file") from None
    except Exception as error:  # zlib.error and others that a damaged member causes
        raise UsageError(f"{flag} {path} is damaged ({type(error).__name__}); give another file") from None
    if damaged:
        raise UsageError(f"{flag} {path} is damaged (in {damaged!r}); give another file")


def _is_plain_tensor(value):
    """Whether `value` is a tensor with numbers to copy: not sparse, quantized, complex or `meta`."""
    return (isinstance(value, torch.Tensor) and value.layout == torch.strided and value.device.type == "cpu"
            and not (value.is_quantized or value.is_complex()))


def network_dimensions(weights, path, network=None, flag="--ckpt_path"):
    """Read network, F_dim, L_dim, N_dim and D_out_dim off the tensors of a checkpoint.

    network: what the checkpoint says; without it, as in one of another program, it is the first that the tensors fit.
    All tensors must fit, so that a few wrong ones cannot ask for a network that fills the memory. flag: the one that
    the checkpoint was given by, for the error.
    """
    first = []
    for name in [network] if network else NETWORKS:
        try:
            dimensions = NETWORKS[name].dimensions_of(weights)
        except (KeyError, IndexError):
            continue
        if any(dimensions[dimension] < least for dimension, least in MIN_DIMENSIONS.items()):
            continue
        with torch.device("meta"):  # takes no memory
            differences = _differences(VAE_Model(**dimensions, network=name).state_dict(), weights)
        if not differences:
            return {"network": name, **dimensions}
        first = first or differences
    _refuse(first, f"{flag} {path}")
    raise UsageError(f"{flag} {path} is a checkpoint of another network")


def load_weights(model, content, path):
    """Copy the weights of a checkpoint into the model, if all names and shapes fit."""
    _refuse(_differences(model.state_dict(), content["state_dict"]), path)
    model.load_state_dict(content["state_dict"])


def build_model(settings, device, dtype, checkpoint=None, path=None):
    """Build a VAE_Model on the device, with the weights of a checkpoint, read from `path`, if one is given.

    settings: see cli.flags.network_settings. dtype: what it is to compute in; the weights are float32.
    """
    model = VAE_Model(**settings)
    if checkpoint:
        load_weights(model, checkpoint, path)
    return model.to(device, memory_format=memory_format(device, dtype))


def _differences(ours, theirs):
    """In which names and shapes two state_dicts differ, a few words each."""
    differences = [f"{name} is missing" for name in ours.keys() - theirs.keys()]
    differences += [f"{ascii(str(name))[1:-1]:.100} is unknown" for name in theirs.keys() - ours.keys()]
    differences += [f"{name} is {list(theirs[name].shape)}, not {list(ours[name].shape)}"
                    for name in ours.keys() & theirs.keys() if ours[name].shape != theirs[name].shape]
    return sorted(differences)


def _refuse(differences, source):
    """Raise UsageError if the tensors of `source`, a checkpoint, differ from the network's; see `_differences`."""
    if differences:
        shown = "; ".join(differences[:5])
        raise UsageError(f"{source} does not fit the network in {len(differences)} places: {shown}")


def load_optimizer(optimizer, content, path):
    """Restore the optimizer's state, if all its moments have the shapes of their parameters."""
    state = content["optimizer"]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    try:
        differences = [f"{name} of parameter {index} is {list(value.shape)}, not {list(parameters[index].shape)}"
                       for index, moments in state["state"].items() for name, value in moments.items()
                       if value.dim() and value.shape != parameters[index].shape]
        if differences:
            raise UsageError(f"--resume: {path}: the optimizer's state does not fit the network in {len(differences)} "
                             f"places: {'; '.join(differences[:5])}")
        optimizer.load_state_dict(state)
        for parameter, moments in optimizer.state.items():
            for name, value in moments.items():
                if value.dim():  # laid out in memory like its parameter, which a fused optimizer relies on
                    moments[name] = torch.empty_like(parameter).copy_(value)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError):
        raise UsageError(f"--resume: {path} holds no state of this optimizer; start from its weights with "
                         "--ckpt_path") from None
