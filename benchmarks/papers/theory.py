"""What theory expects of a run."""

import numpy as np


def consensus_per_noise(tables):
    """The stationary consensus distance per sigma^2 = E||g - grad F||^2, where the gradient is all noise:

        lr^2 / (2 m) sum_{j=2..m} [tau (1 + lambda_j^2) / (1 - lambda_j^2) - 1]

    tables: a run description with a constant lr and no momentum. NaN where it is 0, and for an algorithm that is not
    X <- W (X - lr G) every tau steps with a symmetric W of the workers alone.
    """
    from coopmpi import config
    from coopmpi.theory.consensus import stationary_consensus

    run = config.resolve(tables)
    graph = run.mixing.bind(run.workers, run.seed).matrix(0).toarray()
    form = run.algorithm.matrix_form(run.workers, run.period.tau, graph)
    if form is None or form[2] or not np.array_equal(form[1], form[1].T):
        return np.nan
    tau, w, _ = form
    return stationary_consensus(np.linalg.eigvalsh(w), tau, run.optimizer.lr, noise=1.0) or np.nan
