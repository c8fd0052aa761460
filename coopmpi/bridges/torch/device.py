"""Where PyTorch computes: on the CPU, or on the GPU whose arrays CuPy holds."""

import ctypes

import torch

from coopmpi.device.host import Host
from coopmpi.errors import UserError


class TorchHost(Host):
    """x + factor y is rounded once, as PyTorch's optimisers do it: models come to the bits of a plain training loop."""

    def add_scaled(self, x, factor, y):
        torch.from_numpy(x).add_(torch.from_numpy(y), alpha=factor)


class OnHost:
    """PyTorch on the CPU, in the memory of NumPy arrays."""

    device = torch.device("cpu")

    def address(self, row) -> int:
        return row.__array_interface__["data"][0]

    def tensor(self, row, dtype: torch.dtype) -> torch.Tensor:
        """The numbers of a row (n,) where they lie; the tensor does not keep the row alive."""
        return torch.frombuffer((ctypes.c_byte * row.nbytes).from_address(self.address(row)), dtype=dtype)

    def seed(self, number: int):
        torch.default_generator.manual_seed(number)


class OnGpu:
    """PyTorch on a GPU, in the memory of CuPy arrays. gpu: a coopmpi.device.gpu.Gpu.

    UserError unless both ask the same stream for their work: what one has asked for is then done before what the other
    asks for later, and memory that one gives back is not used too early.
    """

    def __init__(self, gpu):
        if not torch.cuda.is_available():
            raise UserError('this PyTorch sees no GPU, but CuPy does: install a build of PyTorch for CUDA, or set device = "cpu"')
        torch.cuda.set_device(gpu.index)
        self.device = torch.device("cuda", gpu.index)
        own, other = torch.cuda.current_stream().cuda_stream, gpu.xp.cuda.get_current_stream().ptr
        if own != other:
            raise UserError(f"PyTorch and CuPy must share a CUDA stream, but PyTorch's current one is {own:#x} and CuPy's is {other:#x}; "
                            "unset CUPY_CUDA_PER_THREAD_DEFAULT_STREAM, and start coopmpi outside of torch.cuda.stream(...)")

    def address(self, row) -> int:
        return row.data.ptr

    def tensor(self, row, dtype: torch.dtype) -> torch.Tensor:
        """The numbers of a row (n,) where they lie; the tensor does not keep the row alive."""
        return torch.as_tensor(Memory(row), device=self.device)

    def seed(self, number: int):
        torch.default_generator.manual_seed(number)
        torch.cuda.default_generators[self.device.index].manual_seed(number)


class Memory:
    """Where the numbers of a CuPy array are, without the array: PyTorch keeps alive what it is given."""

    def __init__(self, row):
        self.__cuda_array_interface__ = {"data": (row.data.ptr, False), "shape": row.shape, "typestr": row.dtype.str,
                                         "strides": None, "version": 3}


def beside(device: Host) -> OnHost | OnGpu:
    """Where PyTorch computes, for arrays of a device."""
    return OnGpu(device) if device.name == "gpu" else OnHost()
