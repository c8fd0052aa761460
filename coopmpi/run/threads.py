"""How many threads NumPy may take."""

import os

from threadpoolctl import threadpool_info, threadpool_limits


def limit(config, ranks_here):
    """Share the cores of the node among its ranks; one thread each where sums must not depend on their number."""
    share = 1 if config.deterministic else max(1, len(os.sched_getaffinity(0)) // ranks_here)
    threadpool_limits({pool["prefix"]: min(share, pool["num_threads"]) for pool in threadpool_info()})
