"""Numbers that keys may have."""

from typing import Annotated

from msgspec import Meta

LARGEST_RUN = 10**6  # workers

Count = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]
NonNegative = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(gt=0, le=1)]  # a part of something, possibly all of it
Fraction = Annotated[float, Meta(ge=0, lt=1)]  # possibly nothing, never all of it
Whole = Annotated[int, Meta(ge=0)]
Column = Count | str  # of a table: its number, from 1, or its name
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Seconds = Annotated[float, Meta(ge=0, le=1e9)]  # of a simulated machine: up to 30 years
