"""Gossip on remembered copies: workers send compressed increments of a public copy that all neighbours hold."""

import numpy as np

from coopmpi.step import Advance, Recall


def gossip(state, run, gamma, threshold=None):
    """One consensus step on the copies h, a generator of requests that rebinds state.x and state.copies:

        q_i = C(x_i - h_i);  h_i <- h_i + q_i everywhere;  x_i <- x_i + gamma sum_j w_ij (h_j - h_i)

    threshold: workers with ||x_i - h_i||^2 <= threshold stay silent, q_i = 0. The mean of x is preserved for every
    compressor, gamma and trigger, since W is symmetric.
    """
    b = state.x.shape[0]
    apart = run.combine((1.0, -1.0), (state.x, state.copies[:b]))
    silent = () if threshold is None else _silent(apart, threshold, run.device)
    state.copies = yield Advance(state.copies, run.pack(apart, run.round, silent))
    mixed = yield Recall(state.copies, run.round)
    state.x = run.combine((1.0, gamma, -gamma), (state.x, mixed, state.copies[:b]))


def _silent(apart, threshold, device):
    """Local rows whose squared norm is at most the threshold."""
    norms = device.to_host(device.xp.stack([device.xp.vdot(row, row) for row in apart]))
    return tuple(np.flatnonzero(norms <= threshold).tolist())
