"""The PyTorch side of benchmarks.models, run by an interpreter that has PyTorch.

Reads lines "FEATURES,HIDDEN...,CLASSES BATCH MODELS STEPS", or "cnn BATCH ..." for the built-in cnn on images of 3 x 32 x 32;
for each, makes STEPS steps of each of MODELS models, one model after the other, and answers with a line.
"""

import sys

import torch


def mlp(sizes):
    """(model, shape of a sample)"""
    layers = [torch.nn.Linear(sizes[0], sizes[1])]
    for fan_in, fan_out in zip(sizes[1:], sizes[2:]):
        layers += [torch.nn.ReLU(), torch.nn.Linear(fan_in, fan_out)]
    return torch.nn.Sequential(*layers), sizes[:1]


def cnn():
    layers = []
    for before, after in ((3, 16), (16, 32)):
        layers += [torch.nn.Conv2d(before, after, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
    return torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(32 * 8 * 8, 10)), (3, 32, 32)


def steppers(kind, batch, models):
    """For each model a function that makes one step of plain SGD."""
    loss = torch.nn.CrossEntropyLoss()
    for _ in range(models):
        model, shape = cnn() if kind == "cnn" else mlp([int(size) for size in kind.split(",")])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        inputs, labels = torch.randn(batch, *shape), torch.randint(10, (batch,))

        def step(model=model, optimizer=optimizer, inputs=inputs, labels=labels):
            optimizer.zero_grad()
            loss(model(inputs), labels).backward()
            optimizer.step()

        yield step


torch.set_num_threads(1)
print(torch.__version__, flush=True)
made = {}
for line in sys.stdin:
    what, _, count = line.rpartition(" ")
    if what not in made:
        kind, batch, models = what.split()
        made[what] = list(steppers(kind, int(batch), int(models)))
    for _ in range(int(count)):
        for step in made[what]:
            step()
    print("done", flush=True)
