"""IDX and CIFAR files as others write them, whole and damaged; pickles under whatever name."""

import gzip
import pickle
import struct

import numpy as np
import pytest

from coopmpi.errors import UserError
from coopmpi.tasks.data.sets import load

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (30, 5, 6), dtype=np.uint8), (np.arange(30) % 10).astype(np.uint8)


def read(path):
    return load(path, "classify", "float64", 0)


def rows(data):
    """All samples with their labels as a sorted list: what was in the file, whatever the split."""
    x, y = data.inputs(np.concatenate([data.x_train, data.x_test])), np.concatenate([data.y_train, data.y_test])
    return sorted((*row, label) for row, label in zip(x.tolist(), y.tolist()))


# no pickles
class Trap:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return self.mark.touch, ()


def test_object_arrays_are_refused_without_unpickling(tmp_path):
    mark = tmp_path / "mark"
    np.savez(tmp_path / "set.npz", x=np.array([Trap(mark)], dtype=object), y=[0])
    with pytest.raises(UserError, match="object array"):
        read(tmp_path / "set.npz")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["set.npz", "train-images-idx3-ubyte", "set.h5"])
def test_a_pickle_under_another_name_is_refused(tmp_path, name):
    mark = tmp_path / "mark"
    (tmp_path / name).write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(UserError):
        read(tmp_path / name)
    assert not mark.exists()


@pytest.mark.parametrize("names", [["data_batch_1", "test_batch", "batches.meta"], ["train", "test", "meta"]])
def test_python_cifar_folder_is_told_which_download_to_take(tmp_path, names):
    for name in names:
        (tmp_path / name).write_bytes(pickle.dumps(Trap(tmp_path / "mark")))
    with pytest.raises(UserError, match="cifar-10-binary.tar.gz"):
        read(tmp_path)
    assert not (tmp_path / "mark").exists()


# IDX
def idx(values, code=0x08):
    big_endian = values.astype(values.dtype.newbyteorder(">"))
    return bytes([0, 0, code, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + big_endian.tobytes()


def write_mnist(folder, prefix="", test="t10k", suffix="", dot="-"):
    pack = gzip.compress if suffix else bytes
    for part, span in (("train", slice(0, 20)), (test, slice(20, 30))):
        (folder / f"{prefix}{part}-images{dot}idx3-ubyte{suffix}").write_bytes(pack(idx(IMAGES[span])))
        (folder / f"{prefix}{part}-labels{dot}idx1-ubyte{suffix}").write_bytes(pack(idx(LABELS[span])))


@pytest.mark.parametrize("layout", [
    {}, {"suffix": ".gz"}, {"dot": "."}, {"prefix": "emnist-letters-", "test": "test"},
])
def test_mnist_folder(tmp_path, layout):
    write_mnist(tmp_path, **layout)
    data = read(tmp_path)
    assert (data.shape, data.classes) == ((1, 5, 6), 10)
    np.testing.assert_array_equal(data.inputs(data.x_train).reshape(20, 5, 6), IMAGES[:20] / 255)
    np.testing.assert_array_equal(data.y_train, LABELS[:20])
    np.testing.assert_array_equal(data.inputs(data.x_test).reshape(10, 5, 6), IMAGES[20:] / 255)


def test_an_idx_file_brings_its_labels_and_its_test_pair(tmp_path):
    write_mnist(tmp_path, prefix="a-", suffix=".gz")
    write_mnist(tmp_path, prefix="b-")
    with pytest.raises(UserError, match="several IDX sets.*a-train-images-idx3-ubyte, b-train"):
        read(tmp_path)
    assert len(read(tmp_path / "a-train-images-idx3-ubyte.gz").x_test) == 10
    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (tmp_path / f"b-{name}").unlink()
    assert len(read(tmp_path / "b-train-images-idx3-ubyte").x_test) == 4  # a fifth of the 20


@pytest.mark.parametrize("dtype, code", [("i1", 0x09), ("i2", 0x0B), ("i4", 0x0C), ("f4", 0x0D), ("f8", 0x0E)])
def test_every_idx_number_type(tmp_path, dtype, code):
    values = RNG.integers(-100, 100, (12, 7)).astype(dtype)
    (tmp_path / "train-images-idx2").write_bytes(idx(values, code))
    (tmp_path / "train-labels-idx2").write_bytes(idx(LABELS[:12]))
    assert rows(read(tmp_path / "train-images-idx2")) == sorted(
        (*row, label) for row, label in zip(values.astype(float).tolist(), LABELS[:12].tolist()))


def test_damaged_idx_files_are_refused(tmp_path):
    write_mnist(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    content = path.read_bytes()
    for broken, message in [
        (b"", "an empty file"),
        (content[:10], "truncated IDX file: expected a header of 16 bytes, found 10"),
        (content[:-1], f"truncated IDX file.*makes {16 + 600} bytes, found {16 + 599}"),
        (content + b"0", "too long"),
        (b"\x89PNG" + content[4:], "found 89 50 4e 47"),
        (b"\0\0\x07\x03" + content[4:], "found 00 00 07 03"),
        (content[:4] + struct.pack(">3I", 2**31, 2**31, 4), "truncated"),  # a product that is 0 in 64 bits
    ]:
        path.write_bytes(broken)
        with pytest.raises(UserError, match=message) as error:
            read(tmp_path)
        assert str(path) in str(error.value)


def test_truncated_gzip_is_refused(tmp_path):
    write_mnist(tmp_path, suffix=".gz")
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    content = path.read_bytes()
    for broken in (b"not gzip", content[:-9], content[: len(content) // 2], content[:5]):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=f"{path}.*gzip"):
            read(tmp_path)


@pytest.mark.parametrize("gone, message", [
    ("train-labels-idx1-ubyte", "train-labels-idx1-ubyte: no such file"),
    ("t10k-labels-idx1-ubyte", "t10k-labels-idx1-ubyte: no such file"),
    ("t10k-images-idx3-ubyte", "t10k-images-idx3-ubyte: no such file"),
    ("t10k*", "no test pair"),
    ("train*", "no data set found"),
])
def test_incomplete_mnist_folder(tmp_path, gone, message):
    write_mnist(tmp_path)
    for path in tmp_path.glob(gone):
        path.unlink()
    with pytest.raises(UserError, match=message):
        read(tmp_path)


def test_idx_sizes_that_disagree(tmp_path):
    write_mnist(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(LABELS[:19]))
    with pytest.raises(UserError, match="20 images, but 19 labels in train-labels"):
        read(tmp_path)
    with pytest.raises(UserError, match="whose name contains 'images'"):
        read(tmp_path / "train-labels-idx1-ubyte")


# CIFAR
def cifar(labels, pixels):
    return np.concatenate([labels, pixels.reshape(len(pixels), -1)], axis=1).tobytes()


PIXELS = RNG.integers(0, 256, (20, 3, 32, 32), dtype=np.uint8)


def write_cifar10(folder):
    (folder / "data_batch_1.bin").write_bytes(cifar(LABELS[:10, None], PIXELS[:10]))
    (folder / "data_batch_2.bin").write_bytes(cifar(LABELS[10:15, None], PIXELS[10:15]))
    (folder / "test_batch.bin").write_bytes(cifar(LABELS[15:20, None], PIXELS[15:]))
    (folder / "batches.meta.txt").write_text("airplane\n")


def test_cifar10(tmp_path):
    write_cifar10(tmp_path)
    data = read(tmp_path)
    assert (data.shape, data.classes) == ((3, 32, 32), 10)
    np.testing.assert_array_equal(data.inputs(data.x_train), PIXELS[:15].reshape(15, -1) / 255)
    np.testing.assert_array_equal(data.y_train, LABELS[:15])
    np.testing.assert_array_equal(data.y_test, LABELS[15:20])


def test_cifar100_uses_the_fine_labels(tmp_path):
    labels = np.stack([np.arange(20) % 20, np.arange(20) * 5], axis=1).astype(np.uint8)
    (tmp_path / "train.bin").write_bytes(cifar(labels[:15], PIXELS[:15]))
    (tmp_path / "test.bin").write_bytes(cifar(labels[15:], PIXELS[15:]))
    data = read(tmp_path)
    assert data.classes == 100
    np.testing.assert_array_equal(data.y_train, np.arange(15) * 5)
    np.testing.assert_array_equal(data.inputs(data.x_test), PIXELS[15:].reshape(5, -1) / 255)


def test_damaged_cifar_folders_are_refused(tmp_path):
    write_cifar10(tmp_path)
    second = tmp_path / "data_batch_2.bin"
    content = second.read_bytes()
    second.write_bytes(content[:-1])
    with pytest.raises(UserError, match=f"{second}.*multiple of 3073 bytes.*found {5 * 3073 - 1}"):
        read(tmp_path)
    second.write_bytes(b"\x0a" + content[1:])
    with pytest.raises(UserError, match=r"0\.\.9; found in 1 of 15 values, first in row 10"):
        read(tmp_path)
    second.rename(tmp_path / "data_batch_3.bin")
    with pytest.raises(UserError, match="data_batch_2.bin of CIFAR-10 is missing"):
        read(tmp_path)
    (tmp_path / "data_batch_3.bin").unlink()
    (tmp_path / "test_batch.bin").unlink()
    with pytest.raises(UserError, match="test_batch.bin of CIFAR-10 is missing"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["set.txt", "set.mat", "data_batch_1.bin"])
def test_unknown_kinds_of_file_are_told_what_is_allowed(tmp_path, name):
    (tmp_path / name).write_bytes(b"1,2,3")
    with pytest.raises(UserError, match=r"unknown kind of data file; allowed: a \.npz"):
        read(tmp_path / name)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="no data set found in this folder"):
        read(tmp_path)
