"""Gossip on remembered copies: workers send compressed increments of a public copy that all neighbours hold."""

import numpy as np

from coopmpi.step import Advance, Context, Recall, State
from coopmpi.step.requests import Requests


def gossip(state: State, context: Context, gamma: float, threshold: float | np.ndarray | None = None) -> Requests:
    """One consensus step on the copies h, a generator of requests that rebinds state.x and state.copies:

        q_i = C(x_i - h_i);  h_i <- h_i + q_i everywhere;  x_i <- x_i + gamma sum_j w_ij (h_j - h_i)

    threshold: workers with ||x_i - h_i||^2 <= threshold stay silent, q_i = 0; one number for all, or (b,). With
    a threshold, the squared distances are returned, (b,) float64 on the host. The mean of x is preserved for every
    compressor, gamma and trigger, since W is symmetric.
    """
    b, distances, silent = state.x.shape[0], None, ()
    apart = context.combine((1.0, -1.0), (state.x, state.copies[:b]))
    if threshold is not None:
        distances = _squared_norms(apart, context.device)
        silent = tuple(np.flatnonzero(distances <= threshold).tolist())
    state.copies = yield Advance(state.copies, context.pack(apart, context.round, silent))
    mixed = yield Recall(state.copies, context.round)
    state.x = context.combine((1.0, gamma, -gamma), (state.x, mixed, state.copies[:b]))
    return distances


def _squared_norms(rows, device):
    """||row||^2 of each row, (b,) float64 on the host."""
    return device.to_host(device.xp.stack([device.xp.vdot(row, row) for row in rows])).astype(np.float64)
