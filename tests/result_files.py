"""Result files as the program writes them: runs of this process, and long ones whose numbers are made up."""

import numpy as np

from coopmpi import config
from coopmpi.drivers.solo import Solo
from coopmpi.record.writer import Writer
from coopmpi.run import session
from coopmpi.run.assemble import assemble
from coopmpi.sinks import About, StepRows
from tests.runs import read

TABLES = {"workers": 4, "steps": 60, "device": "cpu", "record": {"eval_every": 10}, "task": {"hidden": [8]}, "optimizer": {"lr": 0.5}}


def made(path, mode="train", **tables):
    """The path of the result of a short run."""
    session.train(assemble(config.resolve(read(TABLES | tables)), Solo(), mode), Solo(), path)
    return str(path)


def made_up(path, steps, workers, seed=0, status="finished", per_worker=True, losses=None, **tables):
    """The path of a result of any length: worker 1 computes twice as long as the others, who wait for it at the end of each period."""
    description = config.resolve({"workers": workers, "steps": steps, "seed": seed} | tables)
    tau = description.period.tau
    writer, draw = Writer(path), np.random.default_rng(seed)
    about = About(config.dump(description), workers, steps, 1, "float32", "train", {"ranks": workers, "node_ranks": workers, "node_cores": workers, "mpi": "none", "device": "cpu"},
                  figures={"loss": ("1", "loss"), "accuracy": ("1", "share")}, per_worker=per_worker)
    writer.open(about)
    for first in range(0, steps, 1000):
        n = min(1000, steps - first)
        at = np.arange(first, first + n)
        compute = np.where(np.arange(workers) == 1, 0.02, 0.01) * np.ones((n, 1))
        rounds = ((at + 1) % tau == 0)[:, None]
        wait = rounds * tau * (0.02 - compute)
        # the slowest one decides; rank 0 waits at the end of a period only
        wall_time = np.cumsum(compute[:, 0] + wait[:, 0]) + first // tau * tau * 0.02
        loss = (losses[at] if losses is not None else np.exp(-at / steps * 4) + 0.1)[:, None] + 0.01 * draw.normal(size=(n, workers))
        writer.steps(StepRows(first, wall_time, np.full(n, tau), np.full(n, 0.1), np.zeros(n), loss, compute, wait, rounds * np.full(workers, 1e6), None))
        writer.evaluation(first + n, wall_time[-1], {"loss": float(loss[-1].mean()), "accuracy": 0.5, "consensus": 0.1})
    writer.close(status)
    return str(path)
