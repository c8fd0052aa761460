"""What a machine file adds to the simulator, against hand-made cases; machine files that are none."""

from pathlib import Path

import numpy as np
import pytest
from pytest import approx

from coopmpi import config, registry
from coopmpi.errors import UserError
from coopmpi.inputs import read_numbers
from coopmpi.planner import machine
from coopmpi.planner.plan import more_workers, slower_network, with_straggler
from coopmpi.report.machine import described
from coopmpi.simulation.clocks import Clocks
from coopmpi.step import traffic
from tests.test_network import exchange, still

ROOT = Path(__file__).parents[1]
NETWORK = {"kind": "measured", "workers": 8, "hops": [1, 2, 4], "latency": [0.5, 1.0, 2.0], "bandwidth": [100.0, 50.0, 10.0],
           "allreduce": [[0, 7.0], [100, 27.0]], "all_to_all": [[0, 14.0], [700, 84.0]]}
COMPUTE = {"kind": "trace", "times": [[1.0, 2.0], [3.0, 4.0]]}
FILE = machine.Machine(about=machine.About(name="desk", ranks=2, parameters=5), compute=COMPUTE,
                       network=NETWORK | {"workers": 2, "hops": [1], "latency": [0.5], "bandwidth": [100.0]})


def network(**keys):
    return registry.build("network", NETWORK | keys).bind(keys.get("bound", 8), read_numbers)


# the network
@pytest.mark.parametrize("source, target, seconds", [(0, 1, 1.5), (1, 0, 1.5), (0, 2, 3.0), (0, 3, 3.0), (0, 4, 12.0), (0, 6, 3.0), (7, 0, 1.5)])
def test_a_link_costs_what_its_hop_on_the_circle_does(source, target, seconds):
    assert still(8, network()).post(exchange([(source, target)], 8, 100.0), 0, False).arrival[target] == approx(seconds)


def test_averages_and_messages_to_all_are_read_from_their_rows_and_scaled_to_other_numbers_of_workers():
    measured = network()
    assert measured.average(8, 8, 50.0).tolist() == [17.0]
    assert measured.average(8, 8, 200.0).tolist() == [47.0]  # at the rate of the last two rows
    # a ring of m sends 2 (m - 1) messages and 2 (m - 1) / m of the bytes
    assert measured.average(16, 16, 100.0).tolist() == approx([7.0 * 15 / 7 + 20.0 * (15 / 16) / (7 / 8)])
    assert measured.average(8, 4, 100.0).tolist() == approx([7.0 * 3 / 7 + 20.0 * (3 / 4) / (7 / 8)] * 2)
    assert measured.average(8, 1, 100.0).tolist() == [0.0] * 8
    assert measured.to_all(8, 1, 350.0) == approx(49.0) and measured.to_all(8, 2, 700.0) == approx(98.0)
    assert measured.to_all(15, 1, 350.0) == approx(28.0 + 35.0) and measured.to_all(1, 1, 350.0) == 0.0


@pytest.mark.parametrize("keys, message", [
    ({"hops": [2, 4], "latency": [1.0, 1.0], "bandwidth": [1.0, 1.0]}, r"hops must rise, from 1 on; given \[2, 4\]"),
    ({"hops": [1, 4, 2]}, "hops must rise"),
    ({"latency": [1.0]}, r"latency must have a number for each of the hops \[1, 2, 4\], given \[1.0\]"),
    ({"allreduce": [[1, 1]]}, r"allreduce must hold two or more rows \(bytes, seconds\)"),
    ({"all_to_all": [[2, 1], [1, 1]]}, r"all_to_all: bytes must rise from row to row, found \[2.0, 1.0\]"),
])
def test_rows_that_cannot_be(keys, message):
    with pytest.raises(UserError, match=message):
        network(**keys)


# gradients
def test_times_stand_in_the_description_and_can_be_multiplied():
    times = registry.build("compute", COMPUTE).bind(2, 0, read_numbers)
    assert [times(k).tolist() for k in range(3)] == [[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]]
    slow = registry.build("compute", COMPUTE | {"factor": [1.0, 3.0]}).bind(2, 0, read_numbers)
    assert slow(1).tolist() == [3.0, 12.0]


@pytest.mark.parametrize("keys, message", [
    ({"kind": "trace"}, "a file or times, given neither"),
    (COMPUTE | {"file": "x.npy"}, "a file or times, given both"),
    ({"kind": "trace", "times": [[1.0], [1.0, 2.0]]}, "as many seconds in each row"),
    (COMPUTE | {"factor": [1.0]}, "one for each of the 2 workers, given 1"),
])
def test_times_that_cannot_be(keys, message):
    with pytest.raises(UserError, match=message):
        registry.build("compute", keys).bind(2, 0, read_numbers)


def test_a_gradient_beside_a_transfer_takes_longer_as_long_as_that_is_under_way():
    delay = registry.build("network", {"kind": "delay", "seconds": 3.0}).bind(2, read_numbers)
    clocks = Clocks(2, lambda k: np.array([1.0, 4.0]), delay, 0, beside=2.0)
    due = clocks.post(traffic.average(2, 2, 8.0, 2), 0, False)
    clocks.compute(0)
    # worker 0 is slowed all the time; worker 1 does 1.5 s of its work in the first 3 s
    assert clocks.now.tolist() == [2.0, 5.5]
    clocks.compute(1)
    assert clocks.now.tolist() == [3.5, 9.5]  # worker 0: half a second of work until 3 s, and half a second
    clocks.wait(due)
    assert clocks.now.tolist() == [3.5, 9.5]
    assert clocks.account()[0].tolist() == [3.5, 9.5]


# files
def test_a_file_is_read_as_it_was_written(tmp_path):
    (tmp_path / "m.toml").write_text(machine.text(FILE))
    found = machine.load(tmp_path / "m.toml")
    assert found.about == FILE.about and found.tables() == FILE.tables()


def test_files_lie_beside_a_machine_file_and_folders_there_are_no_kinds(tmp_path, monkeypatch):
    for name in ("trace", "links", "ring"):
        (tmp_path / name).mkdir()
    np.save(tmp_path / "times.npy", np.ones((3, 2)))
    (tmp_path / "m.toml").write_text('[machine]\nname = "desk"\nranks = 2\n[compute]\nkind = "trace"\nfile = "times.npy"\n'
                                     '[network]\nkind = "links"\nallreduce = "ring"\n')
    monkeypatch.chdir("/")
    found = machine.load(tmp_path / "m.toml")
    assert found.compute == {"kind": "trace", "file": str(tmp_path / "times.npy")}
    assert found.network == {"kind": "links", "allreduce": "ring"}


@pytest.mark.parametrize("old, new, message", [
    ("[network]", "[netwrk]", "and no other ones; (given is netwrk|missing is network)"),
    ("ranks = 2", "ranks = 3", r"times must hold seconds of shape .* \(steps, 3\), found \(2, 2\)"),
    ("ranks = 2", "ranks = 1", "ranks"),
    ("[1.0, 2.0]", "[1.0, -2.0]", "times"),
    ('kind = "measured"', 'kind = "mesured"', "did you mean 'measured'"),
    ("bandwidth = [100.0]", "bandwidth = [0.0]", "bandwidth"),
    ("name = ", "nmae = ", "did you mean 'name'"),
    ("[machine]", "[machine", "not valid TOML"),
])
def test_a_damaged_file_is_answered_with_a_sentence(tmp_path, old, new, message):
    path = tmp_path / "m.toml"
    text = machine.text(FILE)
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=message) as error:
        machine.load(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("path", sorted((ROOT / "examples" / "machines").glob("*.toml")), ids=lambda path: path.stem)
def test_examples_are_machines(path):
    found = machine.load(path)
    text = described(found)
    assert f"{found.about.ranks} ranks" in text and "gradient" in text and "network" in text
    for other in (slower_network(found, 10), with_straggler(found, 3), more_workers(found, 2)):
        resolved = config.resolve(other)
        resolved.compute.bind(other["workers"], 0, read_numbers)
        assert resolved.network.bind(other["workers"], read_numbers).average(other["workers"], other["workers"], 1e6)[0] > 0


# what if
def test_other_machines_are_made_from_one():
    slow = slower_network(FILE, 10)
    assert slow["network"]["bandwidth"] == [10.0] and slow["network"]["latency"] == [0.5]
    assert slow["network"]["allreduce"] == [[0, 7.0], [100, 207.0]] and slow["compute"] == COMPUTE
    assert with_straggler(FILE, 3)["compute"]["factor"] == [1.0, 3.0]
    twice = more_workers(FILE, 2)
    assert twice["workers"] == 4 and twice["compute"]["times"] == [[1.0, 2.0, 1.0, 2.0], [3.0, 4.0, 3.0, 4.0]]
