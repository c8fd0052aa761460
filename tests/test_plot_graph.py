"""coopmpi plot --graph: links and eigenvalues of every graph, where workers stand, and where the graph may come from."""

import h5py
import numpy as np
import pytest

from coopmpi import config, registry
from coopmpi.errors import UserError
from coopmpi.report.plot import figure, graph
from coopmpi.report.plot.network import network
from coopmpi.topology import layout, spectra
from coopmpi.topology.mixing import mixing_table
from tests.in_process import coopmpi, refused
from tests.result_files import made


def bound(name, workers=8, **keys):
    return mixing_table(graph=name, **keys).bind(workers, 0)


@pytest.mark.parametrize("name", registry.parts("graph"))
def test_zeta_links_and_eigenvalues_are_those_of_the_mixing_matrices(name):
    mixing = bound(name)
    found = network(mixing)
    assert found.zeta == pytest.approx(spectra.cycle_zeta(mixing), abs=1e-9)
    linked = {(source, target) for drawing in found.drawings for source, target in zip(drawing.sources, drawing.targets)}
    topology = mixing.topology if mixing.cycle else mixing.topology.base
    assert linked == {(j, i) for t in range(mixing.cycle or 1) for i in range(8) for j in topology.sources(i, t)}
    assert max(abs(found.eigenvalues)) == pytest.approx(1)
    if mixing.fixed and mixing.symmetric:
        np.testing.assert_allclose(np.sort(found.eigenvalues), spectra.eigenvalues(mixing), atol=1e-12)
    assert found.directed == topology.directed


def test_eigenvalues_of_a_ring_in_closed_form():
    found = network(bound("ring", 16))
    np.testing.assert_allclose(np.sort(found.eigenvalues), np.sort((1 + 2 * np.cos(2 * np.pi * np.arange(16) / 16)) / 3), atol=1e-12)
    assert "zeta = 0.9493, spectral gap 0.05075, 44.2 rounds to disagree 10x less" in found.caption


def test_random_graphs_have_the_eigenvalues_of_the_mean_matrix():
    mixing = bound("matcha", base="torus", budget=0.5)
    mean = np.mean([mixing.matrix(t).toarray() for t in range(4000)], axis=0)
    np.testing.assert_allclose(np.sort(network(mixing).eigenvalues), np.linalg.eigvalsh(mean), atol=0.02)  # 0.4 / sqrt(4000) each


def test_short_cycles_have_a_drawing_per_round_and_long_ones_all_links_together():
    assert [drawing.title for drawing in network(bound("one-peer-exponential", 8)).drawings] == ["round 0", "round 1", "round 2"]
    drawing, = network(bound("one-peer-exponential", 64)).drawings
    assert drawing.title.startswith("all links of 6 rounds") and len(drawing.sources) == 6 * 64


def test_auxiliary_variables_are_drawn_too():
    described = config.resolve({"algorithm": {"kind": "cooperative"}})
    found = network(described.algorithm.bind_mixing(described.mixing, 6, 0))
    assert found.workers == 6 and len(found.places) == len(found.eigenvalues) == 7
    with figure.look(None):
        place = graph.draw(found, None).axes[0]
    assert [text.get_text() for text in place.texts] == ["0", "1", "2", "3", "4", "5", "z"]


def test_push_sum_of_an_irregular_graph_shrinks_by_its_second_eigenvalue(tmp_path):
    (tmp_path / "arrows.txt").write_text("0 1\n1 2\n2 0\n0 2\n")
    described = config.resolve({"algorithm": {"kind": "sgp"}, "mixing": {"graph": str(tmp_path / "arrows.txt"), "directed": True}})
    mixing = described.algorithm.bind_mixing(described.mixing, 3, 0)
    moduli = np.sort(abs(np.linalg.eigvals(mixing.matrix(0).toarray())))
    assert network(mixing).zeta == pytest.approx(moduli[-2])


@pytest.mark.parametrize("name, workers", [(name, 16) for name in registry.parts("graph")] + [("ring", 1), ("star", 2), ("torus", 4)])
def test_workers_stand_apart_and_no_link_passes_over_one(name, workers):
    mixing = bound(name, workers)
    base = mixing.topology if mixing.cycle else mixing.topology.base
    places = layout.positions(base)
    assert places.shape == (workers, 2) and np.isfinite(places).all()
    distances = np.linalg.norm(places[:, None] - places, axis=2) + np.eye(workers)
    assert distances.min() > 0.05
    on_a_circle = base.grid is not None and len(base.grid) != 2
    assert not on_a_circle or np.allclose(np.linalg.norm(places, axis=1), 1)


@pytest.mark.parametrize("name", ["torus", "exponential", "star"])
def test_a_figure_has_every_worker_and_link(name):
    found = network(bound(name, 12))
    with figure.look("single"):
        place, spectrum = graph.draw(found, "single").axes
    assert {text.get_text() for text in place.texts} == {str(i) for i in range(12)}
    assert len(place.patches) == len(found.drawings[0].sources) / (1 if found.directed else 2)
    assert "gap" in spectrum.get_title() and len(spectrum.lines[-1].get_xdata()) == 12


def test_result_description_and_options_give_the_same_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made("run.h5", "time-only", workers=12, algorithm={"kind": "dpa"}, mixing={"graph": "torus", "shape": [2, 6]})
    (tmp_path / "run.toml").write_text('[algorithm]\nkind = "dpa"\n[mixing]\ngraph = "torus"\nshape = [2, 6]\n')
    said = []
    for i, words in enumerate((["run.h5"], ["run.toml", "-m", 12], ["torus", "-m", 12, "--shape", 2, 6])):
        status, out, message = coopmpi("plot", "--graph", *words, "-o", f"{i}.svg")
        assert status == 0, message
        said.append(out.partition(": ")[2])
    assert len(set(said)) == 1 and "torus of 12 workers, metropolis weights: zeta = 0.75" in said[0]
    assert (tmp_path / "0.svg").read_bytes() == (tmp_path / "1.svg").read_bytes() == (tmp_path / "2.svg").read_bytes()


def test_a_matrix_in_an_hdf5_file_is_no_result(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["w"] = np.full((4, 4), 0.25)
    assert "4 workers" in coopmpi("plot", "--graph", tmp_path / "w.h5", "-o", tmp_path / "w.png")[1]


@pytest.mark.parametrize("words, says", [
    (["rign"], "did you mean 'ring'"), (["ring", "--weights", "metropoli"], "'metropolis'"), (["ring", "--degree", "3"], "degree"),
    (["run.toml"], "does not say how many workers"), (["run.toml", "-m", "4", "--weights", "uniform"], "says itself which graph"),
    (["sync.toml"], "sync-sgd reads no [mixing]"), (["nowhere.h5"], "there is no file of this name"), (["broken.h5"], "broken.h5"),
    (["sync.toml", "ring"], "leave out ring"), (["complete", "-m", "200"], "up to 5000 links are drawn"),
    (["ring", "-m", "2000"], "up to 1000 workers")])
def test_what_has_no_graph_is_refused(tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text('[algorithm]\nkind = "dpa"\n')
    (tmp_path / "sync.toml").write_text('workers = 4\n[algorithm]\nkind = "sync-sgd"\n')
    (tmp_path / "broken.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"x" * 100)
    assert says in refused("plot", "--graph", *words, "-o", "x.png")


def test_without_a_file_the_way_to_words_is_told():
    assert "coopmpi graph" in refused("plot", "--graph", "ring")


def test_code_of_another_user_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made("run.h5", "time-only", algorithm={"kind": "dpa"})
    with h5py.File("run.h5", "a") as file:
        text = file["config"].asstr()[()]
        del file["config"]
        file["config"] = text.replace('graph = "ring"', 'graph = "theirs:Graph"')
    monkeypatch.setattr("coopmpi.cli.job.os.geteuid", lambda: 12345)
    assert "modules theirs" in refused("plot", "--graph", "run.h5", "-o", "x.png")
    with pytest.raises(UserError, match="no module named 'theirs'"):
        from coopmpi.cli.plot import _mixing

        _mixing(["run.h5"], None, None, None, allow_code=True)
