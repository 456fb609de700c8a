"""Go the whole way from a video to a trained model, once with estimated and once with true poses; see --help."""

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cli.errors import RunError
from cli.files import make_folder, read_json
from cli.parser import Parser, at_least, path_name, positive_int
from cli.script import run_script
from cli.tables import numeral, text_table


def build_parser():
    parser = Parser(
        "Draw a film of the stage dancer; measure the poses that are estimated from it; make a dataset from it with "
        "these and one with her true poses; train recipes/demo.txt on each; and score both on what is held out of the "
        "film, with labels of their own kind. Needs the packages of requirements/poses.txt. Ten minutes on two cores.")
    parser.add_argument("--frames", type=at_least(60), default=1260, help="frames of the film")
    parser.add_argument("--num_epoch", type=positive_int, default=20, help="epochs of each training")
    parser.add_argument("--out", type=path_name, metavar="FOLDER", default="runs/film",
                        help="new folder of everything made")
    return parser


def main():
    args = build_parser().parse_args()
    out, start = make_folder("--out", args.out), time.monotonic()
    film = out / "film.mp4"
    run("Preparer.py", "--dancer", out / "dancer", "--frames", args.frames, "--film", film)
    run("benchmarks/poses.py", film)
    rows = []
    for kind, poses in (("estimated", []), ("true", ["--poses", film.with_suffix(".csv")])):
        data = out / f"{kind}_poses"
        run("Preparer.py", "--video", film, *poses, "--dataset", data)
        rows += score(kind, data, out / kind, args.num_epoch)
    print(f"\n{text_table(rows)}\n{time.monotonic() - start:.0f} seconds in all")


def score(kind, data, run_folder, num_epoch):
    """Train on a dataset, generate what is held out of it, and return rows: PSNR of the model and of the baselines."""
    val_frames = (data / "val/sequences.txt").read_text(encoding="utf-8").strip()
    run("Trainer.py", f"@{ROOT / 'recipes/demo.txt'}", "--DR", data.resolve(), "--val_vi_len", val_frames,
        "--num_epoch", num_epoch, "--save_root", run_folder)
    run("Tester.py", "--ckpt_path", run_folder / "best.ckpt", "--split", "val")
    run("Tester.py", "--ckpt_path", run_folder / "best.ckpt", "--gt", data / "test/gt.csv")
    val, test = (read_json(run_folder / split / "scores.json") for split in ("val", "test"))
    return [{"poses": kind, "predictor": name, "validation PSNR": numeral(val[name]["psnr"]),
             "test PSNR": numeral(test[name]["psnr"])} for name in test]


def run(script, *words):
    """Run a script of this project in a process of its own. Raises RunError if it fails."""
    command = [sys.executable, str(ROOT / script), *map(str, words)]
    print(f"\n$ {script} {' '.join(command[2:])}", flush=True)
    if subprocess.run(command).returncode:
        raise RunError(f"{script} failed")


if __name__ == "__main__":
    run_script(main)
