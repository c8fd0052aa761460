"""Messages between ranks, against communicators that watch every request: none is left open, none is sent too early."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coopmpi.device.host import Host
from coopmpi.drivers.exchange_schedule import ExchangeSchedule
from coopmpi.drivers.mpi import transfer as messages
from coopmpi.drivers.mpi.transfer import Collective, GroupSum, Rows
from coopmpi.drivers.rank_layout import RankLayout
from coopmpi.topology.mixing import mixing_table
from tests.fake_mpi import Network, Status

D = 40


class Later:
    """An outgoing row that is there only after it was looked at a few times, as one on its way from a GPU."""

    def __init__(self, row, looks):
        self.row, self.looks = row, looks
        self.buffer = np.full_like(row, np.nan)

    @property
    def ready(self):
        self.looks -= 1
        if self.looks <= 0:
            self.buffer[...] = self.row
        return self.looks <= 0

    def wait(self):
        self.looks = 0
        self.buffer[...] = self.row


class Slow(Host):
    """Rows leave late, and what arrives is copied from elsewhere."""

    def outgoing(self, row):
        return Later(row, looks=3)

    def incoming(self, row):
        return np.full_like(row, np.nan)

    def arrived(self, buffer, row):
        row[...] = buffer


DEVICES = {"host": Host, "staged": Slow}


@pytest.fixture(params=[1, 104, 10_000], ids=lambda nbytes: f"pieces of {nbytes}")
def pieces(request, monkeypatch):
    """Rows of 320 bytes are cut into numbers, into four pieces, or not at all."""
    monkeypatch.setattr(messages, "PIECE", request.param)


def spoil(device, *arrays):
    """What a program may do once a transfer is complete: write over what it sent, and use recycled memory."""
    for array in arrays:
        array[...] = np.nan
    for columns in range(1, D + 1):
        for rows in (1, 2, 3, 4):
            device.empty((rows, columns), "f8")[...] = np.nan


def node(rank):
    """The ranks beside this one: two to a node."""
    return {rank, rank ^ 1}


def numbers(rank, rows):
    return np.random.default_rng(rank).standard_normal((rows, D))


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("looks", [0, 1, 7, 100])
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_rows_arrive_and_no_request_is_left_open(device, looks, ranks):
    def work(comm):
        own, place = numbers(comm.rank, 2), DEVICES[device]()
        others = [rank for rank in range(ranks) if rank != comm.rank]
        arrived = np.full((2 * len(others), D), np.nan)
        sends = [(peer, row, False) for peer in others for row in own]
        receives = [(others[i // 2], row) for i, row in enumerate(arrived)]
        transfer = Rows(comm, 5, sends, receives, place, Status(), node(comm.rank))
        for _ in range(looks):
            transfer.progress()
        transfer.wait()
        assert comm.open_requests() == []
        spoil(place, own)
        return others, arrived

    for others, arrived in Network(ranks).run(work):
        assert np.array_equal(arrived, np.concatenate([numbers(rank, 2) for rank in others]))


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("silent", [(0,), (1,), (0, 1)], ids=str)
@pytest.mark.parametrize("looks", [0, 2, 100])
def test_a_silent_worker_sends_no_bytes_and_stands_for_zeros(device, silent, looks):
    def work(comm):
        rows, arrived, place = numbers(comm.rank, 2), np.full((2, D), np.nan), DEVICES[device]()
        sends = [(1 - comm.rank, row, comm.rank == 0 and i in silent) for i, row in enumerate(rows)]
        transfer = Rows(comm, 1, sends, [(1 - comm.rank, row) for row in arrived], place, Status(), near=())
        for _ in range(looks):
            transfer.progress()
        transfer.wait()
        assert comm.open_requests() == []
        return arrived, sum(comm.messages[1 - comm.rank])

    (to_first, few), (to_second, all_numbers) = Network(2).run(work)
    spoken = numbers(0, 2)
    spoken[list(silent)] = 0
    assert np.array_equal(to_first, numbers(1, 2)) and np.array_equal(to_second, spoken)
    assert all_numbers == 2 * D and few == (2 - len(silent)) * D


def test_rows_to_other_nodes_are_cut_and_others_are_not(monkeypatch):
    monkeypatch.setattr(messages, "PIECE", 104)  # 13 numbers

    def work(comm):
        arrived = np.zeros((2, D))
        others = [rank for rank in range(3) if rank != comm.rank]
        sends = [(rank, row, False) for rank in others for row in numbers(comm.rank, 1)]
        Rows(comm, 1, sends, list(zip(others, arrived)), Host(), Status(), node(comm.rank)).wait()
        return comm.messages

    cut, whole = [13, 13, 13, 1], [D]
    assert Network(3).run(work) == [{1: whole, 2: cut}, {0: whole, 2: cut}, {0: cut, 1: cut}]


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("counts", [(1, 1), (2, 1, 3), (1, 2, 2, 1)], ids=str)
@pytest.mark.parametrize("looks", [0, 3, 30])
def test_sums_of_groups_and_no_request_is_left_open(device, ordered, counts, looks):
    def work(comm):
        place, own = DEVICES[device](), numbers(comm.rank, counts[comm.rank])
        out = np.full(D, np.nan)
        transfer = GroupSum(comm, (4, 5), own, list(enumerate(counts)), out, place, Status(), node(comm.rank), ordered)
        for _ in range(looks):
            transfer.progress()
        transfer.wait()
        assert comm.open_requests() == []
        total = out.copy()
        del transfer
        spoil(place, own, out)
        return total

    rows = [numbers(rank, count) for rank, count in enumerate(counts)]
    parts = np.concatenate(rows) if ordered else np.array([sum(own[1:], own[0]) for own in rows])
    expected = parts[0].copy()
    for part in parts[1:]:
        expected += part
    for total in Network(len(counts)).run(work):
        assert np.array_equal(total, expected)


@pytest.mark.usefixtures("pieces")
def test_two_communications_under_way_do_not_mix():
    def work(comm):
        other = 1 - comm.rank
        first, second = np.full(D, 10.0 + comm.rank), np.full(D, 20.0 + comm.rank)
        arrived = np.zeros((2, D))
        # posted in another order on the other rank
        tags = [(1, first, arrived[0]), (2, second, arrived[1])]
        transfers = [Rows(comm, tag, [(other, row, False)], [(other, into)], Host(), Status(), near=())
                     for tag, row, into in (tags if comm.rank else tags[::-1])]
        for transfer in transfers:
            transfer.progress()
        for transfer in transfers:
            transfer.wait()
        assert comm.open_requests() == []
        return arrived[:, 0].tolist()

    assert Network(2).run(work) == [[11.0, 21.0], [10.0, 20.0]]


@pytest.mark.parametrize("device", DEVICES)
def test_a_collective_is_waited_for(device):
    class Posted:
        waited = False

        def Test(self):
            return False

        def Wait(self):
            self.waited = True
            receiving[...] = sending + 1

    request, source, target = Posted(), np.arange(D, dtype=float)[None], np.zeros((1, D))

    def post(*buffers):
        nonlocal sending, receiving
        sending, receiving = buffers
        assert np.array_equal(sending, source)  # posted only when it is there
        return request

    sending = receiving = None
    transfer = Collective(post, source, target, DEVICES[device]())
    transfer.progress()
    assert not request.waited
    transfer.wait()
    assert request.waited and np.array_equal(target, source + 1)


# who sends what to whom
@given(workers=st.integers(1, 12), ranks=st.integers(1, 5), graph=st.sampled_from(
    ["ring", "complete", "star", "exponential", "one-peer-exponential", "erdos-renyi", "matcha"]),
    rounds=st.sampled_from([(0,), (1,), (0, 1), (0, 1, 2)]), seed=st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_what_a_rank_sends_is_what_the_others_expect(workers, ranks, graph, rounds, seed):
    ranks = min(ranks, workers)
    mixing, layout = mixing_table(graph=graph).bind(workers, seed), RankLayout(workers, ranks)
    schedules = [ExchangeSchedule(mixing, rounds, layout, rank) for rank in range(ranks)]
    for rank, schedule in enumerate(schedules):
        assert list(schedule.receives) == sorted(schedule.receives) and list(schedule.sends) == sorted(schedule.sends)
        assert rank not in schedule.sends and rank not in schedule.receives
        # what goes out to a peer is, in the same order, what that peer waits for
        for peer, rows in schedule.sends.items():
            assert [schedule.hosted[row] for row in rows] == schedules[peer].receives[rank]
        for peer, expected in schedule.receives.items():
            assert expected == [layout.hosted(peer)[row] for row in schedules[peer].sends[rank]]
        # nothing is missing, nothing comes twice
        arriving = [j for peer in schedule.receives.values() for j in peer]
        assert arriving == schedule.remote == sorted(set(arriving))
        needed = {j for t in rounds for i in schedule.hosted for j, _ in mixing.row(i, t)} - set(schedule.hosted)
        assert set(arriving) == needed
        # weights refer to the right rows, and links are those of the matrix
        for t in rounds:
            for i, (sources, weights) in zip(schedule.hosted, schedule.weights(mixing, t)):
                owners = [*schedule.hosted, *schedule.remote]
                assert tuple(zip([owners[source] for source in sources], weights)) == mixing.row(i, t)
    links = {(int(s), int(t)) for schedule in schedules for s, t in zip(schedule.links.sources, schedule.links.targets)}
    assert links == {(j, i) for t in rounds for i in range(workers) for j, _ in mixing.row(i, t) if j != i}
