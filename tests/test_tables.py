"""CSV and TSV files as people have them, and what is said of those that cannot be read."""

import gzip
import time

import numpy as np
import pytest

from coopmpi import open as open_run
from coopmpi.errors import UserError
from coopmpi.tasks.data.sets import load, outline
from tests.in_process import coopmpi, refused

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 3)).round(3)
SPECIES = np.array(["setosa", "versicolor", "virginica"])[np.arange(30) * 7 % 3]
HEADER = ["petal", "sepal width", "colour 3"]


def lines(columns, header=None, mark=","):
    """The text of a table with these columns of values."""
    rows = [header] * (header is not None) + [[*map(str, row)] for row in zip(*columns)]
    return "".join(mark.join(row) + "\n" for row in rows)


IRIS = lines([*X.T, SPECIES], [*HEADER, "species"])


def read(path, kind="classify", **keys):
    return load(path, kind, "float64", 0, **keys)


def rows(data):
    """All samples with the names of their classes: what was in the file, whatever the split."""
    names = data.names or [str(i) for i in range(data.classes)]
    x, y = np.concatenate([data.x_train, data.x_test]), np.concatenate([data.y_train, data.y_test])
    return sorted((*row, names[label]) for row, label in zip(x.tolist(), y.tolist()))


def expected(labels=SPECIES):
    return sorted((*row, str(label)) for row, label in zip(X.tolist(), labels))


# files that can be read
@pytest.mark.parametrize("name, content", [
    ("iris.csv", IRIS.encode()), ("IRIS.CSV", IRIS.encode()), ("iris.csv.gz", gzip.compress(IRIS.encode())),
    ("iris.tsv", lines([*X.T, SPECIES], [*HEADER, "species"], "\t").encode()),
    ("semicolons.csv", lines([*X.T, SPECIES], [*HEADER, "species"], ";").encode()),
    ("no-header.csv", lines([*X.T, SPECIES]).encode()), ("byte order mark.csv", b"\xef\xbb\xbf" + IRIS.encode()),
    ("windows.csv", IRIS.replace("\n", "\r\n").encode()), ("blank lines.csv", IRIS.replace("\n", "\r\r\n").encode()),
    ("blanks.csv", IRIS.replace(",", " , ").encode()), ("no end.csv", IRIS.rstrip("\n").encode()),
    ("quoted.csv", lines([*X.T, [f'"{name}"' for name in SPECIES]], [f'"{name}"' for name in (*HEADER, "species")]).encode()),
])
def test_tables_of_numbers_with_names_as_labels(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    data = read(tmp_path / name)
    assert data.names == ("setosa", "versicolor", "virginica") and data.classes == 3 and data.shape is None
    assert rows(data) == expected()
    assert len(data.notes) == 1 and "the label is column 4" in data.notes[0] and "the last one" in data.notes[0]


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("by", ["name", "number"])
def test_any_column_can_be_the_label(tmp_path, place, by):
    columns, header = [*X.T], [*HEADER]
    columns.insert(place, SPECIES)
    header.insert(place, "species")
    (tmp_path / "set.csv").write_text(lines(columns, header))
    data = read(tmp_path / "set.csv", label="species" if by == "name" else place + 1)
    assert rows(data) == expected() and not data.notes


@pytest.mark.parametrize("ignore", [("note", 1), (5, "id")])
def test_columns_can_be_left_out(tmp_path, ignore):
    columns = [np.arange(30), *X.T, ["some, text"] * 30, SPECIES]
    columns[4] = [f'"{text}"' for text in columns[4]]
    (tmp_path / "set.csv").write_text(lines(columns, ["id", *HEADER, "note", "species"]))
    data = read(tmp_path / "set.csv", ignore=ignore)
    assert rows(data) == expected()


def test_names_of_columns_may_be_numbers_where_the_label_is_named(tmp_path):
    (tmp_path / "set.csv").write_text(lines([*X.T, SPECIES], ["0", "1", "2", "species"]))
    assert rows(read(tmp_path / "set.csv", label="species")) == expected()
    with pytest.raises(UserError, match=r"line 1: the label 'species' is in no other line"):
        read(tmp_path / "set.csv")


def test_a_column_that_counts_the_lines_is_told(tmp_path):
    (tmp_path / "set.csv").write_text(lines([np.arange(1, 31), *X.T, SPECIES], ["Id", *HEADER, "species"]))
    assert any(r"column 1 ('Id') counts the lines" in note and "ignore = [1]" in note for note in read(tmp_path / "set.csv").notes)


@pytest.mark.parametrize("labels, names, said", [
    (np.arange(30) % 3, (), ""), ((np.arange(30) % 3).astype(float), (), ""), (np.arange(30) % 3 + 1, ("1", "2", "3"), "labels 1, 2, 3"),
    (np.array([-1, 1])[np.arange(30) % 2], ("-1", "1"), "labels -1, 1"), (np.array(["2", "x"])[np.arange(30) % 2], ("2", "x"), ""),
    (np.array(["yes", "no"])[np.arange(30) % 2], ("no", "yes"), ""),
])
def test_labels_that_are_numbers_or_names(tmp_path, labels, names, said):
    (tmp_path / "set.csv").write_text(lines([*X.T, labels], [*HEADER, "label"]))
    data = read(tmp_path / "set.csv", label="label")
    assert data.names == names and said in " ".join(data.notes)
    order = list(names) or [str(i) for i in range(3)]
    assert rows(data) == expected([order[list(map(str, sorted(set(labels)))).index(str(label))] for label in labels])


def test_regression_learns_a_column_of_numbers(tmp_path):
    (tmp_path / "set.csv").write_text(lines([*X.T], HEADER))
    data = read(tmp_path / "set.csv", "regress", label="sepal width")
    pairs = np.concatenate([np.hstack([data.x_train, data.y_train]), np.hstack([data.x_test, data.y_test])])
    assert sorted(pairs.tolist()) == sorted(X[:, [0, 2, 1]].tolist())


@pytest.mark.parametrize("names", [("train.csv", "test.csv"), ("mnist_train.csv.gz", "mnist_test.csv.gz")])
def test_a_folder_with_a_file_for_training_and_one_for_the_test(tmp_path, names):
    for name, part in zip(names, (slice(0, 24), slice(24, 30))):
        text = lines([*X[part].T, SPECIES[part]], [*HEADER, "species"]).encode()
        (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    data = read(tmp_path)
    np.testing.assert_array_equal(data.x_test, X[24:])
    assert [data.names[label] for label in data.y_test] == SPECIES[24:].tolist()


@pytest.mark.parametrize("test, words", [
    (lines([*X[:4].T[:2], SPECIES[:4]], [*HEADER[:2], "species"]), ["test.csv", "columns must be those of train.csv", "colour 3"]),
    (lines([*X[:4].T, ["setosa", "rosa", "setosa", "rosa"]], [*HEADER, "species"]), ["setosa, versicolor, virginica", "line 3"]),
    (lines([*X[:4].T, [0, 1, 2, 0]], [*HEADER, "species"]), ["y_test", "setosa, versicolor, virginica", "line 2"]),
])
def test_a_test_file_that_does_not_fit(tmp_path, test, words):
    (tmp_path / "train.csv").write_text(IRIS)
    (tmp_path / "test.csv").write_text(test)
    message = refused("train", "--dry-run", f"--set=task.data={tmp_path}")
    assert all(word in message for word in words), message


def test_the_outline_of_a_table(tmp_path):
    (tmp_path / "set.csv").write_text(IRIS)
    assert outline(tmp_path / "set.csv", "classify") == (3, None, 3, 24)
    assert outline(tmp_path / "set.csv", "regress", label=1, ignore=("species",)) == (2, None, 1, 24)


# files that cannot
def changed(number, old, new):
    """The table with something else in the line of that number."""
    found = IRIS.splitlines()
    assert old in found[number - 1]
    found[number - 1] = found[number - 1].replace(old, new, 1)
    return "\n".join(found)


FIRST = IRIS.splitlines()[1].split(",")
CASES = {
    "text among numbers": (changed(2, FIRST[1], "wide"), ["line 2, column 2 ('sepal width')", "'wide'", "not a number", "ignore"]),
    "missing": (changed(2, FIRST[1], ""), ["line 2, column 2 ('sepal width')", "''", "missing value"]),
    "missing too": (changed(2, FIRST[1], " NA "), ["line 2, column 2", "'NA'", "missing value"]),
    "nan": (changed(2, FIRST[1], "nan"), ["line 2, column 2", "'nan'", "missing value"]),
    "inf": (changed(2, FIRST[1], "-inf"), ["line 2, column 2", "'-inf'", "not a finite number"]),
    "too large": (changed(2, FIRST[1], "1e300"), ["line 2, column 2", "'1e300'", "float32"]),
    "missing label": (changed(2, FIRST[3], "?"), ["line 2, column 4 ('species')", "missing value"]),
    "a long label": (changed(2, FIRST[3], "x" * 200), ["line 2, column 4", "100 characters"]),
    "a very long label": (changed(2, FIRST[3], "x" * 200000), ["line 2", "131072"]),
    "a column less": (changed(9, ",", ""), ["line 9", "4 columns", "found 3"]),
    "a column more": (changed(9, ",", ",7,"), ["line 9", "4 columns", "found 5"]),
    "a column more in all": (IRIS.replace("\n", ",1\n").replace("species,1", "species"), ["line 2", "4 columns", "found 5"]),
    "decimal commas": ("a;b;c\n5,1;3,5;x\n", ["line 2, column 1 ('a')", "'5,1'", "point"]),
    "an underscore": (changed(2, FIRST[1], "1_000"), ["set.csv"]),
    "a column of text": (lines([X.T[0], ["red"] * 30, SPECIES], ["a", "b", "species"]), ["line 2, column 2 ('b')", "'red'", "ignore"]),
    "no name": (lines([range(30), *X.T, SPECIES], ["", *HEADER, "species"]), ["column 1 has no name", "ignore = [1]"]),
    "a number as label": (lines([*X.T], HEADER), ["column 3 ('colour 3'), the last one", "integers or text", "regress", "first in line 2"]),
    "another class in each line": (lines([*X.T, [f"name {i}" for i in range(30)]]), ["column 4", "30 different labels of 30 samples"]),
    "one class": (lines([*X.T, ["x"] * 30]), ["at least 2 classes"]),
    "a negative label": (lines([*X.T, [1, -7, *[2] * 28]]), ["column 4", "negative", "first in line 2"]),
    "a stray label": (lines([*X.T, [0, 1] * 14 + [0, 77]]), ["largest is 77", "first in line 30"]),
    "names alone": ("a,b,species\n", ["no samples"]),
    "one column": ("a\n1\n2\n", ["1 column in the first line", "commas, semicolons or tabs"]),
    "other marks": ("a|b|c\n1|2|x\n", ["1 column in the first line"]),
    "empty": ("", ["empty"]), "blank": ("\n \n\n", ["empty"]), "NUL": (changed(2, FIRST[1], "\0"), ["line 2, column 2"]),
    "a page": ("<!DOCTYPE html>\n<p>not found</p>\n", ["set.csv"]),
    "a terminal's codes": (changed(2, FIRST[1], "\x1b[2J"), ["line 2, column 2"]), "an open quote": (changed(3, ",", ',"'), ["set.csv"]),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("verb", [["train"], ["simulate", "--time-only"]], ids=["data", "outline"])
def test_a_mistake_in_a_table_is_told_with_its_place(tmp_path, monkeypatch, case, verb):
    monkeypatch.chdir(tmp_path)
    text, words = CASES[case]
    (tmp_path / "set.csv").write_text(text)
    if case == "too large" and verb != ["train"]:
        return  # the dtype of the run plays no part there
    message = refused(*verb, "--dry-run", "--set=task.data=set.csv")
    assert all(word in message for word in ("set.csv", *words)) and "\x1b" not in message, message


@pytest.mark.parametrize("keys, words", [
    (["label=specie"], ["label", "'specie'", "did you mean 'species'"]), (["label=9"], ["label = 9", "4 columns"]),
    (["ignore=['petall']"], ["ignore", "'petall'", "did you mean 'petal'"]), (["label=0"], ["label", ">= 1"]),
    (["ignore=[1, 2, 3]"], ["at least one feature", "ignored"]), (["ignore=[1, 2, 3, 4]"], ["at least one feature", "ignored"]),
    (["size=[8, 8]"], ["size is for folders of images", "plays no part"]), (["kind=regress"], ["line 2, column 4", "not a number"]),
    (["classes=2"], ["2 classes", "found 3"]),
])
def test_keys_that_do_not_fit_a_table(tmp_path, keys, words):
    (tmp_path / "set.csv").write_text(IRIS)
    message = refused("train", "--dry-run", f"--set=task.data={tmp_path}/set.csv", *(f"--set=task.{key}" for key in keys))
    assert all(word in message for word in words), message


@pytest.mark.parametrize("data", ["digits", "teacher", "set.npz"])
@pytest.mark.parametrize("key", ["label=1", "ignore=[1]", "size=[8, 8]"])
def test_keys_of_other_files_are_refused(tmp_path, monkeypatch, data, key):
    monkeypatch.chdir(tmp_path)
    np.savez("set.npz", x=X, y=SPECIES)
    message = refused("train", "--dry-run", f"--set=task.data={data}", f"--set=task.{key}")
    assert key.partition("=")[0] in message and data in message and "plays no part" in message


@pytest.mark.parametrize("content", [b"\xff\xfe1,2\n", gzip.compress(IRIS.encode())[:-9], b"not gzip", b""])
def test_damaged_and_undecodable_tables(tmp_path, content):
    for name in ("set.csv.gz", "set.csv")[: 1 + content.startswith(b"\xff")]:
        (tmp_path / name).write_bytes(content)
        assert name in refused("train", "--dry-run", f"--set=task.data={tmp_path / name}")


def test_a_line_without_end_is_not_kept_whole(tmp_path, monkeypatch):
    from coopmpi.tasks.data.formats import table_layout

    monkeypatch.setattr(table_layout, "LONGEST_LINE", 1000)
    (tmp_path / "set.csv").write_text(IRIS + "1," * 1000)
    with pytest.raises(UserError, match="line 32: longer than 1000 characters"):
        read(tmp_path / "set.csv")


def test_a_packed_file_may_not_grow_without_bounds(tmp_path, monkeypatch):
    from coopmpi.tasks.data.formats import table_layout

    monkeypatch.setattr(table_layout, "LONGEST_TEXT", 1000)
    (tmp_path / "set.csv.gz").write_bytes(gzip.compress(b"0,0,0,a\n" * 10**5))
    with pytest.raises(UserError, match="set.csv.gz: unpacks to more than"):
        read(tmp_path / "set.csv.gz")
    (tmp_path / "set.csv").write_bytes(gzip.decompress((tmp_path / "set.csv.gz").read_bytes()) + b"0,0,1,b\n" * 10**4)
    assert read(tmp_path / "set.csv").classes == 2


# as users see it
def test_a_run_on_a_table_names_its_classes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "iris.csv").write_text(IRIS)
    assert "# note: the label is column 4 ('species'), the last one" in coopmpi("train", "--dry-run", "--set=task.data=iris.csv")[1]
    status, _, message = coopmpi("train", "--set=task.data=iris.csv", "--set=steps=20", "-o", "run.h5")
    assert status == 0, message
    assert open_run("run.h5").data.attrs["classes"].tolist() == ["setosa", "versicolor", "virginica"]
    screen = coopmpi("inspect", "run.h5")[1]
    assert "classes    3: setosa, versicolor, virginica\n" in "\n".join(line.rstrip() for line in screen.splitlines()) + "\n"
    assert "the label is column 4 ('species'), the last one" in coopmpi("inspect", "run.h5", "--series", "events")[1]


def test_a_large_table_is_read_in_seconds_and_its_last_mistake_is_found(tmp_path):
    n, features = 1500, 784
    values = RNG.integers(0, 256, (n, features))
    text = lines([RNG.integers(0, 10, n), *values.T], ["label", *(f"pixel {i}" for i in range(features))])
    (tmp_path / "set.csv").write_text(text)
    begin = time.process_time()
    data = read(tmp_path / "set.csv", label="label")
    spent = time.process_time() - begin
    assert data.x_train.shape == (1200, features) and spent < 1.2  # 60,000 such lines are read in less than 48 s, and mostly in 8
    (tmp_path / "set.csv").write_text(text[: text.rindex(",")] + ",x\n")
    begin = time.process_time()
    with pytest.raises(UserError, match=f"line {n + 1}, column {features + 1} .*'x'"):
        read(tmp_path / "set.csv", label="label")
    assert time.process_time() - begin < 2.4
