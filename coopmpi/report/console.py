"""Progress on rank 0: one live line on a terminal, plain dated lines into a log."""

import os
import sys
from datetime import datetime, timedelta
from time import monotonic

LIVE_SECONDS = 0.2  # between updates of a live line
LOG_SECONDS = 1.0  # least time between two lines of a log


class Silent:
    """Nobody watches: every rank but 0, and --quiet."""

    def stepped(self, done, wall_time, waited):
        pass

    def evaluated(self, done, wall_time, figures):
        pass

    def close(self):
        pass


class Progress(Silent):
    """Tells how far the run is: step, loss, accuracy, consensus, speed, waiting for the network, time left."""

    def __init__(self, steps):
        from rich.console import Console

        self.steps = steps
        # a launcher hides the terminal from its ranks, and says so by this variable
        terminal = os.environ.get("COOPMPI_TERMINAL")
        self.console = Console(file=sys.stdout, force_terminal=bool(terminal) or None, highlight=False, soft_wrap=True,
                               width=int(terminal) if terminal else None)
        self.live = self.console.is_terminal
        self._shown, self._figures = -LOG_SECONDS, {}
        self._done = self._wall_time = self._waited = 0

    def stepped(self, done, wall_time, waited):
        self._done, self._wall_time, self._waited = done, wall_time, waited
        if self.live and monotonic() - self._shown > LIVE_SECONDS:
            self._shown = monotonic()
            self._overwrite(self._line())

    def evaluated(self, done, wall_time, figures):
        self._done, self._wall_time, self._figures = done, wall_time, figures
        if monotonic() - self._shown > LOG_SECONDS or done in (0, self.steps):
            self._shown = monotonic()
            if self.live:
                self._overwrite(self._line())
            else:
                print(f"{datetime.now():%Y-%m-%d %H:%M:%S} {self._line()}", flush=True)

    def close(self):
        if self.live:
            print(flush=True)

    def _overwrite(self, text):
        text = text[: self.console.width - 1]
        sys.stdout.write(f"\r\x1b[2K{text}")
        sys.stdout.flush()

    def _line(self):
        parts = [f"step {self._done}/{self.steps}"]
        for name, form in (("loss", ".4g"), ("accuracy", ".2%"), ("consensus", ".3g")):
            if name in self._figures:
                parts.append(f"{name} {self._figures[name]:{form}}")
        if self._done:
            pace = self._wall_time / self._done
            left = timedelta(seconds=round(pace * (self.steps - self._done)))
            parts += [f"{1 / pace:.4g} steps/s", f"waiting {self._waited / self._wall_time:.0%}", f"ETA {left}"]
        return "  ".join(parts)


def summary(assembly, world, outcome, output):
    """The closing table."""
    from rich.console import Console
    from rich.table import Table

    config, figures = assembly.config, outcome.figures
    rows = {"algorithm": config.algorithm.name, "workers": f"{config.workers} on {world.size} rank{'s' * (world.size > 1)}",
            "steps": str(outcome.steps)}
    for name, form in (("loss", ".5g"), ("accuracy", ".2%"), ("consensus", ".3g")):
        if name in figures:
            rows[name] = f"{figures[name]:{form}}"
    rows |= {"time": f"{outcome.wall_time:.2f} s", "speed": f"{outcome.steps / outcome.wall_time:.4g} steps/s",
             "waiting": f"{outcome.waited / outcome.wall_time:.1%} of rank 0's time",
             "sent": f"{outcome.sent / 1e6:.3g} MB per worker", "result": str(output),
             "next": f"coopmpi inspect {output}"}
    table = Table(show_header=False, box=None, padding=(0, 2))
    for name, value in rows.items():
        table.add_row(name, value)
    Console(highlight=False).print(table)
