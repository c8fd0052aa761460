"""The state of a run inside its result file, from which an interrupted run goes on."""

import numpy as np

from coopmpi.errors import UserError
from coopmpi.record.reader import open_run
from coopmpi.record.schema import STATE


def copy_run(old, file, step):
    """Copy the rows of the steps up to `step`, the events and the state from one open result file to another."""
    for group in ("train", "eval", "rounds"):
        kept = int(np.searchsorted(old[group]["step"][:], step, side="right"))
        for name, data in old[group].items():
            target = file[group][name]
            target.resize(kept, axis=0)
            for start in range(0, kept, 1024):
                target[start:min(kept, start + 1024)] = data[start:min(kept, start + 1024)]
    events = old["events"][:]
    file["events"].resize(len(events), axis=0)
    file["events"][:] = events
    for name, data in old[STATE].items():
        for row in range(len(data)):
            file[STATE][name][row] = data[row]
    file[STATE].attrs.modify("step", old[STATE].attrs["step"])


class Checkpoint:
    """The state that an interrupted run left in its result file; UserError if it left none."""

    def __init__(self, path):
        self.path = path
        self.file = open_run(path)
        if self.file.attrs["mode"] == "simulate":
            raise UserError(f"{path}: a simulation is not resumed, since the virtual clocks are not saved; simulate again")
        self.step = int(self.file[STATE].attrs["step"]) if STATE in self.file else 0
        if not self.step:
            raise UserError(f"{path}: no state was saved, so there is nothing to resume; a run saves its state when SIGUSR1, "
                            "SIGTERM or Ctrl-C stops it")
        self.config_text = self.file["config"][()].decode()

    @property
    def wall_time(self):
        """Seconds of training so far."""
        return float(self.file["train/wall_time"][self.step - 1])

    def rows(self, slot, workers):
        """A slot's rows of these workers, or all that are equal on all ranks."""
        data = self.file[STATE][slot.name]
        return data[:] if slot.kind in ("replica", "host") else np.stack([data[worker] for worker in workers])

    def close(self):
        self.file.close()
