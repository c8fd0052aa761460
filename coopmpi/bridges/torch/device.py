"""The CPU as PyTorch computes on it."""

import torch

from coopmpi.device.host import Host


class TorchHost(Host):
    """x + factor y is rounded once, as PyTorch's optimisers do it: models come to the bits of a plain training loop."""

    def add_scaled(self, x, factor, y):
        torch.from_numpy(x).add_(torch.from_numpy(y), alpha=factor)
