"""The lines of CSV and TSV files, and what the first of them tells."""

import csv
import gzip
from contextlib import contextmanager
from typing import NamedTuple

from coopmpi import inputs
from coopmpi.errors import UserError, quoted, unknown

DELIMITERS = "\t;,"  # the first of them that is in the first line
LONGEST_LINE, LONGEST_TEXT = 1 << 26, 1 << 30  # characters; a longer text is in a packed file of more than its PACKED-th part
PACKED = 200


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


def layout_of(path, line, how):
    """The Layout of a table with that first line; it holds names unless a feature in it is a number."""
    delimiter = next((mark for mark in DELIMITERS if mark in line), ",")
    cells = [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))]
    ignored = {_number_of(path, cells, column, "ignore") for column in how.ignore or ()}
    kept = [i for i in range(len(cells)) if i not in ignored]
    label = _number_of(path, cells, how.label, "label") if how.label is not None else max(kept, default=0)
    features = [i for i in kept if i != label]
    if not features:
        raise UserError(f"{path}: expected a label and at least one feature, with commas, semicolons or tabs between columns; found "
                        f"{len(cells)} column{'s' * (len(cells) != 1)} in the first line{', of which some are ignored' * bool(ignored)}")
    header = isinstance(how.label, str) or not any(is_number(cells[i]) for i in features)
    for i in features:
        if header and not cells[i]:
            raise UserError(f"{path}: column {i + 1} has no name, as numbers of rows have none; leave it out with ignore = [{i + 1}], or "
                            "give it a name")
    return Layout(delimiter, header, cells, label, features)


def _number_of(path, cells, column, key):
    """The number, from 0, of a column that the user names or counts, from 1."""
    if isinstance(column, int):
        if column > len(cells):
            raise UserError(f"[task] {key} = {column}: {path} has {len(cells)} columns")
        return column - 1
    if column not in cells:
        raise unknown("column", column, [cell for cell in cells if cell], where=f"[task] {key}: {path}: ")
    return cells.index(column)


def is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


@contextmanager
def lines_of(path):
    """The lines of a text file, packed or not, blank ones without their blanks; a mistake that shows while they are read is a UserError."""
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    with inputs.reading(path, "CSV"), opener(path, "rt", encoding="utf-8-sig") as file:
        yield _checked(path, file)


def _checked(path, file):
    number, length, most = 0, 0, max(LONGEST_TEXT, PACKED * path.stat().st_size)
    while line := file.readline(LONGEST_LINE):
        number += 1
        length += len(line)
        if length > most:
            raise UserError(f"{path}: unpacks to more than {most} characters, {PACKED} times its size; unpack it if it is meant so")
        if len(line) == LONGEST_LINE:
            raise UserError(f"{path}, line {number}: longer than {LONGEST_LINE} characters, which is the most allowed")
        yield line if line.strip() else "\n"
