"""Results as lines of JSON, for tools that follow a log."""

import json
from math import isfinite

from coopmpi.ranges import OutputFile
from coopmpi.registry import register
from coopmpi.sinks.sink import Sink


@register("sink", "jsonl")
class JsonLines(Sink):
    """One line per step, evaluation and event; losses and times as means over the workers. What is not finite is null."""

    path: OutputFile = "run.jsonl"

    def open(self, about):
        self.file = open(self.path, "w", encoding="utf-8")
        self._write("run", mode=about.mode, workers=about.workers, steps=about.steps)

    def reopen(self, about, step):
        with open(self.path, encoding="utf-8") as file:
            # a kill may have torn the last line
            kept = [line for line in file if line.endswith("\n") and json.loads(line).get("step", 0) <= step]
        self.file = open(self.path, "w", encoding="utf-8")
        self.file.writelines(kept)

    def steps(self, rows):
        series = {name: column.tolist() for name, column in rows.means().items()}
        for i, values in enumerate(zip(*series.values()), start=1):
            self._write("step", step=rows.first + i, **dict(zip(series, values)))
        self.file.flush()

    def evaluation(self, step, wall_time, figures):
        self._write("evaluation", step=step, wall_time=wall_time, **figures)
        self.file.flush()

    def event(self, step, wall_time, kind, text):
        self._write("event", step=step, wall_time=wall_time, event=kind, text=text)
        self.file.flush()

    def close(self, status):
        self._write("end", status=status)
        self.file.close()

    def _write(self, kind, **values):
        finite = {name: None if isinstance(value, float) and not isfinite(value) else value for name, value in values.items()}
        self.file.write(json.dumps({"kind": kind} | finite) + "\n")
