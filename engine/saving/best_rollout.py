"""The rollout of a run's best validation, and the PSNR of its frames: kept, read again, and checked."""

import io

import numpy as np
import torch

from cli.errors import RunError
from cli.files import remove_file, write_bytes, writing
from modules.metrics import psnr_per_frame

from .logs import read_psnr_per_frame, write_psnr_per_frame

BEST_ROLLOUT = ".best_rollout.npy"  # the prediction alone, uint8 [B, T, 3, H, W]
SAME_PSNR = 1e-3  # dB; a rollout is the one that a PSNR is of if its own is this close


def first_of_each(videos):
    """The first video of each batch [B, T, 3, H, W], by name."""
    return {name: video[0] for name, video in videos.items()}


def write_best_rollout(folder, prediction):
    buffer = io.BytesIO()
    np.save(buffer, prediction.numpy())
    write_bytes(folder / BEST_ROLLOUT, buffer.getbuffer())


def read_best_rollout(folder, val_set, best_psnr):
    """The rollout of the best validation: {"label", "prediction", "truth"}, uint8 [B, T, 3, H, W].

    best_psnr: of that validation, in dB. None if there is no rollout, it is damaged, or it is another's: the run may
    have been killed between writing it and its checkpoint.
    """
    path = folder / BEST_ROLLOUT
    try:
        prediction = torch.from_numpy(np.load(path)) if path.is_file() else None
    except Exception:  # a damaged header raises almost anything
        prediction = None
    frames, labels = val_set.clips(val_set.clip_starts())
    if prediction is None or prediction.dtype != torch.uint8 or prediction.shape != frames.shape:
        return None
    if abs(torch.cat(psnr_per_frame(prediction, frames)).mean() - best_psnr) > SAME_PSNR:
        return None
    return {"label": labels, "prediction": prediction, "truth": frames}


def repair_psnr_per_frame(folder, videos, best_psnr):
    """Write psnr_per_frame.csv anew, or remove it, if it is not of the best validation.

    The run may have been killed between writing it and its checkpoint. videos, best_psnr: see `read_best_rollout`.
    """
    path, columns = folder / "psnr_per_frame.csv", read_psnr_per_frame(folder)
    if not columns or abs(np.nanmean(np.concatenate([*columns.values()])) - best_psnr) <= SAME_PSNR:
        return
    try:
        if videos:
            write_psnr_per_frame(folder, psnr_per_frame(videos["prediction"], videos["truth"]))
        else:
            with writing(path):
                remove_file(path)
    except RunError as error:
        print(f"note: {error}; it is of a model that was lost")
