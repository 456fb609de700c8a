"""What runs have logged, read for drawing, and how they are told apart in a legend."""

from dataclasses import dataclass, field
from pathlib import Path

from cli.errors import UsageError
from cli.files import ENCODING_ERRORS
from cli.flags import FLAGS_OF_OLDER_RUNS, add_machine_flags, add_run_flags, flags_of, idle_flags, trainer_parser
from engine.saving.logs import read_arguments, read_metrics, read_psnr_per_frame, read_samples


@dataclass(eq=False)
class Run:
    """What a run has logged: `metrics` are arrays over its epochs, `psnr` arrays of dB at frames 1, 2, ...

    samples: columns of samples_per_frame.csv, arrays over the frames; see engine.testing.samples.samples_over_frames.
    """

    name: str
    arguments: dict = field(default_factory=dict)
    metrics: dict = field(default_factory=dict)
    psnr: dict = field(default_factory=dict)
    samples: dict = field(default_factory=dict)
    label: str = ""


def read_runs(folders):
    """The runs in folders, each with what it has, labelled by what tells them apart."""
    for folder in folders:
        if not Path(folder).is_dir():
            raise UsageError(f"{folder} is not a folder; give one that Trainer.py or Tester.py has written")
    paths = [Path(folder).resolve() for folder in folders]
    unique = len({path.name for path in paths}) == len(paths)
    return label_by_difference([Run(as_utf8(path.name if unique else folder), read_arguments(path), read_metrics(path),
                                    read_psnr_per_frame(path), read_samples(path))
                                for path, folder in zip(paths, folders)])


def each_once(folders):
    """The folders, each as it is given first; given again it would count as another seed."""
    first = {}
    for folder in folders:
        first.setdefault(Path(folder).resolve(), folder)
    return list(first.values())


def as_utf8(name):
    """A folder's name as text that a font can draw; it need not be UTF-8."""
    return str(name).encode(errors=ENCODING_ERRORS).decode()


def shown(value):
    return f"{value:g}" if isinstance(value, float) else str(value)


def label_by_difference(runs):
    """Label each run by the flags in which it differs from the others, else by its name.

    Runs that differ in nothing but the seed have one label, which says how many they are. Flags about the machine and
    the run's folder do not count, as they do not shape the result.
    """
    flags = differing_flags(runs)
    for run in runs:  # whatever an earlier call has said
        run.label = ", ".join(f"{flag}={value}" for flag, value in flags.get(run, {}).items())
    for label, group in by_label(runs).items():
        seeds = {seed(run) for run in group if run in flags}
        if 1 < len(group) == len(seeds):  # nothing but the seed differs
            for run in group:
                run.label = f"{label} ({len(group)} seeds)" if label else f"{len(group)} seeds"
            continue
        if len(seeds) > 1:  # the seed tells some of them apart,
            for run in group:
                run.label = ", ".join(filter(None, [label, f"seed={seed(run)}"])) if run in flags else ""
        for same, others in by_label(group).items():  # and the name tells the rest
            for run in others:
                if len(others) > 1 or not same:
                    run.label = f"{same} ({run.name})" if same else run.name
    return runs


def differing_flags(runs):
    """{run: {flag: its value as text}} of the flags that shape the result and in which the runs differ.

    Flags that do nothing in a run are left out there; runs whose flags are not known are left out.
    """
    # the seed is one of the machine's flags
    without_effect = {*flags_of(add_machine_flags, add_run_flags), "checkpoint_frames"}
    defaults = vars(trainer_parser().parse_args([])) | FLAGS_OF_OLDER_RUNS  # for a flag that is younger than a run
    defaults = {flag: default for flag, default in defaults.items() if flag not in without_effect}
    known = {}
    for run in runs:
        if run.arguments:
            arguments = {flag: run.arguments.get(flag, default) for flag, default in defaults.items()}
            known[run] = {flag: shown(arguments[flag]) for flag in arguments.keys() - idle_flags(arguments).keys()}
    differing = [flag for flag in defaults if len({flags[flag] for flags in known.values() if flag in flags}) > 1]
    return {run: {flag: flags[flag] for flag in differing if flag in flags} for run, flags in known.items()}


def seed(run):
    return run.arguments.get("seed", 0)


def by_label(runs):
    """{label: its runs}, in the order of the runs."""
    groups = {}
    for run in runs:
        groups.setdefault(run.label, []).append(run)
    return groups
