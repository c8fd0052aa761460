"""Says on stderr when a rank has waited for long: a run that stands still tells where, and nobody is ended for being slow."""

import platform
import sys
import threading
from time import perf_counter

PATIENCE = 60.0  # seconds of waiting after which it is said
PACE = 5.0  # seconds between two looks


class Watchdog:
    """A context in which a thread looks at what the driver waits for."""

    def __init__(self, driver):
        self.driver, self.host = driver, platform.node()
        self._over = threading.Event()

    def __enter__(self):
        threading.Thread(target=self._watch, name="coopmpi-watchdog", daemon=True).start()
        return self

    def __exit__(self, *error):
        self._over.set()

    def _watch(self):
        told = None
        while not self._over.wait(PACE):
            waiting = self.driver.waiting
            if waiting is None or waiting is told or perf_counter() - waiting.since < PATIENCE:
                continue
            told, rank = waiting, self.driver.world.rank
            missing = waiting.ticket.transfer.missing() if waiting.ticket else []
            # of what all ranks wait for, one tells
            if rank == 0 or missing:
                whom = f"rank {', '.join(map(str, missing))}" if missing else "all ranks"
                what = f" ({waiting.ticket.asked_by})" if waiting.ticket else ""
                print(f"coopmpi: rank {rank} on {self.host} has waited for {perf_counter() - waiting.since:.0f} s at step "
                      f"{waiting.step + 1} for {whom}{what}", file=sys.stderr, flush=True)
