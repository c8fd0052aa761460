"""The series of a result file as text: a line per row, separated by tabs."""

from coopmpi.errors import UserError, unknown
from coopmpi.record.reader import blocks, complete_rows, read_alive

GROUPS = ("train", "eval", "rounds")


def series(file, name):
    """The text of a series in pieces: a header, then a line per row; a column per worker."""
    path = _find(file, name)
    if path == "events":
        yield from _event_lines(file)
        return
    group, _, short = path.partition("/")
    data, step, rows = file[path], file[group]["step"], complete_rows(list(file[group].values()))
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
