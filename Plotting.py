"""Draw what runs of Trainer.py and Tester.py have logged, as figures or a page, or a schedule before any run."""

from copy import copy
from pathlib import Path

from cli.errors import UsageError
from cli.files import check_output, check_writable
from cli.flags import add_schedule_flags, flags_of
from cli.parser import Parser, path_name, split_words
from cli.script import run_script
from figures.curves import FIGURES, OUT, draw_runs, draw_schedules, scheduled
from figures.page import write_page
from figures.runs import each_once, shown


def main(words=None):
    parser = plotting_parser()
    args, typed = parser.parse_args(words), parser.typed_flags(words)
    typed_schedule = {flag: typed[flag] for flag in flags_of(add_schedule_flags) if flag in typed}
    args.runs = each_once(args.runs)
    style = {"side_by_side": args.layout == "side_by_side", "file_format": args.format}
    if args.schedule:
        if args.runs or "figures" in typed or args.page:
            raise UsageError("--schedule draws one figure, without a run; leave out the run, --figures and --page")
        print(draw_schedules(args.schedule, schedules_to_draw(args, typed_schedule), out=args.out or OUT, **style))
    elif not args.runs:
        raise UsageError("nothing to draw; give the folder of a run, or --schedule tfr, beta or lr")
    elif typed_schedule or args.versus:
        raise UsageError(f"--{[*typed_schedule, 'versus'][0]} is for --schedule; the flags of a run are in its folder")
    elif args.page:
        if other := [flag for flag in ("figures", "out", "layout", "format") if flag in typed]:
            raise UsageError(f"--page has figures of its own; leave out --{other[0]}, or --page")
        check_output("--page", args.page, ".html")
        path = write_page(args.page, args.runs)
        print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    else:
        if not args.out and len(args.runs) == 1 and Path(args.runs[0]).is_dir():
            check_writable(args.runs[0], "give another folder, by --out")
        paths, missing = draw_runs(args.runs, figures=args.figures, out=args.out, **style)
        if not paths:
            raise UsageError(f"{' '.join(args.runs)}: no {' or '.join(args.figures or ['figure'])} to draw; "
                             f"give {remedy(args.runs, args.figures)}")
        print(*paths, sep="\n")
        if missing:
            print("left out, no data:", "; ".join(f"{', '.join(names)} of {run}" for run, names in missing.items()))


def remedy(folders, figures):
    """What to give in place of folders that hold nothing for these figures."""
    for folder in map(Path, folders):
        if logs := sorted(folder.glob("*/metrics.csv")) or sorted(folder.glob("*/*/metrics.csv")):
            return f"the runs in it, as {logs[0].parent}"
    return " or ".join(sorted({FIGURES[figure].needs for figure in figures or ["loss"]}))


def schedules_to_draw(args, typed):
    """The schedules to draw: that of the flags, and one for each --versus, named by the flags typed for it."""
    name = ", ".join(f"{flag}={shown(value)}" for flag, value in typed.items()) or "default flags"
    runs = [scheduled(name, args)]
    for text in args.versus:
        parser = Parser("The flags of a schedule.")
        versus = f'--versus "{text}"'
        parser.prog += f" {versus}"
        add_schedule_flags(parser)
        runs.append(scheduled(text, parser.parse_args(split_words(text, versus), copy(args))))
    return runs


def plotting_parser():
    parser = Parser("Draw the curves of one run or of several, or a schedule before any run.")
    parser.add_argument("runs", type=path_name, nargs="*", metavar="RUN",
                        help="folder that Trainer.py or Tester.py wrote")
    parser.add_argument("--page", type=path_name, metavar="FILE",
                        help="write one HTML file instead, for a browser: the runs' videos, scores, curves and flags")
    parser.add_argument("--out", type=path_name, metavar="FOLDER",
                        help=f"folder of the figures; if left out, the run's own if it is one, else {OUT}")
    parser.add_argument("--figures", nargs="+", choices=FIGURES, help="which to draw; if left out, all that apply")
    parser.add_argument("--layout", choices=["overlay", "side_by_side"], default="overlay",
                        help="several runs in the same axes, or each in its own with common scales")
    parser.add_argument("--format", choices=["png", "pdf", "svg"], default="png", help="file format")
    group = parser.add_argument_group("schedules")
    group.add_argument("--schedule", choices=["tfr", "beta", "lr"],
                       help="draw this schedule, without a run, from the flags below")
    group.add_argument("--versus", action="append", default=[], metavar="FLAGS",
                       help='another curve of it, with these flags changed, as in "--tfr 0"; repeatable')
    add_schedule_flags(parser)
    return parser


if __name__ == "__main__":
    run_script(main)
