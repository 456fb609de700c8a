"""Measure a pose estimator on the film of the stage dancer, whose true poses are known.

    python Preparer.py --dancer data/dancer --film film.mp4
    python benchmarks/poses.py film.mp4
"""

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cli.parser import Parser, path_name
from cli.script import run_script
from cli.tables import numeral, text_table
from poses.keypoints import JOINTS, present, read_poses, seen
from poses.person import find_person

FRAME_H = 32  # height of the frames that the error is given in
SHOWN_JOINTS = 9  # a frame with fewer true joints in the picture does not show her: a hand at the edge is not a person


def build_parser():
    parser = Parser(
        "Measure the poses that Preparer.py --video takes from a film of the stage dancer, bridged and smoothed, "
        "against the true ones in the .csv beside it: in how many frames she is not found, and how far the joints are "
        f"off, in pixels of a frame of {FRAME_H} x {2 * FRAME_H}.")
    parser.add_argument("film", type=path_name, help="what Preparer.py --dancer FOLDER --film FILE wrote")
    return parser


def main():
    path = Path(build_parser().parse_args().film)
    person = find_person(path, 30.0, None, "film")
    true = read_poses(path.with_suffix(".csv"), "film", len(person.poses))
    shown = seen(true).sum(axis=1) >= SHOWN_JOINTS
    errors = np.linalg.norm(person.poses[..., :2] - true[..., :2], axis=2) * FRAME_H / person.size[0]  # [T, 17]
    print(f"{person.report}\n{shown.sum()} of {len(true)} frames show her; she is not found in "
          f"{(shown & ~present(person.poses)).sum()} of these, and in {(~present(true) & present(person.poses)).sum()} "
          "that show nobody")
    names = [name.removeprefix("left_") for name in JOINTS if not name.startswith("right_")]
    rows = {name: errors[:, [index for index, joint in enumerate(JOINTS) if joint.endswith(name)]] for name in names}
    print(text_table([{"joint": name, "mean": numeral(np.nanmean(error)), "median": numeral(np.nanmedian(error)),
                       "95 % below": numeral(np.nanquantile(error, 0.95))}
                      for name, error in (rows | {"all": errors}).items()]))


if __name__ == "__main__":
    run_script(main)
