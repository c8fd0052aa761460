"""PyTorch modules as problems of coopmpi."""

from coopmpi.bridges.torch import export, own
from coopmpi.bridges.torch.device import TorchHost
from coopmpi.bridges.torch.problem import TorchProblem

__all__ = ["TorchHost", "TorchProblem", "export", "own"]
