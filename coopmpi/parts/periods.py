"""When workers cooperate: the period tau between communication rounds."""

from typing import Annotated, ClassVar

from msgspec import Meta

from coopmpi.registry import Part, register


class Period(Part, frozen=True, kw_only=True):
    """Base: is a round due after step k, and which round is it?"""

    name: ClassVar[str]


@register("period", "every")
class Every(Period, frozen=True, kw_only=True):
    """A round after every tau steps: when (k + 1) % tau == 0."""

    tau: Annotated[int, Meta(ge=1)] = 8

    def due(self, k):
        return (k + 1) % self.tau == 0

    def round(self, k):
        """Index of the last round at or before step k, counted from 0."""
        return (k + 1) // self.tau - 1
