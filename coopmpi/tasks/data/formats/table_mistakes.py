"""Where in a CSV or TSV file something is that cannot be: such a file is read once more, slowly."""

import csv
from itertools import islice

import numpy as np

from coopmpi.errors import UserError, quoted
from coopmpi.tasks.data.formats.table_layout import is_number, lines_of
from coopmpi.tasks.data.labels import LONGEST_NAME

MISSING = ("", "?", "na", "n/a", "nan", "null")  # in lower case


def is_label(text):
    """Can it be the name of a class?"""
    return text.lower() not in MISSING and len(text) <= LONGEST_NAME


def place(path, layout, sample):
    """What a message calls the place of a sample."""
    return f"line {next(islice(_samples(path, layout), sample, None))[0]}"


def first_mistake(path, layout, how):
    """The UserError for the first cell that cannot be."""
    texts = {layout.label} if how.kind == "classify" else set()
    numbers = sorted({*layout.features, layout.label} - texts)
    for line, cells in _samples(path, layout):
        if len(cells) != len(layout.first):
            return UserError(f"{path}, line {line}: expected {len(layout.first)} columns as in the first line, found {len(cells)}")
        if _are_numbers([cells[i] for i in numbers], how.dtype) and all(is_label(cells[i].strip()) for i in texts):
            continue
        for i in sorted({*numbers, *texts}):
            rule = _broken_rule(cells[i].strip(), i in texts, how.dtype)
            if rule:
                return UserError(f"{path}, line {line}, {layout.column(i)}: {rule}")
    return UserError(f"{path}: text and numbers cannot be told apart; expected commas, semicolons or tabs between columns")


def _samples(path, layout):
    """(number of the line, cells) of each sample."""
    with lines_of(path) as lines:
        rows = csv.reader(lines, delimiter=layout.delimiter)
        found = ((rows.line_num, row) for row in rows if row)
        try:
            yield from islice(found, int(layout.header), None)
        except csv.Error as error:
            raise UserError(f"{path}, line {rows.line_num}: {error}") from error


def _are_numbers(cells, dtype):
    try:
        return np.isfinite(np.array(cells, dtype)).all()
    except ValueError:
        return False


def _broken_rule(text, is_text, dtype):
    """What is wrong with a cell; None if nothing is."""
    if text.lower() in MISSING:
        return f"{quoted(text)} is a missing value; fill it in, or leave out its line or column"
    if is_text:
        return None if is_label(text) else f"labels may have {LONGEST_NAME} characters, found {len(text)}; label = ... names another column"
    if is_number(text.replace(",", ".", 1)) and not is_number(text):
        return f"{quoted(text)} is not a number: the decimal mark must be a point"
    if not is_number(text):
        return f"{quoted(text)} is not a number; a column of text can be the label, or be left out with ignore = [...]"
    return None if _are_numbers([text], dtype) else f"{quoted(text)} is not a finite number as {dtype}"
