"""Binary folders of CIFAR-10 and CIFAR-100: records of label bytes and 3072 pixels, channel first."""

import re

import numpy as np

from coopmpi import inputs
from coopmpi.device.hollow import HollowArray
from coopmpi.errors import UserError
from coopmpi.tasks.data.formats.raw import Raw, listed

PIXELS = 3 * 32 * 32


def is_binary(names):
    """Are there files of a binary version among the names in a folder?"""
    return any(re.fullmatch(r"data_batch_\d+\.bin|train\.bin|test(_batch)?\.bin", name) for name in names)


def refuse_python_version(folder, names):
    """UserError for the version that is made of pickles."""
    if "data_batch_1" in names or ({"train", "meta"} <= set(names) and (folder / "train").is_file()):
        raise UserError(f"{folder}: this is the Python version of CIFAR, made of pickles, which are never loaded; "
                        f"take the binary version (cifar-10-binary.tar.gz or cifar-100-binary.tar.gz) instead")


def read(folder, how):
    """The Raw arrays of a folder."""
    names = sorted(entry.name for entry in folder.iterdir())
    if "train.bin" in names or "test.bin" in names:  # CIFAR-100: coarse and fine label
        train, test, labels, classes = ["train.bin"], "test.bin", 2, 100
    else:
        batches = sum(re.fullmatch(r"data_batch_\d+\.bin", name) is not None for name in names)
        train = [f"data_batch_{i + 1}.bin" for i in range(max(batches, 1))]
        test, labels, classes = "test_batch.bin", 1, 10
    for name in (*train, test):
        if name not in names:
            raise UserError(f"{folder}: {name} of CIFAR-{classes} is missing; found {listed(names)}")
    if how.headers:
        n, n_test = (sum(_records(folder / name, labels) for name in names) for names in (train, [test]))
        shapes = ((n, 3, 32, 32), (n,), (n_test, 3, 32, 32), (n_test,))
        return Raw(*(HollowArray(shape, np.uint8) for shape in shapes), classes=classes)
    parts = [_read_file(folder / name, labels) for name in train]
    x, y = (np.concatenate(arrays) for arrays in zip(*parts))
    return Raw(x, y, *_read_file(folder / test, labels), classes=classes)


def _records(path, labels):
    """How many records a file has; UserError if it is truncated."""
    inputs.require_file(path)
    size, record = path.stat().st_size, labels + PIXELS
    if size % record or not size:
        raise UserError(f"{path}: truncated or different file: expected a multiple of {record} bytes (records of "
                        f"{labels} label byte{'s' * (labels > 1)} and {PIXELS} pixels), found {size}")
    return size // record


def _read_file(path, labels):
    """Images (n, 3, 32, 32) and the last label byte of each record (the fine one of CIFAR-100)."""
    n = _records(path, labels)
    records = np.fromfile(path, np.uint8).reshape(n, -1)
    return records[:, labels:].reshape(-1, 3, 32, 32), records[:, labels - 1]
