"""CSV and TSV files: a line for each sample, columns of numbers, and a column with the label, which may be text."""

import csv
import gzip
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from typing import NamedTuple

import numpy as np

from coopmpi import inputs
from coopmpi.device.hollow import HollowArray
from coopmpi.errors import UserError, quoted, unknown
from coopmpi.tasks.data.formats.raw import Raw, listed

SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
DELIMITERS = "\t;,"  # the first of them that is in the first line
MISSING = ("", "?", "na", "n/a", "nan", "null")  # in lower case
LONGEST_LINE, LONGEST_NAME = 1 << 26, 100  # characters; the latter of a label


class Layout(NamedTuple):
    """What is where in a table. Columns are counted from 0 here, and from 1 in what users write and read."""

    delimiter: str
    header: bool  # is the first line one of names?
    first: list[str]  # the cells of the first line
    label: int
    features: list[int]

    @property
    def names(self):
        """The columns' names."""
        return self.first if self.header else [f"column {i + 1}" for i in range(len(self.first))]

    def column(self, i):
        """What a message calls a column."""
        return f"column {i + 1} ({quoted(self.first[i])})" if self.header else f"column {i + 1}"


def read(path, how):
    """The Raw arrays of a file."""
    x, y, layout = _read_file(path, how)
    return _raw(layout, how, [partial(_place, path, layout)], x, y)


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
    return _raw(layout, how, [partial(_place, train, layout), partial(_place, test, other)], x, y, x_test, y_test)


def _raw(layout, how, places, *arrays):
    """The Raw arrays with what there is to say of them."""
    x, column = arrays[0], layout.column(layout.label)
    notes = [f"the label is {column}, the last one"] if how.label is None else []
    notes += [f"{layout.column(i)} counts the lines, and is a feature; ignore = [{i + 1}] leaves it out"
              for i, values in zip(layout.features, x.T) if len(x) > 2 and np.array_equal(values - values[0], np.arange(len(x)))]
    targets = f"{column}, {'the last one and so ' * (how.label is None)}the label"
    if how.headers:
        arrays = [HollowArray(array.shape, array.dtype) if i % 2 == 0 else array for i, array in enumerate(arrays)]
    return Raw(*arrays, notes=tuple(notes), targets=targets, places=places)


def _read_file(path, how):
    """(features (n, columns) of the run's dtype, labels (n,), Layout)."""
    texts, codes = {}, []  # of the labels, where they may be text

    def code(text):
        codes.append(texts.setdefault(text.strip(), len(texts)))
        return 0

    with _lines_of(path) as lines:
        first = next((line for line in lines if line.strip()), None)
        if first is None:
            raise UserError(f"{path}: the file is empty")
        layout = _layout(path, first, how)
        unread = set(range(len(layout.first))) - {*layout.features, layout.label}
        converters = dict.fromkeys(unread, lambda text: 0) | ({layout.label: code} if how.kind == "classify" else {})
        try:
            table = np.loadtxt(lines if layout.header else chain([first], lines), how.dtype, comments=None, quotechar='"',
                               delimiter=layout.delimiter, converters=converters, ndmin=2, encoding=None)
        except ValueError as error:
            raise _first_mistake(path, layout, how) from error
    if not table.size:
        raise UserError(f"{path}: no samples below the line of names")
    fine = table.shape[1] == len(layout.first) and np.isfinite(table.min()) and np.isfinite(table.max())
    if not fine or any(text.lower() in MISSING or len(text) > LONGEST_NAME for text in texts):
        raise _first_mistake(path, layout, how)
    y = _labels(texts, codes) if how.kind == "classify" else table[:, layout.label]
    _refuse_hidden_header(path, layout, texts, codes)
    return table[:, layout.features], y, layout


def _labels(texts, codes):
    """Class labels (n,): numbers where all are such, text otherwise."""
    names = list(texts)
    return np.array([float(name) for name in names] if all(map(_is_number, names)) else names)[codes]


def _refuse_hidden_header(path, layout, texts, codes):
    """UserError for a line of names that was taken for a sample, as the names of the features are numbers."""
    text = next(iter(texts), "0")
    if not layout.header and not _is_number(text) and codes.count(0) == 1:
        raise UserError(f"{path}, line 1: the label {quoted(text)} is in no other line; if line 1 holds names of columns, one of "
                        "them at least must not be a number")


# the first line
def _layout(path, line, how):
    delimiter = next((mark for mark in DELIMITERS if mark in line), ",")
    cells = [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))]
    ignored = {_number_of(path, cells, column, "ignore") for column in how.ignore or ()}
    kept = [i for i in range(len(cells)) if i not in ignored]
    label = kept[-1] if how.label is None and kept else _number_of(path, cells, how.label, "label")
    features = [i for i in kept if i != label]
    if not features:
        raise UserError(f"{path}: expected a label and at least one feature, with commas, semicolons or tabs between columns; found "
                        f"{len(cells)} column{'s' * (len(cells) != 1)} in the first line{', of which some are ignored' * bool(ignored)}")
    header = isinstance(how.label, str) or not any(_is_number(cells[i]) for i in features)
    layout = Layout(delimiter, header, cells, label, features)
    for i in features:
        if header and not cells[i]:
            raise UserError(f"{path}: column {i + 1} has no name, as numbers of rows have none; leave it out with ignore = [{i + 1}], or "
                            "give it a name")
    return layout


def _number_of(path, cells, column, key):
    """The number, from 0, of a column that the user names or counts, from 1."""
    if isinstance(column, int):
        if column > len(cells):
            raise UserError(f"[task] {key} = {column}: {path} has {len(cells)} columns")
        return column - 1
    if column not in cells:
        raise unknown("column", column, [cell for cell in cells if cell], where=f"[task] {key}: {path}: ")
    return cells.index(column)


# the lines
@contextmanager
def _lines_of(path):
    """The lines of a text file, packed or not, blank ones without their blanks; a mistake that shows while they are read is a UserError."""
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    with inputs.reading(path, "CSV"), opener(path, "rt", encoding="utf-8-sig") as file:
        yield _checked(path, file)


def _checked(path, file):
    number = 0
    while line := file.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE:
            raise UserError(f"{path}, line {number}: longer than {LONGEST_LINE} characters, which is the most allowed")
        yield line if line.strip() else "\n"


def _samples(path, layout):
    """(number of the line, cells) of each sample."""
    with _lines_of(path) as lines:
        rows = csv.reader(lines, delimiter=layout.delimiter)
        found = ((rows.line_num, row) for row in rows if row)
        yield from islice(found, int(layout.header), None)


def _place(path, layout, sample):
    """What a message calls the place of a sample."""
    return f"line {next(islice(_samples(path, layout), sample, None))[0]}"


def _first_mistake(path, layout, how):
    """The UserError for the first cell that cannot be."""
    for number, cells in _samples(path, layout):
        if len(cells) != len(layout.first):
            return UserError(f"{path}, line {number}: expected {len(layout.first)} columns as in the first line, found {len(cells)}")
        for i in sorted((*layout.features, layout.label)):
            text, is_name = cells[i].strip(), i == layout.label and how.kind == "classify"
            where = f"{path}, line {number}, {layout.column(i)}"
            if text.lower() in MISSING:
                return UserError(f"{where}: {quoted(text)} is a missing value; fill it in, or leave out the line or the column")
            if is_name and len(text) > LONGEST_NAME:
                return UserError(f"{where}: a label may have {LONGEST_NAME} characters, found {len(text)}; label = ... names another column")
            if not is_name and not _is_number(text):
                return UserError(f"{where}: {quoted(text)} is not a number; a column of text can be left out with ignore = "
                                 f"[{i + 1}], or be the label")
            if not is_name and not np.isfinite(np.dtype(how.dtype).type(text)):
                return UserError(f"{where}: {quoted(text)} is not a finite number as {how.dtype}")
    return UserError(f"{path}: numbers cannot be told from text; expected columns with commas, semicolons or tabs between them")


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text
