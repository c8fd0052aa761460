"""Folders of images: a folder for each class, as they are or within train/ and test/."""

from contextlib import contextmanager

import numpy as np

from coopmpi import inputs
from coopmpi.device.hollow import HollowArray
from coopmpi.errors import UserError, clean, missing, quoted
from coopmpi.tasks.data.formats.raw import Raw

SUFFIXES = (".png", ".jpg", ".jpeg")
OTHERS = (".bmp", ".gif", ".tif", ".tiff", ".webp")  # are not passed over without a word
TRAIN, HELD_OUT = "train", ("test", "val")
GREY, COLOUR = ("1", "L", "LA", "La"), ("P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr")  # modes of Pillow, of 8 bits
LAYOUT = "a folder for each class with PNG or JPEG files, also within train/ and test/"


def folders(folder):
    """Its folders by name, but for hidden ones."""
    return {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")}


def read(folder, how):
    """The Raw arrays of a folder: grey images (n, height, width) or others (n, 3, height, width), uint8; names of classes as labels."""
    found = folders(folder)
    by_part = {name.lower(): path for name, path in found.items()}
    held_out = next((by_part[part] for part in HELD_OUT if part in by_part), None) if TRAIN in by_part else None
    parts = [_images_of(folder)] if held_out is None else [_images_of(by_part[TRAIN]), _images_of(held_out)]
    shape = _shape([path for paths, _ in parts for path in paths], how.size)
    arrays = []
    for paths, classes in parts:
        arrays += [HollowArray((len(paths), *shape), np.uint8) if how.headers else _pixels(paths, shape), np.array(classes)]
    return Raw(*arrays)


def _images_of(folder):
    """(files, the class of each); UserError where there is a class without any."""
    found = [(path, clean(name)) for name, inside in folders(folder).items() for path in _files_in(inside)]
    if not found:
        raise UserError(f"{folder}: no folders found in it; expected {LAYOUT}")
    return tuple(zip(*found))


def _files_in(folder):
    found = []
    for path in sorted(folder.iterdir()):
        suffix = path.suffix.lower()
        if suffix in OTHERS:
            raise UserError(f"{path}: expected PNG or JPEG files, found a {suffix} file")
        if suffix in SUFFIXES and not path.name.startswith("."):
            found.append(path)
    if not found:
        raise UserError(f"{folder}: no PNG or JPEG files found; expected {LAYOUT}")
    return found


def _shape(paths, size):
    """(height, width), or (3, height, width) where an image has colours; size: what all are scaled to."""
    colour, first = False, None
    for path in paths:
        with _opened(path) as image:
            if image.mode not in GREY + COLOUR:
                raise UserError(f"{path}: expected 8 bits for each channel, found mode {quoted(image.mode)}")
            colour |= image.mode in COLOUR
            found = image.height, image.width
        first = first or found
        if found != first and size is None:
            raise UserError(f"{path}: all images must have one size, {first[0]} x {first[1]} as {paths[0].name}; found {found[0]} x "
                            f"{found[1]} (height x width); size = [{first[0]}, {first[1]}] in [task] would scale them")
    return (*(3,) * colour, *(size or first))


def _pixels(paths, shape):
    *channels, height, width = shape
    try:
        pixels = np.empty((len(paths), *shape), np.uint8)
    except (MemoryError, ValueError) as error:  # the latter for more than can be counted
        raise UserError(f"{len(paths)} images such as {paths[0]} of {height} x {width} are more than fits into the memory; size = [HEIGHT, "
                        "WIDTH] in [task] scales them") from error
    for path, out in zip(paths, pixels):
        with _opened(path) as image:
            image = image.convert("RGB" if channels else "L")
            if image.size != (width, height):
                image = image.resize((width, height))
            out[:] = np.moveaxis(np.asarray(image), -1, 0) if channels else np.asarray(image)
    return pixels


@contextmanager
def _opened(path):
    """An image; the pixels are read when they are asked for. UserError for a damaged one."""
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise missing("a folder of images", "Pillow", "images") from error
    try:
        with inputs.reading(path, "PNG or JPEG"), Image.open(path, formats=("PNG", "JPEG")) as image:
            yield image
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: {inputs.told(error)}") from error
