"""What `coopmpi inspect` shows of a result file: a summary, or one series as text."""

import os
from datetime import datetime

import numpy as np

from coopmpi.errors import clean, shortened
from coopmpi.record import apart
from coopmpi.record.reader import complete_rows, open_run, read_alive, refuse_truncated, require_complete, status_of
from coopmpi.record.schema import only_counts
from coopmpi.report.advice import advice
from coopmpi.report.forecast import against_forecast
from coopmpi.report.learning import not_learnt
from coopmpi.report.recorded import Recorded, recorded, total
from coopmpi.report.series import series
from coopmpi.report.text import columns, duration, facts, size

EVALUATIONS, EVENTS = 6, 5  # lines at most
FORMS = {"train_loss": ".5g", "loss": ".5g", "accuracy": ".2%", "consensus": ".3g"}  # of evaluations, in this order
TASK_KEYS = ("module", "dataset", "data", "label", "path", "function", "model", "hidden", "batch", "partition")


def texts(path, width, name=None, config=False, status=False):
    """What is printed of the result file at `path`, in pieces: the series `name`, its run description, its
    status in one word (a run that was killed still says running), or a summary in lines up to `width`.

    A damaged file is a UserError, however it is damaged.
    """
    refuse_truncated(path)

    def work():
        with open_run(path) as file:
            require_complete(file)
            if status:
                yield f"{clean(status_of(file))}\n"
            elif config:
                yield clean(config_text(file))
            elif name is not None:
                yield from map(clean, series(file, name))
            else:
                with np.errstate(all="ignore"):
                    yield "\n".join(summary(file, recorded(path, file), width)) + "\n"

    return apart.texts(path, work)


def config_text(file):
    """The resolved run description, TOML."""
    return file["config"].asstr()[()]


def summary(file, run: Recorded, width: int) -> list[str]:
    """What there is to say on one screen, in lines."""
    parts = facts(_overview(file, run), width), _evaluations(file, run, width), _events(file, run, width), facts(_contents(file), width)
    lines = [line for part in parts if part for line in (*part, "")]
    return lines[:-1]


def _overview(file, run):
    """[(what, said of it)]."""
    rows = [("result", run.path), ("status", said_of_status(run))]
    for name in ("task", "optimizer", "algorithm", "period", "mixing"):
        if name in run.tables:
            rows.append((name, _choice(run.tables[name], TASK_KEYS if name == "task" else None)))
        if name == "task" and "classes" in file.attrs:
            names = file.attrs["classes"]
            rows.append(("classes", f"{len(names)}: {shortened(', '.join(map(str, names)))}"))
    rows += [("workers", f"{run.workers} on {run.ranks} rank{'s' * (run.ranks > 1)} ({run.mpi}, {run.device})"),
             ("steps", f"{run.steps} of {run.total}" if run.total else str(run.steps))]
    if run.steps:
        pace = f"{run.steps / run.wall_time if run.wall_time else np.inf:.4g} steps/s, evaluation and writing left out"
        if run.simulated:
            rows.append(("virtual time", duration(run.virtual_time)))
        rows += [("real time" if run.simulated else "time", f"{duration(run.wall_time)}, {pace}"), ("waiting", _waiting(run))]
        rows += [(name, said) for name, said in (("hidden", _hidden(file)), ("slowest", _slowest(run))) if said]
        rows.append(("sent", f"{size(run.sent.mean())} per worker, {size(run.sent.mean() * run.workers)} in all"))
    rows += [("target", text) for text in _targets(file, run)]
    if run.steps and "forecast" in run.tables and not run.simulated:
        parts = (float(part.mean() / run.steps) for part in (run.computed, run.waited))
        rows += [("forecast", text) for text in against_forecast(run.tables["forecast"], run.steps, run.wall_time / run.steps, *parts)]
    return rows + [(name, said) for name, said in (("warning", not_learnt(run)), ("advice", advice(run))) if said]


def _targets(file, run):
    """What it took to reach a target of [stop], for each that was; a run that was extended may have reached several."""
    train, time = file["train"], "virtual_time" if run.simulated else "wall_time"
    found = {(step, text) for step, _, kind, text in run.events if kind == "target" and 0 < step <= run.steps}
    for step, text in sorted(found):
        seconds, sent = float(read_alive(train[time], step - 1)), total(train["bytes_sent"], step).mean()
        yield f"{text}, after {step} steps, {duration(seconds)}, {size(sent)} sent per worker"
    targets = run.tables.get("stop")
    if targets and not found:
        yield f"not reached: {', '.join(f'{name} = {target:g}' for name, target in targets.items())}"


def said_of_status(run: Recorded) -> str:
    """The status; of a run that seems to go on, when it was last heard of."""
    if run.status != "running":
        return run.status
    written = os.path.getmtime(run.path)
    age = max(0.0, datetime.now().timestamp() - written)
    return f"running, or cut off by a kill: last write at {datetime.fromtimestamp(written):%Y-%m-%d %H:%M:%S}, {duration(age)} ago"


def _choice(table, keys=None):
    """A table of the run description in one line: the kind (or graph) comes first; keys: which others to show."""
    (_, kind), *rest = table.items()
    shown = {key: value for key, value in rest if keys is None or key in keys}
    return ", ".join([kind, *(f"{key} = {str(value).lower() if isinstance(value, bool) else value}"
                              for key, value in shown.items())])


def _waiting(run):
    share = run.share(run.waited)
    if share.min() == share.max():
        return f"{share[0]:.1%} of the time, {'at every worker' if len(share) == run.workers else 'on average'}"
    return (f"{share.mean():.1%} of the time on average; least {share.min():.1%} (worker {share.argmin()}), "
            f"most {share.max():.1%} (worker {share.argmax()})")


def _hidden(file):
    """Share of the time under way in which the transfers of rank 0 did not block it; empty without transfers."""
    rounds = file["rounds"] if "rounds" in file else None
    n = complete_rows(list(rounds.values())) if rounds else 0
    if not n:
        return ""
    posted, finished, waited = (read_alive(rounds[name], slice(n)) for name in ("posted", "finished", "waited"))
    return (f"{1 - waited.sum() / (finished - posted).sum():.1%} of the time that transfers were under way on rank 0 ("
            f"{n} transfers, {1e3 * waited.mean():.3g} of {1e3 * (finished - posted).mean():.3g} ms waited on average)")


def _slowest(run):
    """The workers that compute longest, so that others wait; times are those of a rank, shared by its workers."""
    if run.computed.min() == run.computed.max():
        return ""
    slowest = np.flatnonzero(run.computed == run.computed.max())
    which = f"worker {slowest[0]}" if slowest.size == 1 else f"workers {slowest[0]} to {slowest[-1]} (one rank)"
    most, mean = (1e3 * seconds / run.steps for seconds in (run.computed.max(), run.computed.mean()))
    return f"{which}: {most:.3g} ms of computing per step, mean {mean:.3g} ms"


def _evaluations(file, run, width):
    """The first one, the last one, and some between."""
    if not len(run.evaluations.get("step", ())):
        return []
    names = [name for name in (*FORMS, *run.evaluations) if name in run.evaluations and name not in ("step", "wall_time")]
    chosen = np.unique(np.linspace(0, len(run.evaluations["step"]) - 1, EVALUATIONS).round().astype(int))
    rows = []
    for i in chosen:
        step = int(run.evaluations["step"][i])
        time = _time(file, run, step, run.evaluations["wall_time"][i])
        rows.append([str(step), time, *(f"{run.evaluations[name][i]:{FORMS.get(name, '.5g')}}" for name in dict.fromkeys(names))])
    return columns(["step", _clock(run), *dict.fromkeys(names)], rows, width)


def _events(file, run, width):
    """The latest ones."""
    if not run.events:
        return []
    rows = [(f"step {step}", f"{_time(file, run, step, time)}, {kind}{': ' * bool(text)}{text}")
            for step, time, kind, text in run.events[-EVENTS:]]
    left_out = [("", f"(the last {EVENTS} of {len(run.events)}; all of them: --series events)")] if len(run.events) > EVENTS else []
    return facts([("event at", _clock(run)), *left_out, *rows], width)


def _clock(run):
    return "virtual time" if run.simulated else "time"


def _time(file, run, step, wall_time):
    """When a step was done: on the virtual clocks of a simulation."""
    if not run.simulated:
        return duration(float(wall_time))
    step = min(step, run.steps)
    return duration(float(read_alive(file["train"]["virtual_time"], step - 1)) if step else 0.0)


def _contents(file):
    """[(path, data sets and their shapes)]."""
    rows = [("in the file", "")]
    for name, item in _items(file):
        if not hasattr(item, "items"):
            rows.append((f"/{name}", _shape(item)))
            continue
        alike = {}
        for short, data in _items(item):
            alike.setdefault(_shape(data), []).append(short)
        rows.append((f"/{name}", "; ".join(f"{', '.join(names)} {shape}" for shape, names in alike.items())))
    return rows


def _items(group):
    """(name, item) of what lies in this file itself, without dimensions that only count."""
    found = [(name, group[name]) for name in group if type(group.get(name, getlink=True)).__name__ == "HardLink"]
    return [(name, item) for name, item in found if not only_counts(item)]


def _shape(data):
    if hasattr(data, "items"):
        return "group"
    if not data.shape:
        return "text"
    unwritten = data.size and not data.id.get_storage_size()
    return f"{list(data.shape)}{' (not written)' if unwritten else ''}"
