"""Where workers stand in a drawing of their graph."""

import numpy as np

from coopmpi.topology.links import Hub, PeriodicGrid, Topology

FEW = 150  # workers up to which distances in the graph become distances in the drawing


def positions(topology: Topology) -> np.ndarray:
    """(m, 2): a torus as rows and columns, a star around its hub, other periodic grids on a circle; else by the links of round 0.

    On a circle no link passes over a worker, so that none is hidden.
    """
    m = topology.workers
    if isinstance(topology, PeriodicGrid) and len(topology.grid) == 2:
        rows, columns = np.unravel_index(np.arange(m), topology.grid)
        return np.stack([columns, -rows], axis=1).astype(float)
    if isinstance(topology, Hub):
        return np.concatenate([np.zeros((1, 2)), circle(m - 1)])
    if isinstance(topology, PeriodicGrid) or m < 3:
        return circle(m)
    return _by_links(topology)


def circle(m: int) -> np.ndarray:
    """(m, 2) places on the unit circle, clockwise from the top."""
    angles = np.pi / 2 - 2 * np.pi * np.arange(m) / max(1, m)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _by_links(topology):
    import networkx

    graph = networkx.Graph()
    graph.add_nodes_from(range(topology.workers))
    graph.add_edges_from(zip(*(ends.tolist() for ends in topology.links(0))))
    if topology.workers <= FEW:
        found = networkx.kamada_kawai_layout(graph)
    else:
        found = networkx.spring_layout(graph, seed=0)
    return np.array([found[i] for i in range(topology.workers)])
