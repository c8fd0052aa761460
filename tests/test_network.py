"""Transfers on virtual clocks against hand-made cases: queues on links and at ports, matrices and tables from files."""

import heapq

import h5py
import numpy as np
import pytest
from pytest import approx

from coopmpi import config, registry
from coopmpi.drivers.solo import Solo
from coopmpi.errors import UserError
from coopmpi.inputs import read_numbers
from coopmpi.run.assemble import assemble
from coopmpi.simulation.clocks import Clocks
from coopmpi.step import traffic
from coopmpi.topology.mixing import mixing_table
from tests.runs import write_quadratic
from tests.test_simulate import clocks, record, tables

M, D = 4, 5
NBYTES = 8 * D


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_quadratic(tmp_path_factory.mktemp("network") / "q.h5", M, D)


def bound(workers=M, **keys):
    return registry.build("network", {"kind": "links"} | keys).bind(workers, read_numbers)


def still(workers, network):
    """Clocks that stand at 0, and go on by requests only."""
    return Clocks(workers, lambda k: np.zeros(workers), network, 0)


def exchange(links, workers, nbytes):
    sources, targets = np.array(sorted(links)).T
    return traffic.exchange(traffic.Links(sources, targets, np.bincount(sources, minlength=workers) * 1.0), nbytes)


# queues
def test_a_later_transfer_starts_when_the_earlier_one_has_left_the_link():
    line = still(2, bound(2, latency=0.5, bandwidth=10.0))
    one = exchange([(0, 1)], 2, 40.0)
    arrivals = [line.post(one, 0, False).arrival[1] for _ in range(3)]
    assert arrivals == [4.5, 8.5, 12.5]  # the latency is not queued for
    line.now = np.array([20.0, 0.0])
    assert line.post(one, 0, False).arrival[1] == 24.5  # the line is free again


def test_a_link_that_is_slower_than_the_port_queues_for_itself():
    fast = still(3, bound(3, latency=0.0, bandwidth=10.0, egress=1000.0, ingress=1000.0))
    first, second = exchange([(0, 1)], 3, 40.0), exchange([(0, 1), (0, 2)], 3, 40.0)
    assert fast.post(first, 0, False).arrival[1] == 4.0
    # 0 -> 1 behind the first, 0 -> 2 at 0.04 s, when the port has done with the first
    assert fast.post(second, 0, False).arrival[1:].tolist() == approx([8.0, 4.04])
    assert fast.post(first, 0, False).arrival[1] == approx(12.0)
    # an average begins when all links have done with what its workers send
    average = fast.post(traffic.average(3, 3, 30.0, 3), 0, False)
    assert average.arrival.tolist() == approx([12.0 + 4 / 3 * 3.0] * 3)


def test_messages_that_leave_together_share_the_port_evenly(tmp_path):
    bandwidth = np.full((3, 3), 10.0)
    bandwidth[0, 1] = 40.0
    np.save(tmp_path / "b.npy", bandwidth)
    port = still(3, bound(3, latency=0.0, bandwidth=str(tmp_path / "b.npy")))
    # 40 bytes take 1 s to 1 and 4 s to 2: half the port each until the first is through at 2 s, all of it at 5 s
    assert port.post(exchange([(0, 1), (0, 2)], 3, 40.0), 0, False).arrival.tolist() == [0.0, 2.0, 5.0]


def test_what_arrives_queues_at_the_receivers_port():
    hub = still(4, bound(4, latency=0.5, bandwidth=10.0))
    to_hub = exchange([(1, 0), (2, 0), (3, 0)], 4, 40.0)
    assert hub.post(to_hub, 0, False).arrival.tolist() == [12.5, 0, 0, 0]
    assert hub.post(to_hub, 0, False).arrival[0] == 24.5  # each sends the second at 4 s, and the port is taken until 12.5
    late = still(4, bound(4, latency=0.5, bandwidth=10.0))
    late.now = np.array([0.0, 0.0, 0.0, 100.0])
    assert late.post(to_hub, 0, False).arrival[0] == 104.5  # the others have long been there


def test_silent_workers_send_empty_messages():
    port = still(3, bound(3, latency=0.5, bandwidth=10.0))
    nbytes = np.array([0.0, 40.0, 40.0])
    assert port.post(exchange([(0, 1), (1, 0), (2, 0)], 3, nbytes), 0, False).arrival.tolist() == [8.5, 0.5, 0.0]


def test_a_round_without_links_costs_nothing():
    port = still(3, bound(3))
    empty = traffic.exchange(traffic.Links(np.zeros(0, int), np.zeros(0, int), np.zeros(3)), 40.0)
    assert port.post(empty, 0, False).arrival.tolist() == [0, 0, 0]


def test_averages_and_exchanges_share_the_ports(path):
    port = still(2, bound(2, latency=0.0, bandwidth=10.0))
    one, mean = exchange([(0, 1)], 2, 40.0), traffic.average(2, 2, 40.0, 2)
    assert port.post(one, 0, False).arrival[1] == 4.0
    assert port.post(mean, 0, False).arrival.tolist() == [8.0, 8.0]  # 2 (m - 1) / m 40 / 10 = 4 s
    assert port.post(one, 0, False).arrival[1] == 12.0


def test_rounds_of_a_fixed_delay_do_not_queue():
    delay = still(2, registry.build("network", {"kind": "delay", "seconds": 3.0}).bind(2, read_numbers))
    one, mean = exchange([(0, 1)], 2, 40.0), traffic.average(2, 2, 40.0, 2)
    for moved in (one, one, mean, mean):
        assert delay.post(moved, 0, False).arrival[1] == 3.0


@pytest.mark.parametrize("steps", [1, 2, 9])
def test_streaming_diloco_waits_where_its_line_is_full(path, steps):
    """A fragment is launched after every step of 1 s and takes the line for 2.5 s, so that the line is never free."""
    half = D // 2 * 8  # bytes of the first fragment; the second one has 3 numbers of 5
    network = {"latency": 0.0, "bandwidth": 1.5 * half / 2.5}  # 2 (m - 1) / m = 1.5
    given = tables(path, {"kind": "streaming-diloco", "fragments": 2, "delay": 1}, workers=M, steps=steps, period={"tau": 2},
                   network=network)
    took = [2.5 if k % 2 == 0 else 2.5 * 3 / 2 for k in range(steps)]
    assert clocks(given).time == approx(1 + sum(took))


# message by message, every port in the order of time
def by_events(links, compute, seconds, latency, overlap):
    """Clocks (m,) after so many rounds: links(k) -> [(source, target)], compute (rounds, m)."""
    rounds, m = compute.shape
    out, into, k, end = np.zeros(m), np.zeros(m), np.zeros(m, int), np.zeros(m)
    expected = [np.bincount([t for _, t in links(r)], minlength=m) for r in range(rounds)]
    there, waiting, events, number = {}, [None] * m, [], iter(range(10**9))

    def at(time, what, *about):
        heapq.heappush(events, (time, next(number), what, about))

    def send(i, now):
        targets = [t for s, t in links(k[i]) if s == i]
        begin = max(now, out[i])
        out[i] = begin + len(targets) * seconds
        for t in targets:
            at(begin + latency, "message", t, k[i], out[i] + latency)

    def look(i):
        arrived = there.get((i, k[i]), [])
        if waiting[i] is not None and len(arrived) == expected[k[i]][i]:
            end[i], waiting[i] = max([waiting[i], *arrived]), None
            k[i] += 1
            if k[i] < rounds:
                at(end[i], "step", i)

    for i in range(m):
        at(0.0, "step", i)
    while events:
        now, _, what, about = heapq.heappop(events)
        if what == "message":
            i, round, last = about
            into[i] = max(into[i], now) + seconds
            there.setdefault((i, round), []).append(max(last, into[i]))
        else:
            i, = about
            if what == "step":
                if overlap:
                    send(i, now)
                at(now + compute[k[i], i], "computed", i)
                continue
            if not overlap:
                send(i, now)
            waiting[i] = now
        look(i)
    return end


@pytest.mark.parametrize("algorithm", ["dpa", "d-psgd"])
@pytest.mark.parametrize("seconds", [0.2, 1.0])
@pytest.mark.parametrize("graph, tolerance", [("ring", 1e-12), ("exponential", 1e-12), ("star", 0.1),
                                              ("one-peer-exponential", 0.1)])
def test_times_are_those_of_all_messages_one_by_one(tmp_path, algorithm, seconds, graph, tolerance):
    m, rounds, latency = 8, 60, 0.1
    path = write_quadratic(tmp_path / "q.h5", m, D)
    compute = np.random.default_rng(1).exponential(size=(rounds, m))
    np.save(tmp_path / "times.npy", compute)
    mixing = mixing_table(graph=graph).bind(m, 0)

    def links(k):
        sources, targets, _ = mixing.links([k], range(m))
        return list(zip(sources.tolist(), targets.tolist()))

    found = clocks(tables(path, algorithm, workers=m, steps=rounds, period={"tau": 1}, mixing={"graph": graph},
                          network={"latency": latency, "bandwidth": NBYTES / seconds},
                          compute={"kind": "trace", "file": str(tmp_path / "times.npy")}))
    assert found.now == approx(by_events(links, compute, seconds, latency, algorithm == "d-psgd"), rel=tolerance)


# a number for each link
def write_links(folder, name, suffix, numbers):
    file = folder / f"{name}.{suffix}"
    if suffix == "npy":
        np.save(file, numbers)
    elif suffix == "txt":
        np.savetxt(file, numbers)
    else:
        with h5py.File(file, "w") as data:
            data[name] = numbers
    return str(file)


@pytest.mark.parametrize("suffix", ["npy", "h5", "txt"])
def test_matrices_say_what_each_link_takes(path, tmp_path, suffix):
    latency = np.arange(16.0).reshape(M, M) + 1  # from i to j: 4 i + j + 1
    bandwidth = np.full((M, M), 20.0)
    bandwidth[1, 2] = 8.0
    np.fill_diagonal(bandwidth, 0)  # no links
    network = {"latency": write_links(tmp_path, "latency", suffix, latency),
               "bandwidth": write_links(tmp_path, "bandwidth", suffix, bandwidth)}
    given = tables(path, "sgp", workers=M, steps=1, mixing={"graph": "one-peer-exponential"}, network=network)
    # to the next one: 40 bytes in 2 s, from 1 to 2 in 5; latencies 13 from 3 to 0, and 2, 7, 12
    assert record(given, tmp_path)["wait_time"].tolist() == [[13 + 2, 2 + 2, 7 + 5, 12 + 2]]
    given = tables(path, workers=M, steps=1, period={"tau": 1}, network=network)
    assert clocks(given).time == approx(1 + 6 * 15 + 6 / 4 * 5)  # the slowest of all links; 16 is the diagonal
    given["network"] = network | {"bandwidth": 20.0}
    assert clocks(given).time == approx(1 + 6 * 15 + 6 / 4 * 2)


def test_groups_average_on_their_own_links(tmp_path):
    latency = np.kron(np.array([[1.0, 50.0], [50.0, 3.0]]), np.ones((2, 2)))
    np.save(tmp_path / "l.npy", latency)
    network = bound(latency=str(tmp_path / "l.npy"), bandwidth=10.0)
    assert network.average(4, 2, 20.0).tolist() == [2 * 1 + 2, 2 * 3 + 2]
    assert network.average(4, 1, 20.0).tolist() == [0, 0, 0, 0]


# averages as measured
def test_averages_take_what_a_table_says(path, tmp_path):
    np.savetxt(tmp_path / "mean.txt", [[16, 1.0], [32, 2.0], [64, 6.0]])
    network = bound(allreduce=str(tmp_path / "mean.txt"))
    # below and at the first row, between rows, above the last one at (6 - 2) / (64 - 32) seconds per byte
    for nbytes, seconds in ((0, 1.0), (16, 1.0), (24, 1.5), (40, 3.0), (64, 6.0), (80, 8.0)):
        assert network.average(M, M, nbytes).tolist() == [seconds]
        assert network.average(M, 2, nbytes).tolist() == [seconds] * 2 and not network.average(M, 1, nbytes).any()
    given = tables(path, workers=M, steps=2, period={"tau": 1}, network={"allreduce": str(tmp_path / "mean.txt")})
    assert clocks(given).time == 2 * (1 + 3.0)  # 40 bytes


def test_a_table_in_a_hierarchy(path, tmp_path):
    np.save(tmp_path / "mean.npy", [[0, 0.5], [80, 2.5]])
    network = {"kind": "hierarchy", "allreduce": str(tmp_path / "mean.npy")}
    assert clocks(tables(path, workers=M, steps=1, period={"tau": 1}, network=network)).time == 1 + 1.5


# what cannot be
@pytest.mark.parametrize("key, numbers, message", [
    ("latency", None, r"\[network\] latency: file '.*' does not exist"),
    ("latency", np.ones(4), r"latency = '.*' must hold .*\(4, 4\), found \(4,\)"),
    ("latency", np.ones((3, 3)), r"\(4, 4\), found \(3, 3\)"),
    ("latency", np.eye(4) - 1, "from 0 to 1e\\+09 seconds, from worker 0 to 1 there is -1"),
    ("latency", np.full((4, 4), np.nan), "there is nan"),
    ("bandwidth", np.eye(4), "finite and above 0, bytes per second, from worker 0 to 1 there is 0"),
    ("bandwidth", np.full((4, 4), np.inf), "there is inf"),
    ("bandwidth", np.full((4, 4), "x"), "expected integers or floats"),
    ("allreduce", None, r"\[network\] allreduce: file '.*' does not exist"),
    ("allreduce", np.ones((1, 2)), r"two or more rows \(bytes, seconds\), shape \(rows, 2\), found \(1, 2\)"),
    ("allreduce", np.ones((3, 3)), r"found \(3, 3\)"),
    ("allreduce", [[1, 1], [2, -1]], "numbers >= 0, .*the least there is -1"),
    ("allreduce", [[1, 1], [2, np.nan]], "numbers >= 0"),
    ("allreduce", [[1, 1], [1, 2]], "bytes must rise from row to row, found \\[1.0, 1.0\\]"),
], ids=str)
def test_files_that_describe_no_network_are_refused(tmp_path, key, numbers, message):
    file = tmp_path / "numbers.npy"
    if numbers is not None:
        np.save(file, numbers)
    with pytest.raises(UserError, match=message):
        assemble(config.resolve({"workers": 4, "network": {key: str(file)}}), Solo(), mode="time-only")
    if numbers is not None:
        # an HDF5 file is asked for the data set of the key
        with h5py.File(tmp_path / "numbers.h5", "w") as data:
            data["other"] = np.ones((4, 4))
        with pytest.raises(UserError, match=f"no dataset '{key}'; in the file: other"):
            bound(**{key: str(tmp_path / "numbers.h5")})


# means that go through the owners of ranges
def test_a_reduce_takes_what_a_worker_has_to_send(tmp_path):
    """4 workers, packets of 4 ranges of 10 numbers (8 bytes): each sends and receives 3 of them, 240 bytes, twice."""
    with h5py.File(tmp_path / "q.h5", "w") as file:
        file["a"], file["b"], file["x0"] = np.ones(40), np.ones((4, 40)), np.zeros(40)
    given = {"workers": 4, "steps": 2, "dtype": "float64", "device": "cpu", "task": {"kind": "quadratic", "path": str(tmp_path / "q.h5")},
              "algorithm": {"kind": "double-compressed"}, "period": {"tau": 2}, "compress": {"kind": "none"},
              "compute": {"seconds": 1.0}, "network": {"latency": 0.5, "bandwidth": 60.0}}
    # 2 gradients, and twice 0.5 + 240 / 60
    assert clocks(given).time == approx(2 + 2 * 4.5)
    # ports of half the rate
    assert clocks(given | {"network": given["network"] | {"ingress": 30.0}}).time == approx(2 + 2 * 8.5)
    # 16-bit numbers, a quarter of these bytes, and both rounds as one request
    given |= {"algorithm": {"kind": "local-sgd"}, "compress": {"kind": "fp16"}}
    assert clocks(given).time == approx(2 + 2 * 1.5)


def test_work_of_a_mean_through_owners(tmp_path):
    """Of 40 numbers: 40 packed, 40 unpacked by the owners (10 of each of 4 workers), 10 packed, 40 unpacked."""
    with h5py.File(tmp_path / "q.h5", "w") as file:
        file["a"], file["b"], file["x0"] = np.ones(40), np.ones((4, 40)), np.zeros(40)
    given = {"workers": 4, "steps": 1, "dtype": "float64", "device": "cpu", "task": {"kind": "quadratic", "path": str(tmp_path / "q.h5")},
              "algorithm": {"kind": "sync-sgd"}, "compress": {"kind": "fp16"}, "network": {"kind": "delay", "seconds": 0.0},
              "compute": {"seconds": 0.0, "compress": 1.0, "unpack": 100.0}}
    assert clocks(given).time == approx(50 + 8000)
