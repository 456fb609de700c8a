"""Count the frames that a network breaks: python docs/study/bursts.py DATASET CHECKPOINT...

Each frame of the dataset's training split but the first is predicted from the true one before it in the split, also
where a sequence begins, with z = 0. A broken one has a square of 8 x 8 pixels with a mean squared error above 0.1: a
patch of another colour, which no blur reaches. Give a dataset that the networks were not trained on. Nothing is
trained.
"""

import sys
from pathlib import Path

import torch
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from cli.flags import network_settings, trainer_parser
from cli.tables import markdown_table
from dataloader import Dataset_Dance
from engine.devices import autocast, choose_precision, tune_cpu
from engine.saving.checkpoint import build_model, load_checkpoint
from modules.metrics import psnr
from modules.pixels import to_unit

CPU = torch.device("cpu")
FRAMES_AT_ONCE = 128
BROKEN = 0.1  # mean squared error of a square, pixels in [0, 1]
SQUARE = 8  # pixels


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    tune_cpu()
    root, *paths = map(Path, sys.argv[1:])
    print(markdown_table([row(root, path) for path in paths]))


def row(root, path):
    checkpoint = load_checkpoint(path, "CHECKPOINT")
    flags = trainer_parser().parse_args([])
    vars(flags).update(checkpoint["arguments"])
    dtype = choose_precision("auto", CPU)
    model = build_model(network_settings(flags), CPU, dtype, checkpoint, path).eval()
    data = Dataset_Dance(root, None, "train", 1, frame_size=(flags.frame_H, flags.frame_W))
    predicted = torch.cat([predict(model, data, start, dtype) for start in range(0, len(data) - 1, FRAMES_AT_ONCE)])
    truth = to_unit(data.frames[1:])
    squares = functional.avg_pool2d((predicted - truth).square().mean(dim=1, keepdim=True), SQUARE).amax(dim=(1, 2, 3))
    return {"checkpoint": str(path), "epochs": str(checkpoint["last_epoch"] + 1), "frames": f"{len(truth):,}",
            "mean PSNR": f"{psnr(predicted, truth).mean():.2f}", "broken": str(int((squares > BROKEN).sum()))}


def predict(model, data, start, dtype):
    """The frames after some frames of a dataset, each predicted from the true one before it: [B, 3, H, W]."""
    given = to_unit(data.frames[start:start + FRAMES_AT_ONCE])[:len(data) - 1 - start]
    labels = data.labels[start + 1:start + 1 + FRAMES_AT_ONCE]
    with torch.inference_mode(), autocast(CPU, dtype):
        z = torch.zeros(len(given), *model.z_shape(*given.shape[-2:]))
        return model.step(given, model.encode_labels(labels), z, temperature=0).frame.float().clamp(0, 1)


if __name__ == "__main__":
    main()
