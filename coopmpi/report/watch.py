"""What `coopmpi watch` knows of a run that goes on elsewhere: from its result file, read again and again."""

import json
import os
import time
import tomllib
from collections.abc import Iterator
from dataclasses import asdict

from coopmpi.record import apart
from coopmpi.record.lock import is_held
from coopmpi.record.reader import blocks, complete_rows, open_run, read_alive, refuse_truncated, require_complete
from coopmpi.report.closing import closing
from coopmpi.report.progress import Progress
from coopmpi.report.text import duration
from coopmpi.sinks.sink import StepRows

PACE = 1.0  # seconds between two looks
QUIET = 5.0  # seconds without a row after which it is said
GONE = 30.0  # seconds without a row after which a run counts as cut off, if no process holds its file


def looks(path) -> Iterator[tuple[Progress, str]]:
    """(how far the run is, since when nothing was written) again and again, until it has ended or was cut off.

    UserError if the file cannot be read. A child process reads it, which may hang or crash.
    """
    refuse_truncated(path)
    for text in apart.texts(path, lambda: _work(path)):
        progress, quiet = json.loads(text)
        yield Progress(**progress), quiet


def last_screen(path, width: int) -> str:
    """The closing screen of the run in the file, read in a child process."""
    return "".join(apart.texts(path, lambda: iter([closing(path, width)])))


def is_over(path) -> bool:
    """Has the run closed its file? It has not if it was cut off."""
    with open_run(path) as file:
        return not file.swmr_mode


def _work(path):
    """In the child process: JSON of what `looks` gives."""
    progress, seen = None, None
    while True:
        with open_run(path) as file:
            require_complete(file)
            if not file.swmr_mode:
                return
            found = os.stat(path)
            # a run that is resumed writes another file
            if progress is None or found.st_ino != seen:
                progress, seen = Progress(tomllib.loads(file["config"].asstr()[()]).get("steps")), found.st_ino
            _add(progress, file)
        quiet = max(0.0, time.time() - found.st_mtime)
        yield json.dumps([asdict(progress), f"nothing written for {duration(quiet)}" if quiet > QUIET else ""])
        if quiet > GONE and not is_held(path):
            return
        apart.alive()
        time.sleep(PACE)


def _add(progress, file):
    """Take in the rows that have come since the last look."""
    train, evaluations = file["train"], file.get("eval")
    rows = complete_rows(list(train.values()))
    for span in blocks(train["wait_time"], rows - progress.done):
        part = slice(progress.done, progress.done + span.stop - span.start)
        columns = {name: read_alive(train[name], part) for name in StepRows._fields if name in train}
        progress.add(StepRows(part.start, *(columns.get(name) for name in StepRows._fields[1:])))
    if evaluations is not None and (rows := complete_rows(list(evaluations.values()))):
        last = {name: float(read_alive(evaluations[name], rows - 1)) for name in evaluations}
        step, wall_time = int(last.pop("step")), last.pop("wall_time")
        progress.figures = {name: value for name, value in last.items() if value == value}
        if not progress.done:
            progress.evaluate(step, wall_time, progress.figures)
