"""What `coopmpi inspect` shows of a result file: a summary on one screen, or one series as text."""

import os
import struct
import tomllib
from contextlib import contextmanager
from datetime import datetime, timedelta

import numpy as np

from coopmpi.errors import UserError, unknown
from coopmpi.record.reader import open_run

BLOCK = 1 << 20  # numbers read at once: a long run need not fit into memory
EVALUATIONS, EVENTS = 6, 5  # lines at most
FORMS = {"train_loss": ".5g", "loss": ".5g", "accuracy": ".2%", "consensus": ".3g"}  # of evaluations, in this order
GROUPS = ("train", "eval", "rounds")  # of series
TASK_KEYS = ("data", "path", "function", "model", "hidden", "batch", "partition")


@contextmanager
def opened(path):
    """The result file, open as far as it is written; UserError if it is damaged, also where reading meets that."""
    _refuse_truncated(path)
    with open_run(path) as file:
        try:
            yield file
        except BrokenPipeError:
            raise
        except (OSError, RuntimeError, KeyError) as error:
            raise UserError(f"{path}: damaged: {error}") from error


def _refuse_truncated(path):
    # a reader of a file that is being written would wait for the missing rest, without end
    if not os.path.isfile(path):
        return
    with open(path, "rb") as raw:
        head = raw.read(48)
    version_3 = head[:9] == b"\x89HDF\r\n\x1a\n\x03" and head[9] == 8
    if version_3:
        size = os.path.getsize(path)
        end = struct.unpack("<Q", head[28:36])[0] if len(head) == 48 else 48
        if size < end:
            raise UserError(f"{path}: truncated: {size} bytes are there, at least {end} belong to it")


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
    for span in _blocks(data, rows):
        columns = data[span] if each_worker else data[span][:, None]
        yield "".join("\t".join(map(str, (k, *row))) + "\n" for k, row in zip(step[span], columns))


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
    for step, wall_time, kind, text in file["events"][:]:
        yield f"{step}\t{wall_time}\t{kind.decode()}\t{' '.join(text.decode(errors='replace').split())}\n"


def _rows(group):
    # while rows are being added, some series are longer than others
    return min(len(data) for data in group.values())


def _blocks(data, rows):
    """Slices that cover the first rows."""
    length = max(1, BLOCK // max(1, int(np.prod(data.shape[1:]))))
    return [slice(start, min(start + length, rows)) for start in range(0, rows, length)]


def _total(data, rows):
    """Sum over the steps for each worker, float64; one number where only the mean over the workers was recorded."""
    return np.atleast_1d(sum((data[span].sum(axis=0, dtype=float) for span in _blocks(data, rows)), np.zeros(data.shape[1:])))


def show(path):
    """Print the summary."""
    from rich.console import Console
    from rich.padding import Padding

    with opened(path) as file:
        parts = [_overview(path, file), _evaluations(file), _events(file), _contents(file)]
    console = Console(markup=False, highlight=False)
    for part in parts:
        if part is not None:
            console.print(Padding(part, (0, 0, 1, 0)))


def _table(*columns, right=()):
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), show_header=bool(columns))
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def _overview(path, file):
    config, train = tomllib.loads(config_text(file)), file["train"]
    table, attributes = _table(), file.attrs
    table.add_row("result", str(path))
    table.add_row("status", _status(path, file))
    for name in ("task", "optimizer", "algorithm", "period", "mixing"):
        if name in config:
            table.add_row(name, _choice(config[name], TASK_KEYS if name == "task" else None))
    ranks = int(attributes["ranks"])
    table.add_row("workers", f"{config['workers']} on {ranks} rank{'s' * (ranks > 1)} ({attributes['mpi']}, "
                             f"{attributes['device']})")
    done = _rows(train)
    table.add_row("steps", f"{done} of {config['steps']}")
    if done:
        seconds = float(train["wall_time"][done - 1])
        pace = f"{done / seconds:.4g} steps/s, evaluation and writing left out"
        table.add_row("time", f"{_duration(seconds)}, {pace}")
        if "virtual_time" in train:  # a simulation: waiting is virtual, too
            seconds = float(train["virtual_time"][done - 1])
            table.add_row("virtual time", _duration(seconds))
        table.add_row("waiting", _waiting(train, done, seconds, config["workers"]))
        hidden = _hidden(file)
        if hidden:
            table.add_row("hidden", hidden)
        slowest = _slowest(train, done)
        if slowest:
            table.add_row("slowest", slowest)
        sent = _total(train["bytes_sent"], done)
        table.add_row("sent", f"{_size(sent.mean())} per worker, {_size(sent.mean() * config['workers'])} in all")
    return table


def _status(path, file):
    status = file.attrs["status"].decode()
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
    """How much of the time under way the transfers of rank 0 did not block it; None without any on their way."""
    rounds = file.get("rounds", {"step": ()})
    n = _rows(rounds)
    if not n:
        return None
    posted, finished, waited = (rounds[name][:n] for name in ("posted", "finished", "waited"))
    return (f"{1 - waited.sum() / (finished - posted).sum():.1%} of the time that transfers were under way on rank 0 ("
            f"{n} transfers, {1e3 * waited.mean():.3g} of {1e3 * (finished - posted).mean():.3g} ms waited on average)")


def _slowest(train, done):
    """Who computes longest, so that the others wait; times are those of a rank, shared by its workers."""
    compute = _total(train["compute_time"], done)
    if compute.min() == compute.max():
        return None
    slowest = np.flatnonzero(compute == compute.max())
    which = f"worker {slowest[0]}" if slowest.size == 1 else f"workers {slowest[0]} to {slowest[-1]} (one rank)"
    most, mean = (1e3 * seconds / done for seconds in (compute.max(), compute.mean()))
    return f"{which}: {most:.3g} ms of computing per step, mean {mean:.3g} ms"


def _evaluations(file):
    group = file.get("eval", {"step": ()})
    rows = _rows(group)
    if not rows:
        return None
    forms = {name: FORMS.get(name, ".5g") for name in (*FORMS, *group) if name in group}
    forms = {name: form for name, form in forms.items() if name not in ("step", "wall_time")}
    values = {name: group[name][:rows] for name in ("step", "wall_time", *forms)}
    forms = {name: form for name, form in forms.items() if not np.isnan(values[name]).all()}
    names = ["evaluated at step", "time", *forms]
    table = _table(*names, right=names)
    for i in np.unique(np.linspace(0, rows - 1, EVALUATIONS).round().astype(int)):
        table.add_row(str(values["step"][i]), _duration(float(values["wall_time"][i])),
                      *(f"{values[name][i]:{form}}" for name, form in forms.items()))
    return table


def _events(file):
    events = file["events"]
    if not len(events):
        return None
    table = _table("event at step", "time", "kind", "", right=("event at step", "time"))
    if len(events) > EVENTS:
        table.add_row("", "", "", f"(the last {EVENTS} of {len(events)}; all of them: --series events)")
    for step, wall_time, kind, text in events[-EVENTS:]:
        table.add_row(str(step), _duration(wall_time), kind.decode(), text.decode(errors="replace"))
    return table


def _contents(file):
    table = _table("in the file", "")
    for name, item in file.items():
        if not hasattr(item, "items"):
            table.add_row(f"/{name}", _shape(item))
            continue
        alike = {}
        for short, data in item.items():
            alike.setdefault(_shape(data), []).append(short)
        table.add_row(f"/{name}", "; ".join(f"{', '.join(names)} {shape}" for shape, names in alike.items()))
    return table


def _shape(data):
    if not data.shape:
        return "text"
    unwritten = data.size and not data.id.get_storage_size()
    return f"{list(data.shape)}{' (not written)' if unwritten else ''}"


def _duration(seconds):
    return f"{seconds:.2f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def _size(count):
    from rich.filesize import decimal

    return decimal(round(count))
