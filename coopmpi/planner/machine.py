"""A machine file: what `coopmpi probe` has measured, as tables that the simulator reads and people can edit."""

import os
from typing import Annotated

import msgspec
import tomli_w
from msgspec import Meta

from coopmpi import config, registry
from coopmpi.errors import UserError
from coopmpi.inputs import read_numbers
from coopmpi.ranges import Count, NonNegative
from coopmpi.registry import Part

WIDEST = 110  # characters of an array in one line


class About(Part, frozen=True, kw_only=True):
    """The [machine] table: of what the file tells.

    parameters: numbers of the model whose gradients were measured, None: not of one model; noise: share by which the same
    measurement differs from the first half to the second; hidden: share of an average that went on behind gradients.
    """

    name: str
    ranks: Annotated[int, Meta(ge=2)]
    nodes: Count = 1
    model: str = ""
    parameters: Count | None = None
    date: str = ""
    versions: str = ""
    noise: NonNegative = 0.05
    hidden: Annotated[float, Meta(ge=0, le=1)] = 0.0


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """about, and the tables of [compute] and [network] as the run description has them."""

    about: About
    compute: dict
    network: dict

    def tables(self) -> dict:
        """What a run description needs to be simulated on this machine."""
        return {"workers": self.about.ranks, "compute": self.compute, "network": self.network}


def load(path) -> Machine:
    """The machine of a file; UserError if it holds something else."""
    tables, folder = config.read(path, "machine file"), os.path.dirname(os.path.abspath(path))
    odd = sorted(tables.keys() ^ {"machine", "compute", "network"})
    if odd:
        raise UserError(f"{path}: a machine file has the tables [machine], [compute] and [network], and no other ones; "
                        f"{'given' if odd[0] in tables else 'missing'} is {odd[0]}; coopmpi probe writes one")
    try:
        about = registry.convert(tables["machine"], About, "[machine]")
        resolved = config.resolve({"workers": about.ranks, "compute": tables["compute"], "network": tables["network"], "folder": folder})
        resolved.compute.bind(about.ranks, 0, read_numbers)
        resolved.network.bind(about.ranks, read_numbers)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return Machine(about=about, compute=_absolute(tables["compute"], resolved.compute), network=_absolute(tables["network"], resolved.network))


def _absolute(table, part):
    """The table with the paths of files that the part has found."""
    return table | {key: value for key, value in msgspec.structs.asdict(part).items() if key in table and isinstance(value, str)}


def require_fits(machine: Machine, path, workers: int | None, parameters: int | None = None):
    """UserError unless the machine is one for such a run."""
    about = machine.about
    if workers not in (None, about.ranks):
        raise UserError(f"{path} tells of {about.ranks} ranks, but workers = {workers}: measure with mpirun -n {workers} coopmpi probe, "
                        f"or set workers = {about.ranks}")
    if parameters is not None and about.parameters not in (None, parameters):
        raise UserError(f"{path} was measured with a model of {about.parameters} numbers, this run has one of {parameters}: "
                        "measure again, with this run description")


def text(machine: Machine) -> str:
    """The file, with a number of digits that such a measurement is good for."""
    about = {key: value for key, value in machine.about.table().items() if value is not None}
    return "\n".join(f"[{name}]\n{_lines(table)}" for name, table in
                     (("machine", about), ("compute", machine.compute), ("network", machine.network)))


def _lines(table):
    return "".join(f"{key} = {_value(value)}\n" for key, value in table.items())


def _value(value):
    """TOML of a value; rows of numbers stand under each other."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_value(one)}" for key, one in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        inside = [_value(one) for one in value]
        line = f"[{', '.join(inside)}]"
        return line if len(line) <= WIDEST or not isinstance(value[0], (list, tuple)) else "[\n" + "".join(f"  {one},\n" for one in inside) + "]"
    if isinstance(value, float):
        value = float(f"{value:.4g}")
    return tomli_w.dumps({"x": value})[4:].strip()
