"""Data sets: the built-in ones, what is refused, the split, standardising, one copy per node."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from coopmpi.errors import CoopError, UserError
from coopmpi.tasks.data.node_copy import attach, publish
from coopmpi.tasks.data.sets import load


@pytest.fixture
def saved(tmp_path):
    def save(**arrays):
        path = tmp_path / "set.npz"
        np.savez(path, **arrays)
        return path

    return save


def arrays(n=20, features=3, classes=4):
    rng = np.random.default_rng(1)
    return rng.normal(size=(n, features)), np.arange(n) % classes


# built-in sets
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_digits_are_the_uci_test_file(dtype):
    data = load("digits", "classify", dtype, seed=0)
    x = data.inputs(np.concatenate([data.x_train, data.x_test])) * 16
    y = np.concatenate([data.y_train, data.y_test])
    assert data.x_train.dtype == np.uint8 and data.inputs(data.x_train).dtype == dtype and data.x_train.flags.c_contiguous and data.y_train.dtype == np.int64
    assert (data.shape, data.classes, x.shape) == ((1, 8, 8), 10, (1797, 64))
    assert x.min() == 0 and x.max() == 16 and (x == np.rint(x)).all()
    # class counts of optdigits.tes as the UCI repository lists them
    assert np.bincount(y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_all_seeds_share_the_test_part():
    first, other = (load("digits", "classify", "float32", seed) for seed in (0, 7))
    np.testing.assert_array_equal(first.x_test, other.x_test)
    assert len(first.y_test) == round(0.2 * 1797)


def test_split_is_a_partition_of_the_samples(saved):
    path = saved(x=np.arange(50.0), y=np.arange(50) % 2)
    data = load(path, "classify", "float64", 0, test_fraction=0.3)
    assert data.x_test.shape == (15, 1)
    assert sorted(np.concatenate([data.x_train, data.x_test])[:, 0]) == list(range(50))
    np.testing.assert_array_equal(data.y_train, data.x_train[:, 0] % 2)


def test_teacher_is_the_same_problem_in_both_dtypes_and_differs_by_seed():
    single, double, other = (load("teacher", "classify", dtype, seed, samples=9000, features=5, classes=3)
                             for dtype, seed in (("float32", 1), ("float64", 1), ("float32", 2)))
    np.testing.assert_array_equal(single.x_train, double.x_train.astype("float32"))
    np.testing.assert_array_equal(single.y_train, double.y_train)
    assert not np.array_equal(single.x_train, other.x_train)
    assert set(single.y_train) == {0, 1, 2}
    assert np.cov(double.x_train.T) == pytest.approx(np.eye(5), abs=0.08)
    assert abs(double.x_train.mean(axis=0)).max() < 0.05


def test_teacher_noise_is_the_fraction_of_flipped_labels_or_the_deviation():
    clean, noisy = (load("teacher", "classify", "float32", 0, noise=noise) for noise in (0, 0.3))
    assert np.mean(clean.y_train != noisy.y_train) == pytest.approx(0.3, abs=0.03)
    clean, noisy = (load("teacher", "regress", "float64", 0, outputs=2, noise=noise) for noise in (0, 0.5))
    assert clean.y_train.shape == (8000, 2) and clean.classes is None
    assert np.std(noisy.y_train - clean.y_train) == pytest.approx(0.5, rel=0.03)


@pytest.mark.parametrize("options, named", [
    ({"samples": 1}, "samples"), ({"features": 0}, "features"), ({"classes": 1}, "classes"),
    ({"noise": 1.5}, "noise"), ({"noise": float("nan")}, "noise"),
])
def test_teacher_refuses(options, named):
    with pytest.raises(UserError, match=named):
        load("teacher", "classify", "float32", 0, **options)


# images and standardising
def test_images_become_channel_first_rows(saved):
    first = np.random.default_rng(0).integers(0, 256, (6, 3, 5, 7), dtype=np.uint8)
    y = np.arange(6) % 2
    for x in (first, np.moveaxis(first, 1, 3)):
        data = load(saved(x=x, y=y, x_test=x, y_test=y), "classify", "float64", 0)
        assert data.shape == (3, 5, 7)
        np.testing.assert_array_equal(data.inputs(data.x_test).reshape(first.shape), first / 255)
    grey = load(saved(x=first[:, 0], y=y, x_test=first[:, 0], y_test=y), "classify", "float32", 0)
    assert grey.shape == (1, 5, 7)
    np.testing.assert_array_equal(grey.inputs(grey.x_train), (first[:, 0].reshape(6, -1) / 255).astype("float32"))


@pytest.mark.parametrize("shape, axes", [((40, 6), 0), ((40, 3, 5, 4), (0, 2, 3))])
def test_standardize_uses_the_training_part(saved, shape, axes):
    rng = np.random.default_rng(3)
    x, x_test = rng.normal(5, 3, shape), rng.normal(5, 3, shape)
    x[:, 0] = x_test[:, 0] = 0.1  # a constant column or channel must not be blown up
    y = np.arange(40) % 2
    data = load(saved(x=x, y=y, x_test=x_test, y_test=y), "classify", "float64", 0, standardize=True)
    mean, std = x.mean(axis=axes, keepdims=True), x.std(axis=axes, keepdims=True)
    std[:, 0] = 1
    np.testing.assert_allclose(data.x_train.reshape(shape), (x - mean) / std, atol=1e-12)
    np.testing.assert_allclose(data.x_test.reshape(shape), (x_test - mean) / std, atol=1e-12)


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-12), ("float32", 2e-5)])
@pytest.mark.parametrize("shape, axes", [((40, 6), 0), ((40, 3, 5, 4), (0, 2, 3))])
def test_bytes_are_standardized_as_the_numbers_that_they_stand_for(saved, shape, axes, dtype, tolerance):
    rng = np.random.default_rng(3)
    x, x_test = (rng.integers(0, 256, shape, np.uint8) for _ in range(2))
    x[:, 0] = x_test[:, 0] = 7
    y = np.arange(40) % 2
    data = load(saved(x=x, y=y, x_test=x_test, y_test=y), "classify", dtype, 0, standardize=True)
    mean, std = (x / 255).mean(axis=axes, keepdims=True), (x / 255).std(axis=axes, keepdims=True)
    std[:, 0] = 1
    for rows, given in ((data.x_train, x), (data.x_test, x_test)):
        assert rows.dtype == np.uint8 and data.inputs(rows).dtype == dtype
        np.testing.assert_allclose(data.inputs(rows).reshape(shape), (given / 255 - mean) / std, atol=tolerance)


@pytest.mark.parametrize("bytes_of", ["x", "x_test"])
def test_bytes_beside_numbers_are_scaled_at_once(saved, bytes_of):
    x = {"x": np.full((6, 3), 0.5), "x_test": np.full((6, 3), 0.5)} | {bytes_of: np.full((6, 3), 51, np.uint8)}
    data = load(saved(**x, y=np.arange(6) % 2, y_test=np.arange(6) % 2), "classify", "float64", 0)
    assert data.scaling is None
    assert {"x": data.x_train, "x_test": data.x_test}[bytes_of].max() == 0.2


# targets
def test_regression_targets_are_columns_in_the_runs_dtype(saved):
    x, _ = arrays()
    data = load(saved(x=x, y=np.arange(20)), "regress", "float32", 0)
    assert data.y_train.shape == (16, 1) and data.y_train.dtype == np.float32 and data.classes is None


def test_whole_floats_count_as_labels(saved):
    x, y = arrays()
    data = load(saved(x=x, y=y.astype(float)[:, None]), "classify", "float32", 0)
    assert data.classes == 4 and data.y_train.dtype == np.int64


@pytest.mark.parametrize("labels", [np.arange(20) % 4 + 1, np.array([3, 7])[np.arange(20) % 2], np.array([-1, 1])[np.arange(20) % 2],
                                    np.array([10, 20, 300])[np.arange(20) % 3], np.array([-1.0, 1.0])[np.arange(20) % 2]])
def test_labels_that_do_not_start_at_0_are_counted_and_told(saved, labels):
    x = np.arange(20.0)
    data = load(saved(x=x, y=labels), "classify", "float64", 0)
    values = sorted({int(label) for label in labels})
    assert (data.classes, data.names) == (len(values), tuple(map(str, values)))
    for sample, label in zip(data.x_train[:, 0], data.y_train):
        assert values[label] == labels[int(sample)]
    assert data.notes == (f"the labels {', '.join(data.names)} are the classes 0 to {len(values) - 1}",)


def test_one_hot_rows_are_counted_and_told(saved):
    labels = np.arange(20) % 3
    for rows in (np.eye(4)[labels], np.eye(4, dtype=bool)[labels], np.eye(4, dtype=np.uint8)[labels]):
        data = load(saved(x=np.arange(20.0), y=rows, x_test=np.arange(20.0), y_test=rows), "classify", "float64", 0)
        assert data.y_train.tolist() == labels.tolist() == data.y_test.tolist()
        assert (data.classes, data.names, data.notes) == (4, (), ("the one-hot rows of y are 4 classes",))


def test_large_numbers_are_told_unless_they_are_scaled(saved):
    path = saved(x=np.full((20, 3), -59), y=np.arange(20) % 2)
    assert "reach 59: standardize = true" in load(path, "classify", "float32", 0).notes[0]
    assert not load(path, "classify", "float32", 0, standardize=True).notes
    assert "targets reach 340" in load(saved(x=np.zeros(20), y=np.full(20, 340)), "regress", "float32", 0).notes[0]
    assert not load(saved(x=np.full((20, 3), 200, np.uint8), y=np.arange(20) % 2), "classify", "float32", 0).notes


def changed(values, index, value):
    values = values.copy()
    values[index] = value
    return values


X, Y = arrays()
REFUSED = {
    "negative label": (dict(x=X, y=changed(Y, 5, -1)), {}, r"negative.*1 of 20 values, first in row 5"),
    "fractional label": (dict(x=X, y=changed(Y.astype(float), 3, 1.5)), {}, r"integers.*first in row 3"),
    "NaN label": (dict(x=X, y=changed(Y.astype(float), 3, np.nan)), {}, r"NaN.*first in row 3"),
    "stray label": (dict(x=X, y=changed(Y, 6, 99)), {}, r"largest is 99; set classes = 100.*first in row 6"),
    "one of several below 0": (dict(x=X, y=Y - 1), {}, r"negative, other than -1 and 1.*5 of 20 values, first in row 0"),
    "more labels than classes": (dict(x=X, y=Y + 1), {"classes": 3}, r"expected 3 classes, found 4 different labels"),
    "all labels alike": (dict(x=X, y=np.zeros(20)), {}, r"at least 2 classes"),
    "a label for each": (dict(x=X, y=np.arange(20) + 5), {}, r"20 different labels of 20 samples"),
    "two in a row": (dict(x=X, y=np.eye(4)[Y] + np.eye(4)[0]), {}, r"one-hot rows or class labels \(20,\), found shape \(20, 4\)"),
    "missing name": (dict(x=X, y=changed(Y.astype("U9"), 4, "")), {}, r"missing.*first in row 4"),
    "missing names": (dict(x=X, y=changed(np.array(["a", "b"])[Y % 2].astype("U9"), 4, "nan")), {}, r"missing.*first in row 4"),
    "long name": (dict(x=X, y=changed(Y.astype("U200"), 4, "x" * 101)), {}, r"100 characters.*first in row 4"),
    "no text": (dict(x=X, y=changed(np.array([b"ab"] * 20), 4, b"\xff")), {}, r"UTF-8"),
    "text among numbers": (dict(x=X, y=Y, x_test=X, y_test=np.array(["a", "b"])[Y % 2]), {}, r"y_test.*0\.\.3 as in training"),
    "numbers among text": (dict(x=X, y=np.array(["a", "b"])[Y % 2], x_test=X, y_test=Y), {}, r"y_test.*must be a, b as in training"),
    "huge label": (dict(x=X, y=changed(Y, 6, 2**40)), {}, r"first in row 6"),
    "label above classes": (dict(x=X, y=Y), {"classes": 3}, r"0\.\.2.*5 of 20 values, first in row 3"),
    "negative only in test": (dict(x=X, y=Y, x_test=X, y_test=changed(Y, 2, -1)), {}, r"y_test.*0\.\.3 as in training.*first in row 2"),
    "label only in test": (dict(x=X, y=Y, x_test=X, y_test=changed(Y, 2, 4)), {},
                           r"y_test.*0\.\.3.*first in row 2"),
    "one-hot labels": (dict(x=X, y=np.eye(20)), {}, r"class labels \(20,\), found shape \(20, 20\)"),
    "NaN": (dict(x=changed(X, ([4, 9], [0, 1]), np.nan), y=Y), {}, r"NaN.*2 of 60 values, first in row 4"),
    "Inf": (dict(x=changed(X, (7, 2), np.inf), y=Y), {}, r"Inf.*1 of 60 values, first in row 7"),
    "overflow in float32": (dict(x=changed(X, (8, 2), 1e300), y=Y), {}, r"Inf.*float32.*first in row 8"),
    "NaN in test": (dict(x=X, y=Y, x_test=changed(X, (1, 1), np.nan), y_test=Y), {}, r"x_test.*first in row 1"),
    "lengths": (dict(x=X, y=Y[:-1]), {}, r"each of the 20 samples, found shape \(19,\)"),
    "no samples": (dict(x=X[:0], y=Y[:0]), {}, r"found shape \(0, 3\)"),
    "no features": (dict(x=X[:, :0], y=Y), {}, r"found shape \(20, 0\)"),
    "empty test": (dict(x=X, y=Y, x_test=X[:0], y_test=Y[:0]), {}, r"x_test.*found shape \(0, 3\)"),
    "test of another width": (dict(x=X, y=Y, x_test=X[:, :2], y_test=Y), {}, r"\(3,\).*against \(2,\)"),
    "strings": (dict(x=X.astype(str), y=Y), {}, r"integers or floats, found <U"),
    "complex": (dict(x=X + 1j, y=Y), {}, r"found complex128"),
    "a scalar": (dict(x=np.float64(1), y=Y), {}, r"found shape \(\)"),
    "nothing left to train on": (dict(x=X, y=Y), {"test_fraction": 1.0}, r"0 for training and 20"),
    "nothing to test": (dict(x=X, y=Y), {"test_fraction": 0.0}, r"20 for training and 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_data_is_refused_with_its_place(saved, case):
    values, options, message = REFUSED[case]
    path = saved(**values)
    with pytest.raises(UserError, match=message) as error:
        load(path, "classify", "float32", 0, **options)
    assert str(path) in str(error.value)


def test_regression_refuses_nan_targets(saved):
    with pytest.raises(UserError, match=r"y: NaN.*first in row 3"):
        load(saved(x=X, y=changed(X, (3, 1), np.nan)), "regress", "float32", 0)


def test_an_unknown_name_gets_the_nearest_one():
    with pytest.raises(UserError, match="'digit'; did you mean 'digits'"):
        load("digit", "classify", "float32", 0)


@pytest.mark.parametrize("source", ["nowhere.npz", "folder/nowhere"])
def test_a_missing_file_is_named(source):
    with pytest.raises(UserError, match=f"{source}.*no such file"):
        load(source, "classify", "float32", 0)


# one copy per node
@pytest.mark.parametrize("kind", ["classify", "regress"])
def test_attached_copy_equals_the_original_and_outlives_its_files(tmp_path, kind):
    data = load("digits", kind, "float32", 0)
    folder = tmp_path / "copy"
    folder.mkdir()
    publish(data, folder)
    copy = attach(folder)
    shutil.rmtree(folder)
    for name in ("x_train", "y_train", "x_test", "y_test"):
        original, mapped = getattr(data, name), getattr(copy, name)
        assert type(mapped) is np.ndarray and mapped.dtype == original.dtype and mapped.flags.c_contiguous
        np.testing.assert_array_equal(mapped, original)
        with pytest.raises(ValueError, match="read-only"):
            mapped[0] = 0
    assert (copy.name, copy.shape, copy.classes) == (data.name, data.shape, data.classes)


def test_a_copy_knows_names_and_notes(saved, tmp_path):
    data = load(saved(x=np.arange(60.0).reshape(20, 3), y=np.array(["été", "a"])[np.arange(20) % 2]), "classify", "float32", 0)
    publish(data, tmp_path)
    assert attach(tmp_path).names == data.names == ("a", "été") and attach(tmp_path).notes == data.notes and len(data.notes) == 1


def test_attached_arrays_are_no_private_memory(tmp_path):
    """A process that attaches 64 MB and reads them all has them from the page cache that all processes share."""
    data = load("teacher", "classify", "float32", 0, samples=80_000, features=200)
    publish(data, tmp_path)
    script = f"""
import re
from coopmpi.tasks.data.node_copy import attach
def private():
    return sum(int(v) for v in re.findall(r"Private_Dirty: +([0-9]+)", open("/proc/self/smaps").read()))
before = private()
total = attach({str(tmp_path)!r}).x_train.sum()
print(private() - before)
"""
    grown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert int(grown) < 8000  # KiB


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    data = load("teacher", "classify", "float32", 0, samples=20)
    with pytest.raises(CoopError, match=f"{tmp_path}/missing") as error:
        publish(data, tmp_path / "missing")
    assert error.value.status == 1
