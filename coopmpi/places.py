"""Where users' files and modules are: in the folder of the run description, then in the working directory."""

import os
import sys
from functools import cache

import msgspec

from coopmpi.errors import CONTROL
from coopmpi.ranges import OUTPUT, names_beside_files


def found(path: str, folder: str) -> str:
    """The absolute path of a user's file or folder; as it was given, where there is none that text can name."""
    if CONTROL.search(path):
        return path
    home = os.path.expanduser(path)
    places = (os.path.abspath(os.path.join(place, home)) for place in (folder, os.getcwd()))
    return next((place for place in places if os.path.exists(place) and not CONTROL.search(place)), path)


def located(part: msgspec.Struct, folder: str) -> msgspec.Struct:
    """The part with absolute paths of the files that it names; those that it writes lie in the working directory."""
    changed = {}
    for key, names in _files_of(type(part)).items():
        value = getattr(part, key)
        if isinstance(value, str) and names is OUTPUT:
            changed[key] = os.path.abspath(os.path.expanduser(value))
        elif isinstance(value, str) and value not in names():
            changed[key] = found(value, folder)
    return msgspec.structs.replace(part, **changed) if changed else part


def search(folder: str) -> None:
    """Let users' modules be looked for in this folder first, then in the working directory."""
    for place in (os.getcwd(), os.path.abspath(folder)):
        if place in sys.path:
            sys.path.remove(place)
        sys.path.insert(0, place)


@cache
def _files_of(cls):
    """{key that may name a file: names_beside_files of its type}."""
    found = {field.name: names_beside_files(field.type) for field in msgspec.structs.fields(cls)}
    return {key: names for key, names in found.items() if names is not None}
