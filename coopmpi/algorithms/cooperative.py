"""Cooperative SGD: local steps, then any symmetric mixing."""

from typing import Literal

from coopmpi.errors import UserError
from coopmpi.ranges import Count, File, Share
from coopmpi.registry import register
from coopmpi.step import Algorithm, Finish, Mean, Mix, Slot, Start
from coopmpi.topology import cooperation
from coopmpi.topology.spectra import reaches_consensus


@register("algorithm", "cooperative")
class Cooperative(Algorithm, frozen=True, kw_only=True):
    """tau local steps, then with auxiliary variables z_1 .. z_v and a symmetric doubly stochastic W:

        x_i <- sum_j w_ij x_j + sum_c w_ic z_c
        z_c <- sum_i w_ci x_i + sum_c' w_cc' z_c'

    W is (m+v) x (m+v), v its size minus m. The z are replicated on every rank, each costs an all-reduce per round.
    W comes from `matrix`, a .npy or .h5 file, or from a generator: "easgd" (one centre, v = 1), "graph-and-centre"
    (the [mixing] graph and one centre), "hierarchical" (groups average at every round, all workers at every
    `outer`-th, v = 0). alpha: how strongly the centre pulls; by default the one with the smallest zeta.
    """

    family = "elastic and general"
    source = "Wang & Joshi, Cooperative SGD, JMLR 22(213), 2021, sec. 3: A(tau, W, v)"
    bibtex = ("wang2021cooperative",)
    slots = (Slot("z", "replica", "model", "the auxiliary variables, a row each"),)
    uses_period = True
    uses_mixing = True
    takes_halves = False  # of weighted models, and within groups
    read_with = {"generator": ("matrix", None), "alpha": ("generator", "easgd", "graph-and-centre"),
                 "group": ("generator", "hierarchical"), "outer": ("generator", "hierarchical"),
                 "[mixing]": ("generator", "graph-and-centre")}

    matrix: File | None = None
    generator: Literal["easgd", "graph-and-centre", "hierarchical"] = "graph-and-centre"
    alpha: Share | None = None
    group: Count = 2  # workers per group
    outer: Count = 4  # rounds between averages over all

    @property
    def hierarchical(self):
        return self.matrix is None and self.generator == "hierarchical"

    def bind_mixing(self, mixing, workers, seed):
        graph = None
        if self.matrix is None and self.generator == "graph-and-centre":
            graph = mixing.bind(workers, seed)
            if not (graph.fixed and graph.symmetric):
                raise UserError(f"cooperative needs a fixed symmetric graph; {graph.description} is not "
                                f"{'symmetric' if graph.fixed else 'fixed'}. dpa takes any graph")
        what = graph.description if graph else self.matrix or f"{workers} workers"
        matrices = self._matrices(workers, graph and graph.matrix(0))
        bound = cooperation.Cooperation(matrices, workers, f"cooperation of {what}")
        if self.matrix is not None and not reaches_consensus(matrices[0]):
            raise UserError(f"[algorithm] matrix = {self.matrix!r} never brings its variables together: it has more "
                            "than one eigenvalue of modulus 1. Connect all of them, or take (I + W) / 2")
        return bound

    def _matrices(self, workers, graph):
        """W of every round of a cycle, sparse; graph: that of the workers, (m, m), where it plays a part."""
        from scipy import sparse

        if self.matrix is not None:
            return cooperation.from_file(self.matrix, workers)
        if self.hierarchical:
            return cooperation.hierarchical(workers, self.group, self.outer)
        own = sparse.eye_array(workers) if self.generator == "easgd" else graph
        return cooperation.with_centre(own, self.alpha)

    def bound_slots(self, context):
        return (self.slots[0]._replace(rows=context.mixing.auxiliary),)

    def step(self, state, context):
        loss = yield from context.local_step(state)
        if context.round_due and self.hierarchical:
            everybody = (context.round + 1) % self.outer == 0
            mean = yield Mean(state.x, group=None if everybody else self.group)
            state.x = context.replicate(mean, like=state.x)
        elif context.round_due:
            phase = context.mixing.phase(context.round)
            from_workers, among = context.mixing.from_workers[phase], context.mixing.among_auxiliary[phase]
            tickets = []
            for weights in from_workers:
                # sum_i w_ci x_i is m times the mean of w_ci x_i
                shares = (context.workers * weights[context.hosted]).tolist()
                tickets.append((yield Start(Mean(context.scale(shares, state.x)))))
            mixed = yield Mix(state.x, context.round)
            sums = []
            for ticket in tickets:
                sums.append((yield Finish(ticket))[0])
            state.x, state.z = (_add(context, mixed, from_workers.T[context.hosted], state.z),
                                _add(context, sums, among, state.z))
        return loss

    def matrix_form(self, workers, tau, mixing):
        from scipy import sparse

        w, *others = self._matrices(workers, sparse.csr_array(mixing))
        return None if others else (tau, w.toarray(), w.shape[0] - workers)


def _add(context, rows, weights, z):
    """rows[i] + sum_c weights[i, c] z_c in a fresh array."""
    n = len(rows)
    context.work(mix=(1 + len(z)) * z.shape[1])
    sums = [([i, *range(n, n + len(z))], [1.0, *own]) for i, own in enumerate(weights.tolist())]
    return context.device.mix(rows, z, sums, context.device.empty((n, z.shape[1]), z.dtype))
