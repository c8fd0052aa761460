"""What a result file holds, told to a sink as the run told it."""

import tomllib

import numpy as np

from coopmpi.record.reader import blocks, complete_rows, events_of, open_run, read_sound, status_of
from coopmpi.record.schema import EVAL
from coopmpi.sinks.sink import About, Sink, StepRows

TRANSFER = ("step", "posted", "finished", "waited", "bytes")  # as a sink is told of it


def replay(path, sink: Sink):
    """Open the sink, tell it all steps, transfers, evaluations and events in their order, and close it; models are left out.

    UserError where the file is damaged; what the sink raises goes through.
    """
    with open_run(path) as file:
        done, steps = 0, complete_rows(list(file["train"].values()))
        sink.open(_about(file))
        # sorted() keeps the order of what belongs to the same step
        for step, method, arguments in sorted([*_transfers(file), *_evaluations(file), *_events(file)], key=lambda call: call[0]):
            done = _tell_steps(file, sink, done, min(step, steps))
            getattr(sink, method)(*arguments)
        _tell_steps(file, sink, done, steps)
        sink.close(status_of(file))


def _about(file):
    config, figures = file["config"].asstr()[()], {}
    if "eval" in file:
        figures = {name: (data.attrs["units"], data.attrs["description"]) for name, data in file["eval"].items()
                   if name not in ("step", *EVAL)}
    tables, model = tomllib.loads(config), file["final/mean"] if "final" in file else np.zeros(0, "f4")
    attributes = {name: file.attrs[name] for name in ("ranks", "mpi", "device")}
    return About(config, len(file["worker"]), tables["steps"], len(model), str(model.dtype), file.attrs["mode"], attributes,
                 figures=figures, per_worker=file.attrs["per_worker"] == "all")


def _tell_steps(file, sink, begin, end):
    """Tell the steps after `begin` up to `end`, block by block; the larger of the two."""
    group = file["train"]
    names = [name for name in StepRows._fields if name in group]
    for span in blocks(group["bytes_sent"], end - begin):
        span = slice(begin + span.start, begin + span.stop)
        columns = {name: read_sound(group[name], span) for name in names}
        sink.steps(StepRows(span.start, **dict.fromkeys(("loss", "virtual_time")) | columns))
    return max(begin, end)


def _columns(file, name):
    """{name: list} of the complete rows of the series in a group; without such a group nothing."""
    if name not in file:
        return {}
    rows = complete_rows(list(file[name].values()))
    return {short: read_sound(data, slice(rows)).tolist() for short, data in file[name].items()}


def _transfers(file):
    """(step, method of a sink, its arguments) of each transfer."""
    columns = _columns(file, "rounds")
    return [(row[0], "rounds", ([row],)) for row in zip(*(columns.get(name, ()) for name in TRANSFER))]


def _evaluations(file):
    columns = _columns(file, "eval")
    steps, times = columns.pop("step", ()), columns.pop("wall_time", ())
    return [(step, "evaluation", (step, time, dict(zip(columns, figures))))
            for step, time, figures in zip(steps, times, zip(*columns.values()))]


def _events(file):
    return [(event.step, "event", event) for event in events_of(file)]
