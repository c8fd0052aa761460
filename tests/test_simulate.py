"""Virtual clocks against formulas and hand-made cases, and the arithmetic of a plain run untouched."""

import math

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import approx

from coopmpi import config, registry
from coopmpi.drivers.solo import Solo
from coopmpi.run.assemble import assemble
from coopmpi.run.loop import Trainer
from coopmpi.run.session import train
from coopmpi.sinks import Sink
from coopmpi.step import Finish, Grad, Mean, Mix, Now, Start
from coopmpi.topology.mixing import mixing_table
from tests.runs import lockstep, read, write_quadratic

M, D = 8, 5
NBYTES = 8 * D  # of a float64 model


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_quadratic(tmp_path_factory.mktemp("simulate") / "q.h5", M, D)


def tables(path, algorithm="local-sgd", **more):
    algorithm = {"kind": algorithm} if isinstance(algorithm, str) else algorithm
    return read({"workers": M, "steps": 12, "dtype": "float64", "device": "cpu", "optimizer": {"lr": 0.05},
                 "task": {"kind": "quadratic", "path": path}, "algorithm": algorithm} | more)


def simulated(tables):
    """Simulate without a file; the Trainer."""
    trainer = Trainer(assemble(config.resolve(tables), Solo(), mode="simulate"), Sink())
    trainer.train()
    return trainer


def clocks(tables):
    """The clocks at the end of a simulation."""
    return simulated(tables).clocks


def record(tables, folder):
    """The /train series of a simulation, read back from its file."""
    train(assemble(config.resolve(tables), Solo(), mode="simulate"), Solo(), folder / "sim.h5", overwrite=True)
    with h5py.File(folder / "sim.h5") as file:
        return {name: data[:] for name, data in file["train"].items()}


def alone(tables, generator):
    """Clocks that have followed one generator; it gets the driver."""
    assembly = assemble(config.resolve(tables), Solo(), mode="simulate")
    assembly.driver.drive(generator(assembly.driver.task))
    return assembly.clocks


def delay(seconds):
    return {"kind": "delay", "seconds": seconds}


# the runtime model of Wang & Joshi 2019: Y per gradient, D per round, a = D / Y
SPEED_UP = {0.1: (1.05, 1.07, 1.09, 1.09, 1.10), 1: (1.33, 1.60, 1.78, 1.88, 1.94),
            4: (1.67, 2.50, 3.33, 4.00, 4.44), 9: (1.82, 3.08, 4.71, 6.40, 7.80)}
TAUS = (2, 4, 8, 16, 32)


@pytest.mark.parametrize("a", SPEED_UP)
def test_speed_up_over_synchronous_sgd_with_constant_delays(path, a):
    common = {"steps": 64, "network": delay(3.0 * a), "compute": {"kind": "constant", "seconds": 3.0}}
    synchronous = clocks(tables(path, "sync-sgd", **common)).time
    for tau, published in zip(TAUS, SPEED_UP[a]):
        local = clocks(tables(path, period={"tau": tau}, **common)).time
        assert synchronous / local == approx((1 + a) / (1 + a / tau), rel=1e-12)
        assert abs(synchronous / local - published) <= 0.00501


def expected_maximum(m, tau, shift):
    """E[max over m workers of the mean of tau shifted exponentials], by quadrature of 1 - F(t)^m."""
    from scipy.integrate import quad
    from scipy.stats import gamma

    return shift + (1 - shift) * quad(lambda t: 1 - gamma.cdf(t, tau, scale=1 / tau) ** m, 0, 40)[0]


@pytest.mark.parametrize("tau, shift, published", [
    (1, 0, 2.70), (4, 0, 1.81), (16, 0, 1.38), (1, 0.5, 1.86), (4, 0.5, 1.40), (1, 0.9, 1.17)])
def test_stragglers_are_averaged_out_by_local_steps(path, tau, shift, published):
    steps = 3000 * min(tau, 3)
    time = clocks(tables(path, steps=steps, period={"tau": tau}, network=delay(0.0),
                         compute={"kind": "exponential", "shift": shift})).time / steps
    expected = expected_maximum(M, tau, shift)
    assert time == approx(expected, rel=0.02) and published == approx(expected, rel=0.02)


@pytest.mark.parametrize("a, published", [(1, (1.39, 2.21, 2.87)), (4, (1.60, 3.27, 4.83))])
def test_speed_up_with_exponential_stragglers(path, a, published):
    common = {"steps": 3200, "network": delay(float(a)), "compute": {"kind": "exponential"}}
    synchronous = clocks(tables(path, "sync-sgd", **common)).time
    for tau, ratio in zip((2, 8, 32), published):
        assert synchronous / clocks(tables(path, period={"tau": tau}, **common)).time == approx(ratio, rel=0.03)


@pytest.mark.parametrize("shape", [1.5, 3.0])
def test_pareto_has_its_mean_and_its_tail(shape):
    seconds = registry.build("compute", {"kind": "pareto", "seconds": 2.0, "shape": shape}).bind(1000, 1, None)
    drawn = np.concatenate([seconds(k) for k in range(1000)])
    least = 2.0 * (shape - 1) / shape
    assert drawn.min() >= least
    assert np.mean(drawn > 3 * least) == approx(3**-shape, rel=0.02)
    if shape > 2:
        assert drawn.mean() == approx(2.0, rel=0.02)


# what is exposed of a transfer that travels during local steps
@pytest.mark.parametrize("algorithm", [{"kind": "easgd", "overlap": True}, "overlap-local-sgd", "cocod-sgd",
                                       "overlap-dpa"], ids=str)
@pytest.mark.parametrize("seconds", [0.5, 4.0, 7.0])
def test_overlapped_rounds_expose_what_a_period_does_not_hide(path, tmp_path, algorithm, seconds):
    tau, compute = 4, 1.0
    found = record(tables(path, algorithm, period={"tau": tau}, network=delay(seconds)), tmp_path)
    exposed = max(0.0, seconds - tau * compute)
    waits = np.zeros(12)
    waits[[7, 11]] = exposed  # the first round has nothing to wait for
    waits[11] += seconds  # nothing hides what the last round has started
    assert np.allclose(found["wait_time"], waits[:, None], rtol=1e-12)
    assert np.allclose(found["compute_time"], compute)
    assert np.allclose(found["virtual_time"], np.cumsum(compute + waits), rtol=1e-12)


@pytest.mark.parametrize("seconds", [0.4, 1.0, 3.5])
def test_d_psgd_hides_an_exchange_behind_one_gradient(path, tmp_path, seconds):
    found = record(tables(path, "d-psgd", network=delay(seconds)), tmp_path)
    assert np.allclose(found["wait_time"], max(0.0, seconds - 1.0), rtol=1e-12)


@pytest.mark.parametrize("algorithm", ["local-sgd", "dpa", "easgd"])
def test_without_overlap_a_round_costs_all_of_it(path, tmp_path, algorithm):
    found = record(tables(path, algorithm, period={"tau": 3}, network=delay(2.5)), tmp_path)
    assert np.allclose(found["wait_time"], np.where(np.arange(12) % 3 == 2, 2.5, 0)[:, None], rtol=1e-12)


# networks, by formula and by hand
COSTS = {"ring": lambda m, lat, n, bw: 2 * (m - 1) * lat + 2 * (m - 1) / m * n / bw,
         "tree": lambda m, lat, n, bw: 2 * math.ceil(math.log2(m)) * (lat + n / bw),
         "recursive-doubling": lambda m, lat, n, bw: math.ceil(math.log2(m)) * (lat + n / bw)}
LINKS = {"kind": "links", "latency": 0.3, "bandwidth": 10.0}


@pytest.mark.parametrize("kind", COSTS)
@pytest.mark.parametrize("workers, egress", [(8, None), (7, None), (8, 4.0), (8, 90.0), (1, None)])
def test_all_reduce_costs(tmp_path, kind, workers, egress):
    path = write_quadratic(tmp_path / "q.h5", workers, D)
    limit = {"egress": egress} if egress else {}
    network = LINKS | limit | {"allreduce": kind}
    found = clocks(tables(path, workers=workers, steps=4, period={"tau": 2}, network=network))
    bandwidth = min(10.0, egress or 10.0)
    assert found.time == approx(4 + 2 * COSTS[kind](workers, 0.3, NBYTES, bandwidth), rel=1e-12)


@pytest.mark.parametrize("graph, limits, wait", [
    # 2 neighbours on the ring: 80 bytes share the port, by default 10 bytes per second as its links
    ("ring", {}, 8.3), ("ring", {"egress": 8.0}, 10.3), ("ring", {"ingress": 8.0}, 10.3),
    ("ring", {"egress": 400.0}, 8.3), ("ring", {"ingress": 400.0}, 8.3),  # the other direction
    ("ring", {"egress": 400.0, "ingress": 400.0}, 4.3), ("ring", {"egress": 400.0, "ingress": 16.0}, 5.3),
    ("hypercube", {"egress": 8.0}, 15.3), ("one-peer-exponential", {}, 4.3), ("one-peer-exponential", {"egress": 8.0}, 5.3)])
def test_neighbours_share_the_port_of_a_worker(path, tmp_path, graph, limits, wait):
    network = LINKS | limits
    described = tables(path, "dpa", steps=3, period={"tau": 1}, network=network, mixing={"graph": graph})
    found = record(described, tmp_path)
    assert np.allclose(found["wait_time"], wait, rtol=1e-12)


@pytest.mark.parametrize("limits, hub, leaf", [
    ({}, 28.3, 28.3),  # 7 x 40 bytes at 10 bytes/s, in as out
    ({"egress": 8.0}, 28.3, 35.3), ({"ingress": 8.0}, 35.3, 28.3),  # 7 x 40 bytes at 8 bytes/s
    ({"ingress": 1e9}, 4.3, 28.3)])
def test_the_hub_of_a_star_is_its_bottleneck(path, tmp_path, limits, hub, leaf):
    network = LINKS | limits
    described = tables(path, "dpa", steps=1, period={"tau": 1}, network=network, mixing={"graph": "star"})
    found = record(described, tmp_path)
    assert np.allclose(found["wait_time"], [[hub] + [leaf] * 7], rtol=1e-12)


def test_where_all_average_an_exchange_is_an_all_reduce(path):
    found = clocks(tables(path, "dpa", steps=1, period={"tau": 1}, network=LINKS, mixing={"graph": "complete"}))
    assert found.time == approx(1 + COSTS["ring"](M, 0.3, NBYTES, 10.0), rel=1e-12)


HIERARCHY = {"kind": "hierarchy", "groups": [2, 2], "latency": [1.0, 10.0, 100.0], "bandwidth": [40.0, 20.0, 4.0]}


def test_links_are_as_slow_as_the_highest_level_they_cross(path, tmp_path):
    found = record(tables(path, "dpa", steps=1, period={"tau": 1}, network=HIERARCHY), tmp_path)
    # 40 bytes: within a node 1 + 1, within a rack 10 + 2, beyond 100 + 10; on the ring 0-1 | 2-3 || 4-5 | 6-7 ||.
    # 1 sends to 0 and 2, 3 s in all; 0 sends to 1 and 7, 11 s in all: 100 + 11 from 7 to 0, 10 + 3 from 2 to 1
    assert found["wait_time"].tolist() == [[111, 13, 13, 111, 111, 13, 13, 111]]
    network = HIERARCHY | {"egress": 16.0}
    egress = record(tables(path, "dpa", steps=1, period={"tau": 1}, network=network), tmp_path)
    # 80 bytes leave in 5 s: more than a link within a node or a rack takes, less than one beyond
    assert egress["wait_time"].tolist() == [[110, 15, 15, 110, 110, 15, 15, 110]]


@pytest.mark.parametrize("workers, cost", [(8, 14 * 100 + 14 / 8 * 10), (4, 6 * 10 + 6 / 4 * 2), (2, 2 * 1 + 1)])
def test_an_all_reduce_is_as_slow_as_the_slowest_link_in_it(tmp_path, workers, cost):
    path = write_quadratic(tmp_path / "q.h5", workers, D)
    time = clocks(tables(path, workers=workers, steps=1, period={"tau": 1}, network=HIERARCHY)).time
    assert time == approx(1 + cost, rel=1e-12)


@pytest.mark.parametrize("request_of", [lambda x: Mix(x, 0), Mean], ids=["mix", "mean"])
@pytest.mark.parametrize("egress", [None, 5.0])
def test_transfers_queue_behind_each_other(path, request_of, egress):
    def twice(task):
        x = np.zeros((M, D))
        first = yield Start(request_of(x))
        second = yield Start(request_of(x))
        yield Finish(first)
        yield Finish(second)

    network = LINKS | ({"egress": egress} if egress else {})
    found = alone(tables(path, "d-psgd", network=network), twice)
    if request_of is Mean:
        once = COSTS["ring"](M, 0.3, NBYTES, egress or 10.0)
        assert found.time == approx(2 * once, rel=1e-12)
    else:
        # two transfers of a message to each of 2 neighbours
        assert found.time == approx(2 * 2 * NBYTES / (egress or 10.0) + 0.3, rel=1e-12)


def test_a_packed_row_costs_the_bytes_of_its_packet(path):
    """Half the bytes, half the transmission: what is compressed is what counts."""
    network = {"kind": "links", "latency": 0.0, "bandwidth": 1.0}
    common = {"steps": 3, "network": network, "compute": {"kind": "constant", "seconds": 0.0}}
    plain = clocks(tables(path, "choco-sgd", compress={"kind": "none"}, **common)).time
    halved = clocks(tables(path, "choco-sgd", compress={"kind": "bf16"}, **common)).time
    # to 2 neighbours in each of 3 steps
    assert plain == approx(3 * 2 * NBYTES, rel=1e-12) and halved == approx(3 * 2 * 2 * D, rel=1e-12)


def test_a_generator_may_ask_what_time_it_is(path):
    times = []

    def step(task):
        times.append((yield Now()))
        yield Grad(np.zeros((M, D)))
        times.append((yield Now()))

    alone(tables(path, compute={"kind": "slow-worker", "seconds": 2.0, "worker": 3, "factor": 2.5}), step)
    assert times == [0.0, 5.0]


# stragglers
def test_one_slow_worker_holds_up_an_average(path, tmp_path):
    slow = {"kind": "slow-worker", "seconds": 2.0, "worker": 3, "factor": 1.5}
    found = record(tables(path, period={"tau": 4}, compute=slow, network=delay(0.0)), tmp_path)
    assert found["virtual_time"].tolist() == [3.0 * k for k in range(1, 13)]
    waits = found["wait_time"][3::4]
    assert (waits[:, 3] == 0).all() and (np.delete(waits, 3, axis=1) == 4.0).all()
    assert (found["compute_time"] == np.where(np.arange(M) == 3, 3.0, 2.0)).all()


@settings(max_examples=15, deadline=None)
@given(algorithm=st.sampled_from(["dpa", "d-psgd"]), latency=st.floats(0, 3), seed=st.integers(0, 99),
       graph=st.sampled_from(["ring", "exponential", "one-peer-exponential", "star"]))
def test_neighbours_wait_for_neighbours_only(path, tmp_path_factory, algorithm, graph, latency, seed):
    """Against the formulas for one worker after the other, for any compute times."""
    folder = tmp_path_factory.mktemp("trace")
    compute = np.random.default_rng(seed).exponential(size=(5, M))
    np.save(folder / "times.npy", compute)
    network = {"kind": "links", "latency": latency, "bandwidth": 100.0}
    found = record(tables(path, algorithm, period={"tau": 3}, mixing={"graph": graph}, network=network,
                          compute={"kind": "trace", "file": str(folder / "times.npy")}), folder)
    mixing = mixing_table(graph=graph).bind(M, 0)
    t, out, into, seconds = np.zeros(M), np.zeros(M), np.zeros(M), NBYTES / 100.0
    for k in range(12):
        departure = t
        t = t + compute[k % 5]
        if algorithm == "dpa":
            departure, round, due = t, (k + 1) // 3 - 1, (k + 1) % 3 == 0
        else:
            round, due = k, True
        if due:
            linked = (mixing.matrix(round % mixing.cycle).toarray() != 0) & ~np.eye(M, dtype=bool)
            begin = np.maximum(departure, out)
            out = begin + linked.sum(axis=0) * seconds
            for i in range(M):
                sources = np.flatnonzero(linked[i])
                into[i] = max(into[i], min(begin[sources] + latency)) + len(sources) * seconds
                t[i] = max(t[i], into[i], max(out[sources] + latency))
        assert found["virtual_time"][k] == approx(t.max(), rel=1e-12)


def test_jitter_is_exponential_on_every_message(path, tmp_path):
    network, steps = delay(1.0) | {"jitter": 0.5}, 4000
    # the first step: two messages each, never less than the delay, all different
    found = record(tables(path, "dpa", steps=1, period={"tau": 1}, network=network), tmp_path)["wait_time"][0]
    assert found.min() > 1 and len(set(found.tolist())) == M
    # an average waits for the latest of m: E[max] = 0.5 (1 + 1/2 + ... + 1/m)
    average = clocks(tables(path, steps=steps, period={"tau": 1}, network=network)).time
    assert average / steps == approx(2.0 + 0.5 * sum(1 / i for i in range(1, M + 1)), rel=0.02)


# traces
def test_a_trace_comes_from_npy_text_and_results(path, tmp_path):
    times = np.array([1.0, 2.0, 0.5])
    np.save(tmp_path / "t.npy", times)
    np.savetxt(tmp_path / "t.txt", times)
    for name in ("t.npy", "t.txt"):
        trace = {"kind": "trace", "file": str(tmp_path / name)}
        found = record(tables(path, network=delay(0.0), compute=trace), tmp_path)
        assert (found["compute_time"] == np.tile(times, 4)[:, None]).all()
    measured = {"kind": "exponential"}
    record(tables(path, steps=6, compute=measured), tmp_path)
    (tmp_path / "sim.h5").rename(tmp_path / "first.h5")
    again = record(tables(path, compute={"kind": "trace", "file": str(tmp_path / "first.h5")}), tmp_path)
    with h5py.File(tmp_path / "first.h5") as file:
        assert np.array_equal(again["compute_time"], np.tile(file["train/compute_time"][:], (2, 1)))


# the same arithmetic, the same numbers
@pytest.mark.parametrize("algorithm", registry.parts("algorithm"))
def test_models_are_those_of_a_plain_run(path, algorithm):
    noisy = {"compute": {"kind": "exponential"}, "network": {"kind": "links", "jitter": 0.1, "egress": 1e6}}
    lazy = {"mixing": {"lazy": True}, "period": {"tau": 3}}  # d2 needs it
    plain = lockstep(tables(path, algorithm, **lazy)).state.x
    trainer = simulated(tables(path, algorithm, **lazy, **noisy))
    assert np.array_equal(trainer.state.x, plain)
    assert trainer.clocks.time > 12 * 0.5 and trainer.clocks.now.shape == (M,)


def test_the_seed_decides(path, tmp_path):
    network = delay(0.1) | {"jitter": 0.2}

    def times(seed):
        described = tables(path, "d-psgd", seed=seed, compute={"kind": "pareto"}, network=network)
        return record(described, tmp_path)["virtual_time"]

    assert np.array_equal(times(1), times(1)) and not np.array_equal(times(1), times(2))


@settings(max_examples=25, deadline=None)
@given(algorithm=st.sampled_from(["local-sgd", "dpa", "d-psgd", "overlap-local-sgd", "gradient-tracking"]),
       graph=st.sampled_from(["ring", "star", "one-peer-exponential", "complete"]), seed=st.integers(0, 99),
       latency=st.floats(0, 2), longer=st.floats(0, 2), jitter=st.sampled_from([0.0, 0.3]),
       egress=st.sampled_from([1e9, 30.0]), allreduce=st.sampled_from(sorted(COSTS)))
def test_a_longer_latency_never_makes_a_run_faster(path, algorithm, graph, seed, latency, longer, jitter, egress,
                                                   allreduce):
    def times(latency):
        network = {"kind": "links", "latency": latency, "bandwidth": 50.0, "jitter": jitter, "egress": egress,
                   "allreduce": allreduce}
        return clocks(tables(path, algorithm, seed=seed, steps=8, period={"tau": 2}, mixing={"graph": graph},
                             network=network, compute={"kind": "exponential"})).now

    assert (times(latency + longer) >= times(latency) * (1 - 1e-12)).all()
