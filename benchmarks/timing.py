"""Fair comparisons on a machine that other programs use too."""

from statistics import median
from time import perf_counter
from typing import NamedTuple


class Timing(NamedTuple):
    """Of one candidate: median seconds, and the median over the rounds of seconds / seconds of the first."""

    seconds: float
    ratio: float


def interleaved(candidates, repeats, warm_up=2, clock=perf_counter):
    """{name: Timing} of {name: callable}: in each of `repeats` rounds every candidate runs once, in turn.

    What slows the machine down for a while slows all candidates of a round alike, so that ratios within a round
    are steadier than times. clock: time.thread_time leaves out what other programs take, of work on one thread.
    """
    for _ in range(warm_up):
        for run in candidates.values():
            run()
    rounds = [{name: _seconds(run, clock) for name, run in candidates.items()} for _ in range(repeats)]
    first = next(iter(candidates))
    return {name: Timing(median(r[name] for r in rounds), median(r[name] / r[first] for r in rounds))
            for name in candidates}


def table(headings, rows):
    """Print a markdown table."""
    for row in (headings, ["---"] * len(headings), *rows):
        print(f"| {' | '.join(str(cell) for cell in row)} |", flush=True)


def _seconds(run, clock):
    start = clock()
    run()
    return clock() - start
