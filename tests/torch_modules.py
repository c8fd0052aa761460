"""PyTorch modules and data that know nothing of coopmpi; they are also plain examples of what users bring."""

import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset


def net(width=12, dropout=0.2):
    """Batch norm and dropout: buffers of both kinds, and random numbers."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Dropout(dropout), nn.Linear(width, 10))


def simple():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 10))


class Tied(nn.Module):
    """Two layers share a weight, one parameter takes no part, and a frozen one stays as it is."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.second.weight = self.first.weight
        self.idle = nn.Parameter(torch.ones(3))
        self.frozen = nn.Parameter(torch.full((64,), 0.5), requires_grad=False)

    def forward(self, x):
        return self.last(torch.tanh(self.second(torch.tanh(self.first(x.flatten(1) * self.frozen)))))


class Adapted(nn.Module):
    """A frozen layer with a trained low-rank correction (LoRA)."""

    def __init__(self, rank=2):
        super().__init__()
        self.base = nn.Linear(64, 10).requires_grad_(False)
        self.down, self.up = nn.Parameter(torch.randn(64, rank) / 8), nn.Parameter(torch.zeros(rank, 10))

    def forward(self, x):
        x = x.flatten(1)
        return self.base(x) + x @ self.down @ self.up


class Restless(nn.Module):
    """What a module may not do to its parameters: after some passes it does so."""

    def __init__(self, how, passes=3):
        super().__init__()
        self.layer, self.how, self.left = nn.Linear(64, 10), how, passes
        self.register_buffer("mean", torch.zeros(10))
        self.register_buffer("mask", torch.ones(10, dtype=torch.bool))

    def forward(self, x):
        out = self.layer(x.flatten(1))
        self.left -= self.training
        if self.left == 0:
            if self.how == "assign":
                self.layer.load_state_dict({name: tensor.clone() for name, tensor in self.layer.state_dict().items()}, assign=True)
            elif self.how == "double":
                self.layer.double()
            elif self.how == "data":
                self.layer.bias.data = self.layer.bias.data.clone()
            elif self.how == "shape":
                self.mean = torch.zeros(11)
        if self.how == "buffer":
            self.mean = 0.9 * self.mean + 0.1 * out.detach().mean(0)  # set anew, as many modules do
        return out


class Reader(nn.Module):
    """A transformer that reads the eight rows of a digit as words."""

    def __init__(self, width=16):
        super().__init__()
        self.words, self.places = nn.Linear(8, width), nn.Parameter(torch.zeros(8, width))
        self.layer = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.1, batch_first=True)
        self.last = nn.Linear(width, 10)

    def forward(self, x):
        return self.last(self.layer(self.words(x.view(-1, 8, 8)) + self.places).mean(1))


class Pairs(Dataset):
    """Samples are made one by one."""

    def __init__(self, n, seed):
        draw = torch.Generator().manual_seed(seed)
        self.x, self.targets = torch.randn(n, 64, generator=draw, dtype=torch.float64), torch.randint(10, (n,), generator=draw)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], int(self.targets[i])


def pairs():
    return Pairs(60, 1), Pairs(20, 2)


def tensors():
    return tuple(TensorDataset(part.x, part.targets) for part in pairs())


def no_data():
    return Pairs(0, 1), Pairs(0, 2)


def noisy(inputs):
    return inputs + 0.1 * torch.randn_like(inputs)


def top3(outputs, targets):
    return (outputs.topk(3, 1).indices == targets[:, None]).any(1).double().mean()


def surprise(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets).exp()


surprise.rising = False


def squares(outputs, targets):
    return ((outputs - nn.functional.one_hot(targets, 10)) ** 2).mean()


def no_mean(outputs, targets):
    return outputs


def steep(outputs, targets):
    """Gradients that float16 does not hold at the scale that a run begins with."""
    return 30 * nn.functional.cross_entropy(outputs, targets)
