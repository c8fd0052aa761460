"""PyTorch modules of usual sizes, and random data for them."""

import os
from socket import gethostname
from time import sleep

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

SAMPLES, VOCABULARY, CONTEXT = 2048, 4096, 64
PATIENCE = 0.02  # seconds


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


class Block(nn.Module):
    """Two convolutions with batch norm, and the input added; the first may halve the image."""

    def __init__(self, before, channels):
        super().__init__()
        self.stride = 2 if before != channels else 1
        self.first, self.second = (nn.Conv2d(n, channels, 3, stride, 1, bias=False)
                                   for n, stride in ((before, self.stride), (channels, 1)))
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))
        self.around = nn.Conv2d(before, channels, 1, self.stride, bias=False) if before != channels else nn.Identity()

    def forward(self, x):
        out = torch.relu(self.norms[0](self.first(x)))
        return torch.relu(self.norms[1](self.second(out)) + self.around(x))


def resnet(depth):
    """The residual nets of He et al. (2016) for images of 32x32: depth = 6 n + 2."""
    blocks, before = [], 16
    for channels in (16, 32, 64):
        for _ in range((depth - 2) // 6):
            blocks.append(Block(before, channels))
            before = channels
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), *blocks,
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def resnet8():
    return resnet(8)


def resnet20():
    return resnet(20)


class Attention(nn.Module):
    """Causal self-attention and a net of two layers, each behind a layer norm and with its input added."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.before, self.between = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.all, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.net = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        b, t, width = x.shape
        q, k, v = (part.view(b, t, self.heads, -1).transpose(1, 2) for part in self.all(self.before(x)).chunk(3, -1))
        x = x + self.out(functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, width))
        return x + self.net(self.between(x))


class GPT(nn.Module):
    """10.5 million parameters; the tokens' vectors are used at both ends."""

    def __init__(self, width=384, layers=5, heads=6):
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCABULARY, width), nn.Parameter(torch.zeros(CONTEXT, width))
        self.layers = nn.Sequential(*(Attention(width, heads) for _ in range(layers)), nn.LayerNorm(width))

    def forward(self, x):
        return functional.linear(self.layers(self.tokens(x) + self.places), self.tokens.weight)


def token_loss(outputs, targets):
    return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def patient_loss(outputs, targets):
    """Cross entropy of workers that mostly wait, so that hosts which share cores do not take them from each other; host STRAGGLER is slower."""
    sleep(PATIENCE * (3 if gethostname() == os.environ.get("STRAGGLER") else 1))
    return functional.cross_entropy(outputs, targets)


def _pairs(shape):
    draw = torch.Generator().manual_seed(0)
    return tuple(TensorDataset(torch.randn(n, *shape, generator=draw), torch.randint(10, (n,), generator=draw))
                 for n in (SAMPLES, 64))


def digits():
    return _pairs((1, 28, 28))


def images():
    return _pairs((3, 32, 32))


def words():
    draw = torch.Generator().manual_seed(0)
    found = [torch.randint(VOCABULARY, (n, CONTEXT + 1), generator=draw) for n in (512, 8)]
    return tuple(TensorDataset(text[:, :-1].contiguous(), text[:, 1:].contiguous()) for text in found)
