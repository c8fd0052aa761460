"""Files of arrays with names, whole and damaged: .npz, HDF5, folders of .npy."""

import h5py
import numpy as np
import pytest

from coopmpi.errors import UserError
from coopmpi.tasks.data.sets import load, outline

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(30, 4)), np.arange(30) % 3
IMAGES = RNG.integers(0, 256, (30, 5, 6), dtype=np.uint8)


def read(path):
    return load(path, "classify", "float64", 0)


def rows(data):
    """All samples with their labels as a sorted list: what was in the file, whatever the split."""
    x, y = data.inputs(np.concatenate([data.x_train, data.x_test])), np.concatenate([data.y_train, data.y_test])
    return sorted((*row, label) for row, label in zip(x.tolist(), y.tolist()))


def write_npz(path, **arrays):
    np.savez_compressed(path, **arrays)


def write_h5(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values


WRITERS = {"set.npz": write_npz, "set.h5": write_h5, "set.hdf5": write_h5}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("suffix", ["", "_train"])
def test_named_arrays(tmp_path, name, suffix):
    path = tmp_path / name
    WRITERS[name](path, **{f"x{suffix}": X, f"y{suffix}": Y, "x_test": X[:5], "y_test": Y[:5]})
    data = read(path)
    np.testing.assert_array_equal(data.x_train, X)
    np.testing.assert_array_equal(data.y_train, Y)
    np.testing.assert_array_equal(data.x_test, X[:5])
    assert data.shape is None and data.classes == 3


def write_npy(folder, **arrays):
    folder.mkdir()
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)


ALL_WRITERS = WRITERS | {"set": write_npy}
NAMES = [("x", "y"), ("X", "Y"), ("X", "labels"), ("data", "target"), ("images", "labels"), ("x_train", "y_train"), ("X_train", "y_train"),
         ("train_images", "train_labels"), ("trainX", "trainy"), ("Features", "Label")]


@pytest.mark.parametrize("name", ALL_WRITERS)
@pytest.mark.parametrize("inputs, targets", NAMES)
def test_names_that_arrays_usually_have(tmp_path, name, inputs, targets):
    ALL_WRITERS[name](tmp_path / name, **{inputs: X, targets: Y, "feature_names": np.arange(4)})
    assert rows(read(tmp_path / name)) == sorted((*row, label) for row, label in zip(X.tolist(), Y.tolist()))
    assert not read(tmp_path / name).notes


@pytest.mark.parametrize("name", ALL_WRITERS)
@pytest.mark.parametrize("inputs, targets", [("x_test", "y_test"), ("X_val", "y_val"), ("test_images", "test_labels"), ("testX", "testY")])
def test_names_of_held_out_arrays(tmp_path, name, inputs, targets):
    ALL_WRITERS[name](tmp_path / name, **{"x_train": X, "y_train": Y, inputs: X[:5], targets: Y[:5]})
    data = read(tmp_path / name)
    np.testing.assert_array_equal(data.x_train, X)
    np.testing.assert_array_equal(data.x_test, X[:5])
    np.testing.assert_array_equal(data.y_test, Y[:5])
    assert outline(tmp_path / name, "classify") == (4, None, 3, 30)


def test_arrays_without_names(tmp_path):
    np.savez(tmp_path / "two.npz", X, Y)
    np.savez(tmp_path / "four.npz", X, X[:5], Y, Y[:5])
    data = read(tmp_path / "two.npz")
    assert len(rows(data)) == 30 and data.notes == ("the array arr_0 is taken for the inputs, arr_1 for the targets",)
    with pytest.raises(UserError, match="no array 'x'.*found arr_0, arr_1, arr_2, arr_3"):
        read(tmp_path / "four.npz")


def test_of_several_arrays_that_may_be_meant_the_one_that_is_read_is_told(tmp_path):
    np.savez(tmp_path / "set.npz", images=IMAGES, data=X, target=Y)
    data = read(tmp_path / "set.npz")
    assert data.shape is None and data.notes == ("each of the arrays data, images may be meant: data is read",)


@pytest.mark.parametrize("name", ALL_WRITERS)
def test_labels_may_be_text(tmp_path, name):
    names = np.array(["b", "a", "été"])
    for kind, labels in (("U", names[Y]), ("S", np.char.encode(names, "utf-8")[Y])):
        text = labels.astype("O") if name.startswith("set.h") and kind == "U" else labels
        ALL_WRITERS[name](tmp_path / f"{kind}{name}", x=X, y=text, x_test=X[:3], y_test=text[:3])
        data = read(tmp_path / f"{kind}{name}")
        assert data.names == ("a", "b", "été") and data.y_test.tolist() == [1, 0, 2]


def test_npy_files_belong_into_a_folder(tmp_path):
    write_npy(tmp_path / "set", X=X, y=Y)
    with pytest.raises(UserError, match="X.npy: a .npy file holds one array; put X.npy and y.npy into a folder, and give the folder"):
        read(tmp_path / "set" / "X.npy")
    (tmp_path / "set" / "y.npy").write_bytes(b"no array")
    with pytest.raises(UserError, match="y.npy.*no .npy file"):
        read(tmp_path / "set")
    (tmp_path / "set" / "y.npy").unlink()
    with pytest.raises(UserError, match="no array 'y'.*found X"):
        read(tmp_path / "set")


@pytest.mark.parametrize("name", WRITERS)
def test_without_a_test_part_all_samples_are_kept(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path, x=X, y=Y)
    assert rows(read(path)) == sorted((*row, label) for row, label in zip(X.tolist(), Y.tolist()))


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("arrays, message", [
    ({"x": X}, "no array 'y'.*found x"),
    ({"pictures": X, "y": Y}, "no array 'x'.*x, data, images.*found pictures, y"),
    ({"x": X, "y": Y, "x_test": X}, "both x_test and y_test"),
])
def test_missing_arrays_are_named(tmp_path, name, arrays, message):
    path = tmp_path / name
    WRITERS[name](path, **arrays)
    with pytest.raises(UserError, match=message):
        read(path)


@pytest.mark.parametrize("name", WRITERS)
def test_truncated_anywhere_is_refused(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path, x=X, y=Y)
    content = path.read_bytes()
    for length in (0, 1, 7, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match="truncated") as error:
            read(path)
        assert str(path) in str(error.value)


def test_damage_inside_an_npz_is_noticed(tmp_path):
    path = tmp_path / "set.npz"
    write_npz(path, x=X, y=Y)
    content = bytearray(path.read_bytes())
    content[300:340] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        read(path)


def test_h5_group_in_place_of_an_array(tmp_path):
    with h5py.File(tmp_path / "set.h5", "w") as file:
        file.create_group("x")
        file["y"] = Y
    with pytest.raises(UserError, match="x is a group"):
        read(tmp_path / "set.h5")


def test_h5_strings_and_dangling_links_are_refused(tmp_path):
    with h5py.File(tmp_path / "set.h5", "w") as file:
        file["x"], file["y"] = ["a", "b"], [0, 1]
    with pytest.raises(UserError, match="integers or floats"):
        read(tmp_path / "set.h5")
    with h5py.File(tmp_path / "set.h5", "w") as file:
        file["x"], file["y"] = h5py.SoftLink("/gone"), [0, 1]
    with pytest.raises(UserError, match="set.h5"):
        read(tmp_path / "set.h5")
