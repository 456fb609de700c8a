"""What a run leaves behind while it trains: its logs and its checkpoints."""

import copy
import math
import time
from contextlib import contextmanager

from cli.errors import RunError, Stopped, one_line
from cli.files import remove_file, writing
from cli.progress import Progress
from cli.signals import StopSignals
from media.video import write_comparison
from modules.metrics import psnr_per_frame

from ..processes import all_reduce, rank, world_size
from ..training import shown_metrics
from .best_rollout import first_of_each, write_best_rollout
from .checkpoint import save_checkpoint
from .event_files import EventFiles
from .logs import write_epoch_logs, write_psnr_per_frame
from .resume import resume_command


class RunRecorder:
    """Writes logs and checkpoints into the folder of a run, and stops the run after a signal.

    Every process has one and calls its `keep_state`, `stop_if_asked`, `after_steps` and `after_epoch`; rank 0 alone
    writes files, and validates. A `row` is a row of metrics.csv as a dict. state: the RunState, kept up to date by the
    training. arguments: every flag, as a dict. dataset: see resume.identity_of. The others: the flags of these names.
    """

    def __init__(self, folder, trainer, state, *, arguments, dataset, num_epoch, save_minutes, per_save,
                 tensorboard=False):
        self.folder, self.trainer, self.state, self.num_epoch = folder, trainer, state, num_epoch
        self.same_in_all_checkpoints = {"arguments": arguments, **dataset, "world_size": world_size()}
        self.save_seconds, self.per_save = 60 * save_minutes, per_save
        self.stop = StopSignals()
        self.saved_at = self.counted_at = time.monotonic()
        self.kept = None  # the content of a checkpoint before the round or validation in progress, else None
        self.is_saved = False  # whether last.ckpt holds `kept`, or a later state
        self.event_files = EventFiles(folder) if tensorboard else None
        self._write_logs()

    def keep_state(self, row):
        """Keep a copy of what a checkpoint holds, for `stop_if_asked`; row: its lr and tfr."""
        if rank() == 0:
            self.kept = copy.deepcopy(self._content(row))

    def stop_if_asked(self):
        """Within a round or a validation: save what `keep_state` kept if it is time, and before a signal stops the run.

        Several processes must stop at the same step: they stop in `after_steps` or `after_epoch`, unless they
        are killed before.
        """
        if self.kept and (self.stop.signal_number or self._is_time()):
            self._save_kept()
            if world_size() == 1:
                self._stop_after(self.stop.signal_number)

    def after_steps(self, row):
        """Save within an epoch if it is time, and stop if a signal has come."""
        self.is_saved = False
        is_time = self._is_time()
        number, is_time = all_reduce((self.stop.signal_number or 0, is_time), "MAX", self.trainer.device)
        if number or is_time:
            self._save(["last.ckpt"], self._content(row))
        self.kept = None
        self._stop_after(number)

    @contextmanager
    def validation(self, row):
        """Around a validation: its epoch is saved if it fails, and by the `stop_if_asked` in it.

        row: that of the epoch so far. The seconds that the validation takes go into it, as validation_seconds.
        """
        began = time.monotonic()
        self.keep_state(row)
        try:
            yield
        except Exception:
            try:
                self._save_kept()
            except Exception as other:  # the first error is the one to report
                print(f"note: the epoch cannot be saved ({one_line(other)})")
            raise
        row["validation_seconds"] = time.monotonic() - began

    def keep_rollout(self, row, videos, video_format=None):
        """Keep the rollout of a validation and its PSNR per frame, if it is the best so far; before after_epoch.

        videos: see engine.evaluation.validate. video_format: write the first of them, the best or not, as epoch=N;
        a VideoFormat, or None.
        """
        try:
            if video_format:
                write_comparison(self.folder / f"epoch={row['epoch']}", first_of_each(videos), video_format)
            if row["val_psnr"] > self.state.best_psnr:
                write_psnr_per_frame(self.folder, psnr_per_frame(videos["prediction"], videos["truth"]))
                write_best_rollout(self.folder, videos["prediction"])
                with writing(self.folder / "best.npz"):  # of a rollout before; the end of the run writes it anew
                    remove_file(self.folder / "best.npz")
        except RunError as error:  # the checkpoint is worth more
            print(f"note: {error}; the figures and videos of this run will lack it")

    def after_epoch(self, row):
        """Log the epoch and save its checkpoints, and stop if a signal has come."""
        epoch, names = row["epoch"], []
        if (epoch + 1) % self.per_save == 0:
            names.append(f"epoch={epoch}.ckpt")
        if row.get("val_psnr", -math.inf) > self.state.best_psnr:
            self.state.best_psnr = row["val_psnr"]
            names.append("best.ckpt")
        names.append("last.ckpt")  # written last: a run resumed from it has the others
        before = self.state.rows[-1].get("seconds", 0.0) if self.state.rows else 0.0
        self._count_seconds()
        self.state.rows.append({**row, "seconds": self.state.seconds})
        line = f"epoch {epoch:3d}/{self.num_epoch}  {shown_metrics(row)}"
        if "val_psnr" in row:
            line += f"  PSNR {row['val_psnr']:.2f} dB (best {self.state.best_psnr:.2f})"
        self.state.last_epoch, self.state.batches_done, self.state.totals = epoch, 0, None
        self.kept = None
        self._save(names, self._content(row))
        Progress.write(f"{line}  {self.state.seconds - before:.1f} s")  # above the bar, if there is one
        try:
            self._write_logs()  # after the checkpoint, which holds the rows too
        except RunError as error:  # say because another program has the file open
            if epoch + 1 == self.num_epoch:
                raise
            print(f"note: {error}; the next epoch tries again")
        [number] = all_reduce((self.stop.signal_number or 0,), "MAX", self.trainer.device)
        self._stop_after(number)

    def _write_logs(self):
        if rank() == 0:
            write_epoch_logs(self.folder, self.state.rows)
            if self.event_files:
                self.event_files.write(self.state.rows)

    def _is_time(self):
        """Whether --save_minutes have passed since rank 0 saved something."""
        return rank() == 0 and time.monotonic() - self.saved_at > self.save_seconds

    def _save_kept(self):
        """Save what `keep_state` kept, unless that is done."""
        if not self.is_saved:
            self._save(["last.ckpt"], self.kept)

    def _count_seconds(self):
        now = time.monotonic()
        self.state.seconds += now - self.counted_at
        self.counted_at = now

    def _save(self, names, content):
        """Save a `_content` under these names, with the seconds up to now."""
        self._count_seconds()
        if rank() == 0:
            save_checkpoint([self.folder / name for name in names], content | {"seconds": self.state.seconds})
        self.saved_at, self.is_saved = time.monotonic(), True

    def _content(self, row):
        trainer = self.trainer
        return {"state_dict": trainer.model.state_dict(), "optimizer": trainer.optimizer.state_dict(),
                "scaler": trainer.scaler.state_dict(), "clipper": trainer.clipper.state_dict(),
                "lr": row["lr"], "tfr": row["tfr"], **vars(self.state), **self.same_in_all_checkpoints}

    def _stop_after(self, signal_number):
        if signal_number:
            raise Stopped(int(signal_number), f"saved; continue with: {resume_command(self.folder)}")
