"""Every algorithm against an independent float64 matrix recursion on the quadratic task."""

import h5py
import numpy as np
import pytest

from coopmpi import registry
from coopmpi.errors import UserError
from coopmpi.streams import Purpose, stream
from coopmpi.topology.mixing import mixing_table
from tests.runs import VARIANTS, lockstep, read, write_quadratic

M, STEPS, SEED = 8, 25, 3
GRAPHS = [name for name in registry.parts("graph") if name != "one-peer-exponential"]
NEED_SYMMETRIC = ("d2", "squarm-sgd", "sparq-sgd", "cooperative")
SYMMETRIC = [name for name in GRAPHS if name not in ("exponential", "matcha")]  # and fixed
PUSH_SUM = ("sgp", "overlap-sgp")
OPTIMIZERS = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "weight-decay": {"momentum": 0.5, "nesterov": True, "weight_decay": 0.03},
}
VARIANTS = {name: VARIANTS[name] for name in (*registry.parts("algorithm"), "easgd-overlap")}


def matrices(graph, weights="metropolis", push_sum=False):
    """W of each round in turn, dense float64; push_sum: the P that tests/test_push_sum.py checks."""
    table = mixing_table(graph=graph, weights=weights)
    mixing = table.push_sum(M, SEED) if push_sum else table.bind(M, SEED)
    return [mixing.matrix(t).toarray() for t in range(mixing.cycle or STEPS)]


class Reference:
    """Textbook code: stacked rows, explicit matrices, no generators."""

    def __init__(self, path, momentum=0.0, nesterov=False, weight_decay=0.0, lr=0.05):
        with h5py.File(path) as file:
            self.a, self.b, self.x0, self.noise = file["a"][:], file["b"][:], file["x0"][:], file.attrs["noise"]
        self.momentum, self.nesterov, self.weight_decay, self.lr = momentum, nesterov, weight_decay, lr
        self.v = np.zeros_like(self.b)

    def gradient(self, x, k):
        noise = [stream(SEED, Purpose.NOISE, i, k).standard_normal(x.shape[1]) for i in range(M)]
        return self.a * (x - self.b) + self.noise * np.array(noise)

    def direction(self, x, g):
        g = g + self.weight_decay * x
        self.v = self.momentum * self.v + g
        return g + self.momentum * self.v if self.nesterov else self.v

    def run(self, name, tau, ws, **keys):
        """(final models, final centre or anchor) of the recursion called `name`."""
        self.tau, self.ws, self.j = tau, ws, np.full((M, M), 1 / M)
        recursion = getattr(self, name.replace("-", "_"), None)
        assert recursion, f"no reference for {name}: write one"
        return recursion(np.tile(self.x0, (M, 1)), self.x0.copy(), **keys)

    def local_steps(self, x):
        """(local models, index of the round) at the end of every full period, from what is sent in."""
        for k in range(STEPS):
            x = x - self.lr * self.direction(x, self.gradient(x, k))
            if (k + 1) % self.tau == 0:
                sent = yield x, (k + 1) // self.tau - 1
                x = x if sent is None else sent
        yield x, None

    def periodic(self, x, update):
        """x <- update(x, round) after every period."""
        periods = self.local_steps(x)
        x, r = next(periods)
        while r is not None:
            x, r = periods.send(update(x, r))
        return x

    def sync_sgd(self, x, z):
        for k in range(STEPS):
            x = x - self.lr * self.direction(x, self.j @ self.gradient(x, k))
        return x, z

    def d_psgd(self, x, z):
        for k in range(STEPS):
            x = self.ws[k % len(self.ws)] @ x - self.lr * self.direction(x, self.gradient(x, k))
        return x, z

    def sgp(self, x, z):
        w = np.ones((M, 1))
        for k in range(STEPS):
            p = self.ws[k % len(self.ws)]
            y = p @ (w * x - self.lr * self.direction(x, self.gradient(x, k)))
            w = p @ w
            x = y / w
        return x, z

    def overlap_sgp(self, x, z):
        y, w = x, np.ones((M, 1))
        for k in range(STEPS):
            p, x = self.ws[k % len(self.ws)], y / w
            y, w = p @ y - self.lr * self.direction(x, self.gradient(x, k)), p @ w
        return y / w, z

    def local_sgd(self, x, z):
        return self.periodic(x, lambda x, r: self.j @ x), z

    def dpa(self, x, z):
        return self.periodic(x, lambda x, r: self.ws[r % len(self.ws)] @ x), z

    def easgd(self, x, z, alpha=2 / (M + 2)):
        def update(x, r):
            nonlocal z
            x, z = (1 - alpha) * x + alpha * z, (1 - M * alpha) * z + alpha * x.sum(axis=0)
            return x

        return self.periodic(x, update), z

    def cooperative(self, x, z):
        # a centre and the graph: the pull with the smallest zeta
        zeta = np.linalg.norm(self.ws[0] - self.j, 2)
        a = (1 + zeta) / (M + 1 + zeta)

        def update(x, r):
            nonlocal z
            x, z = (1 - a) * self.ws[0] @ x + a * z, (1 - M * a) * z + a * x.sum(axis=0)
            return x

        return self.periodic(x, update), z

    def overlap_local_sgd(self, x, z, alpha=0.6, beta=0.7):
        # algorithms.md 4.1 with a queue of one average
        u, late = 0, []

        def collect():
            nonlocal u, z
            if late:
                u = beta * u + (late.pop() - z)
                z = z + u

        def update(x, r):
            collect()
            x = x - alpha * (x - z)
            late.append(x.mean(axis=0))
            return x

        x = self.periodic(x, update)
        collect()
        return x, z

    def cocod_sgd(self, x, z):
        return self.overlapped(x, lambda snapshot, r: self.j @ snapshot), z

    def overlap_dpa(self, x, z):
        return self.overlapped(x, lambda snapshot, r: self.ws[r % len(self.ws)] @ snapshot), z

    def overlapped(self, x, mix):
        snapshot, mixed = x, x

        def update(x, r):
            nonlocal snapshot, mixed
            snapshot = mixed + (x - snapshot)
            mixed = mix(snapshot, r)
            return snapshot

        return self.periodic(x, update)

    def outer(self, x, z, move):
        """x_i <- z <- move(z, z - mean x) with an outer momentum u kept in a list."""
        u = [0]

        def update(x, r):
            nonlocal z
            z = move(z, z - x.mean(axis=0), u)
            return np.tile(z, (M, 1))

        return self.periodic(x, update), z

    def slowmo(self, x, z, alpha=1.0, beta=0.6):
        def move(z, away, u):
            u[0] = beta * u[0] + away / self.lr
            self.v = np.zeros_like(self.v)
            return z - alpha * self.lr * u[0]

        return self.outer(x, z, move)

    def bmuf(self, x, z, beta=0.3):
        def move(z, away, u):
            u[0] = beta * u[0] + away
            self.v = np.zeros_like(self.v)
            return z - u[0]

        return self.outer(x, z, move)

    def diloco(self, x, z, outer_lr=0.7, beta=0.9):
        def move(z, away, u):
            u[0] = beta * u[0] + away
            return z - outer_lr * (away + beta * u[0])

        return self.outer(x, z, move)

    def gradient_tracking(self, x, z):
        y = old = None
        for k in range(STEPS):
            g, w = self.gradient(x, k), self.ws[k % len(self.ws)]
            y = g if y is None else self.ws[(k - 1) % len(self.ws)] @ y + g - old
            old = g
            x = w @ (x - self.lr * self.direction(x, y))
        return x, z

    @staticmethod
    def compressed(x):
        """The two largest magnitudes of each row."""
        smaller = np.argsort(-abs(x), axis=1, kind="stable")[:, 2:]
        kept = x.copy()
        np.put_along_axis(kept, smaller, 0.0, axis=1)
        return kept

    def gossip(self, x, h, w, gamma, threshold=-1.0):
        q = self.compressed(x - h) * (((x - h) ** 2).sum(axis=1, keepdims=True) > threshold)
        h = h + q
        return x + gamma * (w @ h - h), h

    def choco_sgd(self, x, z, gamma=0.3):
        h = np.zeros_like(x)
        for k in range(STEPS):
            x = x - self.lr * self.direction(x, self.gradient(x, k))
            x, h = self.gossip(x, h, self.ws[k % len(self.ws)], gamma)
        return x, z

    def overlap_choco_sgd(self, x, z, gamma=0.3):
        h = np.zeros_like(x)
        for k in range(STEPS):
            x = x - self.lr * self.direction(x, self.gradient(x, k))
            x = x + gamma * (self.ws[k % len(self.ws)] @ h - h)
            h = h + self.compressed(x - h)
        return x, z

    def squarm_sgd(self, x, z, gamma=0.3, threshold=0.0):
        h = np.zeros_like(x)

        def update(x, r):
            nonlocal h
            x, h = self.gossip(x, h, self.ws[0], gamma, threshold * self.lr**2)
            return x

        return self.periodic(x, update), z

    sparq_sgd = squarm_sgd

    def deepsqueeze(self, x, z, gamma=0.1):
        e = np.zeros_like(x)
        for k in range(STEPS):
            x = x - self.lr * self.direction(x, self.gradient(x, k))
            q = self.compressed(x + e)
            e = x + e - q
            x = x + gamma * (self.ws[k % len(self.ws)] @ q - q)
        return x, z

    def double_compressed(self, x, z, momentum="kept", beta=0.3):
        e, back, u = np.zeros_like(x), np.zeros((1, x.shape[1])), 0
        common = x[:1]

        def compressed(x):
            """Worker j's range of the 7 numbers is a tensor of its own: one number or none, of which the largest stays."""
            ends = [x.shape[1] * j // M for j in range(M + 1)]
            assert all(stop - start <= 1 for start, stop in zip(ends, ends[1:]))
            return x

        def update(x, r):
            nonlocal e, back, u, common
            p = common - x + e
            q = compressed(p)
            e = p - q
            p = q.mean(axis=0, keepdims=True) + back
            move = compressed(p)
            back = p - move
            if momentum == "block":
                u = move = beta * u + move
            if momentum == "reset":
                self.v = np.zeros_like(self.v)
            common = common - move
            return np.tile(common, (M, 1))

        return self.periodic(x, update), z

    def powersgd(self, x, z):
        return self.sync_sgd(x, z)  # a vector is averaged as it is; on matrices: test_powersgd.py

    def streaming_diloco(self, x, z, fragments=4, delay=1, merge=0.5, outer_lr=0.4, beta=0.9):
        z, u, under_way = z.copy(), np.zeros_like(z), []
        parts = [np.arange(f * len(z) // fragments, (f + 1) * len(z) // fragments) for f in range(fragments)]

        def outer(part, away):
            u[part] = beta * u[part] + away
            z[part] -= outer_lr * (away + beta * u[part])
            x[:, part] = merge * x[:, part] + (1 - merge) * z[part]

        for k in range(STEPS):
            x = x - self.lr * self.direction(x, self.gradient(x, k))
            for f, part in enumerate(parts):
                if (k + 1) % self.tau == np.ceil((f + 1) * self.tau / fragments) % self.tau:
                    under_way.append((k + delay, part, z[part] - x[:, part].mean(axis=0)))
            while under_way and under_way[0][0] == k:
                outer(*under_way.pop(0)[1:])
        return x, z

    def d2(self, x, z):
        before = None
        for k in range(STEPS):
            move = self.lr * self.direction(x, self.gradient(x, k))
            ahead = x - move if before is None else 2 * x - before[0] - move + before[1]
            before, x = (x, move), self.ws[k % len(self.ws)] @ ahead
        return x, z


def tables(path, variant, optimizer, tau=4, mixing=None):
    algorithm = VARIANTS[variant]
    return read({"workers": M, "steps": STEPS, "seed": SEED, "dtype": "float64", "device": "cpu",
                 "task": {"kind": "quadratic", "path": path}, "optimizer": {"lr": 0.05} | optimizer,
                 "algorithm": algorithm, "period": {"tau": tau}, "mixing": mixing or {},
                 "compress": {"kind": "topk", "fraction": 2 / 7}})


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_quadratic(tmp_path_factory.mktemp("quadratic") / "q.h5", M, noise=0.1)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_matrix_reference(path, variant, optimizer):
    kind = VARIANTS[variant]["kind"]
    if kind == "sparq-sgd" and OPTIMIZERS[optimizer]:
        pytest.skip("has no momentum")
    x, z = Reference(path, **OPTIMIZERS[optimizer]).run(kind, 4, [(np.eye(M) + w) / 2 for w in matrices("ring")])
    trainer = lockstep(tables(path, variant, OPTIMIZERS[optimizer], mixing={"graph": "ring", "lazy": True}))
    assert abs(trainer.state.x - x).max() < 1e-10
    if hasattr(trainer.state, "z"):
        assert abs(trainer.state.z - z).max() < 1e-10


@pytest.mark.parametrize("graph", [*GRAPHS, "one-peer-exponential"])
@pytest.mark.parametrize("variant", [name for name, cls in registry.parts("algorithm").items() if cls.uses_mixing])
def test_equals_reference_on_every_graph(path, variant, graph):
    lazy = variant == "d2" and graph != "matcha"  # needs eigenvalues above -1/3
    optimizer = OPTIMIZERS["plain" if variant == "sparq-sgd" else "nesterov"]
    run = tables(path, variant, optimizer, tau=3, mixing={"graph": graph, "lazy": lazy})
    if variant in NEED_SYMMETRIC and graph not in SYMMETRIC:
        with pytest.raises(UserError, match=f"{variant} needs a fixed symmetric"):
            lockstep(run)
        return
    ws = [(np.eye(M) + w) / 2 if lazy else w for w in matrices(graph, push_sum=variant in PUSH_SUM)]
    x, _ = Reference(path, **optimizer).run(variant, 3, ws)
    trainer = lockstep(run)
    assert abs(trainer.state.x - x).max() < 1e-10


@pytest.mark.parametrize("weights", ["uniform", "best-constant"])
def test_equals_reference_with_other_weights(path, weights):
    trainer = lockstep(tables(path, "d-psgd", {}, mixing={"graph": "torus", "weights": weights}))
    x, _ = Reference(path).run("d-psgd", 1, matrices("torus", weights))
    assert abs(trainer.state.x - x).max() < 1e-10


@pytest.mark.parametrize("variant", VARIANTS)
def test_matrix_form_gives_the_same_trajectory(path, variant):
    """X <- W (X - lr G) with the W, tau, v that the algorithm itself claims."""
    algorithm = registry.find("algorithm", VARIANTS[variant]["kind"])()
    form = algorithm.matrix_form(M, 4, matrices("ring")[0])
    if form is None:
        pytest.skip("not of the Cooperative SGD form")
    tau, w, v = form
    assert np.allclose(w.sum(axis=0), 1) and np.allclose(w.sum(axis=1), 1)
    reference = Reference(path)
    x = np.tile(reference.x0, (M + v, 1))
    for k in range(STEPS):
        x[:M] -= 0.05 * reference.gradient(x[:M], k)
        if (k + 1) % tau == 0:
            x = w @ x
    assert abs(lockstep(tables(path, variant, {})).state.x - x[:M]).max() < 1e-10


def test_easgd_with_another_alpha_and_its_stability_limit(path):
    close = tables(path, "easgd", {}, tau=1) | {"algorithm": {"kind": "easgd", "alpha": 0.1}}
    x, _ = Reference(path).run("easgd", 1, None, alpha=0.1)
    assert abs(lockstep(close).state.x - x).max() < 1e-10
    # the disagreement mode 1 - (m + 1) alpha grows beyond alpha = 2 / (m + 1)
    beyond = close | {"algorithm": {"kind": "easgd", "alpha": 2.2 / (M + 1)}, "steps": 400}
    assert abs(lockstep(beyond).state.x).max() > 1e6


def test_adam_is_pytorchs_formula(path):
    """Two workers' worth of Adam written out with explicit bias corrections."""
    trainer = lockstep(tables(path, "local-sgd", {"kind": "adam", "lr": 0.01, "weight_decay": 0.1}, tau=10**6))
    reference = Reference(path)
    x, m, v = np.tile(reference.x0, (M, 1)), 0, 0
    for k in range(STEPS):
        g = reference.gradient(x, k) + 0.1 * x
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        x = x - 0.01 * (m / (1 - 0.9 ** (k + 1))) / (np.sqrt(v / (1 - 0.999 ** (k + 1))) + 1e-8)
    assert abs(trainer.state.x - x).max() < 1e-10


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_algorithm_is_described(variant):
    cls = registry.find("algorithm", VARIANTS[variant]["kind"])
    assert cls.__doc__ and cls.source and cls.bibtex
