"""Modules and data of PyTorch that know nothing of coopmpi: a residual net, a transformer, adapters on a frozen layer.

coopmpi train -n 4 --set task.kind=torch --set task.module=pytorch_modules:Residual
coopmpi train -n 4 --set task.kind=torch --set task.module=pytorch_modules:Transformer --set optimizer.kind=adamw
coopmpi train -n 4 --set task.kind=torch --set task.module=pytorch_modules:adapted --set task.dataset=pytorch_modules:digits
"""

import torch
from torch import nn
from torch.utils.data import TensorDataset

from coopmpi.tasks.data.builtin import digits as load_digits


def digits():
    """(training, held-out) images (n, 1, 8, 8) with their labels."""
    raw = load_digits()
    x, y = torch.from_numpy(raw.x / 16).float().view(-1, 1, 8, 8), torch.from_numpy(raw.y).long()
    held_out = torch.arange(len(x)) % 5 == 4
    return TensorDataset(x[~held_out], y[~held_out]), TensorDataset(x[held_out], y[held_out])


class Residual(nn.Module):
    """Two convolutions around which the input is led, with batch norm."""

    def __init__(self, channels=8):
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
                                   nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.head = nn.Linear(channels, 10)

    def forward(self, x):
        x = torch.relu(self.stem(x.view(-1, 1, 8, 8)))
        return self.head(torch.relu(x + self.block(x)).amax((2, 3)))


class Transformer(nn.Module):
    """Reads an image row by row, as a sentence of eight words."""

    def __init__(self, width=32, layers=2, heads=4):
        super().__init__()
        self.words, self.places = nn.Linear(8, width), nn.Parameter(torch.zeros(8, width))
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.1, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, layers)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        return self.head(self.layers(self.words(x.view(-1, 8, 8)) + self.places).mean(1))


class Adapter(nn.Module):
    """A frozen linear layer with a trained correction of low rank: y = W x + U V x (LoRA)."""

    def __init__(self, layer, rank):
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, layer.in_features) / layer.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, x):
        return self.layer(x) + x @ self.down.T @ self.up.T


def adapted(rank=4):
    """Stands for a large net that was trained before: only the adapters are trained and sent."""
    return nn.Sequential(nn.Flatten(), Adapter(nn.Linear(64, 128), rank), nn.ReLU(), Adapter(nn.Linear(128, 10), rank))
