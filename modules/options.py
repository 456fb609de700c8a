"""Every flag, with its group, help and default, defined once and shared by the scripts. No torch here."""

import argparse
import shlex
import sys

from .errors import UsageError


class Parser(argparse.ArgumentParser):
    """An argument parser that takes `@recipe.txt` files and reports a mistake in one line.

    A recipe holds flags as one types them, any number a line; `#` starts a comment.
    """

    def __init__(self, description):
        super().__init__(
            description=description,
            allow_abbrev=False,
            fromfile_prefix_chars="@",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )

    def convert_arg_line_to_args(self, arg_line):
        try:
            return shlex.split(arg_line, comments=True)
        except ValueError as error:
            self.error(f"a recipe has the line {arg_line!r} ({error}); mend it")

    def parse_known_args(self, args=None, namespace=None):
        try:
            return super().parse_known_args(args, namespace)
        except UnicodeDecodeError:
            recipes = [word for word in (sys.argv[1:] if args is None else args) if word.startswith("@")]
            self.error(f"{' '.join(recipes)} is no text; give a file of flags")
        except RecursionError:
            self.error("a recipe names itself; take its @ word out")

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (--help lists every flag)\n")

    def given(self, arguments=None):
        """The flags that stand on the command line themselves, as a dict: no default is in it."""
        defaults = [action.default for action in self._actions]
        for action in self._actions:  # not set_defaults(), whose values also enter the namespace
            action.default = argparse.SUPPRESS
        try:
            return vars(self.parse_args(arguments))
        finally:
            for action, default in zip(self._actions, defaults):
                action.default = default

    def check_saved(self, flags, path):
        """Raise UsageError unless `flags`, as a checkpoint holds them, could have come from this parser."""
        if not isinstance(flags, dict):
            raise UsageError(f"{path} holds no flags where its flags should be; give another checkpoint")
        for action in self._actions:
            if action.dest in flags and not _could_give(action, flags[action.dest]):
                raise UsageError(f"{path} has {ascii(flags[action.dest]):.60} for --{action.dest}; "
                                 "give another checkpoint")


def _could_give(action, value):
    if value is None or isinstance(action.default, bool):
        return type(value) is type(action.default)
    if action.nargs == "*":
        return isinstance(value, list) and all(_parses_to(action.type, item) for item in value)
    if action.choices is not None:
        return isinstance(value, str) and value in action.choices
    return isinstance(value, str) if action.type is None else _parses_to(action.type, value)


def _parses_to(kind, value):
    try:
        parsed = kind(str(value))
    except argparse.ArgumentTypeError:
        return False
    return type(parsed) is type(value) and parsed == value


def _number(kind, accepts, wanted):
    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not accepts(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
        return value

    return parse


def at_least(least):
    return _number(int, lambda value: value >= least, f"a whole number of {least} or more")


positive_int = _number(int, lambda value: value > 0, "a whole number above 0")
natural_int = _number(int, lambda value: value >= 0, "a whole number of 0 or more")
positive_float = _number(float, lambda value: 0 < value < float("inf"), "a number above 0")
natural_float = _number(float, lambda value: 0 <= value < float("inf"), "a number of 0 or more")
fraction = _number(float, lambda value: 0 < value <= 1, "a number above 0 and at most 1")
probability = _number(float, lambda value: 0 <= value <= 1, "a number from 0 to 1")


def add_machine_options(parser):
    group = parser.add_argument_group("machine")
    group.add_argument("--device", choices=["auto", "cuda", "mps", "cpu"], default="auto",
                       help="auto takes CUDA if it is there, else MPS, else the CPU")
    group.add_argument("--gpu", type=natural_int, default=0, help="index of the CUDA device")
    group.add_argument("--num_workers", type=natural_int, default=4,
                       help="threads that decode images the first time a dataset is read")
    group.add_argument("--seed", type=natural_int, default=0, help="seed of everything random")
    group.add_argument("--amp", choices=["auto", "bf16", "fp16", "off"], default="auto",
                       help="what the networks compute in: auto is bfloat16 where the processor has it natively, else "
                            "float32; off is float32 without TF32")
    group.add_argument("--cuda_graphs", action=argparse.BooleanOptionalAction, default=True,
                       help="on CUDA: capture a training step and a rollout's step once, and replay them")
    group.add_argument("--data_device", choices=["auto", "gpu", "cpu"], default="auto",
                       help="on CUDA: where the decoded frames are kept; auto is the GPU if they take no more than a "
                            "quarter of its free memory")


def add_data_options(parser):
    group = parser.add_argument_group("data")
    group.add_argument("--DR", metavar="FOLDER",
                       help="dataset in the LAB4 layout; without it the stage dancer is made and used")
    group.add_argument("--frame_H", type=at_least(4), default=32, help="frame height after resizing, in pixels")
    group.add_argument("--frame_W", type=at_least(4), default=64, help="frame width after resizing, in pixels")
    group.add_argument("--val_vi_len", type=at_least(2), default=630,
                       help="frames in a validation sequence, the given first one included")


LEAST_DIMENSIONS = {"F_dim": 8, "L_dim": 2, "N_dim": 4, "D_out_dim": 8}  # of which no layer is left without channels
PYRAMID_LEAST = 13  # --F_dim of the pyramid, which holds the frame's pixels in 12 of them


def add_network_options(parser):
    group = parser.add_argument_group("network")
    group.add_argument("--network", choices=["template", "pyramid"], default="template",
                       help="the course template's, or a U-Net at half its resolution and below, many times faster")
    group.add_argument("--F_dim", type=at_least(LEAST_DIMENSIONS["F_dim"]), default=128,
                       help="channels of a frame's features")
    group.add_argument("--L_dim", type=at_least(LEAST_DIMENSIONS["L_dim"]), default=32,
                       help="channels of a label's features")
    group.add_argument("--N_dim", type=at_least(LEAST_DIMENSIONS["N_dim"]), default=12,
                       help="channels of the latent z")
    group.add_argument("--D_out_dim", type=at_least(LEAST_DIMENSIONS["D_out_dim"]), default=192,
                       help="channels between fusion and generator")
    group.add_argument("--posterior", choices=["previous", "current"], default="previous",
                       help="the frame that the Gaussian predictor sees in training: the input, or the one to predict")


def network_of(args):
    """The flags that make a VAE_Model, checked together; as a dict."""
    if args.network == "pyramid":
        if args.F_dim < PYRAMID_LEAST:
            raise UsageError(f"--F_dim {args.F_dim}: --network pyramid needs {PYRAMID_LEAST} or more")
        for name in ("frame_H", "frame_W"):
            if getattr(args, name) % 2:
                raise UsageError(f"--{name} {getattr(args, name)}: --network pyramid needs an even number")
    return {name: getattr(args, name) for name in ("network", *LEAST_DIMENSIONS, "posterior")}


def add_rollout_options(parser):
    group = parser.add_argument_group("validation and test rollout")
    group.add_argument("--temperature", type=natural_float, default=1.0,
                       help="standard deviation of z ~ N(0, I) times this; 0 takes z = 0")
    group.add_argument("--ckpt_path", metavar="FILE", help="checkpoint to take the weights from")


def add_training_options(parser):
    group = parser.add_argument_group("training")
    group.add_argument("--batch_size", type=positive_int, default=2,
                       help="clips in a batch of one process (torchrun starts several)")
    group.add_argument("--accumulate", type=positive_int, default=1, metavar="BATCHES",
                       help="batches to an optimizer step: a larger batch in the memory of one")
    group.add_argument("--frames_at_once", type=natural_int, default=0, metavar="FRAMES",
                       help="frames of a teacher-forced clip that are computed as one batch; 0: all of them, and on a "
                            "CPU so many that 8 images are computed together")
    group.add_argument("--checkpoint_frames", action="store_true",
                       help="keep no activations of the frames but compute them again in the backward pass: long clips "
                            "in little memory, in about 4/3 of the time")
    group.add_argument("--train_vi_len", type=at_least(2), default=16, help="frames in a training clip")
    group.add_argument("--optim", choices=["Adam", "AdamW"], default="Adam", help="optimizer")
    group.add_argument("--reconstruction", choices=["mse", "log_mse"], default="mse",
                       help="what stands beside the KL in the loss: the MSE, or 0.01 log(MSE + 1e-4) of each frame, "
                            "its PSNR in other units")
    group.add_argument("--partial", type=fraction, default=1.0, help="fraction of the training set to use")
    group.add_argument("--fast_train", action="store_true",
                       help="use only --fast_partial of the training set in the first epochs")
    group.add_argument("--fast_partial", type=fraction, default=0.4, help="fraction used under --fast_train")
    group.add_argument("--fast_train_epoch", type=natural_int, default=5, help="epochs that --fast_train lasts")
    group.add_argument("--shuffle", action=argparse.BooleanOptionalAction, default=True,
                       help="shuffle the clips anew in every epoch")
    group.add_argument("--random_start", action=argparse.BooleanOptionalAction, default=True,
                       help="cut the clips at new random offsets in every epoch")


def add_feedback_options(parser):
    group = parser.add_argument_group("feedback (against drift over a long rollout)")
    group.add_argument("--clamp_feedback", action=argparse.BooleanOptionalAction, default=False,
                       help="clamp a predicted frame to [0, 1] before it is the next input, in training and test")
    group.add_argument("--bptt", type=natural_int, default=0, metavar="FRAMES",
                       help="predicted frames to an optimizer step: a longer clip goes on from its last prediction, "
                            "without gradient to the frames before (truncated backpropagation); 0: the whole clip")
    group.add_argument("--input_noise", type=natural_float, default=0.0,
                       help="Gaussian noise on every input frame in training, of a standard deviation drawn anew "
                            "from 0 to this")


def add_schedule_options(parser):
    group = parser.add_argument_group("epochs")
    group.add_argument("--num_epoch", type=positive_int, default=70, help="epochs in all")
    group = parser.add_argument_group("learning rate")
    group.add_argument("--lr", type=positive_float, default=0.001, help="learning rate")
    group.add_argument("--lr_schedule", choices=["MultiStep", "Cosine", "Constant"], default="MultiStep",
                       help="course of the learning rate over the epochs")
    group.add_argument("--milestones", type=natural_int, nargs="*", default=[2, 5], metavar="EPOCH",
                       help="epochs at which MultiStep lowers the learning rate")
    group.add_argument("--gamma", type=positive_float, default=0.1, help="factor at each milestone")
    group.add_argument("--warmup_epochs", type=natural_float, default=0.0,
                       help="epochs of linear warm-up, for every --lr_schedule; may be a fraction")
    group = parser.add_argument_group("teacher forcing")
    group.add_argument("--tfr", type=probability, default=1.0, help="teacher forcing ratio at the start")
    group.add_argument("--tfr_sde", type=natural_int, default=10, help="first epoch at which the ratio is lowered")
    group.add_argument("--tfr_d_step", type=probability, default=0.1, help="how much an epoch lowers it")
    group.add_argument("--tfr_per", choices=["epoch", "batch", "frame"], default="epoch",
                       help="how often it is drawn whether the true frame is fed back: once an epoch (the course's "
                            "way), once a batch, or for each frame of each clip (scheduled sampling)")
    group = parser.add_argument_group("KL annealing")
    group.add_argument("--kl_anneal_type", choices=["Cyclical", "Monotonic", "None"], default="Cyclical",
                       help="course of beta over the epochs")
    group.add_argument("--kl_anneal_cycle", type=positive_int, default=10, help="periods of Cyclical")
    group.add_argument("--kl_anneal_ratio", type=natural_float, default=1.0,
                       help="Cyclical: part of a period in which beta rises; Monotonic: rise an epoch")
    group.add_argument("--kl_weight", type=natural_float, default=1.0, help="factor on beta")


def add_run_options(parser):
    group = parser.add_argument_group("run")
    group.add_argument("--save_root", metavar="FOLDER", help="folder of this run; a new one under runs/ if left out")
    group.add_argument("--per_save", type=positive_int, default=3, help="epochs between numbered checkpoints")
    group.add_argument("--save_minutes", type=positive_float, default=10.0,
                       help="minutes after which last.ckpt is written within an epoch as well")
    group.add_argument("--val_every", type=positive_int, default=1, help="epochs between validations")
    group.add_argument("--store_visualization", action="store_true", help="write a GIF at every validation")
    group.add_argument("--test", action="store_true", help="only validate the checkpoint of --ckpt_path")
    group.add_argument("--resume", action="store_true", help="go on with the run in --save_root")
    group.add_argument("--overwrite", action="store_true", help="replace the run in --save_root")


def trainer_parser():
    parser = Parser("Train the conditional VAE on a dance dataset.")
    for add_options in (add_data_options, add_training_options, add_network_options, add_schedule_options,
                        add_feedback_options, add_rollout_options, add_run_options, add_machine_options):
        add_options(parser)
    return parser


def tester_parser():
    """The trainer's flags, so that a command line of the course's tester is understood; those that only
    shape training have no effect, and those that the checkpoint answers need not be given."""
    parser = trainer_parser()
    parser.description = "Generate the test sequences with a trained model: submission, GIFs and scores."
    group = parser.add_argument_group("test")
    group.add_argument("--split", choices=["test", "val"], default="test", help="sequences to generate")
    group.add_argument("--gt", metavar="FILE", help="ground truth in the submission's form, to score against")
    group.add_argument("--make_gif", action=argparse.BooleanOptionalAction, default=True, help="write the GIFs")
    group.add_argument("--samples", type=natural_int, default=0, metavar="K",
                       help="draw K futures of the first sequence, side by side in one GIF: what z does")
    group.add_argument("--no_sanity", action="store_true", help="do not read the submission back to check it")
    return parser


def take_from_checkpoint(args, typed, answers, path):
    """Set the flags that a checkpoint answers; a typed one (see Parser.given) must not contradict it."""
    for name, value in answers.items():
        if name in typed and typed[name] != value:
            raise UsageError(f"--{name} {typed[name]} contradicts {path}, which has {value}; leave the flag out")
        setattr(args, name, value)


def typed_command():
    """The command line as one would type it again."""
    return shlex.join(["python", *sys.argv])
