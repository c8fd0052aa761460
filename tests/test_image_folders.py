"""Folders of images, whole and damaged."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from coopmpi.errors import UserError
from coopmpi.tasks.data.sets import load, outline
from tests.in_process import coopmpi, refused

RNG = np.random.default_rng(0)
GREY, COLOURS = RNG.integers(0, 256, (12, 6, 5), np.uint8), RNG.integers(0, 256, (12, 6, 5, 3), np.uint8)
CLASSES = ("cat", "dog", "eel")


def write(folder, pixels, suffix=".png", classes=CLASSES):
    """An image of each array, in the folders of the classes in turn; hidden files and others lie beside."""
    for i, image in enumerate(pixels):
        path = folder / classes[i % len(classes)] / f"{i:03}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    (folder / ".cache").mkdir()
    (folder / classes[0] / ".hidden.png").write_bytes(b"")
    (folder / classes[0] / "notes.txt").write_text("no image")


def read(folder, **keys):
    return load(folder, "classify", "float64", 0, **keys)


def pairs(data, shape):
    """All images with the names of their classes, as bytes and in an order of their own."""
    x, y = np.concatenate([data.x_train, data.x_test]).reshape(-1, *shape), np.concatenate([data.y_train, data.y_test])
    return sorted((image.tobytes(), data.names[label]) for image, label in zip(x, y))


def message_of(folder, *keys):
    return refused("train", "--dry-run", f"--set=task.data={folder}", *(f"--set=task.{key}" for key in keys))


# folders that can be read
@pytest.mark.parametrize("suffix", [".png", ".PNG"])
def test_a_folder_for_each_class(tmp_path, suffix):
    write(tmp_path, GREY, suffix)
    data = read(tmp_path)
    assert (data.shape, data.classes, data.names, data.x_train.dtype) == ((1, 6, 5), 3, CLASSES, np.uint8)
    assert pairs(data, (6, 5)) == sorted((image.tobytes(), CLASSES[i % 3]) for i, image in enumerate(GREY))
    np.testing.assert_array_equal(data.inputs(data.x_train), data.x_train / 255)
    assert outline(tmp_path, "classify") == (30, (1, 6, 5), 3, 10)


def test_colours_come_channel_first(tmp_path):
    write(tmp_path, COLOURS)
    data = read(tmp_path)
    assert data.shape == (3, 6, 5)
    first = np.moveaxis(COLOURS, 3, 1)
    assert pairs(data, (3, 6, 5)) == sorted((image.tobytes(), CLASSES[i % 3]) for i, image in enumerate(first))


def test_jpeg_is_read_as_pillow_reads_it(tmp_path):
    write(tmp_path, COLOURS, ".jpg")
    (tmp_path / "cat" / "000.jpg").rename(tmp_path / "cat" / "000.jpeg")
    files = sorted(tmp_path.glob("*/0*.jp*g"))
    seen = [(np.moveaxis(np.asarray(Image.open(path)), 2, 0).tobytes(), path.parent.name) for path in files]
    assert pairs(read(tmp_path), (3, 6, 5)) == sorted(seen) and len(files) == 12


@pytest.mark.parametrize("names", [("train", "test"), ("Train", "Test"), ("train", "val")])
def test_a_held_out_part_of_its_own(tmp_path, names):
    for name, part in zip(names, (GREY[:9], GREY[9:])):
        write(tmp_path / name, part)
    data = read(tmp_path)
    assert len(data.x_train) == 9 and data.y_test.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(data.x_test.reshape(3, 6, 5), GREY[9:])


@pytest.mark.parametrize("mode, channels", [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGB", 3), ("RGBA", 3)])
def test_modes_of_png(tmp_path, mode, channels):
    write(tmp_path, GREY)
    for path in tmp_path.glob("*/0*.png"):
        Image.open(path).convert(mode).save(path)
    data = read(tmp_path)
    assert data.shape == (channels, 6, 5)
    seen = [np.asarray(Image.open(path).convert("L" if channels == 1 else "RGB")) for path in sorted(tmp_path.glob("*/0*.png"))]
    order = [(image if channels == 1 else np.moveaxis(image, 2, 0)).tobytes() for image in seen]
    assert [image for image, _ in pairs(data, (channels, 6, 5))] == sorted(order)


def test_one_image_in_colour_makes_all_of_them_so(tmp_path):
    write(tmp_path, [*GREY, COLOURS[0]])
    data = read(tmp_path)
    assert data.shape == (3, 6, 5) and len(data.x_train) + len(data.x_test) == 13
    assert np.moveaxis(COLOURS[0], 2, 0).tobytes() in [image for image, _ in pairs(data, (3, 6, 5))]


def test_folders_named_by_numbers_are_these_classes(tmp_path):
    write(tmp_path, [*GREY, *GREY[:10]], classes=[str(i) for i in range(11)])
    data = read(tmp_path)
    assert (data.classes, data.names, data.notes) == (11, (), ())
    x, y = np.concatenate([data.x_train, data.x_test]), np.concatenate([data.y_train, data.y_test])
    assert y[(x == GREY[10].ravel()).all(axis=1)] == [10]


def test_size_scales_what_differs(tmp_path):
    write(tmp_path, [*GREY, GREY[0, :4, :4]])
    with pytest.raises(UserError, match=r"dog/|cat/012.png.*6 x 5 as 000.png.*found 4 x 4.*size = \[6, 5\]"):
        read(tmp_path)
    data = read(tmp_path, size=(8, 7))
    assert data.shape == (1, 8, 7)
    seen = [np.asarray(Image.open(path).resize((7, 8))).tobytes() for path in sorted(tmp_path.glob("*/0*.png"))]
    assert [image for image, _ in pairs(data, (8, 7))] == sorted(seen)
    assert outline(tmp_path, "classify", size=(8, 7)).shape == (1, 8, 7)


# folders that cannot
def png(width, height, pixels=b"", depth=8):
    """A grey PNG file that declares this size."""
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">2I5B", width, height, depth, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


WHOLE = png(5, 6, b"\0\1\2\3\4\5" * 6)
BAD = {
    "empty": (b"", "no PNG or JPEG file"), "text": (b"no image", "no PNG or JPEG file"), "a GIF": (b"GIF89a" + bytes(40), "PNG or JPEG"),
    "cut": (WHOLE[:40], "PNG or JPEG"), "half": (WHOLE[:-30], ""), "other size": (png(6, 5, b"\0" * 35), "6 x 5 as 000.png; found 5 x 6"),
    "a flipped bit": (WHOLE[:50] + bytes([WHOLE[50] ^ 8]) + WHOLE[51:], ""), "no pixels": (png(5, 6), ""),
    "16 bits": (png(5, 6, bytes(66), depth=16), "8 bits for each channel"),
    "a bomb": (png(2**15, 2**15, bytes(99)), ""), "a larger bomb": (png(2**31 - 1, 2**31 - 1), ""), "no size": (png(0, 6), ""),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("keys", [[], ["size=[6, 5]"]], ids=["", "size"])
def test_a_damaged_image_is_named(tmp_path, case, keys):
    write(tmp_path, GREY)
    content, words = BAD[case]
    (tmp_path / "dog" / "bad.png").write_bytes(content)
    if case == "other size" and keys:
        return
    message = message_of(tmp_path, *keys)
    assert "dog/bad.png" in message and words in message, message


def test_a_jpeg_that_is_cut_anywhere_is_refused(tmp_path):
    write(tmp_path, COLOURS, ".jpg")
    path = tmp_path / "dog" / "001.jpg"
    content = path.read_bytes()
    for length in range(0, len(content) - 40, 30):
        path.write_bytes(content[:length])
        assert "dog/001.jpg" in message_of(tmp_path)


@pytest.mark.parametrize("what", ["pipe", "folder", "dangling"])
def test_what_is_no_file_among_the_images(tmp_path, what):
    write(tmp_path, GREY)
    path = tmp_path / "dog" / "bad.png"
    {"pipe": os.mkfifo, "folder": os.mkdir, "dangling": lambda name: os.symlink("nowhere", name)}[what](path)
    assert "dog/bad.png" in message_of(tmp_path)


@pytest.mark.parametrize("change, words", [
    (lambda folder: (folder / "fox").mkdir(), ["fox", "no PNG or JPEG files"]),
    (lambda folder: (folder / "cat" / "photo.bmp").write_bytes(b""), ["photo.bmp", "PNG or JPEG files, found a .bmp file"]),
    (lambda folder: [(folder / "train" / "cat").mkdir(parents=True), (folder / "test").mkdir()], ["train/cat", "no PNG or JPEG files"]),
    (lambda folder: [path.rename(folder / "cat" / path.name) for name in ("dog", "eel") for path in folder.glob(f"{name}/*")]
     + [(folder / name).rmdir() for name in ("dog", "eel")], ["at least 2 classes"]),
])
def test_folders_that_hold_something_else(tmp_path, change, words):
    write(tmp_path, GREY)
    change(tmp_path)
    message = message_of(tmp_path)
    assert all(word in message for word in words), message


def test_a_class_that_only_the_test_part_has(tmp_path):
    write(tmp_path / "train", GREY)
    write(tmp_path / "test", GREY[:4], classes=("cat", "fox"))
    message = message_of(tmp_path)
    assert "must be cat, dog, eel as in training" in message and "2 of 4 values" in message


def test_numbers_among_names_are_names_in_the_test_part_too(tmp_path):
    write(tmp_path / "train", GREY, classes=("1", "02", "three"))
    write(tmp_path / "test", GREY[:4], classes=("1", "02"))
    data = read(tmp_path)
    assert data.names == ("02", "1", "three") and data.y_test.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("key, words", [
    ("label=1", ["label is for CSV and TSV files", "plays no part"]), ("size=[0, 8]", ["size", ">= 1"]), ("size=8", ["size", "8"]),
    ("size=[100000000, 100000000]", ["12 images", "memory", "size"]), ("kind=regress", ["integers or floats", "found <U"]),
])
def test_keys_that_do_not_fit_images(tmp_path, key, words):
    write(tmp_path, GREY)
    message = message_of(tmp_path, key)
    assert all(word in message for word in words), message


def test_without_pillow_a_sentence_says_what_to_install(tmp_path, monkeypatch):
    write(tmp_path, GREY)
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    assert "pip install 'coopmpi[images]'" in message_of(tmp_path)


# as users see it
@pytest.mark.parametrize("task", [{"model": "cnn"}, {"kind": "torch", "module": "net:net"}], ids=["cnn", "torch"])
def test_a_run_on_images_names_its_classes(tmp_path, monkeypatch, task):
    if "module" in task:
        pytest.importorskip("torch")
        (tmp_path / "net.py").write_text("from torch import nn\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(48, 3))\n")
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "pets", RNG.integers(0, 256, (40, 8, 8), np.uint8))
    keys = [f"--set=task.{key}={value}" for key, value in ({"data": "pets", "size": "[4, 12]", "batch": 4} | task).items()]
    status, _, message = coopmpi("train", *keys, "--set=steps=5", "-o", "run.h5")
    assert status == 0, message
    assert "classes    3: cat, dog, eel" in coopmpi("inspect", "run.h5")[1]
