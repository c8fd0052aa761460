"""A plan as an HDF5 file: the ranking in columns, descriptions that are ready to train, and curves for the next plan."""

import json
from collections.abc import Mapping

import h5py
import numpy as np

from coopmpi.drafts import draft_of
from coopmpi.errors import UserError
from coopmpi.inputs import require_file, told
from coopmpi.record import apart

FORMAT, VERSION = "coopmpi-plan", 1
Curves = Mapping[str, tuple[list[int], list[float], str]]  # by what decides the progress: steps, figures, how the run ended


def save(path, attributes: Mapping[str, object], texts: Mapping[str, str], columns: Mapping[str, list], curves: Curves):
    """Write the file, all of it or nothing: texts at the root, the columns of /ranking, best choice first, and /curves."""
    text = h5py.string_dtype()
    try:
        with draft_of(path) as draft, h5py.File(draft, "w") as file:
            file.attrs.update({"format": FORMAT, "format_version": VERSION, **attributes})
            for name, content in texts.items():
                file.create_dataset(name, data=content, dtype=text)
            for name, column in columns.items():
                strings = isinstance(column[0], str)
                file.create_dataset(f"ranking/{name}", data=column, dtype=text if strings else None)
            for number, (key, (steps, values, end)) in enumerate(curves.items()):
                group = file.create_group(f"curves/{number}")
                # as a data set: an attribute may be too small for it
                group.create_dataset("description", data=key, dtype=text)
                group.attrs["end"] = end
                group["step"], group["figure"] = np.array(steps, np.int64), np.array(values)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {told(error)}") from error


def curves(path) -> dict[str, tuple[list[int], list[float], str]]:
    """The curves of a plan."""
    return {key: (steps, values, end) for key, steps, values, end in _read(path, _curves)}


def _curves(file):
    for group in file["curves"].values() if "curves" in file else ():
        yield [group["description"].asstr()[()], group["step"][:].tolist(), group["figure"][:].tolist(), str(group.attrs["end"])]


def choices(path) -> list[dict]:
    """What the columns of /ranking hold, a dict for each choice."""
    return list(_read(path, _choices))


def _choices(file):
    if "ranking" not in file:
        return
    table = file["ranking"]
    columns = {name: (data.asstr()[:] if data.dtype.kind == "O" else data[:]).tolist() for name, data in table.items()}
    for row in zip(*columns.values()):
        yield dict(zip(columns, row))


def _read(path, extract):
    require_file(path)

    def work():
        with h5py.File(path, "r") as file:
            if str(file.attrs.get("format")) != FORMAT:
                raise UserError(f"{path}: not a plan of coopmpi plan (attribute format is not {FORMAT!r})")
            yield from map(json.dumps, extract(file))

    return map(json.loads, apart.texts(path, work))
