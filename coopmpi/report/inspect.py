"""What `coopmpi inspect` shows of a result file: a summary on one screen, or one series as text."""

import os
import tomllib
from datetime import datetime, timedelta

import numpy as np

from coopmpi.errors import UserError, clean, shortened, unknown
from coopmpi.record import apart
from coopmpi.record.reader import blocks, complete_rows, open_run, read_alive, refuse_truncated, require_complete, status_of
from coopmpi.record.schema import only_counts
from coopmpi.report.forecast import against_forecast

LONGEST = 86400 * 10**8  # seconds that can be told as days
EVALUATIONS, EVENTS = 6, 5  # lines at most
FORMS = {"train_loss": ".5g", "loss": ".5g", "accuracy": ".2%", "consensus": ".3g"}  # of evaluations, in this order
GROUPS = ("train", "eval", "rounds")  # of series
TASK_KEYS = ("module", "dataset", "data", "label", "path", "function", "model", "hidden", "batch", "partition")


def texts(path, name=None, config=False, status=False):
    """What is printed of the result file at `path`, in pieces: the series `name`, its run description, its
    status in one word (a run that was killed still says running), or a summary.

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
                yield summary(path, file)

    return apart.texts(path, work)


def config_text(file):
    """The resolved run description, TOML."""
    return file["config"].asstr()[()]


def series(file, name):
    """The text of a series in pieces: a header, then a line per row, separated by tabs; a column per worker."""
    path = _find(file, name)
    if path == "events":
        yield from _event_lines(file)
        return
    group, _, short = path.partition("/")
    data, step, rows = file[path], file[group]["step"], _rows(file[group])
    each_worker = data.ndim == 2
    yield "\t".join(["step", *([f"worker_{i}" for i in range(data.shape[1])] if each_worker else [short])]) + "\n"
    for span in blocks(data, rows):
        values = read_alive(data, span)
        columns = values if each_worker else values[:, None]
        yield "".join("\t".join(map(str, (k, *row))) + "\n" for k, row in zip(read_alive(step, span), columns))


def _find(file, name):
    """Path of a series from itself or from its last part, where that is unique."""
    groups = [group for group in GROUPS if group in file]
    paths = [f"{group}/{short}" for group in groups for short in file[group] if short != "step"]
    paths.append("events")
    if name in paths:
        return name
    meant = [path for path in paths if path.endswith(f"/{name}")]
    if len(meant) > 1:
        raise UserError(f"series {name!r} may be any of {', '.join(meant)}: give the whole name")
    if not meant:
        raise unknown("series", name, paths)
    return meant[0]


def _event_lines(file):
    yield "step\twall_time\tkind\ttext\n"
    events = file["events"]
    for span in blocks(events, complete_rows([events])):
        for step, wall_time, kind, text in read_alive(events, span):
            kind, text = (' '.join(part.decode(errors="replace").split()) for part in (kind, text))
            yield f"{step}\t{wall_time}\t{kind}\t{text}\n"


def _rows(group):
    return complete_rows(list(group.values()))


def _total(data, rows):
    """Sum over the steps for each worker, float64; one number where only the mean over the workers was recorded."""
    sums = (read_alive(data, span).sum(axis=0, dtype=float) for span in blocks(data, rows))
    return np.atleast_1d(sum(sums, np.zeros(data.shape[1:])))


def summary(path, file):
    """What there is to say on one screen."""
    from rich.console import Console
    from rich.padding import Padding

    console = Console(markup=False, highlight=False, emoji=False)
    with console.capture() as capture, np.errstate(all="ignore"):
        for part in (_overview(path, file), _evaluations(file), _events(file), _contents(file)):
            if part is not None:
                console.print(Padding(part, (0, 0, 1, 0)))
    return capture.get()


def _table(*columns, right=()):
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), show_header=bool(columns))
    for column in columns:
        table.add_column(clean(column), justify="right" if column in right else "left", overflow="fold")
    return table


def _row(table, *cells):
    table.add_row(*map(clean, cells))


def _overview(path, file):
    config, train = tomllib.loads(config_text(file)), file["train"]
    table, attributes = _table(), file.attrs
    _row(table, "result", str(path))
    _row(table, "status", _status(path, file))
    for name in ("task", "optimizer", "algorithm", "period", "mixing"):
        if name in config:
            _row(table, name, _choice(config[name], TASK_KEYS if name == "task" else None))
        if name == "task" and "classes" in attributes:
            names = attributes["classes"]
            _row(table, "classes", f"{len(names)}: {shortened(', '.join(map(str, names)))}")
    ranks = int(attributes["ranks"])
    _row(table, "workers", f"{config['workers']} on {ranks} rank{'s' * (ranks > 1)} ({attributes['mpi']}, "
                             f"{attributes['device']})")
    done = _rows(train)
    _row(table, "steps", f"{done} of {config['steps']}" if "steps" in config else str(done))
    if done:
        seconds = float(read_alive(train["wall_time"], done - 1))
        pace = f"{done / seconds if seconds else np.inf:.4g} steps/s, evaluation and writing left out"
        _row(table, "time", f"{_duration(seconds)}, {pace}")
        if "virtual_time" in train:  # a simulation: waiting is virtual, too
            seconds = float(read_alive(train["virtual_time"], done - 1))
            _row(table, "virtual time", _duration(seconds))
        _row(table, "waiting", _waiting(train, done, seconds, config["workers"]))
        hidden = _hidden(file)
        if hidden:
            _row(table, "hidden", hidden)
        slowest = _slowest(train, done)
        if slowest:
            _row(table, "slowest", slowest)
        sent = _total(train["bytes_sent"], done)
        _row(table, "sent", f"{_size(sent.mean())} per worker, {_size(sent.mean() * config['workers'])} in all")
    for text in _targets(file, config.get("stop", {}), done):
        _row(table, "target", text)
    if done and "forecast" in config and "virtual_time" not in train:
        parts = (float(_total(train[name], done).mean() / done) for name in ("compute_time", "wait_time"))
        for text in against_forecast(config["forecast"], done, seconds / done, *parts):
            _row(table, "forecast", text)
    return table


def _targets(file, targets, done):
    """What it took to reach a target of [stop], for each that was; a run that was extended may have reached several."""
    train, time = file["train"], "virtual_time" if "virtual_time" in file["train"] else "wall_time"
    events = read_alive(file["events"], slice(complete_rows([file["events"]])))
    found = {(step, text) for step, _, kind, text in events if kind == b"target" and 0 < step <= done}
    for step, text in sorted(found):
        seconds, sent = float(read_alive(train[time], step - 1)), _total(train["bytes_sent"], step).mean()
        yield f"{text.decode(errors='replace')}, after {step} steps, {_duration(seconds)}, {_size(sent)} sent per worker"
    if targets and not found:
        yield f"not reached: {', '.join(f'{name} = {target:g}' for name, target in targets.items())}"


def _status(path, file):
    status = status_of(file)
    if status != "running":
        return status
    written = os.path.getmtime(path)
    age = max(0.0, datetime.now().timestamp() - written)
    return (f"running, or cut off by a kill: last write at {datetime.fromtimestamp(written):%Y-%m-%d %H:%M:%S}, "
            f"{_duration(age)} ago")


def _choice(table, keys=None):
    """A table of the run description in one line: the kind (or graph) comes first; keys: which others to show."""
    (_, kind), *rest = table.items()
    shown = {key: value for key, value in rest if keys is None or key in keys}
    return ", ".join([kind, *(f"{key} = {str(value).lower() if isinstance(value, bool) else value}"
                              for key, value in shown.items())])


def _waiting(train, done, seconds, workers):
    share = _total(train["wait_time"], done) / seconds if seconds else np.zeros(1)
    if share.min() == share.max():
        return f"{share[0]:.1%} of the time, {'at every worker' if len(share) == workers else 'on average'}"
    return (f"{share.mean():.1%} of the time on average; least {share.min():.1%} (worker {share.argmin()}), "
            f"most {share.max():.1%} (worker {share.argmax()})")


def _hidden(file):
    """Share of the time under way in which the transfers of rank 0 did not block it; None without transfers."""
    rounds = file["rounds"] if "rounds" in file else None
    n = _rows(rounds) if rounds else 0
    if not n:
        return None
    posted, finished, waited = (read_alive(rounds[name], slice(n)) for name in ("posted", "finished", "waited"))
    return (f"{1 - waited.sum() / (finished - posted).sum():.1%} of the time that transfers were under way on rank 0 ("
            f"{n} transfers, {1e3 * waited.mean():.3g} of {1e3 * (finished - posted).mean():.3g} ms waited on average)")


def _slowest(train, done):
    """The workers that compute longest, so that others wait; times are those of a rank, shared by its workers."""
    compute = _total(train["compute_time"], done)
    if compute.min() == compute.max():
        return None
    slowest = np.flatnonzero(compute == compute.max())
    which = f"worker {slowest[0]}" if slowest.size == 1 else f"workers {slowest[0]} to {slowest[-1]} (one rank)"
    most, mean = (1e3 * seconds / done for seconds in (compute.max(), compute.mean()))
    return f"{which}: {most:.3g} ms of computing per step, mean {mean:.3g} ms"


def _evaluations(file):
    group = file["eval"] if "eval" in file else None
    rows = _rows(group) if group else 0
    if not rows:
        return None
    forms = {name: FORMS.get(name, ".5g") for name in (*FORMS, *group) if name in group}
    forms = {name: form for name, form in forms.items() if name not in ("step", "wall_time")}
    values = {name: read_alive(group[name], slice(rows)) for name in ("step", "wall_time", *forms)}
    forms = {name: form for name, form in forms.items() if not np.isnan(values[name]).all()}
    names = ["evaluated at step", "time", *forms]
    table = _table(*names, right=names)
    for i in np.unique(np.linspace(0, rows - 1, EVALUATIONS).round().astype(int)):
        _row(table, str(values["step"][i]), _duration(float(values["wall_time"][i])),
                      *(f"{values[name][i]:{form}}" for name, form in forms.items()))
    return table


def _events(file):
    events = file["events"]
    rows = complete_rows([events])
    if not rows:
        return None
    table = _table("event at step", "time", "kind", "", right=("event at step", "time"))
    if rows > EVENTS:
        _row(table, "", "", "", f"(the last {EVENTS} of {rows}; all of them: --series events)")
    for step, wall_time, kind, text in read_alive(events, slice(max(0, rows - EVENTS), rows)):
        _row(table, str(step), _duration(wall_time), *(part.decode(errors="replace") for part in (kind, text)))
    return table


def _contents(file):
    table = _table("in the file", "")
    for name, item in _items(file):
        if not hasattr(item, "items"):
            _row(table, f"/{name}", _shape(item))
            continue
        alike = {}
        for short, data in _items(item):
            alike.setdefault(_shape(data), []).append(short)
        _row(table, f"/{name}", "; ".join(f"{', '.join(names)} {shape}" for shape, names in alike.items()))
    return table


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


def _duration(seconds):
    if not 60 <= seconds < LONGEST:
        return f"{seconds:.2f} s" if seconds < 60 else f"{seconds:.3g} s"
    return str(timedelta(seconds=round(seconds)))


def _size(count):
    from rich.filesize import decimal

    return decimal(round(count)) if np.isfinite(count) else str(count)
