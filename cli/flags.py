"""The flags of Trainer.py and Tester.py, with group, help and default."""

from argparse import BooleanOptionalAction

from .errors import UsageError
from .parser import (
    Parser, at_least, fraction, natural_float, natural_int, path_name, positive_float, positive_int, probability,
    seed_number)

SPLITS = ("test", "val", "train")
VAL_VI_LEN = 630  # frames of a validation, unless --val_vi_len says otherwise
MIN_DIMENSIONS = {"F_dim": 8, "L_dim": 2, "N_dim": 4, "D_out_dim": 8}  # no layer is left without channels
FLAGS_OF_OLDER_RUNS = {  # their values in a run that is older than the flag
    "reconstruction": "mse", "label_norm": "batch", "random_shift": False, "interleave": 1}
FROM_A_CHECKPOINT = (  # what a new run takes from the run of --ckpt_path, unless it is typed
    "DR", "posterior", "frame_H", "frame_W", "clamp_feedback", "val_vi_len")
USED_IN_A_TEST = {  # flags of Trainer.py that Tester.py uses, with their help there; "": the same
    "DR": "", "video_format": "", "device": "", "gpu": "", "num_workers": "",
    "amp": "what the networks compute in, see Trainer.py; left out: auto, but off where --ckpt_path was trained so, or "
           "is of another program",
    "frame_H": "frame height in pixels; only for a checkpoint of another program, which does not say it (%(default)s)",
    "frame_W": "frame width in pixels; only for a checkpoint of another program, which does not say it (%(default)s)",
    "val_vi_len": "frames in a sequence of --split val or train, including the given first one; left out: as in "
                  "training, else %(default)s",
    "partial": "fraction of the training set that --split train and the baselines take; left out: as in training, else "
               "%(default)s",
    "clamp_feedback": "clamp a predicted frame to [0, 1] before it is the next input; left out: as in training, and "
                      "not for a checkpoint of another program",
    "temperature": "standard deviation of z ~ N(0, I); 0 takes z = 0; left out: as in training, else %(default)s",
    "seed": "seed of z; left out: as in training, else %(default)s",
    "ckpt_path": "checkpoint to test; required",
    "save_root": "folder of this test; left out: one named after the split, beside the checkpoint",
}
LPIPS_MIN_SIDE = 31  # pixels: the second pooling of its AlexNet has nothing to pool in a smaller frame
MIN_PYRAMID_F_DIM = 13  # --F_dim of the pyramid, whose first 12 channels are the frame's pixels


def add_machine_flags(parser):
    group = parser.add_argument_group("machine")
    group.add_argument("--device", choices=["auto", "cuda", "mps", "cpu"], default="auto",
                       help="auto takes CUDA if there is one, else MPS, else the CPU")
    group.add_argument("--gpu", type=natural_int, default=0, help="index of the CUDA device")
    group.add_argument("--num_workers", type=natural_int, default=4,
                       help="threads that decode images the first time a dataset is read")
    group.add_argument("--seed", type=seed_number, default=0, help="seed of everything random")
    group.add_argument("--amp", choices=["auto", "bf16", "fp16", "off"], default="auto",
                       help="precision of the networks: auto is bfloat16 on a GPU that computes it natively and on a "
                            "CPU with AMX, fp16 on a GPU with tensor cores but no bfloat16 (T4), else float32; off is "
                            "float32")
    group.add_argument("--cuda_graphs", action=BooleanOptionalAction, default=True,
                       help="in one process on CUDA, without --accumulate and --checkpoint_frames: record the kernels "
                            "of a forward and backward pass once and start them together from then on, without Python "
                            "between them")
    group.add_argument("--data_device", choices=["auto", "gpu", "cpu"], default="auto",
                       help="with CUDA: where the decoded frames are kept; auto takes the GPU if they fill at most a "
                            "quarter of its free memory")


def add_data_flags(parser):
    group = parser.add_argument_group("data")
    group.add_argument("--DR", type=path_name, metavar="FOLDER",
                       help="dataset in the LAB4 layout; left out: that of the checkpoint, else the stage dancer, "
                            "which is made if it is not there")
    group.add_argument("--frame_H", type=at_least(4), default=32, help="frame height after resizing, in pixels")
    group.add_argument("--frame_W", type=at_least(4), default=64, help="frame width after resizing, in pixels")
    group.add_argument("--val_vi_len", type=at_least(2), default=VAL_VI_LEN,
                       help="frames in a validation sequence, including the given first one")


def add_network_flags(parser):
    group = parser.add_argument_group("network")
    group.add_argument("--network", choices=["template", "pyramid"], default="template",
                       help="the course template's network, or a U-Net at half its resolution, many times faster")
    for name, default, what in (("F_dim", 128, "channels of a frame's features"),
                                ("L_dim", 32, "channels of a label's features"),
                                ("N_dim", 12, "channels of the latent z"),
                                ("D_out_dim", 192, "channels between fusion and generator")):
        group.add_argument(f"--{name}", type=at_least(MIN_DIMENSIONS[name]), default=default, help=what)
    group.add_argument("--label_norm", choices=["fixed", "batch"], default="fixed",
                       help="mean and variance of labels that the template's BatchNorm takes in training; fixed: those "
                            "of the training labels, measured before the first step (with --ckpt_path those of the "
                            "checkpoint), as in a test; batch: those of the labels in each forward pass, which are all "
                            "of a batch with --bptt 0, as in the course")
    group.add_argument("--posterior", choices=["previous", "current"], default="previous",
                       help="frame that the Gaussian predictor sees in training; previous: the input frame; current: "
                            "the one to predict")


def network_settings(args):
    """The parameters of VAE_Model as a dict, checked together."""
    if args.network == "pyramid":
        if args.F_dim < MIN_PYRAMID_F_DIM:
            raise UsageError(f"--F_dim {args.F_dim}: --network pyramid needs {MIN_PYRAMID_F_DIM} or more")
        for name in ("frame_H", "frame_W"):
            if getattr(args, name) % 2:
                raise UsageError(f"--{name} {getattr(args, name)}: --network pyramid needs an even number")
    return {name: getattr(args, name) for name in ("network", *MIN_DIMENSIONS, "posterior")}


def add_rollout_flags(parser):
    group = parser.add_argument_group("validation and test rollout")
    group.add_argument("--temperature", type=natural_float, default=1.0,
                       help="standard deviation of z ~ N(0, I) in a rollout; 0 takes z = 0")
    group.add_argument("--ckpt_path", type=path_name, metavar="FILE", help="checkpoint to take the weights from")


def add_training_flags(parser):
    group = parser.add_argument_group("training")
    group.add_argument("--batch_size", type=positive_int, default=2,
                       help="clips in a batch of one process (torchrun starts several)")
    group.add_argument("--accumulate", type=positive_int, default=1, metavar="BATCHES",
                       help="batches per optimizer step: a larger batch with the activations of one in memory")
    group.add_argument("--checkpoint_frames", action="store_true",
                       help="compute activations again in the backward pass instead of storing them: long clips in "
                            "little memory, in about 4/3 of the time")
    group.add_argument("--train_vi_len", type=at_least(2), default=16, help="frames in a training clip")
    group.add_argument("--optim", choices=["Adam", "AdamW", "AMSGrad"], default="Adam",
                       help="optimizer; AMSGrad for long trainings on few frames (docs/study.md)")
    group.add_argument("--reconstruction", choices=["mse", "log_mse"], default="mse",
                       help="the loss beside the KL: the MSE, or 0.01 log(MSE + 1e-4) of each frame, which is its "
                            "PSNR, negated and rescaled")
    group.add_argument("--partial", type=fraction, default=1.0, help="fraction of the training set to use")
    group.add_argument("--fast_train", action="store_true",
                       help="use only --fast_partial of the training set in the first epochs")
    group.add_argument("--fast_partial", type=fraction, default=0.4,
                       help="fraction of what --partial leaves that --fast_train uses")
    group.add_argument("--fast_train_epoch", type=natural_int, default=5, help="epochs that --fast_train lasts")
    group.add_argument("--shuffle", action=BooleanOptionalAction, default=True, help="shuffle the clips in every epoch")
    group.add_argument("--random_start", action=BooleanOptionalAction, default=True,
                       help="cut the clips at new random offsets in every epoch")
    group.add_argument("--random_shift", action=BooleanOptionalAction, default=False,
                       help="shift frames and labels sideways by a random number of pixels in every step, around the "
                            "edge, so that a pose is learned for every place")


def add_feedback_flags(parser):
    group = parser.add_argument_group("feedback (against drift over a long rollout)")
    group.add_argument("--clamp_feedback", action=BooleanOptionalAction, default=True,
                       help="clamp a predicted frame to [0, 1] before it is the next input, in training and test")
    group.add_argument("--bptt", type=natural_int, default=1, metavar="FRAMES",
                       help="predicted frames per optimizer step: a longer clip continues from its last prediction "
                            "(from the true frame where that is teacher-forced), without gradient to earlier frames "
                            "(truncated backpropagation); 0: whole clips, as the course does")
    group.add_argument("--interleave", type=positive_int, default=8, metavar="BATCHES",
                       help="train this many batches in turn, an optimizer step on each, at frames spread over their "
                            "clips: a batch begins with a true frame at its place, runs to the end of its clips, "
                            "and then from their first frame up to that place. They are in memory together, and a run "
                            "that is stopped within them goes back to their start. Without effect where --bptt leaves "
                            "clips whole")
    group.add_argument("--input_noise", type=natural_float, default=0.3,
                       help="Gaussian noise on every input frame in training, in single pixels and in areas of 8 "
                            "pixels (at the points of a grid, and weaker in between); their standard deviations are "
                            "drawn from 0 to this")


def add_schedule_flags(parser):
    group = parser.add_argument_group("epochs")
    group.add_argument("--num_epoch", type=positive_int, default=70, help="epochs in all")
    group = parser.add_argument_group("learning rate")
    group.add_argument("--lr", type=positive_float, default=0.001, help="learning rate")
    group.add_argument("--lr_schedule", choices=["MultiStep", "Cosine", "Constant"], default="Cosine",
                       help="learning rate over the epochs")
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
                       help="how often teacher forcing is drawn: once an epoch (the course's way), once a batch, or "
                            "for each frame of each clip (scheduled sampling)")
    group = parser.add_argument_group("KL annealing")
    group.add_argument("--kl_anneal_type", choices=["Cyclical", "Monotonic", "None"], default="Cyclical",
                       help="beta over the epochs: rising from 0 to 1 in every period, rising once, or always 1")
    group.add_argument("--kl_anneal_cycle", type=positive_int, default=10, help="periods of Cyclical")
    group.add_argument("--kl_anneal_ratio", type=natural_float, default=1.0,
                       help="Cyclical: part of a period in which beta rises; Monotonic: rise per epoch")
    group.add_argument("--kl_weight", type=natural_float, default=1e-4,
                       help="factor on beta; the KL is a sum over the elements of z, the MSE a mean over pixels")


def add_run_flags(parser):
    group = parser.add_argument_group("run")
    group.add_argument("--save_root", type=path_name, metavar="FOLDER",
                       help="folder of this run; a new one under runs/ if left out")
    group.add_argument("--per_save", type=positive_int, default=3, help="epochs between numbered checkpoints")
    group.add_argument("--save_minutes", type=positive_float, default=10.0,
                       help="minutes after which last.ckpt is written within an epoch as well")
    group.add_argument("--val_every", type=positive_int, default=1, help="epochs between validations")
    group.add_argument("--store_visualization", action="store_true", help="write a video at every validation")
    group.add_argument("--video_format", choices=["gif", "mp4", "both"], default="gif",
                       help="of every video; mp4 (H.264) has true colours, and needs the package imageio-ffmpeg "
                            "(requirements/video.txt)")
    group.add_argument("--tensorboard", action=BooleanOptionalAction, default=False,
                       help="write the numbers of metrics.csv for TensorBoard, too; needs the package tensorboard "
                            "(requirements/tensorboard.txt)")
    group.add_argument("--test", action="store_true", help="only validate the checkpoint of --ckpt_path")
    group.add_argument("--resume", action="store_true", help="continue the run in --save_root")
    group.add_argument("--overwrite", action="store_true", help="replace the run in --save_root")


def trainer_parser():
    parser = Parser("Train the conditional VAE on a dance dataset.")
    for add_flags in (add_data_flags, add_training_flags, add_network_flags, add_schedule_flags, add_feedback_flags,
                      add_rollout_flags, add_run_flags, add_machine_flags):
        add_flags(parser)
    return parser


def tester_parser():
    """The trainer's flags too, so that a command line of the course's tester is understood; see USED_IN_A_TEST."""
    parser = trainer_parser()
    parser.description = ("Generate the test sequences, or those of validation or training, with a trained model: "
                          "submission, videos and scores. All flags of Trainer.py are taken; those that only shape "
                          "training have no effect, and are not listed here.")
    parser.list_only(USED_IN_A_TEST)
    add_test_flags(parser)
    return parser


def add_test_flags(parser):
    group = parser.add_argument_group("test")
    group.add_argument("--split", choices=SPLITS, default="test",
                       help="sequences to generate; those of val and train are --val_vi_len frames long and bring "
                            "their own truth. Compare train with val to see overfitting")
    group.add_argument("--gt", type=path_name, metavar="FILE",
                       help="ground truth in the submission's format, to score against")
    group.add_argument("--make_gif", action=BooleanOptionalAction, default=True, help="write the videos")
    group.add_argument("--views", type=positive_int, default=1, metavar="N",
                       help="make each frame the mean of N predictions, from inputs shifted sideways: N times the "
                            "work, for a network trained with --random_shift")
    group.add_argument("--ensemble", type=path_name, nargs="+", action="extend", default=[], metavar="CKPT",
                       help="make each frame the mean of what --ckpt_path and these checkpoints predict, such as those "
                            "of runs with other seeds: N networks take N times the work")
    group.add_argument("--samples", type=natural_int, default=0, metavar="K",
                       help="draw K futures of every sequence, and give the mean of their scores and the best one's; "
                            "those of the first are shown side by side in a video: what z does")
    group.add_argument("--lpips", action="store_true",
                       help="score LPIPS, too, of frames of 31 x 31 pixels or more; needs the package lpips "
                            "(requirements/lpips.txt)")
    group.add_argument("--onnx", type=path_name, metavar="FILE",
                       help="only write a time step of the model as ONNX; needs the package onnx "
                            "(requirements/onnx.txt)")
    group.add_argument("--drive", type=path_name, metavar="PATH",
                       help="generate a new dance in place of the split: that of the person in this video, moved to "
                            "the size and place of the trained one, or a folder of labels; a video needs the "
                            "packages of requirements/poses.txt")
    group.add_argument("--poses", type=path_name, metavar="FILE",
                       help="poses in the video of --drive as a CSV file (see Preparer.py), in place of an estimator's")
    group.add_argument("--no_sanity", action="store_true", help="do not read the submission back to check it")


def flags_of(*add_flags):
    """The names of the flags of some groups, with their defaults, as a dict."""
    parser = Parser("")
    for add in add_flags:
        add(parser)
    return vars(parser.parse_args([]))


def has_segments(arguments):
    """Whether --bptt cuts the clips of a run into several segments; without them --interleave has nothing to do.

    arguments: every flag, as a dict.
    """
    return 0 < arguments["bptt"] < arguments["train_vi_len"] - 1


def idle_flags(arguments):
    """The flags that change nothing beside the other arguments of a run, as {flag: the flag whose value makes it so}.

    arguments: every flag, as a dict.
    """
    idle = {}
    if arguments["kl_anneal_type"] != "Cyclical":
        idle["kl_anneal_cycle"] = "kl_anneal_type"
    if arguments["kl_anneal_type"] == "None":
        idle["kl_anneal_ratio"] = "kl_anneal_type"
    if arguments["tfr"] == 0:
        idle |= dict.fromkeys(("tfr_sde", "tfr_d_step", "tfr_per"), "tfr")
    if arguments["lr_schedule"] != "MultiStep":
        idle |= dict.fromkeys(("milestones", "gamma"), "lr_schedule")
    if not arguments["fast_train"]:
        idle |= dict.fromkeys(("fast_partial", "fast_train_epoch"), "fast_train")
    if not has_segments(arguments):
        idle["interleave"] = "bptt"
    if arguments["network"] == "pyramid":  # it has no BatchNorm
        idle["label_norm"] = "network"
    return idle


def trainer_settings(args):
    """The parameters of engine.optimization.ClipTrainer as a dict, but for model, device and precision."""
    names = ("optim", "lr", "reconstruction", "bptt", "clamp_feedback", "input_noise", "label_norm",
             "checkpoint_frames", "random_shift")
    # with --accumulate only the smaller batch at the end of an epoch could be recorded
    recorded = args.cuda_graphs and args.accumulate == 1
    return {**{name: getattr(args, name) for name in names}, "cuda_graphs": recorded}


def schedule_settings(args):
    """The parameters of engine.schedules.Schedules as a dict, checked together."""
    if args.kl_anneal_type == "Cyclical" and args.kl_anneal_ratio > 1:
        raise UsageError(f"--kl_anneal_ratio {args.kl_anneal_ratio}: Cyclical rises in a part of a period; give 0 to 1")
    return {name: getattr(args, name) for name in flags_of(add_schedule_flags) if name != "tfr_per"}
