"""coopmpi graph, as people run it."""

import re

import numpy as np
import pytest
from click.testing import CliRunner

from coopmpi import registry
from coopmpi.cli.graph import command
from coopmpi.errors import UserError
from coopmpi.topology.mixing import mixing_table


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def screen(*arguments):
    result = CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert max(map(len, result.output.splitlines())) <= 80
    return result.output


def entry(output, label):
    return re.search(rf"^ *{re.escape(label)} +(.*?) *$", output, re.MULTILINE).group(1)


def test_a_graph_is_summed_up():
    output = screen("ring", "-m", 16, "--size", "2.5e6", "--dtype", "float64")
    assert entry(output, "links") == "16, both ways"
    assert entry(output, "degree") == "2 at every worker"
    assert entry(output, "zeta = ||W - J||_2") == "0.9493"
    assert entry(output, "spectral gap 1 - zeta") == "0.0507"
    rounds = float(entry(output, "rounds to disagree 10x less"))
    assert rounds == pytest.approx(np.log(10) / -np.log(0.9493), rel=2e-3)
    assert entry(output, "messages per round") == "2 per worker, 32 in all"
    assert entry(output, "sent per worker and round").startswith("40.0 MB")  # 2 x 2.5e6 x 8
    assert entry(output, "a ring all-reduce instead").startswith("37.5 MB in 30 steps")  # 2 x 15/16 x 20 MB


def test_irregular_directed_changing_and_averaging_graphs_say_so():
    star = screen("star")
    assert entry(star, "degree") == "1 to 7, mean 1.75"
    assert entry(star, "messages per round") == "1.75 per worker, 7 at the busiest, 14 in all"
    one_peer = screen("one-peer-exponential", "-m", 8)
    assert entry(one_peer, "links") == "8 directed" and entry(one_peer, "cycle").startswith("3 rounds")
    assert entry(one_peer, "rounds to disagree 10x less") == "3.0"
    complete = screen("complete")
    assert "all-reduce" in entry(complete, "messages per round")
    assert entry(complete, "sent per worker and round").startswith("7.0 MB")


def test_a_swap_never_agrees(tmp_path):
    np.save(tmp_path / "w.npy", np.roll(np.eye(4), 1, axis=0))
    assert entry(screen(tmp_path / "w.npy"), "rounds to disagree 10x less") == "never"


def test_all_graphs_are_compared_and_impossible_ones_explained():
    output = screen("-m", 7)
    rows = {line.split()[0]: line.split()[1:] for line in output.splitlines() if line.strip()}
    for name in registry.parts("graph"):
        assert name in rows or f"{name}:" in rows
    assert rows["ring"][:2] == ["2", "0.7490"]
    assert "power of two" in output and "prime 7" in output.replace("\n", " ")


def test_the_number_of_workers_comes_from_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_edges.txt").write_text("0 1\n1 2\n2 3\n3 4\n")
    assert "my_edges.txt, 5 workers, best-constant weights" in screen("my_edges.txt", "--weights", "best-constant")
    with pytest.raises(UserError, match="5 workers, but there are 6"):
        screen("my_edges.txt", "-m", 6)


def test_a_directed_edge_list_leads_one_way(tmp_path):
    (tmp_path / "arrows.txt").write_text("0 1\n1 2\n2 3\n3 0\n")
    output = screen(tmp_path / "arrows.txt", "--directed", "--save", tmp_path / "w.npy")
    assert entry(output, "links") == "4 directed" and entry(output, "degree") == "1 at every worker"
    assert entry(screen(tmp_path / "arrows.txt"), "links") == "4, both ways"
    # worker 1 receives from worker 0
    np.testing.assert_allclose(np.load(tmp_path / "w.npy"), (np.eye(4) + np.roll(np.eye(4), 1, axis=0)) / 2)


@pytest.mark.parametrize("name", ["w.npy", "w.h5"])
def test_a_saved_matrix_is_what_a_run_takes_as_its_graph(tmp_path, name):
    screen("torus", "-m", 12, "--shape", 2, 6, "--weights", "best-constant", "--save", tmp_path / name)
    saved = mixing_table(graph=str(tmp_path / name)).bind(12, 0)
    built = mixing_table(graph="torus", shape=(2, 6), weights="best-constant").bind(12, 0)
    assert all(saved.row(i, 0) == built.row(i, 0) for i in range(12))
    assert entry(screen(tmp_path / name), "zeta = ||W - J||_2") == entry(
        screen("torus", "-m", 12, "--shape", 2, 6, "--weights", "best-constant"), "zeta = ||W - J||_2")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("arguments, words", [
    (["rign"], ["'rign'", "'ring'"]),
    (["--weights", "metropoli"], ["'metropolis'"]),
    (["erdos-renyi", "--probability", "1.5"], ["probability", "1.5"]),
    (["hypercube", "-m", "12"], ["power of two", "8 or 16"]),
    (["--degree", "3"], ["name it"]),
    (["--directed"], ["name it"]),
    (["ring", "--directed"], ["directed", '"ring"', "a file"]),
    (["lopsided.txt", "--directed"], ["doubly stochastic", "sgp"]),
    (["one-peer-exponential", "--save", "w.npy"], ["one matrix", "3"]),
    (["ring", "--save", "w.txt"], [".npy or .h5", "w.txt"]),
    (["ring", "--save", "no/such/folder/w.npy"], ["cannot be written", "no/such/folder"]),
])
def test_bad_input_is_told_what_is_allowed(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lopsided.txt").write_text("0 1\n1 2\n2 0\n0 2\n")
    with pytest.raises(UserError) as error:
        screen(*arguments)
    assert all(word in str(error.value) for word in words), str(error.value)
