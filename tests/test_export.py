"""coopmpi export: the trained model in other programs' formats, with the figures that were recorded."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.runs import coopmpi, settings

ROOT = str(Path(__file__).parents[1])
MODULE = {"kind": "torch", "module": "tests.torch_modules:net", "batch": 8}


def trained(folder, *words, **tables):
    status, _, err = coopmpi("train", "--quiet", "-o", "run.h5", *settings({"workers": 3, "steps": 30, "device": "cpu"} | tables), *words,
                             cwd=folder, environment={"PYTHONPATH": ROOT})
    assert status == 0, err


def export(folder, *words):
    return coopmpi("export", "run.h5", *words, cwd=folder, environment={"PYTHONPATH": ROOT})


def test_a_native_model_as_npz(tmp_path):
    trained(tmp_path)
    for words, which in (((), "mean"), (("--worker", 2), 2)):
        status, out, err = export(tmp_path, "-o", f"{which}.npz", *words)
        assert status == 0 and "tensors of" in out, err
        with np.load(tmp_path / f"{which}.npz") as found, h5py.File(tmp_path / "run.h5") as file:
            expected = file["final/mean"][:] if which == "mean" else file["final/x"][2]
            assert np.array_equal(np.concatenate([found[name].ravel() for name in found]), expected)
            assert len(found) == len(file["final/layout"]) > 1


def evaluated(state):
    """The held-out loss of a plain module with these tensors."""
    torch = pytest.importorskip("torch")
    from coopmpi import config
    from coopmpi.drivers.solo import Solo
    from coopmpi.run.assemble import assemble
    from tests.torch_modules import net

    module = net()
    module.load_state_dict(state)
    module.eval()
    data = assemble(config.resolve({"workers": 3, "device": "cpu", "task": MODULE}), Solo()).driver.task.problem.data.test
    inputs, targets = data.batch(np.arange(len(data)))
    with torch.no_grad():
        return torch.nn.functional.cross_entropy(module(inputs), targets).item()


def test_a_plain_module_gets_the_recorded_loss(tmp_path):
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    trained(tmp_path, task=MODULE)
    for name in ("model.pt", "model.safetensors", "model.npz"):
        status, _, err = export(tmp_path, "-o", name)
        assert status == 0, err
    states = [torch.load(tmp_path / "model.pt", weights_only=True), safetensors.load_file(tmp_path / "model.safetensors")]
    with np.load(tmp_path / "model.npz") as found:
        states.append({name: torch.from_numpy(found[name]) for name in found})
    with h5py.File(tmp_path / "run.h5") as file:
        recorded = file["eval/loss"][-1]
        assert file["final/own_buffers"].shape == (3, 24) and file["final/own_counters_mean"][:] == [30]
        np.testing.assert_allclose(file["final/own_buffers"][:].mean(0), file["final/own_buffers_mean"][:], rtol=1e-6)
    for state in states:
        assert abs(evaluated(state) - recorded) < 1e-6
    status, _, err = export(tmp_path, "-o", "one.pt", "--worker", 1)
    assert status == 0, err
    assert evaluated(torch.load(tmp_path / "one.pt", weights_only=True)) != recorded


def test_a_run_starts_from_the_model_of_another(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    trained(tmp_path, task=MODULE)
    (tmp_path / "run.h5").rename(tmp_path / "before.h5")
    trained(tmp_path, task=MODULE | {"start": "before.h5"})
    with h5py.File(tmp_path / "before.h5") as before, h5py.File(tmp_path / "run.h5") as file:
        assert abs(file["eval/loss"][0] - before["eval/loss"][-1]) < 1e-6
    (tmp_path / "run.h5").unlink()
    status, _, err = coopmpi("train", *settings({"task": MODULE | {"start": "before.h5"}}), "--set=task.options.width=7",
                             cwd=tmp_path, environment={"PYTHONPATH": ROOT})
    assert status == 2 and "does not fit the module" in err and "Traceback" not in err, err


def test_mistakes(tmp_path):
    trained(tmp_path, "--set=record.final=mean")
    (tmp_path / "there.npz").touch()
    for words, said in {("-o", "model.onnx"): "must end with .safetensors, .pt, .npz", ("-o", "there.npz"): "exists already",
                        ("-o", "m.npz", "--worker", 1): "holds the mean model alone"}.items():
        status, _, err = export(tmp_path, *words)
        assert status == 2 and said in err and "Traceback" not in err, err
    coopmpi("train", "--quiet", "-o", "run.h5", "--overwrite", *settings({"workers": 3, "steps": 5}), cwd=tmp_path)
    status, _, err = export(tmp_path, "-o", "m.npz", "--worker", 3)
    assert status == 2 and "worker must be one of 0 to 2, given 3" in err
    with h5py.File(tmp_path / "run.h5", "r+") as file:
        layout = file["final/layout"][:]
        layout["offset"][1] = 10**9
        file["final/layout"][:] = layout
    status, _, err = export(tmp_path, "-o", "m.npz")
    assert status == 2 and "damaged: /final/layout has a tensor" in err and "Traceback" not in err, err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.h5", "there.npz"]
