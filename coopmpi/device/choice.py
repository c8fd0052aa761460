"""Which device a rank computes on."""

from coopmpi.device.host import Host
from coopmpi.errors import UserError


def choose(device: str, local_rank: int = 0, buffers: str = "staged") -> Host:
    """The device that `device = "auto" | "cpu" | "gpu"` means for this rank."""
    if device == "cpu":
        return Host()
    try:
        from coopmpi.device import gpu
        count = gpu.count()
    except ImportError as error:
        gpu, count, why = None, 0, f"CuPy cannot be imported ({error})"
    else:
        why = "CuPy sees no GPU"
    if count:
        return gpu.Gpu(local_rank % count, buffers)
    if device == "gpu":
        raise UserError(f'device = "gpu": {why}; allowed here: "cpu" or "auto". `coopmpi doctor` tells more')
    return Host()
