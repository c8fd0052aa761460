"""CSV and TSV files: a line for each sample, columns of numbers, and a column with the label, which may be text."""

from functools import partial
from itertools import chain

import numpy as np

from coopmpi.device.hollow import HollowArray
from coopmpi.errors import UserError, quoted
from coopmpi.tasks.data.formats.raw import Raw, listed
from coopmpi.tasks.data.formats.table_layout import is_number, layout_of, lines_of
from coopmpi.tasks.data.formats.table_mistakes import first_mistake, is_label, place

SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")


def read(path, how):
    """The Raw arrays of a file."""
    x, y, layout = _read_file(path, how)
    return _raw(layout, how, [partial(place, path, layout)], x, y)


def pair(names):
    """The names of the files for training and of held-out samples in a folder with one of each, such as mnist_train.csv; or None."""
    parts = [[name for name in names if part in name.lower() and name.lower().endswith(SUFFIXES)] for part in ("train", "test")]
    return (parts[0][0], parts[1][0]) if all(len(part) == 1 for part in parts) else None


def read_folder(folder, how):
    """The Raw arrays of a folder with a pair of files that have the same columns."""
    train, test = (folder / name for name in pair([path.name for path in folder.iterdir()]))
    (x, y, layout), (x_test, y_test, other) = _read_file(train, how), _read_file(test, how)
    if layout.names != other.names:
        raise UserError(f"{test}: the columns must be those of {train.name}, {listed(layout.names)}; found {listed(other.names)}")
    return _raw(layout, how, [partial(place, train, layout), partial(place, test, other)], x, y, x_test, y_test)


def _raw(layout, how, places, x, *others):
    """The Raw arrays with what there is to say of them."""
    column, last = layout.column(layout.label), how.label is None
    notes = [f"the label is {column}, the last one"] if last else []
    notes += [f"{layout.column(i)} counts the lines, and is a feature; ignore = [{i + 1}] leaves it out" for i in _counters(layout, x)]
    arrays = [x, *others]
    if how.headers:
        arrays[::2] = [HollowArray(inputs.shape, inputs.dtype) for inputs in arrays[::2]]
    return Raw(*arrays, notes=tuple(notes), targets=f"{column}, {'the last one and so ' * last}the label", places=places)


def _counters(layout, x):
    """The columns of features that count the samples."""
    return [layout.features[j] for j in np.flatnonzero(x[-1] - x[0] == len(x) - 1)
            if len(x) > 2 and np.array_equal(x[:, j] - x[0, j], np.arange(len(x)))]


def _read_file(path, how):
    """(features (n, columns) of the run's dtype, labels (n,): text for classify, Layout)."""
    names, codes = {}, []  # of classes: {name: number}, and the number of each sample

    def code(text):
        codes.append(names.setdefault(text.strip(), len(names)))
        return 0

    with lines_of(path) as lines:
        first = next((line for line in lines if line.strip()), None)
        if first is None:
            raise UserError(f"{path}: the file is empty")
        layout = layout_of(path, first, how)
        ignored = set(range(len(layout.first))) - {*layout.features, layout.label}
        converters = dict.fromkeys(ignored, lambda text: 0) | ({layout.label: code} if how.kind == "classify" else {})
        try:
            table = np.loadtxt(lines if layout.header else chain([first], lines), how.dtype, comments=None, quotechar='"',
                               delimiter=layout.delimiter, converters=converters, ndmin=2)
        except ValueError as error:
            raise first_mistake(path, layout, how) from error
    if not table.size:
        raise UserError(f"{path}: there are no samples below the line of names")
    fine = table.shape[1] == len(layout.first) and np.isfinite(table.min()) and np.isfinite(table.max())
    if not (fine and all(map(is_label, names))):
        raise first_mistake(path, layout, how)
    if how.kind == "regress":
        return table[:, layout.features], table[:, layout.label], layout
    names = list(names)
    alone = codes.count(0) == 1 and len(codes) >= 2 * len(names)
    if alone and not layout.header and not is_number(names[0]):
        raise UserError(f"{path}, line 1: the label {quoted(names[0])} is in no other line; if line 1 holds names of columns, one of "
                        "them at least must not be a number")
    return table[:, layout.features], np.array(names)[codes], layout
