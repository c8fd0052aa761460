"""The mixing graph of a run: who mixes with whom and how much, and the eigenvalues that follow."""

from functools import reduce
from typing import NamedTuple

import numpy as np

from coopmpi.errors import UserError
from coopmpi.topology import layout, spectra

LARGEST, MOST_LINKS = 1000, 5000  # workers and rounds of a cycle that are drawn; links of a drawing
ROUNDS = 4  # of a cycle that each have their drawing; of longer ones all links are drawn together
TOLERANCE = 1e-9


class Drawing(NamedTuple):
    """Links (n,) with their strength, of which the largest is 1: the weight in W, or the share of rounds in which they are there."""

    title: str
    sources: np.ndarray
    targets: np.ndarray
    strength: np.ndarray


class Network(NamedTuple):
    """What is drawn of a MixingMatrix. eigenvalues: of W, of the product over a cycle, or of the mean W of random graphs."""

    description: str
    places: np.ndarray  # (variables, 2)
    workers: int  # the other variables are auxiliary
    drawings: list[Drawing]
    wrapped: np.ndarray | None  # shape of the grid, if its borders are joined
    directed: bool
    of_what: str
    eigenvalues: np.ndarray
    zeta: float  # of a cycle
    rounds: float  # until the workers disagree ten times less

    @property
    def caption(self) -> str:
        """What the picture shows, in words."""
        rounds = "never" if np.isinf(self.rounds) else f"{self.rounds:.3g} rounds"
        return f"{self.description}: zeta = {self.zeta:.4g}, spectral gap {1 - self.zeta:.4g}, {rounds} to disagree 10x less"


def network(mixing) -> Network:
    """The Network of a coopmpi.topology.matrix.MixingMatrix; UserError if it is too large to be drawn."""
    variables, cycle = mixing.workers + mixing.auxiliary, mixing.cycle or 1
    if max(variables, cycle) > LARGEST:
        raise UserError(f"{mixing.description}: graphs of up to {LARGEST} workers and rounds are drawn, this one has {variables} workers "
                        f"and {cycle} rounds; coopmpi graph tells of it in words")
    if mixing.cycle is None:
        drawings, w, of_what, zeta = _drawn_at_random(mixing)
    else:
        matrices = [_whole(mixing, t) for t in range(cycle)]
        drawings, w = _drawings(matrices), reduce(lambda product, w: w @ product, matrices)
        of_what, zeta = "W" if cycle == 1 else f"the product of {cycle} rounds", _zeta(w)
    links = max(len(drawing.sources) for drawing in drawings)
    if links > MOST_LINKS:
        raise UserError(f"{mixing.description}: up to {MOST_LINKS} links are drawn, this graph has {links}; coopmpi graph tells of it "
                        "in words")
    base = mixing.topology if mixing.cycle else mixing.topology.base
    places = layout.positions(base)
    if mixing.auxiliary:
        places = np.concatenate([layout.circle(mixing.workers), 0.15 * layout.circle(mixing.auxiliary) * (mixing.auxiliary > 1)])
    grid = np.array(base.grid) if base.grid is not None and len(base.grid) == 2 else None
    return Network(mixing.description, places, mixing.workers, drawings, grid, base.directed, of_what, _eigenvalues(w), zeta,
                   spectra.rounds_to_shrink(10, zeta, cycle))


def _whole(mixing, t):
    """W of round t with the rows of auxiliary variables, dense."""
    w = mixing.matrix(t).toarray()
    if not mixing.auxiliary:
        return w
    across = mixing.from_workers[mixing.phase(t)]
    return np.block([[w, across.T], [across, mixing.among_auxiliary[mixing.phase(t)]]])


def _drawn_at_random(mixing):
    sources, targets, share = mixing.topology.activity()
    mean = np.zeros((mixing.workers,) * 2)
    mean[targets, sources] = mixing.topology.weight * share
    mean += np.diag(1 - mean.sum(axis=1))
    drawing = Drawing("darker: in more of the rounds", sources, targets, share / share.max(initial=TOLERANCE))
    return [drawing], mean, "E[W]", mixing.topology.zeta


def _drawings(matrices):
    if len(matrices) > ROUNDS:
        together = np.mean([w - np.diag(np.diag(w)) != 0 for w in matrices], axis=0)
        title = f"all links of {len(matrices)} rounds; darker: in more of them"
        return [Drawing(title, *_links(together))]
    return [Drawing(f"round {t}" if len(matrices) > 1 else "", *_links(w - np.diag(np.diag(w)))) for t, w in enumerate(matrices)]


def _links(strength):
    targets, sources = np.nonzero(strength)
    found = abs(strength[targets, sources])
    return sources, targets, found / found.max(initial=TOLERANCE)


def _zeta(w):
    """||W - J||_2; where not all rows sum to 1, as in push-sum, the second largest modulus of an eigenvalue."""
    if abs(w.sum(axis=1) - 1).max() < TOLERANCE:
        return float(np.linalg.norm(w - 1 / len(w), 2))
    return float(np.sort(abs(np.linalg.eigvals(w)))[-2])


def _eigenvalues(w):
    return np.linalg.eigvalsh(w) if abs(w - w.T).max() < TOLERANCE else np.linalg.eigvals(w)
