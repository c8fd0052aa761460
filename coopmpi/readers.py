"""Keys that nobody reads: a key that plays no part in its run would be a wrong line in a paper, so it is refused."""

from collections import defaultdict
from typing import Any, NamedTuple

import msgspec

from coopmpi import registry
from coopmpi.errors import UserError, shortened
from coopmpi.registry import NONZERO, Part

MOST = 6  # readers that a message names


class Reader(NamedTuple):
    """Who decides that a key is not read: `key` has `value`, and would read it if it were one of `instead`."""

    key: str  # dotted, as "algorithm.kind"
    value: Any
    instead: tuple  # None stands for unset, NONZERO for any number but 0


Unread = dict[str, Reader]  # {dotted key that is not read: who decides on it}


def unread(config) -> Unread:
    """All keys that play no part in a run, whether they were given or not; config: a coopmpi.vocabulary.Config."""
    found, graph = {}, config.mixing.graph
    for table in config.__struct_fields__:
        part = getattr(config, table)
        if isinstance(part, Part):
            found |= _within(table, part)
    found |= _within("mixing", graph)
    if graph.weighs:
        found["mixing.weights"] = Reader("mixing.graph", graph.name, _having("graph", lambda cls: not cls.weighs))
    without_graph = found.pop("algorithm.[mixing]", None)
    return found | _left_by_algorithm(config, without_graph)


def of_other_kinds(table: str, keys: dict) -> Unread:
    """Which keys of a table belong to other kinds than its own."""
    own = registry.find(table, keys["kind"]).__struct_fields__
    return of_other_choices(f"{table}.kind", keys["kind"], [key for key in keys if key not in ("kind", *own)], table)


def of_other_choices(selector: str, chosen: str, keys, kind: str) -> Unread:
    """Which of the keys parts of that kind have; selector: the dotted key by which the one is chosen that does not have them."""
    owners = defaultdict(tuple)
    for name, cls in registry.parts(kind).items() if keys else ():
        for key in cls.__struct_fields__:
            owners[key] += (name,)
    table = selector.partition(".")[0]
    return {f"{table}.{key}": Reader(selector, chosen, owners[key]) for key in keys if key in owners}


def refusal(unread: Unread) -> UserError:
    """The error for keys that were given and are not read: who reads them, and what to do."""
    by_key = defaultdict(lambda: defaultdict(list))
    for key, reader in unread.items():
        by_key[reader.key, _toml(reader.value)][reader.instead].append(key)
    return UserError("; ".join(_sentence(*decider, groups) for decider, groups in by_key.items()))


def _within(table, part):
    """By the `read_with` of a part."""
    def decider(key):
        if key not in part.read_with:
            return None
        selector, *allowed = part.read_with[key]
        if not hasattr(part, selector):
            raise UserError(f"[{table}] {part.name}: its read_with names {selector!r}, which is no key of it")
        value = getattr(part, selector)
        fits = any(value if one is NONZERO else value == one for one in allowed)
        return decider(selector) or (None if fits else Reader(f"{table}.{selector}", value, tuple(allowed)))

    found = {f"{table}.{key}": decider(key) for key in part.read_with}
    return {key: reader for key, reader in found.items() if reader}


def _left_by_algorithm(config, without_graph):
    """Which keys of [period], [mixing] and [compress]; without_graph: the key of the algorithm by which it leaves all [mixing] alone."""
    algorithm, found = config.algorithm, {}

    def left(table, keys, reads):
        reader = Reader("algorithm.kind", algorithm.name, _having("algorithm", reads))
        found.update({f"{table}.{key}": reader for key in keys})

    if not algorithm.uses_period:
        left("period", ("kind", *config.period.table()), lambda cls: cls.uses_period)
    if not algorithm.uses_mixing:
        left("mixing", config.mixing.table(), lambda cls: cls.uses_mixing)
    elif algorithm.push_sum:
        left("mixing", ("weights",), lambda cls: cls.uses_mixing and not cls.push_sum)
    if without_graph:
        found |= {f"mixing.{key}": without_graph for key in config.mixing.table()}
    if not (algorithm.uses_compress or config.compress.halves or config.compress.name == "none"):
        left("compress", ("kind", *config.compress.table()), lambda cls: cls.uses_compress)
    return found


def _having(kind, reads):
    return tuple(name for name, cls in registry.parts(kind).items() if reads(cls))


def _sentence(decider, value, groups):
    """groups: {who would read: keys}."""
    keys = [key for several in groups.values() for key in several]
    told = ", ".join(f"{' and '.join(several)} ({_readers(decider, instead)})" for instead, several in groups.items())
    elsewhere = [key.partition(".")[0] for key in keys if key.partition(".")[0] != decider.partition(".")[0]]
    empty = f" (--set '{elsewhere[0]}={{}}' empties a table)" if elsewhere else ""
    those = "it" if len(keys) == 1 else "them"
    return f"{decider} = {shortened(value)} does not read {told}: remove {those}{empty}, or choose another {decider}"


def _readers(decider, instead):
    if instead == (None,):
        return f"read where {decider} is unset"
    if instead == (NONZERO,):
        return f"read where {decider} is not 0"
    names = ", ".join(map(str, instead[:MOST]))
    return f"read by {names}" + (f" and {len(instead) - MOST} others" if len(instead) > MOST else "")


def _toml(value):
    return msgspec.json.encode(value).decode()
