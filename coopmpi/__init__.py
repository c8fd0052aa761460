"""Communication-efficient distributed SGD over MPI: `coopmpi.train`, `coopmpi.simulate`, `coopmpi.open`, `coopmpi.torch.wrap`."""

import importlib

__version__ = "0.1.0"


def __getattr__(name):
    """What Python programs use is imported when it is first asked for: `import coopmpi` alone loads nothing."""
    if name == "torch":
        return importlib.import_module("coopmpi.torch")
    if name in ("train", "simulate"):
        return getattr(importlib.import_module("coopmpi.python"), name)
    if name == "open":
        return importlib.import_module("coopmpi.record.result").Result
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
