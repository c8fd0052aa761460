"""Graphs and mixing matrices in files: edge list, GraphML, .npy, .h5. Never a pickle."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from coopmpi import inputs
from coopmpi.drafts import draft_of
from coopmpi.errors import UserError, quoted, shortened
from coopmpi.ranges import LARGEST_RUN

if TYPE_CHECKING:
    import scipy.sparse

LARGEST_DENSE = 20_000  # workers of a matrix that is written out in full: 3.2 GB


def read(path: str | Path, directed: bool = False) -> tuple["scipy.sparse.csr_array", bool]:
    """(matrix, weighted) of a file, by its suffix; UserError names file, and line or cause.

    directed: a line "i j" of an edge list says that i sends to j, and nothing about the other way round.

    matrix: (m, m) float64, entry (i, j) stored where worker i receives from j, ascending.
    weighted: True if the entries are the mixing matrix W itself, diagonal included.
    """
    from scipy import sparse

    inputs.require_file(path)
    try:
        reader = READERS.get(Path(path).suffix.lower())
        if reader and directed:
            raise UserError(f"[mixing] directed = true is for edge lists, given {path}; GraphML says itself which "
                            f"links are, and a matrix has both directions")
        matrix, weighted = reader(path) if reader else _edge_list(path, directed)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    matrix = sparse.csr_array(matrix, dtype=np.float64)
    matrix.eliminate_zeros()
    matrix.sort_indices()
    return matrix, weighted


def holds_weights(path: str | Path) -> bool:
    """Does a file hold the mixing matrix W itself, or an edge list weights in a third column?"""
    inputs.require_file(path)
    suffix = Path(path).suffix.lower()
    if suffix in READERS:
        return suffix != ".graphml"
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return len(next(filter(None, map(_fields, file)), ())) == 3
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def write(path: str | Path, matrix: "scipy.sparse.sparray") -> None:
    """Save a sparse mixing matrix as a dense .npy or .h5 (dataset "w"); UserError if that fails."""
    path = Path(path)
    if path.suffix not in (".npy", ".h5"):
        raise UserError(f"a mixing matrix is saved as .npy or .h5, given {str(path)!r}")
    m = matrix.shape[0]
    if m > LARGEST_DENSE:
        raise UserError(f"a dense matrix of {m} workers would take {8e-9 * m * m:.0f} GB; "
                        f"allowed: {LARGEST_DENSE} workers")
    try:
        with draft_of(path) as draft:
            if path.suffix == ".npy":
                np.save(draft, matrix.toarray())
            else:
                import h5py

                with h5py.File(draft, "w") as file:
                    file["w"] = matrix.toarray()
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}") from error


def _edge_list(path, directed):
    """One link per line, "i j" or "i j w", workers numbered from 0; # starts a comment.

    A third column gives w_ij = w_ji of W; what is missing to 1 goes on the diagonal. Directed links have none.
    """
    edges, lines, columns = {}, {}, None
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            fields = _fields(line)
            if not fields:
                continue
            where = f"{path}, line {number}"
            columns = columns or len(fields)
            (i, j), weight = _edge(fields, columns, where)
            pair = (i, j) if directed else (min(i, j), max(i, j))
            if edges.setdefault(pair, weight) != weight:
                raise UserError(f"{where}: weight {weight:g} for workers {pair[0]} and {pair[1]}, but line "
                                f"{lines[pair]} says {edges[pair]:g}; both directions must agree")
            lines.setdefault(pair, number)
    if not edges:
        raise UserError(f"{path} has no links; expected lines \"i j\" or \"i j w\"")
    if directed and columns == 3:
        raise UserError(f'{path} has weights, but directed links are "i j": each sender divides its model evenly')
    return _matrix(edges, directed, weighted=columns == 3, path=path)


def _fields(line):
    return line.partition("#")[0].split()


def _edge(fields, columns, where):
    found = quoted(" ".join(fields)[:60])
    if len(fields) != columns or columns not in (2, 3):
        expected = columns if columns in (2, 3) else "2 or 3"
        raise UserError(f'{where}: expected {expected} columns ("i j" or "i j w"), found {len(fields)}: {found}')
    try:
        i, j, weight = int(fields[0]), int(fields[1]), float(fields[2]) if columns == 3 else 1.0
    except ValueError as error:
        raise UserError(f"{where}: workers are whole numbers and weights are numbers, found {found}") from error
    if not (0 <= i < LARGEST_RUN and 0 <= j < LARGEST_RUN):
        raise UserError(f"{where}: workers are numbered from 0, the highest may be {LARGEST_RUN - 1}, found {found}")
    if i == j:
        raise UserError(f"{where}: worker {i} is linked with itself; leave the line out, "
                        f"its own weight is what is missing to 1")
    if not np.isfinite(weight):
        raise UserError(f"{where}: weight {weight} is not finite")
    return (i, j), weight


def _matrix(edges, directed, weighted, path):
    from scipy import sparse

    i, j = np.array(list(edges)).T
    w = np.array(list(edges.values()))
    m, lowest = int(max(i.max(), j.max())) + 1, min(i.min(), j.min())
    if lowest > 0:
        raise UserError(f"{path}: the lowest worker number is {lowest}; workers are numbered 0 to m - 1")
    if m > 2 * len(edges):
        raise UserError(f"{path}: the highest worker number is {m - 1}, but {len(edges)} links cannot reach that "
                        f"many workers; they are numbered 0 to m - 1")
    if directed:
        return sparse.coo_array((w, (j, i)), shape=(m, m)), False
    matrix = sparse.coo_array((np.r_[w, w], (np.r_[i, j], np.r_[j, i])), shape=(m, m)).tocsr()
    if weighted:
        own = 1 - np.asarray(matrix.sum(axis=1)).ravel()
        if own.min() < -1e-6:
            worst = int(np.argmin(own))
            raise UserError(f"{path}: the weights of worker {worst} sum to {1 - own[worst]:g}, allowed is at most "
                            f"1 (they are entries of W); leave the third column out to have them computed")
        matrix = matrix + sparse.diags_array(own)
    return matrix, weighted


def _graphml(path):
    """Links of a GraphML file, along the arrows if it is directed.

    Nodes named 0 .. m-1 keep these numbers, others are numbered as they come; weights are not read.
    """
    from xml.etree.ElementTree import ParseError

    import networkx

    with inputs.reading(path, "GraphML"):
        try:
            graph = networkx.read_graphml(path)
        except (ParseError, networkx.NetworkXException, LookupError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is not a GraphML file that can be read: {shortened(str(error))}") from error
    nodes = list(graph)
    if not nodes:
        raise UserError(f"{path} has no nodes")
    if set(nodes) == {str(i) for i in range(len(nodes))}:
        nodes.sort(key=int)
    # networkx says a -> b where b receives from a
    return networkx.to_scipy_sparse_array(graph, nodelist=nodes, weight=None).T, False


def _npy(path):
    return _square(inputs.read_npy(path), path), True


def _h5(path):
    with inputs.open_hdf5(path) as file:
        names = inputs.datasets(file)
        name = "w" if "w" in names else names[0] if len(names) == 1 else None
        if name is None:
            raise UserError(f'{path}: expected a dataset "w", or one only; found {shortened(", ".join(names)) or "none"}')
        return _square(inputs.dataset(file, name)[()], f"{path}, dataset {name!r}"), True


def _square(array, what):
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.shape[0] != array.shape[1] or not array.size:
        raise UserError(f"{what}: a mixing matrix is square, m x m; found shape {np.shape(array)}")
    if array.dtype.kind not in "fiub":
        raise UserError(f"{what}: a mixing matrix holds real numbers; found {array.dtype}")
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        i, j = bad[0]
        raise UserError(f"{what}: {len(bad)} entries are not finite, the first at row {i}, column {j}")
    return array


READERS = {".npy": _npy, ".h5": _h5, ".hdf5": _h5, ".graphml": _graphml}  # all else is an edge list
