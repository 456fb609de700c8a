"""What is wrong with a dataset, or what it holds: Preparer.py --check."""

from cli.cores import usable_cores
from cli.errors import RunError, UsageError
from cli.flags import SPLITS, VAL_VI_LEN
from media.decoded import read_images

from .choice import existing_root
from .entries import is_folder
from .listing import list_frames_and_labels, list_test_sequences, read_sequence_lengths, shorter_sequences

DARK = 64  # of 255: labels whose mean is below this are not on white
SAME_SHAPE = 1.05  # ratio of two images' widths over their heights: what rounding a size may do


def describe_dataset(root):
    """Check a whole dataset, given by --check; returns its problems and its facts, two lists of lines."""
    root = existing_root(root, "--check")
    problems, facts, all_sizes = [], [], set()
    for mode in reversed(SPLITS):  # train first
        try:
            if mode == "test" and not is_folder(root / "test" / "test_label"):
                facts.append(f"note: no test sequences, as {root / 'test' / 'test_label'} is missing; a test needs "
                             "them, a training does not")
                continue
            folders, fact = describe_split(root, mode)
        except (UsageError, RunError) as error:
            problems.append(str(error))
            continue
        sizes = set()  # (height, width)
        for paths in folders:
            judged = mode == "train" and paths is folders[-1]  # its labels, which stand for those of all splits
            try:
                brightness, unreadable, found = read_images(
                    paths, lambda image: image.float().mean() if judged else None, usable_cores())
            except RunError as error:  # its drive is away, or a sector of it is bad
                problems.append(str(error))
                continue
            problems += unreadable
            sizes |= set(found)
            if judged and not unreadable and sum(brightness) / len(paths) < DARK:
                problems.append(f"{paths[0].parent} is dark, and the networks expect lines on white; invert its "
                                "images, and those of the other labels")
        facts.append(f"{mode}: {fact}, {' and '.join(sorted(f'{width} x {height}' for height, width in sizes))} pixels")
        all_sizes |= sizes
    return problems, facts + note_different_shapes(all_sizes)


def describe_split(root, mode):
    """List the images of a split and say what it holds: [paths of each folder], a text; raises UsageError, RunError.

    The labels of a split come after its frames.
    """
    if mode == "test":
        names, first_frames, labels = list_test_sequences(root)
        lengths = sorted({len(paths) for paths in labels})
        shorter = f" ({shorter_sequences(names, labels)})" if len(lengths) > 1 else ""
        sequences = f"{len(names)} sequence{'s' * (len(names) > 1)} of {' or '.join(map(str, lengths))} labels"
        return [[path] for path in first_frames] + labels, sequences + shorter
    frames, labels = list_frames_and_labels(root, mode)
    lengths = read_sequence_lengths(root / mode / "sequences.txt", len(frames))
    span = " to ".join(map(str, sorted({min(lengths), max(lengths)})))
    sequences = f"{len(lengths)} sequences of {span}" if len(lengths) > 1 else "1 sequence"
    is_short = mode == "val" and 2 <= max(lengths) < VAL_VI_LEN
    remedy = f" (give --val_vi_len {max(lengths)} or less)" if is_short else ""
    return [frames, labels], f"{len(frames)} frames with labels, in {sequences}{remedy}"


def note_different_shapes(sizes):
    """A list with a note if images of these sizes (H, W) have different shapes, else an empty one."""
    shapes = [width / height for height, width in sizes]
    if not shapes or max(shapes) <= SAME_SHAPE * min(shapes):
        return []
    return ["note: not all of these images have the same shape, and each is stretched to the same size; a label that "
            "is cropped otherwise than its frame does not lie on it"]
