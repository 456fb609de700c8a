"""Make the built-in dataset (--dancer), make one from videos (--video), or check one that is there (--check)."""

from pathlib import Path

from cli.errors import UsageError
from cli.flags import VAL_VI_LEN, flags_of
from cli.parser import Parser, as_typed, at_least, multiple_of, path_name, positive_float, positive_int, seed_number
from cli.script import run_script
from cli.signals import raise_stopped
from stage_dancer.dataset import dancer_settings, is_dancer, make_dancer


def main():
    parser = build_parser()
    args = parser.parse_args()
    check_task(parser.typed_flags())
    raise_stopped("stopped; what was unfinished is removed")
    if args.check is not None:
        check(args.check)
    elif args.video is not None:
        convert(args.video, args.dataset, args.poses, args.fps, (args.frame_H, args.frame_W), args.overwrite)
    else:
        draw(args.dancer, args.film, args.num_workers, args.overwrite, frames=args.frames, val_frames=args.val_frames,
             test_sequences=args.test_sequences, test_frames=args.test_frames, seed=args.seed)


def build_parser():
    parser = Parser("Make a dataset of the LAB4 layout, of the stage dancer or from videos of yours, or check one.")
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--dancer", type=path_name, metavar="FOLDER", help="make the stage dancer in this new folder")
    task.add_argument("--video", type=path_name, metavar="FILE", nargs="+",
                      help="make a dataset from videos of one person; needs the packages of requirements/poses.txt")
    task.add_argument("--check", type=path_name, metavar="FOLDER",
                      help="check the dataset in this folder, say what it holds")
    parser.add_argument("--overwrite", action="store_true",
                        help="replace a dataset of the same kind in the folder, and a film")
    add_dancer_flags(parser)
    add_video_flags(parser)
    return parser


def add_dancer_flags(parser):
    group = parser.add_argument_group("stage dancer")
    default = dancer_settings()
    group.add_argument("--frames", type=positive_int, default=default["frames"], help="training frames")
    group.add_argument("--val_frames", type=positive_int, default=default["val_frames"], help="validation frames")
    group.add_argument("--test_sequences", type=positive_int, default=default["test_sequences"], help="test sequences")
    group.add_argument("--test_frames", type=at_least(2), default=default["test_frames"],
                       help="frames of each test sequence")
    group.add_argument("--seed", type=seed_number, default=default["seed"], help="seed of the choreography")
    group.add_argument("--num_workers", type=positive_int,
                       help="processes that draw; left out, one for each core that it may use, and at most 8")
    group.add_argument("--film", type=path_name, metavar="FILE",
                       help="write the training frames as a video too, drawn large, and their true poses beside it as "
                            "a .csv; needs the package imageio-ffmpeg (requirements/video.txt)")


def add_video_flags(parser):
    group = parser.add_argument_group("your own video")
    group.add_argument("--dataset", type=path_name, metavar="FOLDER",
                       help="new folder of the dataset made from --video")
    group.add_argument("--fps", type=positive_float, default=30.0, help="frames a second to take from the videos")
    side = multiple_of(8, least=16)  # Trainer.py takes a quarter, which must be even
    group.add_argument("--frame_H", type=side, default=128, help="height of the dataset's frames, a multiple of 8")
    group.add_argument("--frame_W", type=side, default=256, help="width of the dataset's frames, a multiple of 8")
    group.add_argument("--poses", type=path_name, metavar="FILE", nargs="+",
                       help="poses of each video as a CSV file, in place of an estimator's: number of the frame, then "
                            "x, y and confidence of COCO's 17 joints, in pixels")


def check(root):
    """Print what the dataset in `root` holds, or raise UsageError with everything wrong with it."""
    from dataset_folder.check import describe_dataset  # loads torch, which drawing processes have no use for

    problems, facts = describe_dataset(root)
    if problems:
        raise UsageError("\n  ".join([f"--check {root} found {len(problems)} problem(s):", *problems]))
    print("\n".join(facts))


def check_task(typed):
    """Raise UsageError if a typed flag is of another task than the one asked for."""
    groups = {"dancer": flags_of(add_dancer_flags), "video": flags_of(add_video_flags)}
    for task, flags in groups.items():
        if task not in typed and (wrong := [flag for flag in flags if flag in typed]):
            raise UsageError(f"--{wrong[0]} goes with --{task}; leave it out")
    if "check" in typed and "overwrite" in typed:
        raise UsageError("--overwrite goes with --dancer or --video; leave it out")


def draw(root, film, num_workers, overwrite, **settings):
    """Make the stage dancer in `root` and, with a `film`, her film; settings: see dancer_settings."""
    if film is None:
        make_dancer(root, num_workers, overwrite, **settings)
    else:
        from media.ffmpeg import check_mp4
        from stage_dancer.film import make_film

        if Path(root).resolve() in Path(film).resolve().parents:
            raise UsageError(f"--film {film} lies in the folder of the dancer, which holds nothing else; name another")
        check_mp4(film, "--film")
        poses = Path(film).with_suffix(".csv")
        if poses.is_dir():
            raise UsageError(f"--film {film}: {poses}, where its poses would go, is a folder; name another file")
        there = [path for path in (Path(film), poses) if path.exists()]
        if there and not overwrite:
            raise UsageError(f"--film {film}: {there[0]} is there already; name another file or add --overwrite")
        if overwrite or not is_dancer(root, **settings):
            make_dancer(root, num_workers, overwrite, **settings)
        make_film(film, settings["frames"], settings["seed"], num_workers)
        print(f"{film} shows her training frames, and {poses} holds their poses")
    print(f"{root} holds the stage dancer; train on it with {as_typed('--DR', root)}")


def convert(videos, root, poses_files, fps, frame_size, overwrite):
    """Make a dataset from videos in `root`."""
    from poses.dataset import TRUTH_PART, make_video_dataset

    if root is None:
        raise UsageError("--video needs --dataset, the folder of the dataset to make")
    if poses_files and len(poses_files) != len(videos):
        raise UsageError(f"--poses names {len(poses_files)} file(s) for {len(videos)} video(s); give one for each")
    shortest = make_video_dataset(root, videos, poses_files, fps=fps, frame_size=frame_size, overwrite=overwrite)
    height, width = (side // TRUTH_PART for side in frame_size)  # of the frames in gt.csv
    print(f"{root} holds the dataset; look at {root}/preview.gif, and train on it with {as_typed('--DR', root)} "
          f"--frame_H {height} --frame_W {width} --val_vi_len {min(shortest, VAL_VI_LEN)}")


if __name__ == "__main__":
    run_script(main)
