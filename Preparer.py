"""Make the built-in dataset (--dancer), or check a dataset that is already there (--check)."""

from cli.errors import UsageError, run_script
from cli.parser import Parser, natural_int, positive_int
from stage_dancer.dataset import dancer_settings, make_dancer


def build_parser():
    parser = Parser("Make the stage dancer, a dataset of the LAB4 layout, or check a dataset of that layout.")
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--dancer", metavar="FOLDER", help="make the stage dancer in this new folder")
    task.add_argument("--check", metavar="FOLDER", help="check the dataset in this folder, say what it holds")
    group = parser.add_argument_group("stage dancer")
    default = dancer_settings()
    group.add_argument("--frames", type=positive_int, default=default["frames"], help="training frames")
    group.add_argument("--val_frames", type=positive_int, default=default["val_frames"], help="validation frames")
    group.add_argument("--test_sequences", type=positive_int, default=default["test_sequences"], help="test sequences")
    group.add_argument("--test_frames", type=positive_int, default=default["test_frames"],
                       help="frames of each test sequence")
    group.add_argument("--seed", type=natural_int, default=default["seed"], help="seed of the choreography")
    group.add_argument("--num_workers", type=positive_int,
                       help="processes that draw; left out, one a processor and at most 8")
    group.add_argument("--overwrite", action="store_true", help="replace a stage dancer in the folder")
    return parser


def check(root):
    """Print what the dataset in `root` holds, or raise UsageError with everything wrong with it."""
    from dataloader import describe_dataset  # loads torch, which drawing processes have no use for

    problems, facts = describe_dataset(root)
    if problems:
        raise UsageError("\n  ".join([f"--check {root} found {len(problems)} problem(s):", *problems]))
    print("\n".join(facts))


def main():
    args = vars(build_parser().parse_args())
    folder = args.pop("check")
    if folder is not None:
        check(folder)
        return
    root = args.pop("dancer")
    make_dancer(root, **args)
    print(f"{root} holds the stage dancer; train on it with --DR {root}")


if __name__ == "__main__":
    run_script(main)
