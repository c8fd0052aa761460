"""Who is linked with whom in a run, seen from one rank; hence what a request moves."""

from functools import cached_property

import numpy as np

from coopmpi.drivers.exchange_schedule import ExchangeSchedule, RowWeights
from coopmpi.drivers.rank_layout import Group, RankLayout
from coopmpi.errors import Misuse
from coopmpi.step import traffic
from coopmpi.step.traffic import Traffic
from coopmpi.topology.matrix import MixingMatrix

MOST_KEPT = 1000  # schedules, or weights, of as many phases: random graphs have many


class Wiring:
    """The rank layout, the mixing matrix (None without one), and the exchange schedules that follow."""

    def __init__(self, layout: RankLayout, rank: int, mixing: MixingMatrix | None):
        self.layout, self.rank, self.mixing = layout, rank, mixing
        self.workers, self.hosted = layout.workers, layout.hosted(rank)
        self._schedules, self._weights, self._recalled, self._groups = {}, {}, {}, {}

    # what a request moves
    def averages(self, round: int) -> bool:
        """Is W = J in this round, so that an average does the same as an exchange?"""
        return self.mixing.average(round)

    def exchange(self, round: int, nbytes) -> Traffic:
        """A message of nbytes from every worker to all that receive from it in this round."""
        return traffic.exchange(self.schedule(round).links, nbytes)

    def to_all_who_remember(self, nbytes) -> Traffic:
        """A message of nbytes (b,) from every worker to all that receive from it in any round."""
        return traffic.exchange(self.audience.links, nbytes)

    def average(self, nbytes: float, group: int | None = None) -> Traffic:
        """A mean of vectors of nbytes over all workers, or over each group of so many consecutive ones."""
        group = group or self.workers
        if self.workers % group:
            raise Misuse(f"Mean over a group of {group}: {self.workers} workers make no equal groups of that size")
        return traffic.average(len(self.hosted), group, nbytes, self.workers)

    def to_owners(self, ranges) -> Traffic:
        """The parts of all workers' packets to the owners of the ranges."""
        return traffic.reduce(_sizes(ranges), slice(self.hosted.start, self.hosted.stop))

    def from_owners(self, ranges) -> Traffic:
        """The packed ranges from their owners to all workers."""
        return traffic.gather(_sizes(ranges), slice(self.hosted.start, self.hosted.stop))

    def through_owners(self, ranges) -> Traffic:
        """Both, one after the other."""
        return traffic.reduce_and_gather(_sizes(ranges), slice(self.hosted.start, self.hosted.stop))

    # how rows move
    def schedule(self, round: int) -> ExchangeSchedule:
        """Which rows this rank sends and receives in a round."""
        return self._kept(self._schedules, round,
                          lambda: ExchangeSchedule(self.mixing, [round], self.layout, self.rank))

    def weights(self, round: int) -> RowWeights:
        """How the local rows of W X add up from the rows that the round's schedule brings."""
        return self._kept(self._weights, round, lambda: self.schedule(round).weights(self.mixing, round))

    @cached_property
    def audience(self) -> ExchangeSchedule:
        """The schedule over the links of all rounds: who ever needs a worker's model remembers a copy of it."""
        whole = self.mixing.whole
        return ExchangeSchedule(whole, range(whole.cycle), self.layout, self.rank)

    def recalled(self, round: int) -> RowWeights:
        """How the local rows of W H add up from the remembered copies H."""
        return self._kept(self._recalled, round, lambda: self.audience.weights(self.mixing, round))

    def groups(self, size: int) -> list[Group]:
        """The groups of so many consecutive workers that this rank has a part in."""
        if size not in self._groups:
            self._groups[size] = self.layout.groups(size, self.rank)
        return self._groups[size]

    def bytes_of(self, ranges, rank: int) -> slice:
        """Where in a packet the ranges lie that the workers of a rank own."""
        owners = self.layout.hosted(rank)
        return slice(ranges.places[owners.start].start, ranges.places[owners.stop - 1].stop)

    def _kept(self, kept, round, make):
        phase = self.mixing.phase(round)
        if phase not in kept:
            if len(kept) >= MOST_KEPT:
                kept.clear()
            kept[phase] = make()
        return kept[phase]


def _sizes(ranges):
    return np.array([place.stop - place.start for place in ranges.places], float)
