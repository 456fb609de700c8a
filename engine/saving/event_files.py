"""The numbers of metrics.csv for TensorBoard, in the folder of a run. An extra."""

import time

from cli.errors import needs_package

from .logs import METRICS_COLUMNS

EVENT_FILES = "events.out.tfevents.*"  # as TensorBoard calls them


def check_tensorboard():
    """Raise UsageError if the package tensorboard is missing."""
    with needs_package("--tensorboard (else give --no-tensorboard)", "tensorboard", "tensorboard"):
        import tensorboard  # only to see whether it is there


class EventFiles:
    """The rows of metrics.csv as scalars under the names of their columns; the epoch is the step.

    torch's SummaryWriter would write in a thread, which dies of a failed write.
    """

    def __init__(self, folder):
        self.folder, self.path, self.written = folder, None, 0

    def write(self, rows):
        """Append the rows that are new to the file; at first, and after a failure, begin a new file with all rows.

        TensorBoard forgets older files at its first event. rows: a dict for each epoch. A file that cannot be written
        costs a note; the next epoch tries again.
        """
        try:
            if self.path is None:
                self.path, self.written = self.folder / EVENT_FILES.replace("*", f"{time.time():.6f}"), 0
            _append(self.path, rows[self.written:])
            self.written = len(rows)
        except OSError as error:
            print(f"note: TensorBoard's file in {self.folder} cannot be written ({error.strerror or error}); the next "
                  "epoch tries again")
            self.path = None


def _append(path, rows):
    """Append rows to an event file, and make it if it is not there."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    events = []
    for row in rows:
        values = [Summary.Value(tag=name, simple_value=row[name]) for name in METRICS_COLUMNS[1:] if name in row]
        events.append(Event(step=row["epoch"], summary=Summary(value=values)))
    if not path.exists():
        events = [Event(file_version="brain.Event:2"), Event(session_log=SessionLog(status=SessionLog.START)), *events]
    with open(path, "ab") as file:
        for event in events:
            event.wall_time = time.time()
            RecordWriter(file).write(event.SerializeToString())
