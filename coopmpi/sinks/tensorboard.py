"""Results for TensorBoard."""

from pathlib import Path

from coopmpi.errors import missing
from coopmpi.ranges import OutputFile
from coopmpi.registry import register
from coopmpi.sinks.sink import Sink

END = ".coopmpi"  # of the names of our event files


@register("sink", "tensorboard")
class TensorBoard(Sink):
    """Curves of steps and evaluations, run description and events as text; losses and times are means over the workers.

    What TensorBoard takes for the time of a record are seconds of the run's clock, of the virtual one in a simulation.
    """

    path: OutputFile = "tensorboard"  # the folder, one for each run

    def open(self, about):
        for old in event_files(self.path):
            old.unlink()
        self._begin(0)
        self._text("config", f"```toml\n{about.config}\n```", 0, 0.0)

    def reopen(self, about, step):
        self._begin(step)
        # what other files hold of later steps is void
        self.writer.write_event(self.proto.Event(step=step + 1, session_log=self.proto.SessionLog(status=self.proto.SessionLog.START)))

    def steps(self, rows):
        series = rows.means()
        clock = series.pop("virtual_time", series["wall_time"])
        series.pop("wall_time")
        names = [f"train/{name}" for name in series]
        for i, (time, values) in enumerate(zip(clock.tolist(), zip(*series.values())), start=1):
            self._write(dict(zip(names, values)), rows.first + i, time)
        self.writer.flush()

    def evaluation(self, step, wall_time, figures):
        time = figures.get("virtual_time", wall_time)
        self._write({f"eval/{name}": value for name, value in figures.items() if name != "virtual_time"}, step, time)
        self.writer.flush()

    def event(self, step, wall_time, kind, text):
        self._text(f"event/{kind}", text, step, wall_time)
        self.writer.flush()

    def close(self, status):
        self.writer.close()

    def _begin(self, step):
        """A new file for what follows after so many steps."""
        try:
            from tensorboardX import event_file_writer, summary
            from tensorboardX.proto import event_pb2
        except ModuleNotFoundError as error:
            raise missing("a TensorBoard event file", error.name, "tensorboard") from error
        self.proto, self.summary = event_pb2, summary
        Path(self.path).mkdir(parents=True, exist_ok=True)
        self.writer = event_file_writer.EventsWriter(str(Path(self.path) / "events"), f".{step}{END}")

    def _write(self, values, step, time):
        """One record with all these numbers, {tag: number}."""
        found = [self.summary.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._add(self.summary.Summary(value=found), step, time)

    def _text(self, tag, text, step, time):
        self._add(self.summary.text(tag, text), step, time)

    def _add(self, record, step, time):
        self.writer.write_event(self.proto.Event(wall_time=time, step=step, summary=record))


def event_files(folder) -> list[Path]:
    """The event files that earlier runs have left in a folder."""
    return sorted(Path(folder).glob(f"events.out.tfevents.*{END}"))
