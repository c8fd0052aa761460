"""Which training samples each worker owns."""

import numpy as np

from coopmpi.errors import UserError
from coopmpi.streams import Purpose, stream

KINDS = ("iid", "dirichlet", "shards", "same")
READ_WITH = {"concentration": ("partition", "dirichlet"), "shards_per_worker": ("partition", "shards")}  # of a task


def partition(labels, n, workers, kind, seed, concentration=0.5, shards_per_worker=2):
    """The samples 0..n-1 dealt to `workers`: a list of ascending, non-empty int64 index arrays.

    kind, one of KINDS: "iid", "dirichlet" (smaller concentration: less alike), "shards" (fewer shards per worker: less
    alike), or "same" (every worker owns everything). labels: class labels (n,), outputs (n, outputs), or None
    where kind needs none. A function of its arguments alone. Raises UserError.
    """
    if kind == "same":
        return [np.arange(n)] * workers
    if workers > n:
        raise UserError(f"[task] partition = {kind!r}: {workers} workers cannot share {n} training samples; "
                        f'allowed: at most {n} workers, or partition = "same"')
    if kind == "iid":
        owned = np.array_split(stream(seed, Purpose.PARTITION).permutation(n), workers)
    elif kind == "dirichlet":
        owned = _dirichlet(labels, workers, seed, concentration)
    else:
        owned = _shards(labels, n, workers, seed, shards_per_worker)
    return [np.sort(indices) for indices in owned]


def _dirichlet(labels, workers, seed, concentration):
    """Each class is cut into shares p ~ Dir(concentration, ..., concentration), one for each worker.

    Source: Yurochkin et al., Bayesian Nonparametric Federated Learning of Neural Networks, ICML 2019, experiments.
    """
    if labels is None or labels.dtype.kind not in "iu":
        raise UserError('[task] partition = "dirichlet" needs class labels; allowed for regression: "iid", '
                        '"shards", "same"')
    if not 0 < concentration < np.inf:
        raise UserError(f"[task] concentration must be a positive number, given {concentration}")
    draw = stream(seed, Purpose.PARTITION)
    pieces = [[] for _ in range(workers)]
    for label in np.unique(labels):
        members = draw.permutation(np.flatnonzero(labels == label))
        shares = draw.dirichlet(np.full(workers, concentration))
        cuts = np.rint(np.cumsum(shares[:-1]) * len(members)).astype(np.int64)
        for own, piece in zip(pieces, np.split(members, cuts)):
            own.append(piece)
    owned = [np.concatenate(own) for own in pieces]

    # a worker without samples takes one from the worker that has most
    sizes = np.array([len(indices) for indices in owned])
    for poor in np.flatnonzero(sizes == 0):
        rich = sizes.argmax()
        owned[poor], owned[rich] = owned[rich][-1:], owned[rich][:-1]
        sizes[poor], sizes[rich] = 1, sizes[rich] - 1
    return owned


def _shards(labels, n, workers, seed, shards_per_worker):
    """Sort by label or first output, cut into equal shards, deal each worker some at random.

    Source: McMahan et al., Communication-Efficient Learning of Deep Networks, AISTATS 2017, section 3.
    """
    if labels is None:
        raise UserError('[task] partition = "shards" needs labels or outputs to sort by; take "iid" or "same"')
    shards = workers * shards_per_worker
    if not workers <= shards <= n:
        raise UserError(f"[task] shards_per_worker = {shards_per_worker}: {workers} workers make {shards} shards "
                        f"of {n} training samples; allowed: 1 to {n // workers}")
    first_output = labels.reshape(n, -1)[:, 0]
    pieces = np.array_split(np.argsort(first_output, kind="stable"), shards)
    dealt = stream(seed, Purpose.PARTITION).permutation(shards).reshape(workers, shards_per_worker)
    return [np.concatenate([pieces[shard] for shard in own]) for own in dealt]
