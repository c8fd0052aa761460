"""Results as lines of JSON, for tools that follow a log."""

import json

from coopmpi.registry import register
from coopmpi.sinks.sink import Sink


@register("sink", "jsonl")
class JsonLines(Sink):
    """One line per step, evaluation and event; losses and times as means over the workers."""

    path: str = "run.jsonl"

    def open(self, about):
        self.file = open(self.path, "w", encoding="utf-8")
        self._write("run", mode=about.mode, workers=about.workers, steps=about.steps)

    def reopen(self, about, step):
        with open(self.path, encoding="utf-8") as file:
            kept = [line for line in file if json.loads(line).get("step", 0) <= step]
        self.file = open(self.path, "w", encoding="utf-8")
        self.file.writelines(kept)

    def steps(self, rows):
        for i, (wall_time, tau, lr) in enumerate(zip(rows.wall_time, rows.tau, rows.lr)):
            loss = None if rows.loss is None else float(rows.loss[i].mean())
            self._write("step", step=rows.first + i + 1, wall_time=float(wall_time), tau=int(tau), lr=float(lr), loss=loss,
                        compute_time=float(rows.compute_time[i].mean()), wait_time=float(rows.wait_time[i].mean()),
                        bytes_sent=float(rows.bytes_sent[i].mean()))

    def evaluation(self, step, wall_time, figures):
        self._write("evaluation", step=step, wall_time=wall_time, **figures)

    def event(self, step, wall_time, kind, text):
        self._write("event", step=step, wall_time=wall_time, event=kind, text=text)

    def close(self, status):
        self._write("end", status=status)
        self.file.close()

    def _write(self, kind, **values):
        self.file.write(json.dumps({"kind": kind} | values) + "\n")
        self.file.flush()
