"""The clips and sequences of a dataset; dataset_folder/listing.py says how its folder is laid out."""

import torch
from torch.nn import functional
from torch.utils.data import Dataset

from cli.errors import UsageError
from dataset_folder.choice import existing_root
from dataset_folder.listing import list_frames_and_labels, list_test_sequences, read_sequence_lengths
from media.decoded import decode_cached, decode_with
from modules.pixels import evenly_spread, to_unit

LOOKED_AT = 16  # frames, and labels, that tell a dataset from another
LENGTH_FLAGS = {"train": "--train_vi_len (in Tester.py --val_vi_len)", "val": "--val_vi_len"}


class Dataset_Dance(Dataset):
    """Serve clips of a dance, kept decoded as uint8.

    An item is (frames, labels), [T, 3, H, W] each, float in [0, 1]. In mode "train" or "val", item k is the k-th of the
    clips of `video_len` frames, back to back; in mode "test" it is the first frame and all labels of sequence k.
    Trainer.py orders its clips by engine.batches.epoch_starts instead.

    transform: function from a PIL image to a tensor [3, H, W], float in [0, 1] or uint8, applied once, when the image
    is read; None resizes to `frame_size` (H, W), bilinear and antialiased. partial: fraction of the frames to use, from
    the start.
    """

    def __init__(self, root, transform=None, mode="train", video_len=7, partial=1.0, *,
                 frame_size=(32, 64), num_workers=4):
        if mode not in ("train", "val", "test"):
            raise ValueError(f"mode {mode!r} is not train, val or test")
        root = existing_root(root)
        self.root, self.mode, self.video_len = root, mode, video_len

        def decode(paths):
            if transform is not None:
                return decode_with(transform, paths, num_workers)
            return decode_cached(root, paths, frame_size, num_workers)

        if mode == "test":
            self.names, first_frames, labels = list_test_sequences(root)
            self.frames = [decode([path]) for path in first_frames]
            self.labels = [decode(paths) for paths in labels]
            return
        frames, labels = list_frames_and_labels(root, mode)
        lengths = read_sequence_lengths(root / mode / "sequences.txt", len(frames))
        self.sequence_lengths = _cut(lengths, partial)
        if not len(self):
            longest = max(self.sequence_lengths, default=0)
            raise UsageError(f"{frames[0].parent} has {longest} frames in a row to use, too few for a clip of "
                             f"{video_len}; lower {LENGTH_FLAGS[mode]}{' or raise --partial' if partial < 1 else ''}")
        self._note_short_sequences(lengths, frames[0].parent)
        used = sum(self.sequence_lengths)
        self.frames, self.labels = decode(frames[:used]), decode(labels[:used])

    def __len__(self):
        if self.mode == "test":
            return len(self.labels)
        return sum(length // self.video_len for length in self.sequence_lengths)

    def __getitem__(self, index):
        if self.mode == "test":
            return to_unit(self.frames[index]), to_unit(self.labels[index])
        frames, labels = self.clips(self.clip_starts()[[index]])
        return to_unit(frames[0]), to_unit(labels[0])

    def clip_starts(self, partial=1.0, generator=None):
        """Return the first frames of the clips, int64 [clips]: back to back in each sequence.

        With a `generator`, each sequence is cut into equal stretches instead, as many as its clips, and one clip starts
        at random in each stretch. partial: fraction of the frames to use, from the start.
        """
        starts, offset = [torch.empty(0, dtype=torch.int64)], 0
        for length in _cut(self.sequence_lengths, partial):
            clip = torch.arange(length // self.video_len)
            start = clip * self.video_len
            if generator is not None and len(clip):
                places = length - self.video_len + 1
                drawn = torch.rand(len(clip), generator=generator, dtype=torch.float64)
                start = ((clip + drawn) * places / len(clip)).long()
            starts.append(offset + start)
            offset += length
        return torch.cat(starts)

    def _note_short_sequences(self, lengths, folder):
        """Print a note if sequences are too short for a clip. lengths: as they were before `partial` cut the last."""
        short = [length for length in lengths[:len(self.sequence_lengths)] if length < self.video_len]
        if short:
            print(f"note: {len(short)} of the {len(self.sequence_lengths)} sequences in {folder}, {sum(short)} frames "
                  f"in all, give no clip of {self.video_len}; lower {LENGTH_FLAGS[self.mode]} to use them")

    def thumbnails(self):
        """Some frames and their labels, evenly spread, as small as 4 x 8: they tell this dataset from another.

        Returns uint8 [2, n, 3, 4, 8].
        """
        chosen = evenly_spread(len(self.frames), LOOKED_AT)
        images = torch.stack([self.frames[chosen], self.labels[chosen]])
        return functional.adaptive_avg_pool2d(images.flatten(0, 1).float(), (4, 8)).round().byte().unflatten(0, (2, -1))

    def clips(self, starts):
        """Cut the clips that start at `starts` [B]: uint8 frames and labels, [B, T, 3, H, W] each."""
        indices = starts[:, None] + torch.arange(self.video_len, device=starts.device)
        return self.frames[indices], self.labels[indices]


def _cut(lengths, partial):
    """Cut lengths of sequences to the first `partial` of all their frames."""
    frames, used = round(sum(lengths) * partial), []
    for length in lengths:
        used.append(min(length, frames - sum(used)))
    return [length for length in used if length]
