"""Prices of work that is neither gradient nor message: what each request and update costs, counted by hand; measuring them."""

import tomllib

import numpy as np
import pytest
from pytest import approx

from coopmpi import config, registry
from coopmpi.compression.codec import Codec
from coopmpi.compression.compressors import Sign
from coopmpi.device.host import Host
from coopmpi.drivers.driver import Driver
from coopmpi.drivers.solo import Solo
from coopmpi.errors import UserError
from coopmpi.run import measure
from coopmpi.run.assemble import assemble
from coopmpi.step import Finish, Mean, Mix, Packed, Reduce, Start
from coopmpi.tasks.problem import Objective
from tests.runs import coopmpi, write_quadratic
from tests.test_simulate import clocks, record, tables

M, D = 8, 5
COMPUTE = {"kind": "constant", "seconds": 100.0}
# a different power of ten for each kind of work: a time tells how many numbers went through each
PRICES = {"compress": 1e-6, "unpack": 1e-4, "mix": 1e-2, "optimizer": 1.0}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_quadratic(tmp_path_factory.mktemp("prices") / "q.h5", M, D)


def described(path, algorithm, **more):
    more = {"compute": COMPUTE | PRICES, "network": {"kind": "delay", "seconds": 0.0}, "period": {"tau": 1}, "steps": 1} | more
    return tables(path, algorithm, **more)


def work(**numbers):
    """Seconds of a gradient, and of so many models of D numbers."""
    return 100.0 + D * sum(PRICES[kind] * count for kind, count in numbers.items())


@pytest.mark.parametrize("algorithm, more, numbers", [
    ("sync-sgd", {}, {"mix": 1, "optimizer": 1}),  # the mean is scaled
    ("local-sgd", {}, {"mix": 1, "optimizer": 1}),
    ("easgd", {}, {"mix": 1 + 2 + 2, "optimizer": 1}),  # mean; pull of the workers, of the centre
    ("dpa", {}, {"mix": 3, "optimizer": 1}),  # the own model and those of 2 neighbours
    ("dpa", {"mixing": {"graph": "hypercube"}}, {"mix": 4, "optimizer": 1}),
    ("dpa", {"mixing": {"graph": "complete"}}, {"mix": 1, "optimizer": 1}),  # its exchange is an average
    ("d-psgd", {}, {"mix": 3, "optimizer": 1}),
    # increment of 2 rows, packet; the own packet and 2 others; sums of 3 copies and of 3 rows
    ("choco-sgd", {"compress": {"kind": "sign"}}, {"compress": 1, "unpack": 3, "mix": 2 + 3 + 3, "optimizer": 1}),
    # memory of 2 rows, packet, what is left out; 3 packets; 3 rows
    ("deepsqueeze", {"compress": {"kind": "sign"}}, {"compress": 1, "unpack": 1 + 3, "mix": 2 + 3, "optimizer": 1}),
], ids=str)
def test_a_step_pays_for_every_number(path, algorithm, more, numbers):
    assert clocks(described(path, algorithm, **more)).now == approx(np.full(M, work(**numbers)), rel=1e-12)


def test_prices_are_free_by_default(path):
    given = described(path, "choco-sgd", compute=COMPUTE, steps=3)
    assert clocks(given).time == 300.0


def test_workers_pay_for_the_rows_that_they_receive(path):
    """On a star the hub adds up 8 rows, the others 2 each."""
    found = clocks(described(path, "dpa", mixing={"graph": "star"})).now
    assert found == approx([work(mix=8, optimizer=1)] + [work(mix=2, optimizer=1)] * 7, rel=1e-12)


REQUESTS = {"mix": lambda context, x: Mix(context.pack(x, 0), 0),
            "reduce": lambda context, x: Reduce(Packed(context.ranges, context.ranges.encode(x, range(M), 0), 0))}


@pytest.mark.parametrize("request_of", REQUESTS)
def test_a_packet_leaves_when_it_is_made_and_is_unpacked_when_it_is_there(path, request_of):
    """Both overlap with nothing, the transfer overlaps with what the worker does meanwhile."""
    times = []

    def step(task):
        context = assembly.context
        ticket = yield Start(REQUESTS[request_of](context, np.zeros((M, D))))
        times.append(assembly.clocks.now[0])
        context.work(mix=2.0)  # 2 seconds of something else
        times.append(assembly.clocks.now[0])
        yield Finish(ticket)
        times.append(assembly.clocks.now[0])

    prices = {"compress": 3.0 / D, "unpack": 5.0 / D, "mix": 1.0}
    given = described(path, "choco-sgd", compute=COMPUTE | prices, network={"kind": "delay", "seconds": 4.0})
    assembly = assemble(config.resolve(given), Solo(), mode="simulate")
    assembly.driver.drive(step(assembly.driver.task))
    # packed at 3, there at 7; 3 packets on the ring; an owner unpacks its range of all packets, which make up one
    assert times == approx([3, 5, 7 + 5 * {"mix": 3, "reduce": 1}[request_of]])


def test_other_work_is_neither_computing_nor_waiting(path, tmp_path):
    found = record(described(path, "dpa", network={"kind": "delay", "seconds": 7.0}), tmp_path)
    assert (found["compute_time"] == 100).all() and np.allclose(found["wait_time"], 7.0)
    assert found["virtual_time"] == approx(work(mix=3, optimizer=1) + 7.0)


def test_double_compression_pays_in_both_directions(path):
    found = clocks(described(path, "double-compressed", compress={"kind": "sign"})).time
    # xhat - x, packet, what is left out; the owned range of 8 packets, which make up one; of the range, one number of the 5: mean,
    # packet, what is left out; all ranges; xhat - Q, and a copy
    assert found == approx(work(compress=1 + 1 / 8, unpack=1 + 1 + 1 / 5 + 1, mix=2 + 2 + (1 + 2) / 5 + 2 + 1, optimizer=1), rel=1e-12)


def test_powersgd_pays_as_lowrank_does(path):
    prices = {"compress": {"lowrank": 1e-6, "topk": 9.0}, "unpack": {"topk": 9.0, "lowrank": 9.0}}
    found = clocks(described(path, "powersgd", compute=COMPUTE | PRICES | prices)).time
    # gradient + memory, the mean of what is sent, a copy of the factors, what they stand for and what is left out
    assert found == approx(work(compress=1, mix=2 + 1 + 1 + 3, optimizer=1), rel=1e-12)


@pytest.mark.parametrize("kind", ["constant", "exponential", "pareto", "slow-worker"])
def test_every_compute_model_has_prices(path, kind):
    given = described(path, "local-sgd", network={"kind": "delay", "seconds": 0.0})
    free, priced = (clocks(given | {"compute": {"kind": kind} | prices}).time for prices in ({}, {"optimizer": 1.0}))
    assert priced == approx(free + D)


# by compressor
def test_a_run_takes_the_price_of_its_compressor(path):
    compute = COMPUTE | {"compress": {"sign": 1.0, "qsgd": 7.0}, "unpack": 0.0}
    for kind, seconds in (("sign", 1.0), ("qsgd", 7.0)):
        assert clocks(described(path, "choco-sgd", compute=compute, compress={"kind": kind})).time == 100 + seconds * D
    assert clocks(described(path, "local-sgd", compute=compute)).time == 100  # compresses nothing
    with pytest.raises(UserError, match="compress has no price for the compressor of this run: unknown compressor 'sign-topk'; "
                                        "did you mean 'sign'"):
        clocks(described(path, "choco-sgd", compute=compute, compress={"kind": "sign-topk"}))


@pytest.mark.parametrize("key", ["compress", "unpack", "mix", "optimizer"])
@pytest.mark.parametrize("value", [-1e-9, 1e10, float("nan"), "fast", [1.0]])
def test_prices_are_numbers_from_0_on(key, value):
    with pytest.raises(UserError, match=rf"\[compute\] {key}"):
        config.resolve({"compute": {key: value}})


@pytest.mark.parametrize("value", [-1e-9, float("inf"), float("nan"), "fast"])
def test_prices_in_a_table_are_such_numbers_too(value):
    with pytest.raises(UserError, match=r"\[compute\] compress"):
        config.resolve({"compute": {"compress": {"sign": 1e-9, "topk": value}}})


def test_a_step_says_what_it_works_on_its_own(path):
    def step(task):
        assembly.context.work(compress=1, unpack=10, mix=100, optimizer=1000)
        yield Mean(np.zeros((M, D)))

    compute = COMPUTE | {"compress": 1.0, "unpack": 1.0, "mix": 0.0, "optimizer": 1.0}
    assembly = assemble(config.resolve(described(path, "choco-sgd", compute=compute)), Solo(), mode="simulate")
    assembly.driver.drive(step(assembly.driver.task))
    assert assembly.clocks.time == 1011
    with pytest.raises(TypeError):
        assembly.context.work(mixing=1)


# measuring them
def measured(path, **more):
    given = {"workers": M, "device": "cpu", "task": {"kind": "quadratic", "path": path}} | more
    return measure.measured(config.resolve(given))


def test_what_is_measured_is_divided_by_the_numbers_it_went_through(path, monkeypatch):
    """On a clock that only the measured operations advance, by known seconds per number."""
    now = [0.0]

    def takes(cls, name, seconds):
        original = getattr(cls, name)

        def counted(self, *arguments):
            now[0] += seconds(*arguments)
            return original(self, *arguments)

        monkeypatch.setattr(cls, name, counted)

    monkeypatch.setattr(measure, "perf_counter", lambda: now[0])
    takes(Objective, "gradient", lambda x, step: 50.0)
    takes(Host, "add_scaled", lambda x, factor, y: 0.25 * x.size)
    takes(Host, "combine", lambda weights, arrays, out: 2.0 * sum(array.size for array in arrays))
    takes(Codec, "encode", lambda x, workers, round: 8.0 * x.size)
    takes(Driver, "ask", lambda request: 16.0 * request.copies.size)
    what, found = measured(path)
    assert what == "a model of 5 numbers in 1 tensors, float32, cpu"
    expected = {"seconds": 50.0, "optimizer": 0.25, "mix": 2.0}
    for kind in registry.parts("compress"):
        expected |= {("compress", kind): 8.0, ("unpack", kind): 16.0}
    assert found == expected


def test_measuring_does_not_depend_on_the_algorithm_and_takes_own_compressors(path, monkeypatch):
    monkeypatch.setattr(measure, "ENOUGH", 0.0)
    _, found = measured(path, algorithm={"kind": "squarm-sgd"}, compress={"kind": "tests.test_prices:Own"},
                        optimizer={"momentum": 0.9, "nesterov": True}, period={"kind": "adacomm"},
                        mixing={"graph": "torus", "shape": [3, 3]})  # 9 workers
    assert ("compress", "tests.test_prices:Own") in found and all(seconds >= 0 for seconds in found.values())
    assert found["seconds"] > 0


class Own(Sign, frozen=True, kw_only=True):
    """A user's compressor."""


def test_the_table_that_doctor_prints_is_one_to_simulate_with(path, tmp_path):
    run = f'workers = 8\nsteps = 3\ndevice = "cpu"\ntask = {{kind = "quadratic", path = "{path}"}}\n'
    (tmp_path / "run.toml").write_text(run)
    status, out, err = coopmpi("doctor", "--measure", "run.toml", cwd=tmp_path)
    assert status == 0, err
    assert out.startswith("# measured on a model of 5 numbers") and set(tomllib.loads(out)) == {"compute"}
    (tmp_path / "run.toml").write_text(f'{run}algorithm = {{kind = "choco-sgd"}}\ncompress = {{kind = "topk"}}\n{out}')
    status, _, err = coopmpi("simulate", "run.toml", "--time-only", "--quiet", cwd=tmp_path)
    assert status == 0, err


@pytest.mark.mpi
def test_ranks_measure_together_and_one_speaks(tmp_path):
    status, out, err = coopmpi("doctor", "--measure", "--set=task.data=digits", ranks=2, cwd=tmp_path)
    assert status == 0, err
    assert out.count("[compute]") == 1 and "9610 numbers in 4 tensors, float32, cpu, 2 ranks at a time" in out
    assert set(tomllib.loads(out)["compute"]["compress"]) == set(registry.parts("compress"))


@pytest.mark.parametrize("arguments, message", [
    (["run.toml"], "RUN.toml and --set are for doctor --measure"), (["--set=seed=1"], "--set are for doctor --measure"),
    (["--measure", "missing.toml"], "'missing.toml' does not exist"), (["--measure", "--set=task.kind=nothing"], "unknown task")])
def test_mistakes_are_told(tmp_path, arguments, message):
    status, out, err = coopmpi("doctor", *arguments, cwd=tmp_path)
    assert status == 2 and message in err and not out and err.count("\n") == 1
