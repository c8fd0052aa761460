"""Readers of data files: .npz, .h5, IDX (MNIST family) and CIFAR binary folders. None of them loads a pickle."""

import gzip
import os
import re
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from coopmpi import inputs
from coopmpi.device.hollow import HollowArray
from coopmpi.errors import UserError, clean, shortened

ALLOWED = ("a .npz or .h5 file with x and y, an IDX images file or the folder of the four MNIST files, "
           "or a CIFAR-10/100 binary folder")
IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
IDX_HEADER = 4 + 4 * 4  # bytes at most
CIFAR_PIXELS = 3 * 32 * 32


class Raw(NamedTuple):
    """Arrays as the file holds them, unchecked; without a test part x_test and y_test are None."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray | None = None
    y_test: np.ndarray | None = None
    classes: int | None = None  # where the format fixes it
    full_scale: int = 255  # what uint8 inputs are divided by


def read(path, headers=False):
    """The Raw arrays at `path` (file or folder); headers: shapes in place of the inputs. Raises UserError."""
    name = path.name.lower()
    try:
        if path.is_dir():
            return _read_folder(path, headers)
        inputs.require_file(path)
        if name.endswith(".npz"):
            return _read_npz(path, headers)
        if name.endswith((".h5", ".hdf5")):
            return _read_h5(path, headers)
        if "idx" in name:
            return _read_idx_set(path, headers)
    except OSError as error:
        raise UserError(f"{path}: may not be read ({error.strerror or error})") from error
    raise UserError(f"{path}: unknown kind of data file; allowed: {ALLOWED}")


def _read_folder(folder, headers):
    names = sorted(p.name for p in folder.iterdir())
    if any(re.fullmatch(r"data_batch_\d+\.bin|train\.bin|test(_batch)?\.bin", name) for name in names):
        return _read_cifar(folder, names, headers)
    if "data_batch_1" in names or {"train", "meta"} <= set(names):
        raise UserError(f"{folder}: this is the Python version of CIFAR, made of pickles, which are never loaded; "
                        f"take the binary version (cifar-10-binary.tar.gz or cifar-100-binary.tar.gz) instead")
    images = {name.removesuffix(".gz") for name in names if re.search(r"train-images.idx3", name)}
    if len(images) > 1:
        raise UserError(f"{folder}: holds several IDX sets; name one of its files: {', '.join(sorted(images))}")
    if not images:
        raise UserError(f"{folder}: no data set found in this folder; allowed: {ALLOWED}")
    return _read_idx_set(folder / images.pop(), headers, needs_test=True)


# .npz and .h5: named arrays
def _read_npz(path, headers):
    with inputs.open_npz(path) as archive:
        outline = (lambda name: HollowArray(*inputs.npz_shape(archive, name))) if headers else None
        return _named(path, archive.files, archive.__getitem__, outline)


def _read_h5(path, headers):
    def outline(name):
        found = inputs.dataset(file, name)
        return HollowArray(found.shape, found.dtype)

    with inputs.open_hdf5(path) as file:
        return _named(path, list(file), lambda name: np.asarray(inputs.dataset(file, name)[()]), outline if headers else None)


def _named(path, names, get, outline):
    """Raw from the arrays x, y (or x_train, y_train) and, where there are any, x_test, y_test.

    outline(name): what takes the place of inputs that are not read.
    """
    suffix = "_train" if "x_train" in names else ""
    for name in ("x" + suffix, "y" + suffix):
        if name not in names:
            raise UserError(f"{path}: no array {name!r}; expected x, y (or x_train, y_train) and optionally "
                            f"x_test, y_test; found {_listed(names)}")
    if ("x_test" in names) != ("y_test" in names):
        raise UserError(f"{path}: expected both x_test and y_test or neither; found {_listed(names)}")
    inputs_of = outline or get
    test = (inputs_of("x_test"), get("y_test")) if "x_test" in names else (None, None)
    return Raw(inputs_of("x" + suffix), get("y" + suffix), *test)


def _listed(names):
    return clean(shortened(", ".join(names))) or "nothing"


# IDX: big-endian, two zero bytes, type code, number of axes, sizes, values
def _read_idx_set(images, headers, needs_test=False):
    """Training pair of an images file and, where they lie beside it, the test pair."""
    if "images" not in images.name:
        raise UserError(f"{images}: expected an IDX images file, whose name contains 'images' and gives the name "
                        f"of the labels file; found {images.name}")
    x, y = _read_idx_pair(images, headers)
    for test in ("t10k", "test"):
        test_images = images.with_name(images.name.replace("train", test))
        pair = [_existing(p) for p in (test_images, _labels_of(test_images))]
        if test_images != images and any(pair):
            return Raw(x, y, *_read_idx_pair(test_images, headers))
    if needs_test:
        raise UserError(f"{images.parent}: expected the four files of the MNIST family, found no test pair "
                        f"(t10k-images..., t10k-labels...); name the images file to split a test part off it")
    return Raw(x, y)


def _read_idx_pair(images, headers):
    x, y = _read_idx(images, headers), _read_idx(_labels_of(images))
    if len(x) != len(y):
        raise UserError(f"{images}: {len(x)} images, but {len(y)} labels in {_labels_of(images).name}")
    return x, y


def _labels_of(images):
    return images.with_name(images.name.replace("images", "labels").replace("idx3", "idx1"))


def _existing(path):
    """The file, plain or with .gz, whichever exists; None without."""
    plain = path.with_name(path.name.removesuffix(".gz"))
    return next((p for p in (path, plain, Path(f"{plain}.gz")) if os.path.isfile(p)), None)


def _read_idx(path, header=False):
    found = _existing(path)
    if found is None:
        raise UserError(f"{path}: no such file, nor with or without .gz")
    try:
        with gzip.open(found) if found.suffix == ".gz" else open(found, "rb") as file:
            content = file.read(IDX_HEADER if header else -1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{found}: truncated or damaged gzip file ({error})") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in IDX_TYPES or not 1 <= content[3] <= 4:
        raise UserError(f"{found}: expected an IDX file, which starts with 00 00, a type code of 08 to 0e and the "
                        f"number of axes, 1 to 4; found {content[:4].hex(' ') or 'an empty file'}")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise UserError(f"{found}: truncated IDX file: expected a header of {start} bytes, found {len(content)}")
    dtype, shape = np.dtype(IDX_TYPES[content[2]]), [int(n) for n in np.frombuffer(content[4:start], ">u4")]
    if header:
        return HollowArray(shape, dtype)
    expected = start + dtype.itemsize * int(np.prod(shape, dtype=object))
    if len(content) != expected:
        fault = "truncated" if len(content) < expected else "too long"
        raise UserError(f"{found}: {fault} IDX file: shape {tuple(shape)} makes {expected} bytes, "
                        f"found {len(content)}")
    return np.frombuffer(content, dtype, offset=start).reshape(shape)


# CIFAR binary: records of label bytes and 3072 pixels, channel first
def _read_cifar(folder, names, headers):
    if "train.bin" in names or "test.bin" in names:  # CIFAR-100: coarse and fine label
        train, test, labels, classes = ["train.bin"], "test.bin", 2, 100
    else:
        batches = sum(re.fullmatch(r"data_batch_\d+\.bin", name) is not None for name in names)
        train = [f"data_batch_{i + 1}.bin" for i in range(max(batches, 1))]
        test, labels, classes = "test_batch.bin", 1, 10
    for name in (*train, test):
        if name not in names:
            raise UserError(f"{folder}: {name} of CIFAR-{classes} is missing; found {_listed(names)}")
    if headers:
        n, n_test = (sum(_records(folder / name, labels) for name in names) for names in (train, [test]))
        shapes = ((n, 3, 32, 32), (n,), (n_test, 3, 32, 32), (n_test,))
        return Raw(*(HollowArray(shape, np.uint8) for shape in shapes), classes=classes)
    parts = [_read_cifar_file(folder / name, labels) for name in train]
    x, y = (np.concatenate(arrays) for arrays in zip(*parts))
    return Raw(x, y, *_read_cifar_file(folder / test, labels), classes=classes)


def _records(path, labels):
    """How many records a file has; UserError if it is truncated."""
    inputs.require_file(path)
    size, record = path.stat().st_size, labels + CIFAR_PIXELS
    if size % record or not size:
        raise UserError(f"{path}: truncated or different file: expected a multiple of {record} bytes (records of "
                        f"{labels} label byte{'s' * (labels > 1)} and {CIFAR_PIXELS} pixels), found {size}")
    return size // record


def _read_cifar_file(path, labels):
    """Images (n, 3, 32, 32) and the last label byte of each record (the fine one of CIFAR-100)."""
    n = _records(path, labels)
    records = np.fromfile(path, np.uint8).reshape(n, -1)
    return records[:, labels:].reshape(-1, 3, 32, 32), records[:, labels - 1]
