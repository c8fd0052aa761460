"""The base of all choices of `[task] kind`."""

from dataclasses import replace
from typing import ClassVar

from coopmpi.device.host import Host
from coopmpi.registry import Part
from coopmpi.tasks.problem import Place


class Task(Part, frozen=True, kw_only=True):
    """What is trained. Fields are the keys of the [task] table."""

    name: ClassVar[str]

    @property
    def lr(self) -> float | None:
        """The learning rate of plain SGD where that of [optimizer] would be too large; None: it is not."""
        return None

    def device(self, chosen):
        """The device of the whole run, where the task computes by other means than the chosen one offers."""
        return chosen

    def prepare(self, place: Place):
        """The problem of one rank: anything with the members of coopmpi.tasks.problem.Problem."""
        raise NotImplementedError

    def outline(self, place: Place):
        """The same problem without its data: `dimension`, and where there are such `layout`, `samples` and `batch`."""
        # the device of a place without numbers has no memory
        return self.prepare(replace(place, device=self.device(Host())))
