"""Communication-efficient distributed SGD over MPI."""

import importlib

__version__ = "0.1.0"


def __getattr__(name):
    """coopmpi.torch is imported when it is first used: `import coopmpi` alone loads nothing."""
    if name != "torch":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module("coopmpi.torch")
