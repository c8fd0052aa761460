"""IDX files, as those of MNIST: big-endian, two zero bytes, type code, number of axes, sizes, values."""

import gzip
import os
import re
import zlib
from pathlib import Path

import numpy as np

from coopmpi.device.hollow import HollowArray
from coopmpi.errors import UserError
from coopmpi.tasks.data.formats.raw import Raw

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
HEADER = 4 + 4 * 4  # bytes at most


def image_sets(names):
    """The images files of training sets among the names in a folder, without .gz."""
    return sorted({name.removesuffix(".gz") for name in names if re.search(r"train-images.idx3", name)})


def read_folder(folder, how):
    """The Raw arrays of the four files of the MNIST family."""
    images = image_sets(entry.name for entry in folder.iterdir())
    if len(images) > 1:
        raise UserError(f"{folder}: holds several IDX sets; name one of its files: {', '.join(images)}")
    return read(folder / images[0], how, needs_test=True)


def read(images, how, needs_test=False):
    """The Raw arrays of an images file: the training pair and, where they lie beside it, the test pair."""
    if "images" not in images.name:
        raise UserError(f"{images}: expected an IDX images file, whose name contains 'images' and gives the name "
                        f"of the labels file; found {images.name}")
    x, y = _read_pair(images, how.headers)
    for test in ("t10k", "test"):
        test_images = images.with_name(images.name.replace("train", test))
        pair = [_existing(p) for p in (test_images, _labels_of(test_images))]
        if test_images != images and any(pair):
            return Raw(x, y, *_read_pair(test_images, how.headers))
    if needs_test:
        raise UserError(f"{images.parent}: expected the four files of the MNIST family, found no test pair "
                        f"(t10k-images..., t10k-labels...); name the images file to split a test part off it")
    return Raw(x, y)


def _read_pair(images, headers):
    x, y = _read_file(images, headers), _read_file(_labels_of(images))
    if len(x) != len(y):
        raise UserError(f"{images}: {len(x)} images, but {len(y)} labels in {_labels_of(images).name}")
    return x, y


def _labels_of(images):
    return images.with_name(images.name.replace("images", "labels").replace("idx3", "idx1"))


def _existing(path):
    """The file, plain or with .gz, whichever exists; None without."""
    plain = path.with_name(path.name.removesuffix(".gz"))
    return next((p for p in (path, plain, Path(f"{plain}.gz")) if os.path.isfile(p)), None)


def _read_file(path, header=False):
    found = _existing(path)
    if found is None:
        raise UserError(f"{path}: no such file, nor with or without .gz")
    try:
        with gzip.open(found) if found.suffix == ".gz" else open(found, "rb") as file:
            content = file.read(HEADER if header else -1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{found}: truncated or damaged gzip file ({error})") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in TYPES or not 1 <= content[3] <= 4:
        raise UserError(f"{found}: expected an IDX file, which starts with 00 00, a type code of 08 to 0e and the "
                        f"number of axes, 1 to 4; found {content[:4].hex(' ') or 'an empty file'}")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise UserError(f"{found}: truncated IDX file: expected a header of {start} bytes, found {len(content)}")
    dtype, shape = np.dtype(TYPES[content[2]]), [int(n) for n in np.frombuffer(content[4:start], ">u4")]
    if header:
        return HollowArray(shape, dtype)
    expected = start + dtype.itemsize * int(np.prod(shape, dtype=object))
    if len(content) != expected:
        fault = "truncated" if len(content) < expected else "too long"
        raise UserError(f"{found}: {fault} IDX file: shape {tuple(shape)} makes {expected} bytes, "
                        f"found {len(content)}")
    return np.frombuffer(content, dtype, offset=start).reshape(shape)
