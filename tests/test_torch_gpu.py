"""PyTorch modules on a GPU: with simulated CuPy arrays everywhere, and on a GPU where there is one."""

from unittest import mock

import numpy as np
import pytest

from coopmpi.errors import UserError
from tests.guarded import simulated
from tests.runs import EVEN_VARIANTS, lockstep, read

torch = pytest.importorskip("torch")
device = pytest.importorskip("coopmpi.bridges.torch.device")
HERE = "tests.torch_modules"
MODULES = {"net": {}, "Tied": {}, "Adapted": {}, "simple": {"loss": f"{HERE}:squares", "augment": f"{HERE}:noisy"}}


def tables(module="net", variant="local-sgd", **more):
    return read({"workers": 4, "steps": 12, "dtype": "float64", "deterministic": True, "algorithm": EVEN_VARIANTS[variant],
            "task": {"kind": "torch", "module": f"{HERE}:{module}", "batch": 8} | MODULES[module], "period": {"tau": 3},
            "mixing": {"lazy": True}, "optimizer": {} if variant == "sparq-sgd" else {"momentum": 0.9},
            "compress": {"kind": "topk", "fraction": 0.3}} | more)


def same_but_for_rounding(found, given):
    """x + factor y is rounded once on the CPU, as PyTorch does, and twice on a GPU."""
    host = lockstep(given | {"device": "cpu"})
    assert np.allclose(found.context.device.to_host(found.state.x), host.state.x, rtol=0, atol=1e-10)
    assert found.figures.keys() == host.figures.keys()
    assert all(found.figures[name] == pytest.approx(value, rel=1e-9) for name, value in host.figures.items())


# without a GPU
class OnGuarded(device.OnHost):
    """In place of OnGpu: the memory of a guarded array is that of the host."""

    def __init__(self, gpu):
        assert gpu.name == "gpu"

    def address(self, row):
        return row._values.__array_interface__["data"][0]


@pytest.mark.parametrize("variant", EVEN_VARIANTS)
def test_algorithms_on_guarded_arrays(variant):
    with simulated(), mock.patch.object(device, "OnGpu", OnGuarded):
        found = lockstep(tables(variant=variant) | {"device": "gpu"})
        same_but_for_rounding(found, tables(variant=variant))


@pytest.mark.parametrize("module", MODULES)
def test_modules_on_guarded_arrays(module):
    with simulated(), mock.patch.object(device, "OnGpu", OnGuarded):
        same_but_for_rounding(lockstep(tables(module) | {"device": "gpu"}), tables(module))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this PyTorch sees a GPU")
def test_a_pytorch_without_cuda_beside_a_gpu_is_told():
    with simulated(), pytest.raises(UserError, match='this PyTorch sees no GPU, but CuPy does.*device = "cpu"'):
        lockstep(tables() | {"device": "gpu"})


# on a GPU
@pytest.fixture
def gpu():
    pytest.importorskip("cupy", exc_type=ImportError)
    from coopmpi.device import gpu

    if not gpu.count() or not torch.cuda.is_available():
        pytest.skip("CuPy or PyTorch sees no GPU")
    return gpu.Gpu(0)


@pytest.mark.gpu
@pytest.mark.parametrize("variant", EVEN_VARIANTS)
def test_algorithms_on_a_gpu(gpu, variant):
    # other random numbers than on the CPU: no dropout
    given = tables("Tied", variant)
    same_but_for_rounding(lockstep(given | {"device": "gpu"}), given)


@pytest.mark.gpu
def test_parameters_lie_in_the_row_of_the_model(gpu):
    run = lockstep(tables() | {"device": "gpu"})
    x, problem = run.state.x, run.driver.task.problem
    problem.gradient(x, 12, *run.driver.task._own)
    first, last = x[-1].data.ptr, x[-1].data.ptr + x[-1].nbytes
    assert all(first <= tensor.data_ptr() < last and tensor.is_cuda for tensor in problem.binding.parameters.tensors)


@pytest.mark.gpu
def test_a_run_gives_its_bits_again(gpu):
    one, other = (lockstep(tables() | {"device": "gpu", "steps": 60}).state.x.get() for _ in range(2))
    assert np.array_equal(one, other)


@pytest.mark.gpu
def test_another_stream_is_refused(gpu):
    with torch.cuda.stream(torch.cuda.Stream()), pytest.raises(UserError, match="must share a CUDA stream"):
        device.beside(gpu)


@pytest.mark.gpu
def test_a_wrapped_loop_trains_a_module_on_a_gpu(gpu):
    import coopmpi.torch
    from tests import torch_modules

    torch.manual_seed(0)
    module = torch_modules.simple().cuda()
    loop = coopmpi.torch.wrap(module, torch.optim.SGD(module.parameters(), lr=0.1), algorithm="local-sgd", period={"tau": 2}, steps=20)
    inputs, targets = torch.randn(32, 64, device="cuda"), torch.randint(10, (32,), device="cuda")
    losses = []
    for _ in range(20):
        loop.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(inputs), targets)
        loss.backward()
        loop.step(loss)
        losses.append(loss.item())
    loop.finish()
    assert losses[-1] < losses[0] / 2 and all(tensor.is_cuda for tensor in module.parameters())
