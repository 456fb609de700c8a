"""Measure our training, rollout and data against a plain implementation of the same; see --help."""

import json
import statistics
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cli.cores import usable_cores
from cli.errors import RunError
from cli.files import check_output, write_json
from cli.parser import Parser, at_least, path_name, positive_int
from cli.script import run_script
from cli.tables import text_table

# This process does without torch: on Linux the peak memory of a process begins at that of the one that starts it.

NAMES = ("losses", "training", "rollout", "data", "epoch", "ablation")
SIDES = ("plain", "ours")
FEEDBACK = {"teacher-forced": True, "free-running": False}
MAX_DIFFERENCE, COMPARED_STEPS = 1e-4, 5  # relative, of the losses: what Adam makes of rounding
DEFAULT = {"repeats": 3, "flags": {}, "sequences": 5, "rollout_frames": 41, "steps": 2,
           "epoch_frames": 192, "val_frames": 48}
QUICK = {"repeats": 2, "flags": {"F_dim": 32, "L_dim": 16, "N_dim": 4, "D_out_dim": 32, "train_vi_len": 8},
         "sequences": 5, "rollout_frames": 21, "steps": 2, "epoch_frames": 64, "val_frames": 16}
WHOLE_SEQUENCE = 630


def build_parser():
    parser = Parser(
        "Measure our training step, rollout, data passes and epoch against benchmarks/plain.py, in turn, each side in "
        "a process of its own, as ratios: median and range over the repeats. First check that both sides give the same "
        "losses. Takes about 15 minutes on two CPU cores with the default network, and about 4 with --quick; nothing "
        "else should run on the machine.")
    parser.add_argument("--quick", action="store_true", help="a small network and few frames: to see that all works")
    parser.add_argument("--full", action="store_true",
                        help=f"roll out whole sequences of {WHOLE_SEQUENCE} frames (CUDA always does): a quarter of an "
                             "hour more on two CPU cores")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=[name for name in NAMES if name != "ablation"],
                        help="what to measure; ablation: the training step with one of our choices left out at a time")
    parser.add_argument("--repeats", type=positive_int, metavar="TURNS",
                        help=f"turns of each side; {DEFAULT['repeats']} if left out, {QUICK['repeats']} with --quick")
    parser.add_argument("--frames", type=at_least(16), default=512,
                        help="training frames of the dataset of the data passes")
    parser.add_argument("--device", choices=["auto", "cuda", "mps", "cpu"], default="auto",
                        help="auto takes CUDA if it is there, else MPS, else the CPU")
    parser.add_argument("--out", type=path_name, metavar="FILE.json", default="runs/bench.json",
                        help="JSON file of all numbers")
    return parser


def main():
    args = build_parser().parse_args()
    check_output("--out", args.out, ".json")
    settings = dict(QUICK if args.quick else DEFAULT)
    settings["flags"] = settings["flags"] | {"device": args.device, "num_workers": min(usable_cores(), 4)}
    settings["repeats"] = args.repeats or settings["repeats"]

    machine = take_turn("machine", flags=settings["flags"])
    settings["flags"]["device"] = machine["device"]
    on_cuda = machine["device"] == "cuda"
    if args.full or on_cuda and not args.quick:
        settings["rollout_frames"] = WHOLE_SEQUENCE
    settings |= {"batches": (2, 16) if on_cuda else (2,), "data_frames": args.frames, "choices": machine["choices"]}
    print_machine(machine, settings)

    report = {"machine": machine, "settings": settings, "losses": {}, "rows": []}
    for name in NAMES:
        if name == "losses" and name in args.only:
            report["losses"] = compare_losses(settings)
        elif name in args.only:
            rows = [add_shares(row, machine) for row in MEASURED[name](settings)]
            print("\n" + text_table([shown(row) for row in rows]), flush=True)
            report["rows"] += rows
        write_json(Path(args.out), report)
    print(f"\nwritten to {args.out}")
    if not all(difference <= MAX_DIFFERENCE for difference in report["losses"].values()):
        raise RunError("the two sides do not compute the same")


def take_turn(measurement, **turn):
    """What benchmarks/measure.py finds, in a process of its own."""
    said = run_python("-m", "benchmarks.measure", json.dumps({"measurement": measurement, **turn}))
    return json.loads(said.splitlines()[-1])


def run_python(*words):
    """What a Python process prints; RunError if it fails."""
    process = subprocess.run([sys.executable, *words], cwd=ROOT, text=True, capture_output=True)
    if process.returncode:
        raise RunError(f"python {' '.join(words)} ended with status {process.returncode}:\n{process.stderr.strip()}")
    return process.stdout


def compare(title, measurement, settings, sides=SIDES, **turn):
    """Let two sides take turns. Returns a row for each time that the measurement gives."""
    found = {side: [] for side in sides}
    for _ in range(settings["repeats"]):
        for side in sides:
            found[side].append(take_turn(measurement, side=side, **{"flags": settings["flags"], **turn}))
    rows = []
    for timed in found[sides[0]][0]["seconds"]:
        seconds = {side: [turn["seconds"][timed] for turn in turns] for side, turns in found.items()}
        rows.append({"measured": f"{title}, {timed}", "seconds": seconds,
                     "ratios": [slow / fast for slow, fast in zip(*seconds.values())],
                     "peak_mib": {side: highest_peak(turns) for side, turns in found.items()}})
    return rows


def highest_peak(turns):
    """Peak memory in MiB over the turns; None if it is not known, as on Windows."""
    return max((turn["peak_mib"] for turn in turns if turn["peak_mib"] is not None), default=None)


def compare_losses(settings):
    """Print and return the largest relative difference of the two sides' losses, for each kind of feedback."""
    differences = {}
    for feedback, teacher_forced in FEEDBACK.items():
        losses = [take_turn("losses", side=side, flags=settings["flags"], teacher_forced=teacher_forced,
                            steps=COMPARED_STEPS) for side in SIDES]
        differences[feedback] = max(abs(ours - theirs) / abs(theirs) for theirs, ours in zip(*losses))
        print(f"losses of {COMPARED_STEPS} {feedback} steps: largest relative difference {differences[feedback]:.1e}, "
              f"{MAX_DIFFERENCE:.0e} allowed", flush=True)
    return differences


def measure_training(settings):
    return [row | {"work": feedback, "units": batch}
            for batch in settings["batches"] for feedback, teacher_forced in FEEDBACK.items()
            for row in compare(f"training, {feedback}, batch {batch}", "training", settings,
                               flags=settings["flags"] | {"batch_size": batch}, teacher_forced=teacher_forced,
                               steps=settings["steps"])]


def measure_rollout(settings):
    sequences, frames = settings["sequences"], settings["rollout_frames"]
    return [row | {"work": "rollout", "units": sequences}
            for row in compare(f"rollout, {sequences} sequences of {frames} frames", "rollout", settings,
                               sequences=sequences, frames=frames)]


def measure_data(settings):
    with stage_dancer(settings["data_frames"]) as root:
        return [row for fresh in (True, False)
                for row in compare(f"data, {settings['data_frames']} frames and labels", "data", settings,
                                   root=root, fresh=fresh)]


def measure_epoch(settings):
    frames, val_frames = settings["epoch_frames"], settings["val_frames"]
    with stage_dancer(frames, val_frames) as root:
        return compare(f"epoch, {frames} frames, {val_frames} to validate", "epoch", settings, root=root,
                       flags=settings["flags"] | {"val_vi_len": val_frames, "num_epoch": 1})


def measure_ablation(settings):
    return [row for choice in settings["choices"]
            for row in compare(f"training without {choice}", "training", settings, (f"ours without {choice}", "ours"),
                               teacher_forced=True, steps=settings["steps"])]


MEASURED = {"training": measure_training, "rollout": measure_rollout, "data": measure_data, "epoch": measure_epoch,
            "ablation": measure_ablation}


@contextmanager
def stage_dancer(frames, val_frames=2):
    """The folder of a stage dancer, for as long as it is needed."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "dancer"
        sizes = {"frames": frames, "val_frames": val_frames, "test_sequences": 1, "test_frames": 2}
        words = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
        run_python("Preparer.py", "--dancer", str(root), *words)
        yield str(root)


def add_shares(row, machine):
    """Add each side's share of the matrix rates of float32 and of what ours computes in, if the row's work is known."""
    if "work" not in row:
        return row
    operations = machine["operations"][row["work"]] * row["units"]
    return row | {"shares": {dtype: {side: operations / rate / statistics.median(seconds)
                                     for side, seconds in row["seconds"].items()}
                             for dtype, rate in machine["matrix_rate"].items()
                             if dtype in ("float32", machine["computing_in"])}}


def shown(row):
    """A row as text for the table."""
    ratios = row["ratios"]
    peaks = ("not known" if peak is None else f"{peak:.0f}" for peak in row["peak_mib"].values())
    slow, fast = (duration(statistics.median(seconds)) for seconds in row["seconds"].values())
    cells = {"": row["measured"], "plain" if "plain" in row["seconds"] else "without": slow, "ours": fast,
             "ratio": f"{statistics.median(ratios):.2f}", "range": f"{min(ratios):.2f}..{max(ratios):.2f}",
             "peak MiB": " / ".join(peaks)}
    for dtype, shares in row.get("shares", {}).items():
        cells[f"share of {dtype} rate"] = " / ".join(f"{share:.0%}" for share in shares.values())
    return cells


def duration(seconds):
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def print_machine(machine, settings):
    rates = ", ".join(f"{dtype} {rate / 1e9:,.0f}" for dtype, rate in machine["matrix_rate"].items())
    work = ", ".join(f"{name} {operations / 1e9:,.1f}" for name, operations in machine["operations"].items())
    print(f"{machine['name']}, torch {machine['torch']}; plain computes in float32\n"
          f"matrix products, 1e9 operations a second: {rates}\n"
          f"the network, 1e9 operations a clip trained on or a frame rolled out: {work}\n"
          f"{settings['repeats']} repeats; each value is the median of the turns, the range that of their ratios",
          flush=True)


if __name__ == "__main__":
    run_script(main)
