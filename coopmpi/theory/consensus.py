"""What the theory of Cooperative SGD says about disagreement."""

import numpy as np


def stationary_consensus(values, tau, lr, noise):
    """Consensus distance per coordinate that pure gradient noise keeps up when W mixes every tau steps.

        C = lr^2 s^2 / (2 m) * sum_{j=2..m} [tau (1 + lambda_j^2) / (1 - lambda_j^2) - 1]

    values: the m eigenvalues of a symmetric doubly stochastic W, ascending (as `eigenvalues` gives them). noise:
    s, the standard deviation of each gradient coordinate. C = (1/m) sum_i (x_i - mean)^2 is measured before the
    gradient step and averaged over all steps. This is the exact steady state of X <- W (X - lr G); the network
    error of the Cooperative SGD theorem (Wang & Joshi, JMLR 2021) is twice C with every lambda_j at zeta.
    """
    squares = values[:-1] ** 2
    return lr**2 * noise**2 / (2 * len(values)) * float(np.sum(tau * (1 + squares) / (1 - squares) - 1))
