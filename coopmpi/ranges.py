"""What keys may have as values."""

from collections.abc import Callable, Iterable
from typing import Annotated, Any

import msgspec
from msgspec import Meta

# numbers
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


# paths, see coopmpi.places
OUTPUT = "output"  # of a file that is written


def file_or(*names: str, also: Callable[[], Iterable[str]] = tuple) -> Any:
    """The type of a key that names a file or folder of the user's, or else one of the names; also: gives further ones."""
    return Annotated[str, Meta(extra={"files": lambda: (*names, *also())})]


File = file_or()
OutputFile = Annotated[str, Meta(extra={"files": OUTPUT})]


def names_beside_files(kind: Any) -> Callable[[], tuple[str, ...]] | str | None:
    """What a key of that type may be other than a file: a function that gives the names; OUTPUT, or None for a key that names none."""
    return next((info.extra["files"] for info in _infos(kind) if isinstance(info, msgspec.inspect.Metadata) and info.extra), None)


# words
def literals(kind: Any) -> tuple[str, ...]:
    """The words that a type allows, if it allows nothing else (but None)."""
    words = [getattr(info, "values", None) for info in _infos(kind) if not isinstance(info, msgspec.inspect.NoneType)]
    return words[0] if len(words) == 1 and words[0] else ()


def _infos(kind):
    info = msgspec.inspect.type_info(kind)
    return info.types if isinstance(info, msgspec.inspect.UnionType) else (info,)
